// SPDX-License-Identifier: LGPL-2.1-or-later
/* Requests and the way of their replies to who waits for them; see conn.h. */
#include "config.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "common/clock.h"
#include "libclient/conn/conn.h"

/* What a reply without an error holds, by what was asked. */
static int expected_result(const Cow__V1__Request *request)
{
	switch (request->call_case) {
	case COW__V1__REQUEST__CALL_HELLO:
		return COW__V1__REPLY__RESULT_HELLO;
	case COW__V1__REQUEST__CALL_REGION_CREATE:
	case COW__V1__REQUEST__CALL_REGION_RESTORE:
		return COW__V1__REPLY__RESULT_REGION;
	case COW__V1__REQUEST__CALL_BACKING_CREATE:
		return COW__V1__REPLY__RESULT_BACKING;
	case COW__V1__REQUEST__CALL_SNAPSHOT_TAKE:
	case COW__V1__REQUEST__CALL_SNAPSHOT_OPEN:
		return COW__V1__REPLY__RESULT_SNAPSHOT;
	case COW__V1__REQUEST__CALL_SNAPSHOT_READ:
		return COW__V1__REPLY__RESULT_READ;
	case COW__V1__REQUEST__CALL_SNAPSHOT_SAVE:
		return COW__V1__REPLY__RESULT_SAVE;
	case COW__V1__REQUEST__CALL_SNAPSHOT_MAP:
		return COW__V1__REPLY__RESULT_VIEW;
	case COW__V1__REQUEST__CALL_STATUS:
		return COW__V1__REPLY__RESULT_STATUS;
	case COW__V1__REQUEST__CALL_LIST_CLIENTS:
		return COW__V1__REPLY__RESULT_CLIENTS;
	case COW__V1__REQUEST__CALL_LIST_REGIONS:
		return COW__V1__REPLY__RESULT_REGIONS;
	case COW__V1__REQUEST__CALL_LIST_SNAPSHOTS:
		return COW__V1__REPLY__RESULT_SNAPSHOTS;
	case COW__V1__REQUEST__CALL_STATS:
		return COW__V1__REPLY__RESULT_STATS;
	default:
		return COW__V1__REPLY__RESULT__NOT_SET;
	}
}

/* With client->lock held: whether a request for @generation may go out now, by this thread. */
static int check_connection(struct cow_client *client, uint64_t generation)
{
	struct cowi_conn *conn = client->conn;

	if (!cowi_conn_is_there(conn) ||
	    (conn->state != COWI_CONN_UP && !cowi_in_client_thread(client)))
		return cowi_conn_raise_down(client);
	if (generation && generation != client->generation)
		return err_raise(-ENOTCONN,
				 "the cowd that knew this has gone, another is at %s now",
				 client->address);
	return 0;
}

static void pending_remove(struct cowi_conn *conn, struct cowi_pending *pending)
{
	for (struct cowi_pending **p = &conn->pending; *p; p = &(*p)->next) {
		if (*p == pending) {
			*p = pending->next;
			return;
		}
	}
}

/* With client->lock held. On success the client's thread answers @pending, sooner or later. */
static int submit(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
		  const int *fds, size_t n_fds, enum cowi_urgency urgency,
		  struct cowi_pending *pending)
{
	struct cowi_conn *conn = client->conn;
	uint8_t small[512];
	CLEANUP(freep) uint8_t *large = NULL;
	uint8_t *bytes = small;
	size_t n_bytes;
	int r;

	r = cowi_conn_check(client);
	if (!r)
		r = check_connection(client, generation);
	if (r)
		return r;
	request->id = ++conn->next_request_id;
	request->n_fds = (uint32_t)n_fds + (pending->lease_fd ? 1 : 0);
	n_bytes = cow__v1__request__get_packed_size(request);
	if (n_bytes > sizeof(small)) {
		bytes = large = malloc(n_bytes);
		if (!large)
			return err_oom(n_bytes, "a request");
	}
	cow__v1__request__pack(request, bytes);
	pending->id = request->id;
	pending->result_case = expected_result(request);
	pending->next = conn->pending;
	conn->pending = pending;
	if (request->call_case == COW__V1__REQUEST__CALL_SAVE_CANCEL)
		urgency = COWI_SEND_FIRST;
	r = cowi_send_packet(client, bytes, n_bytes, fds, n_fds, urgency, pending->lease_fd);
	if (r)
		pending_remove(conn, pending);
	return r;
}

/* The client's own thread reads the socket itself until @pending is answered. No lock held. */
static void await_in_thread(struct cow_client *client, struct cowi_pending *pending)
{
	uint64_t deadline_msec = now_msec() + COWI_ANSWER_TIMEOUT_MSEC;

	while (!pending->is_done) {
		struct pollfd pollfd = {.fd = client->conn->sock, .events = POLLIN};
		uint64_t now = now_msec();

		if (cowi_has_output(client))
			pollfd.events |= POLLOUT;
		if (now >= deadline_msec) {
			cowi_disconnect(client, "cowd does not answer");
			return;
		}
		(void)poll(&pollfd, 1, (int)(deadline_msec - now));
		if (pollfd.revents & POLLOUT)
			cowi_flush(client);
		(void)cowi_receive(client);
	}
}

