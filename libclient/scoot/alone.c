// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Whether the calling thread is the only one of the program: beside it there are the library's own,
 * which touch no region but under its lock.
 *
 * Where no userfaultfd makes threads wait, that is when pages can be moved away from under the
 * program: nobody is there who would miss them. Only the caller could start a thread, and it is
 * here, without signals, whose handlers could touch the region (entry.h).
 *
 * A thread of the library that has not made itself known yet, or not any more, counts as one of the
 * program, and so does one of io_uring. That errs on the safe side.
 */
#include "config.h"

#include <assert.h>
#include <dirent.h>
#include <stdlib.h>
#include <sys/syscall.h>

#include "libclient/base/own-threads.h"
#include "libclient/scoot/mode.h"

bool cowi_is_single_threaded(void)
{
	const pid_t self = (pid_t)syscall(SYS_gettid);
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	bool is_other = false, has_self = false;

	while (dir && !is_other && (entry = readdir(dir))) {
		pid_t id = (pid_t)strtol(entry->d_name, NULL, 10);

		if (id <= 0)
			continue; /* "." and ".." */
		has_self |= id == self;
		is_other = id != self && !cowi_own_thread_is(id);
	}
	if (dir)
		(void)closedir(dir);
	return has_self && !is_other;
}
