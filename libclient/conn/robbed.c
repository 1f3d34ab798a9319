// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A connection whose descriptors the program has closed: noticed before one of their numbers is
 * used, and lived with afterwards; see conn.h and common/own-fd.h.
 */
#include "config.h"

#include <dlfcn.h>
#include <poll.h>
#include <sys/syscall.h>

#include "common/clock.h"
#include "common/own-fd.h"
#include "libclient/conn/conn.h"

/*
 * The socket tells: its inode is like no other, and a program does not close one descriptor here
 * and there of those that it does not know. Without a connection the other two are asked, which
 * takes longer.
 */
static bool is_whole(const struct cowi_conn *conn)
{
	if (cowi_conn_is_robbed(conn))
		return false;
	return cowi_conn_is_there(conn)
		       ? own_fd_is(conn->sock)
		       : own_fd_is(conn->wake_fd) && own_fd_is(conn->sender.timer_fd);
}

int cowi_conn_check(struct cow_client *client)
{
	struct cowi_conn *conn = client->conn;

	if (is_whole(conn))
		return 0;
	if (!cowi_conn_is_robbed(conn) && conn->state != COWI_CONN_FORKED) {
		cowi_conn_enter(&conn->state, COWI_CONN_ROBBED);
		conn->sock = own_fd_close(conn->sock);
		/* Theirs are not told from the program's of the same kind: they are left alone. */
		conn->wake_fd = own_fd_forget(conn->wake_fd);
		conn->sender.timer_fd = own_fd_forget(conn->sender.timer_fd);
		conn->leases_fd = own_fd_forget(conn->leases_fd);
		/* It may sleep in poll(), on files that nobody else can reach any more. */
		if (conn->thread_state != COWI_THREAD_NONE && !cowi_in_client_thread(client))
			pthread_cancel(conn->thread);
		cowi_event_signal(&client->changed);
	}
	return own_fd_raise();
}

void cowi_conn_wait_robbed(struct cow_client *client, int timeout_msec)
{
	struct timespec until;

	if (timeout_msec >= 0)
		until = timespec_in((uint64_t)timeout_msec * 1000000);
	(void)cowi_event_wait(&client->changed, &client->lock, timeout_msec < 0 ? NULL : &until);
}

void cowi_conn_prepare(void)
{
	static atomic_bool is_loaded;

	if (!atomic_exchange(&is_loaded, true))
		(void)dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_LOCAL);
}

/* More of them than RLIMIT_NOFILE are EINVAL (poll(2)): the last ones can wait then. */
static void poll_what_may_be(struct pollfd *pollfds, size_t n_fds, int timeout_msec)
{
	const struct timespec timeout = {.tv_sec = timeout_msec / 1000,
					 .tv_nsec = timeout_msec % 1000 * 1000000L};

	while (syscall(SYS_ppoll, pollfds, n_fds, timeout_msec < 0 ? NULL : &timeout, NULL, 0) <
		       0 &&
	       errno == EINVAL && n_fds > 1)
		n_fds--;
}

/*
 * Nothing else wakes a thread that sleeps on files that nobody can reach. It cannot be cancelled
 * twice, and does not poll again. The system call is made bare, and cancelled at any moment, since
 * the thread sanitizer loses track of a thread that leaves its poll() in that way.
 */
void cowi_conn_poll(struct pollfd *pollfds, size_t n_fds, int timeout_msec, void (*go_on)(void *),
		    void *user)
{
	int state, type;

	pthread_cleanup_push(go_on, user);
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state);
	poll_what_may_be(pollfds, n_fds, timeout_msec);
	/* In this order: a signal that is on its way by now looks at the type alone (entry.c). */
	pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	pthread_cleanup_pop(0);
}
