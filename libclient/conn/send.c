// SPDX-License-Identifier: LGPL-2.1-or-later
/* What goes to cowd: at once, in its turn, or soon; see send.h. */
#include "config.h"

#include <fcntl.h>
#include <string.h>
#include <sys/timerfd.h>

#include "common/own-fd.h"
#include "libclient/conn/conn.h"

/* A packet that did not fit the socket's buffer, or that has time. */
struct cowi_packet {
	struct cowi_packet *next;
	uint64_t request_id;
	/* SnapshotTake: gets the read end of the lease that is still to be made; or NULL. */
	int *lease_fd;
	struct fdset fds; /* duplicates */
	size_t n_bytes;
	uint8_t bytes[];
};

static void close_duplicates(struct cowi_packet *packet)
{
	while (packet->fds.n_fds)
		own_fd_close(packet->fds.fds[--packet->fds.n_fds]);
}

static void drop_queue(struct cowi_sender *sender)
{
	while (sender->first) {
		struct cowi_packet *packet = sender->first;

		sender->first = packet->next;
		close_duplicates(packet);
		free(packet);
	}
	sender->end = &sender->first;
}

void cowi_sender_init(struct cowi_sender *sender)
{
	*sender = (struct cowi_sender){
		.timer_fd =
			own_fd_note(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)),
	};
	sender->end = &sender->first;
}

void cowi_sender_deinit(struct cowi_sender *sender)
{
	sender->timer_fd = own_fd_close(sender->timer_fd);
	sender->is_started = false;
	cowi_sender_reset(sender);
}

void cowi_sender_reset(struct cowi_sender *sender)
{
	drop_queue(sender);
	sender->n_under_way = 0;
}

static int queue_packet(struct cowi_conn *conn, const void *bytes, size_t n_bytes, const int *fds,
			size_t n_fds, int *lease_fd)
{
	struct cowi_packet *packet = malloc(sizeof(*packet) + n_bytes);

	if (!packet)
		return err_oom(sizeof(*packet) + n_bytes, "a request");
	packet->next = NULL;
	packet->request_id = conn->next_request_id;
	packet->lease_fd = lease_fd;
	packet->n_bytes = n_bytes;
	packet->fds.n_fds = 0;
	memcpy(packet->bytes, bytes, n_bytes);
	for (size_t i = 0; i < n_fds; i++) {
		int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);

		if (fd < 0) {
			int r = err_raise_errno("cannot duplicate a descriptor for cowd");

			close_duplicates(packet);
			free(packet);
			return r;
		}
		packet->fds.fds[packet->fds.n_fds++] = own_fd_note(fd);
	}
	*conn->sender.end = packet;
	conn->sender.end = &packet->next;
	return 0;
}

/* The first packet leaves the queue: it was sent, or cannot be. Return: its request. */
static uint64_t pop_packet(struct cowi_sender *sender)
{
	struct cowi_packet *packet = sender->first;
	const uint64_t request_id = packet->request_id;

	sender->first = packet->next;
	if (!sender->first)
		sender->end = &sender->first;
	sender->n_under_way++;
	close_duplicates(packet);
	free(packet);
	return request_id;
}

/*
 * The lease is made here, and not when the packet is queued: a snapshot is taken while its program
 * stands still, and the lock is held, so that no fork child has a copy of the end that is sent.
 */
static int make_lease(struct cowi_packet *packet)
{
	int ends[2];

	if (!packet->lease_fd)
		return 0;
	if (pipe2(ends, O_CLOEXEC))
		return err_raise_errno("cannot make the pipe that is the lease of a snapshot");
	/* Both are noted: an old note of a number could keep it open else. */
	*packet->lease_fd = own_fd_note(ends[0]);
	packet->lease_fd = NULL;
	packet->fds.fds[packet->fds.n_fds++] = own_fd_note(ends[1]);
	return 0;
}

/*
 * Send the first packet of the queue, which stays there. 0; -EAGAIN: it has to wait; another
 * -errno: this packet cannot be sent at all.
 */
static int send_first(struct cowi_conn *conn)
{
	struct cowi_packet *packet = conn->sender.first;
	int r;

	if (!packet || conn->sock < 0 || conn->sender.n_under_way >= COWI_UNDER_WAY_MAX)
		return -EAGAIN;
	r = make_lease(packet);
	return r ? r
		 : wire_send(conn->sock, packet->bytes, packet->n_bytes, packet->fds.fds,
			     packet->fds.n_fds, MSG_DONTWAIT);
}

