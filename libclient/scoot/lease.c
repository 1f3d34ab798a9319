// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Leases: how a process knows that nobody reads any more what it froze for a snapshot of mode scoot
 * or mmapcopy.
 *
 * A lease is a pipe that nothing is ever written to. The process that took the snapshot, its owner,
 * makes it (conn/send.c) when cowd is told of the snapshot, keeps the read end and gives the
 * write end away: cowd has it as long as it has the snapshot, and passes it on to whoever opens
 * that, who keeps it as long as a handle or a view can show the snapshot's bytes. The read end
 * hangs up when the last of them has closed it or has died. Then, and not before, the owner may
 * change those bytes.
 *
 * So the owner takes nobody's word for it. cowd may die and know nothing of the readers when it is
 * there again, connections may end and regions be freed, a reader may be stopped for an hour: what
 * can still be read has its lease held, if only by a packet that was not received yet. A reader
 * that never lets go, or a cowd that does not, costs the owner memory and nothing else.
 *
 * What was released here while others have it is in a list until its lease hangs up; all of its
 * client's are in one epoll set, which the client's thread looks at.
 */
#include "config.h"

#include <sys/epoll.h>

#include "common/own-fd.h"
#include "libclient/conn/conn.h"
#include "libclient/scoot/mode.h"

struct cowi_lease {
	struct cow_client *client; /* goes after the entry: cowi_leases_forget() */
	uint64_t number;           /* by which the epoll set names it */
	int lease_fd;              /* the read end */
	bool is_watched;           /* else nothing says when it ends */
	struct scoot_snapshot *frozen;
	struct cowi_lease *next;
};

static pthread_mutex_t awaited_lock = PTHREAD_MUTEX_INITIALIZER;
static struct cowi_lease *awaited;
static uint64_t last_number;
static bool has_unwatched;           /* some entry is not watched, and may be */
static struct cowi_lease *inherited; /* the parent's, in a fork child: never looked at */

/* With awaited_lock held. Return: whether it is watched, or never can be: the connection was robbed. */
static bool watch(struct cowi_lease *entry)
{
	struct epoll_event event = {.events = 0,
				    .data.u64 = entry->number}; /* EPOLLHUP always is */

	if (entry->client->conn->leases_fd < 0)
		return true;
	entry->is_watched =
		!epoll_ctl(entry->client->conn->leases_fd, EPOLL_CTL_ADD, entry->lease_fd, &event);
	return entry->is_watched;
}

/* With awaited_lock held: those that the epoll set had no room for, now that it has had. */
static void watch_all(void)
{
	has_unwatched = false;
	for (struct cowi_lease *entry = awaited; entry; entry = entry->next) {
		if (!entry->is_watched && !watch(entry))
			has_unwatched = true;
	}
}

int cowi_lease_alloc(struct cowi_lease **lease)
{
	*lease = malloc(sizeof(**lease));
	return *lease ? 0 : err_oom(sizeof(**lease), "the lease of a snapshot");
}

void cowi_lease_await(struct cow_client *client, struct cowi_lease **lease, int *lease_fd,
		      struct scoot_snapshot **frozen)
{
	struct cowi_lease *entry = steal_ptr(lease);

	pthread_mutex_lock(&awaited_lock);
	*entry = (struct cowi_lease){
		.client = client,
		.number = ++last_number,
		.lease_fd = fd_steal(lease_fd),
		.frozen = steal_ptr(frozen),
		.next = awaited,
	};
	awaited = entry;
	if (!watch(entry))
		has_unwatched = true;
	else if (has_unwatched)
		watch_all();
	pthread_mutex_unlock(&awaited_lock);
}

/* With awaited_lock held: take those of @client out that are @number, or (0) all. */
static struct cowi_lease *take_out(const struct cow_client *client, uint64_t number)
{
	struct cowi_lease *gone = NULL, **link = &awaited;

	while (*link) {
		struct cowi_lease *entry = *link;

		if (entry->client != client || (number && entry->number != number)) {
			link = &entry->next;
			continue;
		}
		*link = entry->next;
		entry->next = gone;
		gone = entry;
		/* Closing is not enough where a fork child has a copy. */
		(void)epoll_ctl(client->conn->leases_fd, EPOLL_CTL_DEL, entry->lease_fd, NULL);
	}
	return gone;
}

/* Return: whether there was any. */
static bool forget(const struct cow_client *client, uint64_t number)
{
	struct cowi_lease *gone;
	bool was_any;

	pthread_mutex_lock(&awaited_lock);
	gone = take_out(client, number);
	pthread_mutex_unlock(&awaited_lock);
	was_any = gone;
	while (gone) {
		struct cowi_lease *entry = gone;

		gone = entry->next;
		own_fd_close(entry->lease_fd);
		scoot_snapshot_free(entry->frozen);
		free(entry);
	}
	return was_any;
}

void cowi_leases_forget(struct cow_client *client)
{
	(void)forget(client, 0);
}

/* Which region a snapshot was of does not matter: mmapcopies of it may have waited as well. */
void cowi_leases_look(struct cow_client *client)
{
	struct epoll_event events[16];
	bool was_any = false;
	int n;

	do {
		n = epoll_wait(client->conn->leases_fd, events, ARRAY_SIZE(events), 0);
		for (int i = 0; i < n; i++)
			was_any |= forget(client, events[i].data.u64);
	} while (n == ARRAY_SIZE(events));
	if (was_any)
		cowi_scoot_post_all();
}

void cowi_leases_fork_prepare(void)
{
	pthread_mutex_lock(&awaited_lock);
}

/* The child awaits nothing, and settles nothing. */
void cowi_leases_fork_child(void)
{
	struct cowi_lease **end = &awaited;

	for (; *end; end = &(*end)->next)
		(*end)->lease_fd = own_fd_close((*end)->lease_fd);
	*end = inherited;
	inherited = awaited;
	awaited = NULL;
	has_unwatched = false;
}

void cowi_leases_fork_done(void)
{
	pthread_mutex_unlock(&awaited_lock);
}