/* Ask for the end of a save; its own reply, -ECANCELED or not, is what counts. */
static void send_cancel(struct cow_client *client, uint64_t request_id)
{
	Cow__V1__SaveCancel cancel = COW__V1__SAVE_CANCEL__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;

	cancel.request_id = request_id;
	request.call_case = COW__V1__REQUEST__CALL_SAVE_CANCEL;
	request.save_cancel = &cancel;
	cowi_tell_in(client, 0, &request, NULL, 0);
}

/* With client->lock held: until there is news of @pending, or it is time to ask again. */
static int await_news(struct cow_client *client, struct cowi_pending *pending)
{
	const struct timespec until = timespec_in(COWI_PROGRESS_NSEC);

	return cowi_event_wait(&pending->answered, &client->lock, &until);
}

/* @progress is the program's, as if it had called it itself. Return: whether to go on. */
static bool call_progress(cow_progress_fn progress, void *user, uint64_t done_bytes,
			  uint64_t total_bytes)
{
	struct cowi_entry was;
	bool goes_on;

	cowi_entry_open(&was);
	goes_on = !progress(user, done_bytes, total_bytes);
	cowi_entry_shut(&was);
	return goes_on;
}

/*
 * cowd may have finished before it heard of the cancelling. A program that said stop is told that
 * it did: what it does next depends on nothing but its own word.
 */
static void note_cancelled(struct cowi_pending *pending)
{
	if (pending->error)
		return;
	pending->error = -ECANCELED;
	(void)snprintf(pending->sentence, sizeof(pending->sentence),
		       "cancelled, though all of it was done by then");
}

/*
 * With client->lock held, which is given up while waiting and while @progress is called. That is
 * also called when nothing has moved for a while, since its user may want to give up just then.
 * If @progress said so, be it when all was done, @pending is answered as cancelled.
 *
 * Return: 0: it is answered; -ECHILD: this is a fork child, where nobody will.
 */
static int await(struct cow_client *client, struct cowi_pending *pending, cow_progress_fn progress,
		 void *user)
{
	bool is_cancelled = false;
	int r = 0;

	while (!r && !pending->is_done) {
		uint64_t done_bytes = pending->done_bytes, total_bytes = pending->total_bytes;

		if (!total_bytes || !progress || is_cancelled) {
			r = cowi_event_wait(&pending->answered, &client->lock, NULL);
			continue;
		}
		if (!pending->has_progress)
			r = await_news(client, pending);
		if (r || pending->is_done)
			break;
		done_bytes = pending->done_bytes;
		pending->has_progress = false;
		pthread_mutex_unlock(&client->lock);
		is_cancelled = !call_progress(progress, user, done_bytes, total_bytes);
		r = cowi_check_process(client); /* it may have called fork() */
		if (is_cancelled)
			send_cancel(client, pending->id);
		pthread_mutex_lock(&client->lock);
	}
	/* The last news comes right before the answer; who shows it wants to show the end. */
	if (!r && pending->has_progress && progress && !is_cancelled && !pending->error) {
		pthread_mutex_unlock(&client->lock);
		is_cancelled =
			!call_progress(progress, user, pending->done_bytes, pending->total_bytes);
		pthread_mutex_lock(&client->lock);
	}
	if (!r && is_cancelled)
		note_cancelled(pending);
	return r;
}

/* Give the parts of an answer to who asked; the rest is freed. */
static int hand_over(struct cowi_pending *pending, Cow__V1__Reply **reply, struct fdset *reply_fds)
{
	if (pending->error)
		(void)err_raise(pending->error, "%s", pending->sentence);
	if (!pending->error && reply_fds) {
		*reply_fds = pending->fds;
		pending->fds.n_fds = 0;
	}
	if (!pending->error && reply)
		*reply = steal_ptr(&pending->reply);
	fdset_deinit(&pending->fds);
	if (pending->reply)
		cow__v1__reply__free_unpacked(pending->reply, NULL);
	return pending->error;
}

/*
 * With client->lock held: wait for a turn. cowd refuses what goes over its limit of requests under
 * way on one connection; a program with more threads than that is not to notice.
 */
static int begin_turn(struct cow_client *client)
{
	int r = 0;

	while (!r && client->conn->n_turns >= COWI_TURNS_MAX)
		r = cowi_event_wait(&client->changed, &client->lock, NULL);
	if (!r)
		client->conn->n_turns++;
	return r;
}

static void end_turn(struct cow_client *client)
{
	if (client->conn->n_turns-- == COWI_TURNS_MAX)
		cowi_event_signal(&client->changed);
}