bool cowi_send_next(struct cow_client *client, uint64_t *id, int *error)
{
	struct cowi_conn *conn = client->conn;
	uint64_t request_id;
	int r;

	*id = 0;
	pthread_mutex_lock(&client->lock);
	(void)cowi_conn_check(client);
	r = send_first(conn);
	if (r != -EAGAIN) {
		request_id = pop_packet(&conn->sender);
		/* A connection that has ended shows when reading. */
		if (r && r != -ECONNRESET)
			*id = request_id;
	}
	pthread_mutex_unlock(&client->lock);
	*error = r;
	return r != -EAGAIN;
}

/*
 * An error is left to be found by the client's thread: who waits for the answer is told by that
 * alone.
 */
void cowi_hurry(struct cow_client *client)
{
	struct cowi_conn *conn = client->conn;
	int r = cowi_conn_check(client);

	while (!r) {
		r = send_first(conn);
		if (!r)
			(void)pop_packet(&conn->sender);
	}
	if (conn->sender.first)
		cowi_thread_wake(client);
}

bool cowi_has_output(struct cow_client *client)
{
	const struct cowi_sender *sender = &client->conn->sender;
	bool has_output;

	pthread_mutex_lock(&client->lock);
	has_output = sender->first && sender->n_under_way < COWI_UNDER_WAY_MAX;
	pthread_mutex_unlock(&client->lock);
	return has_output;
}

/* The client's thread wakes a moment from now. False: there is no timer. */
static bool start_timer(struct cowi_sender *sender)
{
	const struct itimerspec when = {.it_value = {.tv_nsec = COWI_SOON_NSEC}};

	if (!sender->is_started)
		sender->is_started =
			sender->timer_fd >= 0 && !timerfd_settime(sender->timer_fd, 0, &when, NULL);
	return sender->is_started;
}

void cowi_sender_fired(struct cowi_sender *sender)
{
	uint64_t count;

	sender->is_started = false;
	(void)!read(sender->timer_fd, &count, sizeof(count));
}

static int send_soon(struct cow_client *client, const void *bytes, size_t n_bytes, int *lease_fd)
{
	struct cowi_conn *conn = client->conn;
	/* Where something is queued its sending is under way, or has a timer already. */
	bool has_timer = conn->sender.first || start_timer(&conn->sender);
	int r = queue_packet(conn, bytes, n_bytes, NULL, 0, lease_fd);

	if (!r && !has_timer)
		cowi_thread_wake(client);
	return r;
}

int cowi_send_packet(struct cow_client *client, const void *bytes, size_t n_bytes, const int *fds,
		     size_t n_fds, enum cowi_urgency urgency, int *lease_fd)
{
	struct cowi_conn *conn = client->conn;
	struct cowi_sender *sender = &conn->sender;
	int r;

	if (urgency == COWI_SEND_SOON)
		return send_soon(client, bytes, n_bytes, lease_fd);
	r = cowi_conn_check(client);
	if (r)
		return r;
	r = -EAGAIN;
	if (urgency != COWI_SEND_FIRST)
		cowi_hurry(client);
	if (urgency == COWI_SEND_FIRST ||
	    (!sender->first && sender->n_under_way < COWI_UNDER_WAY_MAX))
		r = wire_send(conn->sock, bytes, n_bytes, fds, n_fds, MSG_DONTWAIT);
	if (!r)
		sender->n_under_way++;
	if (r == -EAGAIN) {
		r = queue_packet(conn, bytes, n_bytes, fds, n_fds, NULL);
		cowi_thread_wake(client);
	}
	if (r == -ECONNRESET)
		r = err_raise(-ENOTCONN, "cowd at %s closed the connection", client->address);
	return r;
}

void cowi_thread_wake_soon(struct cow_client *client)
{
	bool is_started;

	pthread_mutex_lock(&client->lock);
	is_started = !cowi_conn_check(client) && start_timer(&client->conn->sender);
	pthread_mutex_unlock(&client->lock);
	if (!is_started)
		cowi_thread_wake(client);
}
