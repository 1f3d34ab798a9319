// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Snapshots: live, pending or lost.
 *
 * A snapshot is pending while cowd's answer to SnapshotTake is under way (the modes in which the
 * cut is made by the client do not wait for it); what needs cowd's id waits for that. It is lost
 * once cowd says so, once the connection that knew it has ended, or when cowd refused it; that
 * state is final, and every read checks for it after having copied, so that no bytes of another
 * instant are returned as good ones.
 *
 * The id is 0 while pending and when lost. held_id is what cowd is told to release, for a snapshot
 * that cowd itself reported lost it has to be released as well.
 */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "backends/uffdio.h"
#include "common/own-fd.h"
#include "libclient/conn/conn.h"
#include "libclient/modes.h"
#include "libclient/requests.h"

static int raise_lost(const struct cow_snapshot *snap)
{
	return err_raise(-ESTALE, "the snapshot is lost: %s", snap->lost_because);
}

/*
 * With client->lock held. Who waits in the view is woken, to find SIGBUS there. One that cannot be
 * replaced shows memory still that another process is waiting to change: its lease goes on.
 */
static void break_view(struct cow_snapshot *snap)
{
	if (snap->view_state != COWI_VIEW_READY)
		return;
	if (cowi_map_broken((void *)(uintptr_t)snap->view, snap->size_bytes))
		return;
	cowi_view_enter(&snap->view_state, COWI_VIEW_BROKEN);
	if (snap->view_uffd >= 0 &&
	    uffdio_wake(snap->view_uffd, (uintptr_t)snap->view, snap->size_bytes))
		snap->view_uffd = own_fd_close(snap->view_uffd); /* wakes as well */
}

/*
 * With client->lock held. Of one that was opened: once it is lost and no view shows it, its owner
 * may change the memory. Whoever is copying from it looks at the state afterwards.
 */
static void end_lease(struct cow_snapshot *snap)
{
	if (snap->is_owner || snap->state != COWI_SNAPSHOT_LOST ||
	    snap->view_state == COWI_VIEW_READY || snap->view_state == COWI_VIEW_MAKING)
		return;
	snap->lease_fd = own_fd_close(snap->lease_fd);
}

/* With client->lock held. */
static void mark_lost(struct cow_snapshot *snap, const char *because)
{
	if (snap->state == COWI_SNAPSHOT_LOST)
		return;
	cowi_snapshot_enter(&snap->state, COWI_SNAPSHOT_LOST);
	snap->id = 0;
	(void)snprintf(snap->lost_because, sizeof(snap->lost_because), "%s", because);
	break_view(snap);
	end_lease(snap);
	cowi_event_signal(&snap->client->changed);
}

void cowi_snapshots_lost(struct cow_client *client, const char *because)
{
	pthread_mutex_lock(&client->lock);
	for (struct cow_snapshot *snap = client->snapshots; snap; snap = snap->next)
		mark_lost(snap, because);
	pthread_mutex_unlock(&client->lock);
}

void cowi_snapshot_named(struct cow_snapshot *snap, uint64_t id)
{
	snap->held_id = id;
	if (snap->state == COWI_SNAPSHOT_LOST)
		return;
	snap->id = id;
	/* The reply may have named it before its waiter is told. */
	if (snap->state != COWI_SNAPSHOT_LIVE)
		cowi_snapshot_enter(&snap->state, COWI_SNAPSHOT_LIVE);
}

void cowi_snapshot_answered(struct cow_snapshot *snap, int error, const Cow__V1__Reply *reply)
{
	pthread_mutex_lock(&snap->client->lock);
	if (error) {
		mark_lost(snap, err_sentence());
	} else {
		cowi_snapshot_named(snap, reply->snapshot->snapshot_id);
		cowi_event_signal(&snap->client->changed);
	}
	pthread_mutex_unlock(&snap->client->lock);
}

