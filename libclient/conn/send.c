// SPDX-License-Identifier: LGPL-2.1-or-later
/* What goes to cowd: at once, in its turn, or soon; see conn.h. */
#include "config.h"

#include <fcntl.h>
#include <string.h>
#include <sys/timerfd.h>

#include "common/own-fd.h"
#include "libclient/conn/conn.h"

bool cowi_has_output(struct cow_client *client)
{
	bool has_output;

	pthread_mutex_lock(&client->lock);
	has_output = client->conn->out && client->conn->n_under_way < COWI_UNDER_WAY_MAX;
	pthread_mutex_unlock(&client->lock);
	return has_output;
}

static void close_duplicates(struct cowi_packet *packet)
{
	while (packet->fds.n_fds)
		own_fd_close(packet->fds.fds[--packet->fds.n_fds]);
}

void cowi_drop_output(struct cowi_conn *conn)
{
	while (conn->out) {
		struct cowi_packet *packet = conn->out;

		conn->out = packet->next;
		close_duplicates(packet);
		free(packet);
	}
	conn->out_end = &conn->out;
}

/* With client->lock held, as the latest request has been given its id. */
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
	*conn->out_end = packet;
	conn->out_end = &packet->next;
	return 0;
}

struct cowi_packet *cowi_pop_packet(struct cowi_conn *conn)
{
	struct cowi_packet *packet = conn->out;

	conn->out = packet->next;
	if (!conn->out)
		conn->out_end = &conn->out;
	close_duplicates(packet);
	return packet;
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

int cowi_send_first(struct cowi_conn *conn)
{
	struct cowi_packet *packet = conn->out;
	int r = make_lease(packet);

	return r ? r
		 : wire_send(conn->sock, packet->bytes, packet->n_bytes, packet->fds.fds,
			     packet->fds.n_fds, MSG_DONTWAIT);
}

/*
 * An error is left to be found by the client's thread: who waits for the answer is told by that
 * alone.
 */
void cowi_hurry(struct cow_client *client)
{
	struct cowi_conn *conn = client->conn;
	int r = cowi_conn_check(client);

	while (!r && conn->out && conn->sock >= 0 && conn->n_under_way < COWI_UNDER_WAY_MAX) {
		r = cowi_send_first(conn);
		if (!r) {
			free(cowi_pop_packet(conn));
			conn->n_under_way++;
		}
	}
	if (conn->out)
		cowi_thread_wake(client);
}

/* With client->lock held: the client's thread wakes a moment from now. False: there is no timer. */
static bool start_timer(struct cowi_conn *conn)
{
	const struct itimerspec when = {.it_value = {.tv_nsec = COWI_SOON_NSEC}};

	/* One that is armed stays as it is: who calls often would put it off for ever. */
	if (!conn->is_soon)
		conn->is_soon =
			conn->soon_fd >= 0 && !timerfd_settime(conn->soon_fd, 0, &when, NULL);
	return conn->is_soon;
}

int cowi_send_soon(struct cow_client *client, const void *bytes, size_t n_bytes, int *lease_fd)
{
	struct cowi_conn *conn = client->conn;
	/* Where something is queued its sending is under way, or has a timer already. */
	bool has_timer = conn->out || start_timer(conn);
	int r = queue_packet(conn, bytes, n_bytes, NULL, 0, lease_fd);

	if (!r && !has_timer)
		cowi_thread_wake(client);
	return r;
}

int cowi_send_packet(struct cow_client *client, const void *bytes, size_t n_bytes, const int *fds,
		     size_t n_fds, enum cowi_urgency urgency)
{
	struct cowi_conn *conn = client->conn;
	int r = cowi_conn_check(client);

	if (r)
		return r;
	r = -EAGAIN;
	if (urgency != COWI_SEND_FIRST)
		cowi_hurry(client);
	if (urgency == COWI_SEND_FIRST || (!conn->out && conn->n_under_way < COWI_UNDER_WAY_MAX))
		r = wire_send(conn->sock, bytes, n_bytes, fds, n_fds, MSG_DONTWAIT);
	if (!r)
		conn->n_under_way++;
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
	is_started = !cowi_conn_check(client) && start_timer(client->conn);
	pthread_mutex_unlock(&client->lock);
	if (!is_started)
		cowi_thread_wake(client);
}
