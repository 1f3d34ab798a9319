// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The thread of a client: it alone reads the socket, runs posted tasks, and makes and ends
 * connections.
 *
 * It blocks all signals, so that a program's handlers never run on its small stack, and it polls
 * for five things: the socket, the eventfd by which others ask something of it, the timer of what
 * is to be sent soon, the leases of what was released here (lease.c), and the time of the next
 * attempt to connect. Such attempts are made unasked only while there are regions: those must be
 * known to cowd before the next snapshot, and a caller should not have to wait for that. A client
 * without regions connects again when it is used again.
 *
 * A reply is handed over under client->lock: the answer of a synchronous call belongs to the caller
 * as soon as is_done is seen, and its memory is on that caller's stack.
 */
#include "config.h"

#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/own-fd.h"
#include "libclient/base/own-threads.h"
#include "libclient/conn/conn.h"

#define STACK_BYTES      ((size_t)512 * 1024)
/* Packets read before tasks and callers get their turn. */
#define PACKETS_PER_TURN 64

void cowi_thread_wake(struct cow_client *client)
{
	const int wake_fd = atomic_load(&client->conn->wake_fd);
	const uint64_t one = 1;

	/* Full means that a wake-up is waiting already. Without descriptors it waits for the
	 * condition. */
	if (wake_fd >= 0 && own_fd_is(wake_fd))
		(void)!write(wake_fd, &one, sizeof(one));
	else
		cowi_event_poke(&client->changed);
}

/*
 * Hand an answer over. @reply (may be NULL) and what is in @fds go with it. No lock held; @pending
 * is not in the list any more, and not to be touched afterwards.
 */
static void answer(struct cow_client *client, struct cowi_pending *pending, int error,
		   const char *sentence, Cow__V1__Reply *reply, struct fdset *fds)
{
	if (pending->on_reply) {
		if (error)
			(void)err_raise(error, "%s", sentence);
		pending->on_reply(pending->user, error, reply);
		fdset_deinit(fds);
		if (reply)
			cow__v1__reply__free_unpacked(reply, NULL);
		free(pending);
		return;
	}
	pthread_mutex_lock(&client->lock);
	pending->error = error;
	(void)snprintf(pending->sentence, sizeof(pending->sentence), "%s", sentence);
	pending->reply = reply;
	pending->fds = *fds;
	fds->n_fds = 0;
	if (reply && pending->snap)
		client->conn->events->named(pending->snap, reply->snapshot->snapshot_id);
	pending->is_done = true;
	cowi_event_signal(&pending->answered);
	pthread_mutex_unlock(&client->lock);
}

void cowi_disconnect(struct cow_client *client, const char *why)
{
	struct cowi_conn *conn = client->conn;
	int sock;
	struct cowi_pending *pending;
	char because[512];

	/* @why may be this thread's sentence, which the callbacks change. */
	(void)snprintf(because, sizeof(because), "the connection to cowd ended: %s", why);
	pthread_mutex_lock(&client->lock);
	if (!cowi_conn_is_there(conn) && conn->state != COWI_CONN_ROBBED) {
		pthread_mutex_unlock(&client->lock);
		return;
	}
	cowi_conn_enter(&conn->state,
			conn->state == COWI_CONN_ROBBED ? COWI_CONN_ROBBED_TOLD : COWI_CONN_DOWN);
	sock = fd_steal(&conn->sock);
	cowi_sender_reset(&conn->sender);
	pending = conn->pending;
	conn->pending = NULL;
	if (client->regions && !conn->retry_at_msec && conn->state == COWI_CONN_DOWN) {
		conn->backoff_msec = COWI_BACKOFF_MIN_MSEC;
		conn->retry_at_msec = now_msec() + conn->backoff_msec;
	}
	pthread_mutex_unlock(&client->lock);

	conn->events->down(client, because);
	sock = own_fd_close(sock);
	while (pending) {
		struct cowi_pending *next = pending->next;
		struct fdset none = {.n_fds = 0};

		answer(client, pending, -ENOTCONN, because, NULL, &none);
		pending = next;
	}
}

