// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Clients: their life, the list of them that fork() needs, and the userfaultfds made for them.
 *
 * A client holds its thread, not the other way round: when the last reference goes, the thread is
 * told to stop and joined. The last reference may go in the thread itself (a task that dropped a
 * region); then nobody can join it, and it frees the client as the last thing that it does.
 */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "backends/pagemap.h"
#include "backends/protect.h"
#include "backends/uffdio.h"
#include "common/own-fd.h"
#include "libclient/conn/conn.h"
#include "libclient/modes.h"
#include "libclient/requests.h"

#define DEFAULT_ADDRESS "/run/cowd/cowd.sock"

static pthread_mutex_t clients_lock = PTHREAD_MUTEX_INITIALIZER;
static struct cow_client *clients;

const char *cow_last_error(void)
{
	return err_sentence();
}

static void list_add(struct cow_client *client)
{
	pthread_mutex_lock(&clients_lock);
	client->next = clients;
	clients = client;
	pthread_mutex_unlock(&clients_lock);
}

static void list_remove(struct cow_client *client)
{
	pthread_mutex_lock(&clients_lock);
	for (struct cow_client **p = &clients; *p; p = &(*p)->next) {
		if (*p == client) {
			*p = client->next;
			break;
		}
	}
	pthread_mutex_unlock(&clients_lock);
}

void cowi_clients_fork_prepare(void)
{
	cowi_registry_fork_prepare();
	pthread_mutex_lock(&clients_lock);
	for (struct cow_client *c = clients; c; c = c->next)
		pthread_mutex_lock(&c->lock);
}

void cowi_clients_fork_parent(void)
{
	for (struct cow_client *c = clients; c; c = c->next)
		pthread_mutex_unlock(&c->lock);
	pthread_mutex_unlock(&clients_lock);
	cowi_registry_fork_done();
}

/* The child has no view of it, and cannot read it: it is no reason to keep memory frozen. */
static void close_snapshot(struct cow_snapshot *snap)
{
	snap->view_uffd = own_fd_close(snap->view_uffd);
	snap->lease_fd = own_fd_close(snap->lease_fd);
}

/* What is on its way to cowd, or waits for it, is to end with the process that has it. */
static void close_copies(struct cow_client *client)
{
	client->uffd_device_fd = own_fd_close(client->uffd_device_fd);
	while (client->attaching) {
		client->attaching->attach_fd = own_fd_close(client->attaching->attach_fd);
		client->attaching = client->attaching->next_attaching;
	}
	for (struct cow_snapshot *snap = client->snapshots; snap; snap = snap->next)
		close_snapshot(snap);
}

/* The thread is not there any more, nor are those who waited: nothing of theirs is touched. */
void cowi_clients_fork_child(void)
{
	for (struct cow_client *c = clients; c; c = c->next) {
		cowi_conn_fork_child(c->conn);
		c->changed.n_waiting = 0;
		close_copies(c);
		pthread_mutex_unlock(&c->lock);
	}
	pthread_mutex_unlock(&clients_lock);
	cowi_registry_fork_done();
}

static void client_free(struct cow_client *client)
{
	list_remove(client);
	cowi_modes_end_client(client);
	client->conn = cowi_conn_free(client->conn);
	client->uffd_device_fd = own_fd_close(client->uffd_device_fd);
	pthread_mutex_destroy(&client->lock);
	free(client->address);
	free(client);
}

/* --- what the connection tells ---------------------------------------------------------------- */

static void on_down(struct cow_client *client, const char *because)
{
	cowi_regions_forget(client);
	cowi_snapshots_lost(client, because);
}

static void on_event(struct cow_client *client, const Cow__V1__Reply *event)
{
	if (event->result_case != COW__V1__REPLY__RESULT_SNAPSHOT_LOST)
		return;
	cowi_snapshot_lost_event(client, event->snapshot_lost->snapshot_id,
				 event->snapshot_lost->sentence);
	cowi_snapshot_release_lost(client, event->snapshot_lost->snapshot_id);
}

static const struct cowi_conn_events events = {
	.up = cowi_regions_restore,
	.down = on_down,
	.event = on_event,
	.named = cowi_snapshot_named,
	.unreceived = cowi_give_back,
	.lease_ended = cowi_modes_gone,
	.orphaned = client_free,
};

/* --- life ------------------------------------------------------------------------------------- */