void cowi_snapshot_lost_event(struct cow_client *client, uint64_t id, const char *because)
{
	pthread_mutex_lock(&client->lock);
	/* Taken and opened in one process, it has more than one handle. */
	for (struct cow_snapshot *snap = client->snapshots; snap; snap = snap->next) {
		if (snap->id == id)
			mark_lost(snap, because);
	}
	pthread_mutex_unlock(&client->lock);
}

/* An opened one with @id that is lost and that cowd was not told
 * to release; what it holds there. */
static uint64_t take_lost_hold(struct cow_client *client, uint64_t id, uint64_t *generation)
{
	uint64_t held_id = 0;

	pthread_mutex_lock(&client->lock);
	for (struct cow_snapshot *snap = client->snapshots; snap && !held_id; snap = snap->next) {
		if (!cowi_mode_is_leased(snap) || snap->state != COWI_SNAPSHOT_LOST ||
		    snap->held_id != id || snap->generation != client->generation ||
		    snap->view_state == COWI_VIEW_READY || snap->view_state == COWI_VIEW_MAKING)
			continue;
		held_id = snap->held_id;
		*generation = snap->generation;
		snap->held_id = 0;
	}
	pthread_mutex_unlock(&client->lock);
	return held_id;
}

void cowi_snapshot_release_lost(struct cow_client *client, uint64_t id)
{
	uint64_t generation = 0;

	while (take_lost_hold(client, id, &generation))
		cowi_tell_snapshot_release(client, generation, id);
}

int cowi_snapshot_await_id(struct cow_snapshot *snap, uint64_t *id)
{
	struct cow_client *client = snap->client;
	int r;

	r = cowi_check_process(client);
	if (r)
		return r;
	pthread_mutex_lock(&client->lock);
	if (snap->state == COWI_SNAPSHOT_PENDING)
		cowi_hurry(client);
	while (!r && snap->state == COWI_SNAPSHOT_PENDING)
		r = cowi_event_wait(&client->changed, &client->lock, NULL);
	*id = snap->id;
	if (!r && snap->state == COWI_SNAPSHOT_LOST)
		r = raise_lost(snap);
	pthread_mutex_unlock(&client->lock);
	return r;
}

static int snapshot_alloc(struct cow_snapshot **out, struct cow_client *client,
			  struct cow_region *region)
{
	struct cow_snapshot *snap = calloc(1, sizeof(*snap));

	if (!snap)
		return err_oom(sizeof(*snap), "a snapshot");
	snap->n_refs = 1;
	snap->view_uffd = -1;
	snap->lease_fd = -1;
	snap->client = cow_client_ref(client);
	if (region) {
		snap->region = cow_region_ref(region);
		snap->is_owner = 1;
		snap->ops = region->ops;
		snap->size_bytes = region->size_bytes;
	}
	*out = snap;
	return 0;
}

/* With client->lock held. */
static void list_add(struct cow_snapshot *snap)
{
	snap->next = snap->client->snapshots;
	snap->client->snapshots = snap;
	snap->is_listed = 1;
}

static void list_remove(struct cow_snapshot *snap)
{
	struct cow_client *client = snap->client;

	pthread_mutex_lock(&client->lock);
	for (struct cow_snapshot **p = &client->snapshots; *p; p = &(*p)->next) {
		if (*p == snap) {
			*p = snap->next;
			break;
		}
	}
	snap->is_listed = 0;
	pthread_mutex_unlock(&client->lock);
}

/* With region->take_lock held: list @snap on the connection that knows its region. */
static int enlist(struct cow_snapshot *snap)
{
	struct cow_region *region = snap->region;
	struct cow_client *client = snap->client;
	int r = 0;

	pthread_mutex_lock(&client->lock);
	if (client->conn->state != COWI_CONN_UP)
		r = cowi_conn_raise_down(client);
	else if ((!region->id || region->is_restored) && region->restore_error)
		r = err_raise(-ENOTCONN,
			      "cowd at %s did not take region \"%s\" on a new connection: %s",
			      client->address, region->name, region->restore_because);
	else if (!region->id || region->is_restored)
		r = err_raise(-EAGAIN, "region \"%s\" is being handed to a new cowd at %s",
			      region->name, client->address);
	if (!r) {
		snap->generation = region->generation;
		list_add(snap);
	}
	pthread_mutex_unlock(&client->lock);
	return r;
}

