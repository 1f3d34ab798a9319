/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which threads of this process are the library's own: they touch no region but under its lock. Any
 * thread may ask, without a lock.
 */
#ifndef COWI_OWN_THREADS_H
#define COWI_OWN_THREADS_H

#include <stdbool.h>
#include <sys/types.h>

/* First and last words of each thread of the library, but for one that lives for ever. */
void cowi_own_thread_begins(void);
void cowi_own_thread_ends(void);
/** cowi_own_thread_is() - whether @id is a thread of the library; reads memory, and no more */
bool cowi_own_thread_is(pid_t id);
/** cowi_own_threads_fork_child() - the parent's threads are not the child's */
void cowi_own_threads_fork_child(void);

#endif