static int client_alloc(struct cow_client **out, const char *address)
{
	struct cow_client *client = calloc(1, sizeof(*client));

	if (!client)
		return err_oom(sizeof(*client), "a client");
	client->n_refs = 1;
	client->uffd_device_fd = -1;
	client->pid = getpid();
	pthread_mutex_init(&client->lock, NULL);
	errno = ENOMEM;
	client->address = strdup(address);
	if (client->address)
		client->conn = cowi_conn_new(client, &events);
	if (!client->conn) {
		int r = err_raise_errno("cannot make a client");

		client_free(client);
		return r;
	}
	client->refused_task.run = cowi_regions_retry;
	client->warm_task.run = cowi_warm;
	/* Whole from here on: a fork in another thread goes over all that are in the list. */
	list_add(client);
	*out = client;
	return 0;
}

int cowi_client_new(struct cow_client **out, const char *address)
{
	struct cow_client *client = NULL;
	struct pagemap pagemap;
	int r;

	if (!address)
		address = secure_getenv("COWD_ADDRESS");
	if (!address || !*address)
		address = DEFAULT_ADDRESS;
	/* Now, while the program may: a root program may be about to give that up. Who needs it
	 * says so. */
	(void)pagemap_init(&pagemap);
	protect_prepare();
	r = client_alloc(&client, address);
	if (r)
		return r;
	r = cowi_thread_start(client);
	if (!r)
		r = cowi_connect(client);
	if (r) {
		char sentence[512];

		(void)snprintf(sentence, sizeof(sentence), "%s", err_sentence());
		cow_client_unref(client);
		return err_raise(r, "%s", sentence);
	}
	*out = client;
	return 0;
}

struct cow_client *cow_client_ref(struct cow_client *client)
{
	atomic_fetch_add(&client->n_refs, 1);
	return client;
}

/* The thread may have to give up an attempt to connect first. Return: 0; -ECHILD */
static int await_end(struct cow_client *client)
{
	int r = 0;

	pthread_mutex_lock(&client->lock);
	while (!r && client->conn->thread_state != COWI_THREAD_ENDED)
		r = cowi_event_wait(&client->changed, &client->lock, NULL);
	pthread_mutex_unlock(&client->lock);
	return r;
}

struct cow_client *cow_client_unref(struct cow_client *client)
{
	COWI_ENTRY();
	struct cowi_conn *conn;
	pthread_t thread;
	bool is_own;

	if (!client || atomic_fetch_sub(&client->n_refs, 1) != 1)
		return NULL;
	conn = client->conn;
	if (conn->thread_state == COWI_THREAD_NONE || client->pid != getpid()) {
		client_free(client);
		return NULL;
	}
	is_own = cowi_in_client_thread(client);
	thread = conn->thread;
	pthread_mutex_lock(&client->lock);
	cowi_thread_enter(&conn->thread_state, COWI_THREAD_STOPPING);
	conn->is_orphan = is_own;
	pthread_mutex_unlock(&client->lock);
	if (is_own) {
		pthread_detach(thread);
		return NULL;
	}
	cowi_thread_wake(client);
	if (!await_end(client))
		pthread_join(thread, NULL);
	client_free(client);
	return NULL;
}

/* With client->lock held. */
static int uffd_new(struct cow_client *client)
{
	int uffd = -1, r;

	if (client->uffd_device_fd < 0)
		return err_raise(
			-EPERM,
			"cowd at %s lends no userfaultfd, by its setting lend= (cowd.conf(5)) or "
			"because it has no /dev/userfaultfd (cowd(8)); modes scoot and mmapcopy "
			"work without",
			client->address);
	if (!own_fd_is(client->uffd_device_fd))
		return own_fd_raise();
	r = uffdio_new_by_device(&uffd, client->uffd_device_fd, client->lend == 2);
	return r ? r : own_fd_note(uffd);
}

int cowi_uffd_new(struct cow_client *client)
{
	int uffd;

	pthread_mutex_lock(&client->lock);
	uffd = uffd_new(client);
	pthread_mutex_unlock(&client->lock);
	return uffd;
}

int cowi_attach_begin(struct cow_region *region)
{
	struct cow_client *client = region->client;
	int uffd;

	pthread_mutex_lock(&client->lock);
	uffd = uffd_new(client);
	if (uffd >= 0) {
		region->attach_fd = uffd;
		region->next_attaching = client->attaching;
		client->attaching = region;
	}
	pthread_mutex_unlock(&client->lock);
	return uffd < 0 ? uffd : 0;
}

void cowi_attach_end(struct cow_region *region)
{
	struct cow_client *client = region->client;
	struct cow_region **link = &client->attaching;

	pthread_mutex_lock(&client->lock);
	/* In the child of a fork() by a signal handler meanwhile it is in no list any more. */
	while (*link && *link != region)
		link = &(*link)->next_attaching;
	if (*link)
		*link = region->next_attaching;
	region->attach_fd = own_fd_close(region->attach_fd);
	pthread_mutex_unlock(&client->lock);
}