static int take(struct cow_snapshot *snap)
{
	struct cow_region *region = snap->region;
	int r;

	cowi_region_lock(region);
	r = enlist(snap);
	if (!r) {
		r = cowi_mode_take(snap);
		snap->is_taken = !r;
	}
	cowi_region_unlock(region);
	return r;
}

int cow_snapshot_new(struct cow_snapshot **out, struct cow_region *region)
{
	return cow_snapshot_new_with(out, region, NULL);
}

int cow_snapshot_new_with(struct cow_snapshot **out, struct cow_region *region,
			  const struct cow_snapshot_params *params)
{
	COWI_ENTRY();
	struct cow_snapshot *snap = NULL;
	int r;

	if (!out || !region)
		return err_raise(-EINVAL, "cow_snapshot_new() was given no %s",
				 out ? "region" : "place for the snapshot");
	r = cowi_connect(region->client);
	if (!r)
		r = snapshot_alloc(&snap, region->client, region);
	if (r)
		return r;
	r = cowi_snapshot_set_params(snap, params);
	if (!r)
		r = take(snap);
	if (r) {
		char sentence[512];

		(void)snprintf(sentence, sizeof(sentence), "%s", err_sentence());
		cow_snapshot_unref(snap);
		return err_raise(r, "%s", sentence);
	}
	*out = snap;
	return 0;
}

/* What a SnapshotOpen's reply says goes into @snap. */
static int take_opened(struct cow_snapshot *snap, const Cow__V1__SnapshotReply *reply,
		       struct fdset *fds)
{
	/* Without files it is another user's. */
	const struct cowi_mode_ops *ops =
		cowi_mode_ops_opened((uint32_t)reply->mode, reply->n_backing_ids);
	int r;

	if (!ops)
		return err_raise(-EPROTO,
				 "snapshot %llu is of a mode that this library, %s, does not know",
				 (unsigned long long)reply->snapshot_id, cow_version());
	snap->size_bytes = reply->size_bytes;
	r = cowi_mode_opened(ops, snap, reply, fds);
	pthread_mutex_lock(&snap->client->lock);
	snap->ops = ops;
	end_lease(snap); /* it may be lost by now */
	pthread_mutex_unlock(&snap->client->lock);
	snap->is_taken = !r;
	return r;
}

/* Before cowd is asked: what it says of the snapshot, or the connection's end, is to find it. */
static int enlist_opened(struct cow_snapshot *snap)
{
	struct cow_client *client = snap->client;
	int r = 0;

	pthread_mutex_lock(&client->lock);
	snap->generation = client->generation;
	if (cowi_conn_is_there(client->conn))
		list_add(snap);
	else
		r = cowi_conn_raise_down(client);
	pthread_mutex_unlock(&client->lock);
	return r;
}

/* How cowd is asked for a snapshot, by the number of the snapshot or region that is wanted. */
typedef int ask_fn(struct cow_snapshot *snap, uint64_t id, Cow__V1__Reply **reply,
		   struct fdset *fds);

static int ask_outside(struct cow_snapshot *snap, uint64_t region_id, Cow__V1__Reply **reply,
		       struct fdset *fds)
{
	return cowi_ask_snapshot_take(snap, region_id, false, reply, fds);
}

static int open_by(struct cow_snapshot *snap, ask_fn *ask, uint64_t wanted_id)
{
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	Cow__V1__Reply *reply = NULL;
	uint64_t id;
	int r;

	r = enlist_opened(snap);
	if (!r)
		r = ask(snap, wanted_id, &reply, &fds);
	if (r)
		return r;
	id = reply->snapshot->snapshot_id;
	r = take_opened(snap, reply->snapshot, &fds);
	cow__v1__reply__free_unpacked(reply, NULL);
	if (!r)
		cowi_snapshot_release_lost(snap->client, id);
	return r;
}

