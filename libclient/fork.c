// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * fork() in a program that uses the library.
 *
 * The locks are held over the fork, so that the child finds every list whole. The child has no
 * thread and no connection: its copies of the clients answer -ECHILD, it makes clients of its own
 * if it wants any. It has no region either (MADV_DONTFORK), so neither process can ever see the
 * other's writes. vfork() and posix_spawn() run no handlers and need none: their child does not
 * return here.
 */
#include "config.h"

#include "libclient/internal.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int init_error;

static void init(void)
{
	init_error = pthread_atfork(cowi_clients_fork_prepare, cowi_clients_fork_parent,
				    cowi_clients_fork_child);
}

int cowi_fork_init(void)
{
	pthread_once(&once, init);
	if (init_error)
		return err_raise(-init_error, "cannot register what fork() has to do");
	return 0;
}