static void on_progress(struct cow_client *client, const Cow__V1__SaveProgress *progress)
{
	pthread_mutex_lock(&client->lock);
	for (struct cowi_pending *p = client->conn->pending; p; p = p->next) {
		if (p->id == progress->request_id && !p->on_reply) {
			p->has_progress = true;
			p->done_bytes = progress->done_bytes;
			p->total_bytes = progress->total_bytes;
			cowi_event_signal(&p->answered);
			break;
		}
	}
	pthread_mutex_unlock(&client->lock);
}

static struct cowi_pending *pending_take(struct cow_client *client, uint64_t id)
{
	struct cowi_pending *found = NULL;

	pthread_mutex_lock(&client->lock);
	for (struct cowi_pending **p = &client->conn->pending; *p; p = &(*p)->next) {
		if ((*p)->id == id) {
			found = *p;
			*p = found->next;
			client->conn->sender.n_under_way--;
			break;
		}
	}
	pthread_mutex_unlock(&client->lock);
	return found;
}

void cowi_flush(struct cow_client *client)
{
	struct fdset none = {.n_fds = 0};
	uint64_t id;
	int error;

	while (cowi_send_next(client, &id, &error)) {
		struct cowi_pending *pending = id ? pending_take(client, id) : NULL;

		if (pending)
			answer(client, pending, error, err_sentence(), NULL, &none);
	}
}

/*
 * @no_room: error of wire_recv(), if descriptors of @reply were lost for lack of it, or 0
 *
 * @reply and @fds are taken in any case. Return: NULL, or what is wrong with the packet.
 */
static const char *on_reply(struct cow_client *client, Cow__V1__Reply *reply, struct fdset *fds,
			    int no_room)
{
	struct cowi_pending *pending = pending_take(client, reply->id);
	int error = reply->error > 0 && reply->error < 4096 ? -(int)reply->error : no_room;
	char sentence[512];
	const char *wrong = NULL;

	if (!pending)
		wrong = "it answered what was not asked";
	else if (reply->error && !error)
		wrong = "it answered with an impossible error number";
	else if (!error && (int)reply->result_case != pending->result_case)
		wrong = "it answered something else than was asked";
	(void)snprintf(sentence, sizeof(sentence), "%s",
		       wrong     ? wrong
		       : no_room ? err_sentence()
				 : reply->sentence);
	if (no_room)
		client->conn->events->unreceived(client, reply);
	if (wrong || error) {
		cow__v1__reply__free_unpacked(reply, NULL);
		reply = NULL;
		fdset_deinit(fds);
	}
	if (pending)
		answer(client, pending, wrong ? -ENOTCONN : error, sentence, reply, fds);
	return wrong;
}

bool cowi_receive(struct cow_client *client)
{
	struct cowi_conn *conn = client->conn;
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	const char *wrong = NULL;
	Cow__V1__Reply *reply;
	char farewell[512];
	size_t n_bytes;
	bool no_room;
	int r;

	pthread_mutex_lock(&client->lock);
	r = cowi_conn_check(client);
	pthread_mutex_unlock(&client->lock);
	if (r)
		cowi_disconnect(client, err_sentence());
	if (conn->sock < 0)
		return false;
	r = wire_recv(conn->sock, conn->packet, sizeof(conn->packet), &n_bytes, &fds, MSG_DONTWAIT);
	if (r == -EAGAIN)
		return false;
	no_room = r == -EMFILE || r == -ENFILE;
	if (r && !no_room) {
		cowi_disconnect(client, err_sentence());
		return false;
	}
	reply = cow__v1__reply__unpack(NULL, n_bytes, conn->packet);
	if (!reply) {
		wrong = "it sent a packet that cannot be decoded";
	} else if (no_room && reply->id) {
		wrong = on_reply(client, reply, &fds, r);
	} else if (reply->n_fds != fds.n_fds) {
		wrong = "it sent another number of descriptors than it said";
		cow__v1__reply__free_unpacked(reply, NULL);
	} else if (reply->id) {
		wrong = on_reply(client, reply, &fds, 0);
	} else if (reply->error) { /* why cowd refuses or ends this connection */
		(void)snprintf(farewell, sizeof(farewell), "%s", reply->sentence);
		conn->farewell_error = reply->error < 4096 ? -(int)reply->error : 0;
		wrong = farewell;
		cow__v1__reply__free_unpacked(reply, NULL);
	} else {
		if (reply->result_case == COW__V1__REPLY__RESULT_SAVE_PROGRESS)
			on_progress(client, reply->save_progress);
		else
			conn->events->event(client, reply);
		cow__v1__reply__free_unpacked(reply, NULL);
	}
	if (wrong)
		cowi_disconnect(client, wrong);
	return conn->sock >= 0;
}