static int open_new(struct cow_snapshot **out, struct cow_client *client, ask_fn *ask,
		    uint64_t wanted_id)
{
	struct cow_snapshot *snap = NULL;
	int r;

	r = cowi_connect(client);
	if (!r)
		r = snapshot_alloc(&snap, client, NULL);
	if (r)
		return r;
	r = open_by(snap, ask, wanted_id);
	if (r) {
		char sentence[512];

		(void)snprintf(sentence, sizeof(sentence), "%s", err_sentence());
		cow_snapshot_unref(snap);
		return err_raise(r, "%s", sentence);
	}
	*out = snap;
	return 0;
}

int cow_snapshot_open(struct cow_snapshot **out, struct cow_client *client, uint64_t id)
{
	COWI_ENTRY();

	if (!out || !client)
		return err_raise(-EINVAL, "cow_snapshot_open() was given no %s",
				 out ? "client" : "place for the snapshot");
	if (!id)
		return err_raise(-ENOENT, "there is no snapshot 0");
	return open_new(out, client, cowi_ask_snapshot_open, id);
}

int cow_snapshot_new_outside(struct cow_snapshot **out, struct cow_client *client,
			     uint64_t region_id)
{
	COWI_ENTRY();

	if (!out || !client)
		return err_raise(-EINVAL, "cow_snapshot_new_outside() was given no %s",
				 out ? "client" : "place for the snapshot");
	return open_new(out, client, ask_outside, region_id);
}

struct cow_snapshot *cow_snapshot_ref(struct cow_snapshot *snap)
{
	atomic_fetch_add(&snap->n_refs, 1);
	return snap;
}

void cowi_snapshot_unasked(struct cow_snapshot *snap)
{
	struct cow_client *client = snap->client;
	bool is_last;

	/* With the lock: who drops the program's last reference sees either the reply's or none. */
	pthread_mutex_lock(&client->lock);
	snap->has_asked = 0;
	is_last = atomic_fetch_sub(&snap->n_refs, 1) == 1;
	if (is_last)
		atomic_store(&snap->n_refs, 1);
	pthread_mutex_unlock(&client->lock);
	if (is_last)
		cow_snapshot_unref(snap);
}

/*
 * Adopted memory is the program's again with the last reference of its own. A snapshot whose reply
 * is under way is held by that as well, for as long as cowd likes: it gives its region back now.
 */
static struct cow_region *leave_region(struct cow_snapshot *snap)
{
	struct cow_client *client = snap->client;
	struct cow_region *region = NULL;

	pthread_mutex_lock(&client->lock);
	if (snap->has_asked && snap->region && snap->region->adopted &&
	    atomic_load(&snap->n_refs) == 2)
		region = steal_ptr(&snap->region);
	pthread_mutex_unlock(&client->lock);
	return region;
}

struct cow_snapshot *cow_snapshot_unref(struct cow_snapshot *snap)
{
	COWI_ENTRY();
	struct cow_region *left = NULL;

	if (!snap)
		return NULL;
	if (snap->client->pid == getpid())
		left = leave_region(snap);
	if (atomic_fetch_sub(&snap->n_refs, 1) != 1) {
		cow_region_unref(left);
		return NULL;
	}
	if (snap->is_listed)
		list_remove(snap);
	/* In a fork child: mappings are not there, and memory that it shares is the parent's to
	 * change. */
	if ((snap->view_state == COWI_VIEW_READY || snap->view_state == COWI_VIEW_BROKEN) &&
	    snap->client->pid == getpid())
		cowi_mode_unmap(snap);
	if (snap->is_taken && snap->client->pid == getpid())
		cowi_mode_release(snap);
	if (snap->held_id && snap->client->pid == getpid())
		cowi_tell_snapshot_release(snap->client, snap->generation, snap->held_id);
	snap->view_uffd = own_fd_close(snap->view_uffd);
	snap->lease_fd = own_fd_close(snap->lease_fd);
	cow_region_unref(snap->region);
	cow_client_unref(snap->client);
	free(snap->lease);
	free(snap);
	return NULL;
}

