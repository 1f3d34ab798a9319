/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file whose owner decides when, if ever, a call on it comes back: the root of a FUSE file system
 * that a thread of this process serves. It is opened and closed as any file; an ioctl(2) on it is
 * never answered, so whoever makes one waits until fuse_file_stop().
 *
 * The mount is made in a mount namespace that the process moves to.
 */
#ifndef TESTS_FUSE_FILE_H
#define TESTS_FUSE_FILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct fuse_file {
	int dev_fd; /* /dev/fuse */
	char path[64];
	pthread_t thread;
	_Atomic unsigned int n_ioctls;  /* asked for, none answered */
	_Atomic unsigned int n_flushes; /* the same, when they hang */
	bool hangs_flushes;
	char why_not[128]; /* there is none */
};

/** fuse_file_start() - Return: whether there is one now; else why_not says why */
bool fuse_file_start(struct fuse_file *file);
/** fuse_file_start_hanging() - the same; a close(2) of it is not answered either, not even one's
 * own */
bool fuse_file_start_hanging(struct fuse_file *file);
/** fuse_file_stop() - who waits gets an error; the file stays open where it is open */
void fuse_file_stop(struct fuse_file *file);

#endif