/* An attempt to connect, if one is wanted or due, and its result to those who wait for it. */
static void connect_if_wanted(struct cow_client *client)
{
	struct cowi_conn *conn = client->conn;
	bool is_due, is_up, wants_up;
	uint64_t n_wanted;
	int r = 0;

	pthread_mutex_lock(&client->lock);
	n_wanted = conn->n_wanted;
	is_up = conn->state == COWI_CONN_UP;
	is_due = conn->retry_at_msec && now_msec() >= conn->retry_at_msec;
	is_due = conn->thread_state == COWI_THREAD_RUNS && !cowi_conn_is_robbed(conn) &&
		 (is_due || n_wanted > conn->n_answered);
	wants_up = is_up && conn->wants_up;
	conn->wants_up = false;
	pthread_mutex_unlock(&client->lock);
	if (wants_up)
		conn->events->up(client);
	if (!is_due)
		return;
	if (!is_up)
		r = cowi_reconnect(client);

	pthread_mutex_lock(&client->lock);
	if (!r) {
		conn->retry_at_msec = 0;
	} else if (client->regions) {
		conn->backoff_msec = (unsigned int)min_u64(
			max_u64(2UL * conn->backoff_msec, COWI_BACKOFF_MIN_MSEC),
			COWI_BACKOFF_MAX_MSEC);
		conn->retry_at_msec = now_msec() + conn->backoff_msec;
	} else {
		conn->retry_at_msec = 0;
	}
	conn->n_answered = n_wanted;
	conn->connect_error = r;
	if (r)
		(void)snprintf(conn->connect_sentence, sizeof(conn->connect_sentence), "%s",
			       err_sentence());
	cowi_event_signal(&client->changed);
	pthread_mutex_unlock(&client->lock);
}

/* With client->lock held: milliseconds until there is something to do unasked; -1: never. */
static int timeout_of(const struct cowi_conn *conn)
{
	uint64_t due_msec = conn->retry_at_msec ? conn->retry_at_msec : UINT64_MAX;
	const uint64_t now = now_msec();

	if (conn->thread_state == COWI_THREAD_STOPPING)
		return 0;
	due_msec = min_u64(due_msec, cowi_tasks_due_msec(conn));
	if (due_msec == UINT64_MAX)
		return -1;
	return due_msec > now ? (int)min_u64(due_msec - now, INT_MAX) : 0;
}

static void run_to_end(void *arg);