uint64_t cow_snapshot_id(struct cow_snapshot *snap)
{
	COWI_ENTRY();
	uint64_t id = 0;

	return cowi_snapshot_await_id(snap, &id) ? 0 : id;
}

uint64_t cow_snapshot_size(const struct cow_snapshot *snap)
{
	return snap->size_bytes;
}

static int check_not_lost(struct cow_snapshot *snap)
{
	int r = 0;

	pthread_mutex_lock(&snap->client->lock);
	if (snap->state == COWI_SNAPSHOT_LOST)
		r = raise_lost(snap);
	pthread_mutex_unlock(&snap->client->lock);
	return r;
}

int cow_snapshot_read(struct cow_snapshot *snap, void *buf, size_t len, uint64_t off)
{
	COWI_ENTRY();
	int r, lost;

	if (!snap || (!buf && len))
		return err_raise(-EINVAL, "cow_snapshot_read() was given no %s",
				 snap ? "buffer" : "snapshot");
	if (off > snap->size_bytes || len > snap->size_bytes - off)
		return err_raise(
			-EINVAL,
			"%zu bytes at offset %llu pass the end of a snapshot of %llu bytes", len,
			(unsigned long long)off, (unsigned long long)snap->size_bytes);
	r = cowi_check_process(snap->client);
	if (!r)
		r = check_not_lost(snap);
	if (r || !len)
		return r;
	r = cowi_mode_read(snap, buf, len, off);
	/* What another process froze may have changed since the snapshot was lost, and not before.
	 * Also when that failed: that the snapshot is lost says more than that a call did. */
	lost = check_not_lost(snap);
	return lost ? lost : r;
}

/* With client->lock held: this thread's turn to make the view, or it is there. */
static int begin_view(struct cow_snapshot *snap, bool *is_mine)
{
	struct cow_client *client = snap->client;
	int r = 0;

	*is_mine = false;
	while (!r && snap->view_state == COWI_VIEW_MAKING && snap->state != COWI_SNAPSHOT_LOST)
		r = cowi_event_wait(&client->changed, &client->lock, NULL);
	if (r || snap->state == COWI_SNAPSHOT_LOST)
		return r ? r : raise_lost(snap);
	if (snap->view_state == COWI_VIEW_NONE) {
		cowi_view_enter(&snap->view_state, COWI_VIEW_MAKING);
		*is_mine = true;
	}
	return 0;
}

int cow_snapshot_map(struct cow_snapshot *snap, const void **view)
{
	COWI_ENTRY();
	struct cow_client *client;
	bool is_mine = false;
	const void *addr;
	uint64_t id;
	int r;

	if (!snap || !view)
		return err_raise(-EINVAL, "cow_snapshot_map() was given no %s",
				 snap ? "place for the view" : "snapshot");
	client = snap->client;
	r = cowi_check_process(client);
	if (r)
		return r;
	pthread_mutex_lock(&client->lock);
	r = begin_view(snap, &is_mine);
	if (is_mine) {
		pthread_mutex_unlock(&client->lock);
		r = cowi_mode_map(snap);
		pthread_mutex_lock(&client->lock);
		cowi_view_enter(&snap->view_state, r ? COWI_VIEW_NONE : COWI_VIEW_READY);
		if (snap->state == COWI_SNAPSHOT_LOST) {
			break_view(snap);
			end_lease(snap);
			r = raise_lost(snap);
		}
		cowi_event_signal(&client->changed);
	}
	addr = snap->view;
	id = snap->held_id;
	pthread_mutex_unlock(&client->lock);
	if (!r)
		*view = addr; /* it may lie in a region, where that waits */
	if (r && id)
		cowi_snapshot_release_lost(client, id);
	return r;
}
