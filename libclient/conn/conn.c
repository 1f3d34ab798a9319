// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The connection as an object: its descriptors from the client's start to its end, and what any
 * thread asks of it: whether it may be used here, which one it is, and that there be one.
 */
#include "config.h"

#include "libclient/conn/conn.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "common/clock.h"
#include "common/own-fd.h"

static void close_descriptors(struct cowi_conn *conn)
{
	conn->sock = own_fd_close(conn->sock);
	conn->wake_fd = own_fd_close(conn->wake_fd);
	conn->leases_fd = own_fd_close(conn->leases_fd);
	cowi_sender_deinit(&conn->sender);
}

struct cowi_conn *cowi_conn_new(struct cow_client *client, const struct cowi_conn_events *events)
{
	struct cowi_conn *conn = calloc(1, sizeof(*conn));

	if (!conn)
		return NULL;
	conn->client = client;
	conn->events = events;
	conn->is_private = !strncmp(client->address, "exec:", 5);
	conn->sock = -1;
	cowi_sender_init(&conn->sender);
	conn->tasks_end = &conn->tasks;
	conn->wake_fd = own_fd_note(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	conn->leases_fd = own_fd_note(epoll_create1(EPOLL_CLOEXEC));
	if (conn->wake_fd >= 0 && conn->leases_fd >= 0)
		return conn;
	return cowi_conn_free(conn);
}

struct cowi_conn *cowi_conn_free(struct cowi_conn *conn)
{
	if (!conn)
		return NULL;
	close_descriptors(conn);
	free(conn);
	return NULL;
}

void cowi_conn_fork_child(struct cowi_conn *conn)
{
	close_descriptors(conn);
	cowi_conn_enter(&conn->state, COWI_CONN_FORKED);
	cowi_thread_enter(&conn->thread_state, COWI_THREAD_NONE);
	conn->n_turns = 0;
	conn->pending = NULL;
}

void cowi_conn_ask_up(struct cow_client *client)
{
	struct cowi_conn *conn = client->conn;

	conn->wants_up = true;
	if (client->regions && conn->state == COWI_CONN_DOWN && !conn->retry_at_msec)
		conn->retry_at_msec = now_msec();
	cowi_thread_wake(client);
}

int cowi_conn_raise_down(const struct cow_client *client)
{
	return err_raise(-ENOTCONN, "there is no connection to cowd at %s", client->address);
}

int cowi_check_process(const struct cow_client *client)
{
	if (client->pid == getpid())
		return 0;
	return err_raise(
		-ECHILD,
		"this client belongs to process %d, of which this process is a fork: make a "
		"new one with cow_client_new()",
		(int)client->pid);
}

_Bool cowi_in_client_thread(const struct cow_client *client)
{
	return client->conn->thread_state != COWI_THREAD_NONE &&
	       pthread_equal(client->conn->thread, pthread_self());
}

uint64_t cowi_generation(struct cow_client *client)
{
	uint64_t generation;

	pthread_mutex_lock(&client->lock);
	generation = cowi_conn_is_there(client->conn) ? client->generation : 0;
	pthread_mutex_unlock(&client->lock);
	return generation;
}

uint64_t cowi_generation_up(struct cow_client *client)
{
	uint64_t generation;

	pthread_mutex_lock(&client->lock);
	generation = client->conn->state == COWI_CONN_UP ? client->generation : 0;
	pthread_mutex_unlock(&client->lock);
	return generation;
}

/* With client->lock held: whether the caller has to wait for an attempt to connect. */
static bool is_unanswered(const struct cowi_conn *conn, uint64_t number)
{
	return conn->n_answered < number && conn->thread_state == COWI_THREAD_RUNS &&
	       !cowi_conn_is_robbed(conn);
}

int cowi_connect(struct cow_client *client)
{
	struct cowi_conn *conn = client->conn;
	uint64_t number;
	int r;

	r = cowi_check_process(client);
	if (r)
		return r;
	if (cowi_in_client_thread(client)) {
		if (cowi_generation(client))
			return 0;
		return cowi_conn_raise_down(client);
	}
	pthread_mutex_lock(&client->lock);
	if (conn->state != COWI_CONN_UP)
		r = cowi_conn_check(client);
	if (!r && conn->state != COWI_CONN_UP) {
		number = ++conn->n_wanted;
		cowi_thread_wake(client);
		while (!r && is_unanswered(conn, number))
			r = cowi_event_wait(&client->changed, &client->lock, NULL);
		if (!r && cowi_conn_is_robbed(conn))
			r = own_fd_raise();
		else if (!r && conn->connect_error)
			r = err_raise(conn->connect_error, "%s", conn->connect_sentence);
	}
	/* Only the first attempt says by its number what is wrong with the address; see
	 * cowclient.h. */
	if (r && r != -ECHILD && r != -EBADF && conn->was_up)
		r = -ENOTCONN;
	pthread_mutex_unlock(&client->lock);
	return r;
}