/* Wait until there is something to do. Return: whether the socket is to be read. */
static bool wait_for_work(struct cow_client *client)
{
	struct cowi_conn *conn = client->conn;
	struct pollfd pollfds[] = {
		{.fd = -1, .events = POLLIN},
		{.fd = -1, .events = POLLIN},
		{.fd = -1, .events = POLLIN},
		{.fd = conn->leases_fd, .events = POLLIN},
	};
	int timeout_msec;
	uint64_t count;

	pthread_mutex_lock(&client->lock);
	if (cowi_conn_check(client)) {
		if (conn->state == COWI_CONN_ROBBED_TOLD)
			cowi_conn_wait_robbed(client, timeout_of(conn));
		pthread_mutex_unlock(&client->lock);
		return true; /* to read it is to find that out */
	}
	pollfds[0].fd = conn->wake_fd;
	pollfds[2].fd = conn->sender.timer_fd;
	pollfds[1].fd = conn->sock;
	if (conn->sender.first)
		pollfds[1].events |= POLLOUT;
	timeout_msec = timeout_of(conn);
	pthread_mutex_unlock(&client->lock);

	cowi_conn_poll(pollfds, ARRAY_SIZE(pollfds), timeout_msec, run_to_end, client);
	pthread_mutex_lock(&client->lock);
	if (cowi_conn_check(client)) {
		pthread_mutex_unlock(&client->lock);
		return true;
	}
	if (pollfds[0].revents & POLLIN)
		(void)!read(conn->wake_fd, &count, sizeof(count));
	if (pollfds[2].revents & POLLIN)
		cowi_sender_fired(&conn->sender);
	pthread_mutex_unlock(&client->lock);
	if ((pollfds[1].revents & POLLOUT) || (pollfds[2].revents & POLLIN))
		cowi_flush(client);
	if (pollfds[3].revents & POLLIN)
		conn->events->lease_ended(client);
	return pollfds[1].revents & (POLLIN | POLLHUP | POLLERR);
}

static bool is_finished(struct cow_client *client)
{
	bool is_finished;

	pthread_mutex_lock(&client->lock);
	is_finished = client->conn->thread_state == COWI_THREAD_STOPPING && !client->conn->tasks;
	pthread_mutex_unlock(&client->lock);
	return is_finished;
}

/* Last use of @client. */
static void say_ended(struct cow_client *client)
{
	pthread_mutex_lock(&client->lock);
	cowi_thread_enter(&client->conn->thread_state, COWI_THREAD_ENDED);
	cowi_event_signal(&client->changed);
	pthread_mutex_unlock(&client->lock);
}

static void run_to_end(void *arg)
{
	struct cow_client *client = arg;

	while (!is_finished(client)) {
		connect_if_wanted(client);
		cowi_tasks_run(client);
		if (!wait_for_work(client))
			continue;
		for (unsigned int i = 0; i < PACKETS_PER_TURN; i++) {
			if (!cowi_receive(client))
				break;
		}
	}
	cowi_disconnect(client, "the client ends");
	if (client->conn->is_orphan)
		client->conn->events->orphaned(client);
	else
		say_ended(client);
	cowi_own_thread_ends();
}

static void *thread_main(void *client)
{
	(void)cowi_entry_begin(); /* to the thread's end */
	cowi_own_thread_begins();
	run_to_end(client);
	return NULL;
}

int cowi_thread_start(struct cow_client *client)
{
	struct cowi_conn *conn = client->conn;
	sigset_t all, saved;
	pthread_attr_t attr;
	int error;

	cowi_conn_prepare();
	sigfillset(&all);
	error = pthread_attr_init(&attr);
	if (error)
		return err_raise(-error, "cannot start a thread for cowd");
	/* A program with much static thread-local storage needs more: then the default is taken. */
	(void)pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_sigmask(SIG_BLOCK, &all, &saved);
	/* The thread's first step is to take the lock: it sees conn->thread. */
	pthread_mutex_lock(&client->lock);
	error = pthread_create(&conn->thread, &attr, thread_main, client);
	if (error == EINVAL)
		error = pthread_create(&conn->thread, NULL, thread_main, client);
	if (!error) {
		cowi_thread_enter(&conn->thread_state, COWI_THREAD_RUNS);
		(void)pthread_setname_np(conn->thread, "cowclient");
	}
	pthread_mutex_unlock(&client->lock);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	pthread_attr_destroy(&attr);
	if (error)
		return err_raise(-error,
				 "cannot start a thread for the connection to cowd: %s: see the "
				 "limits of processes (ulimit -u) and address space (ulimit -v)",
				 strerrordesc_np(error));
	return 0;
}
