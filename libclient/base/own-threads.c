// SPDX-License-Identifier: LGPL-2.1-or-later
/* The library's own threads; see own-threads.h. */
#include "config.h"

#include "libclient/base/own-threads.h"

#include <stdatomic.h>
#include <sys/syscall.h>

#include "common/util.h"

#define OWN_MAX 64

static _Atomic pid_t own[OWN_MAX]; /* thread ids; 0: free */

static pid_t thread_id(void)
{
	return (pid_t)syscall(SYS_gettid);
}

void cowi_own_thread_begins(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
		pid_t nobody = 0;

		if (atomic_compare_exchange_strong(&own[i], &nobody, thread_id()))
			return;
	}
}

void cowi_own_thread_ends(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
		pid_t self = thread_id();

		if (atomic_compare_exchange_strong(&own[i], &self, 0))
			return;
	}
}

void cowi_own_threads_fork_child(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		atomic_store(&own[i], 0);
}

bool cowi_own_thread_is(pid_t id)
{
	for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
		if (atomic_load(&own[i]) == id)
			return true;
	}
	return false;
}