/* A caller that takes its turn, and waits. */
static int ask(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
	       const int *fds, size_t n_fds, struct cowi_pending *pending, cow_progress_fn progress,
	       void *user)
{
	int r;

	pthread_mutex_lock(&client->lock);
	r = begin_turn(client);
	if (!r) {
		r = submit(client, generation, request, fds, n_fds, COWI_SEND_NOW, pending);
		if (!r)
			r = await(client, pending, progress, user);
		if (r != -ECHILD) /* of a fork child nobody has a turn */
			end_turn(client);
	}
	pthread_mutex_unlock(&client->lock);
	return r;
}

/* The client's own thread. */
static int ask_in_thread(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
			 const int *fds, size_t n_fds, struct cowi_pending *pending)
{
	int r;

	pthread_mutex_lock(&client->lock);
	r = submit(client, generation, request, fds, n_fds, COWI_SEND_NOW, pending);
	pthread_mutex_unlock(&client->lock);
	if (!r)
		await_in_thread(client, pending);
	return r;
}

/* What only some callers want. */
struct wishes {
	cow_progress_fn progress;
	void *user;
	struct cow_snapshot *snap; /* as of cowi_call_snapshot() */
};

static int call(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
		const int *fds, size_t n_fds, Cow__V1__Reply **reply, struct fdset *reply_fds,
		const struct wishes *wishes)
{
	COWI_ENTRY();
	CLEANUP(freep) struct cowi_pending *pending = NULL;
	int r;

	r = cowi_check_process(client);
	if (r)
		return r;
	pending = calloc(1, sizeof(*pending));
	if (!pending)
		return err_oom(sizeof(*pending), "a request");
	pending->snap = wishes->snap;
	r = cowi_in_client_thread(client)
		    ? ask_in_thread(client, generation, request, fds, n_fds, pending)
		    : ask(client, generation, request, fds, n_fds, pending, wishes->progress,
			  wishes->user);
	return r ? r : hand_over(pending, reply, reply_fds);
}

int cowi_call_in(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
		 const int *fds, size_t n_fds, Cow__V1__Reply **reply, struct fdset *reply_fds)
{
	const struct wishes none = {.snap = NULL};

	return call(client, generation, request, fds, n_fds, reply, reply_fds, &none);
}

int cowi_call_progress(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
		       const int *fds, size_t n_fds, Cow__V1__Reply **reply,
		       cow_progress_fn progress, void *user)
{
	const struct wishes wishes = {.progress = progress, .user = user};

	return call(client, generation, request, fds, n_fds, reply, NULL, &wishes);
}

int cowi_call_snapshot(struct cow_snapshot *snap, Cow__V1__Request *request, Cow__V1__Reply **reply,
		       struct fdset *reply_fds)
{
	const struct wishes wishes = {.snap = snap};

	return call(snap->client, snap->generation, request, NULL, 0, reply, reply_fds, &wishes);
}

int cowi_call(struct cow_client *client, Cow__V1__Request *request, const int *fds, size_t n_fds,
	      Cow__V1__Reply **reply, struct fdset *reply_fds)
{
	COWI_ENTRY(); /* cowctl's */
	int r = cowi_connect(client);

	return r ? r : cowi_call_in(client, 0, request, fds, n_fds, reply, reply_fds);
}

/* @answer: how the request is to be answered; copied */
static int call_async(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
		      const int *fds, size_t n_fds, enum cowi_urgency urgency,
		      const struct cowi_pending *answer)
{
	struct cowi_pending *pending;
	int r;

	r = cowi_check_process(client);
	if (r)
		return r;
	pending = malloc(sizeof(*pending));
	if (!pending)
		return err_oom(sizeof(*pending), "a request");
	*pending = *answer;
	pthread_mutex_lock(&client->lock);
	r = submit(client, generation, request, fds, n_fds, urgency, pending);
	pthread_mutex_unlock(&client->lock);
	if (r)
		free(pending);
	return r;
}

int cowi_call_async_in(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
		       const int *fds, size_t n_fds,
		       void (*on_reply)(void *user, int error, Cow__V1__Reply *reply), void *user)
{
	const struct cowi_pending answer = {.on_reply = on_reply, .user = user};

	return call_async(client, generation, request, fds, n_fds, COWI_SEND_NOW, &answer);
}

int cowi_call_soon_in(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
		      int *lease_fd, void (*on_reply)(void *user, int error, Cow__V1__Reply *reply),
		      void *user)
{
	const struct cowi_pending answer = {
		.on_reply = on_reply, .user = user, .lease_fd = lease_fd};

	return call_async(client, generation, request, NULL, 0, COWI_SEND_SOON, &answer);
}

static void ignore_reply(void *user, int error, Cow__V1__Reply *reply)
{
	(void)user;
	(void)error;
	(void)reply;
}

void cowi_tell_in(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
		  const int *fds, size_t n_fds)
{
	(void)cowi_call_async_in(client, generation, request, fds, n_fds, ignore_reply, NULL);
}
