/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a snapshot can be saved to. Asked by programs that open it, in sentences with their own name
 * of it, and by cowd of what it is given.
 */
#ifndef COW_COMMON_SAVABLE_H
#define COW_COMMON_SAVABLE_H

#include <stdbool.h>
#include <sys/stat.h>

/**
 * savable_check() - whether @fd is something to save to, and open for that
 * @name: what the sentence calls it: "descriptor 7"
 *
 * A regular file, a pipe, a stream socket or /dev/null. No file of the kernel's own file systems
 * (proc and the like), though they call them regular: they take a snapshot for commands. One of
 * them, /proc/PID/mem, is the memory of a process, which may have its faults served by nobody.
 *
 * Context: asks the file system, which one in user space may take its time for. Return: 0, -EBADF,
 * -EINVAL.
 */
int savable_check(int fd, const char *name);

/** savable_is_null() - whether @st is of /dev/null, wherever its node lies */
bool savable_is_null(const struct stat *st);

#endif
