/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Check a file to save a snapshot to. Programs that open the file call this, with their own name of
 * it in the sentence, and cowd calls it for descriptors that clients pass.
 */
#ifndef COW_COMMON_SAVABLE_H
#define COW_COMMON_SAVABLE_H

#include <stdbool.h>
#include <sys/stat.h>

/**
 * savable_check() - whether a snapshot can be saved to @fd, and @fd is open for writing
 * @name: the name of the file in the sentence: "descriptor 7"
 *
 * Accepts a regular file, a pipe, a stream socket and /dev/null. Refuses files of the kernel's own
 * file systems (proc and the like), though these call them regular: they take written bytes for
 * commands. One of them, /proc/PID/mem, is the memory of a process, and perhaps nobody serves its
 * faults.
 *
 * Context: asks the file system, and one in user space may take its time. Return: 0, -EBADF,
 * -EINVAL.
 */
int savable_check(int fd, const char *name);

/** savable_is_null() - whether @st is of /dev/null, wherever its node lies */
bool savable_is_null(const struct stat *st);

#endif
