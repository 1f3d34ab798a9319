/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file of /proc/self that the process has open once, for all its regions.
 *
 * Such a file shows the address space of the process that opened it: a fork child opens its own.
 * The kernel lets a process open it only while the process is dumpable, which ends with setuid(2);
 * an open one goes on working. Any thread; takes no lock and calls no malloc().
 */
#ifndef COW_BACKENDS_OWN_PROC_H
#define COW_BACKENDS_OWN_PROC_H

#include <stdatomic.h>
#include <stdint.h>

/**
 * struct own_proc - static, with @path set
 * @opened: process id and descriptor in one word; 0: none
 */
struct own_proc {
	const char *path;
	_Atomic uint64_t opened;
};

/** own_proc_fd() - the descriptor, lent; opened if need be. -1 with errno */
int own_proc_fd(struct own_proc *file);

#endif
