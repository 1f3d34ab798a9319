// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Life of a snapshot; contracts are in snapshot.h. The loop thread calls everything here but
 * snapshot_take(), snapshot_read(), snapshot_trim_saved(), snapshot_stale() and snapshot_set_state(),
 * which jobs, savers and workers call as well, and snapshot_mark_lost(), which has a lock of its own.
 */
#include "config.h"

#include "daemon/snapshot/snapshot.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <utlist.h>

#include "common/clock.h"
#include "common/err.h"
#include "daemon/base/closer.h"
#include "daemon/daemon.h"
#include "daemon/process/log.h"
#include "daemon/region/backing.h"
#include "daemon/session.h"
#include "daemon/snapshot/frozen.h"

static const char *const state_names[SNAPSHOT_N_STATES] = {
	[SNAPSHOT_NEW] = "new",
	[SNAPSHOT_TAKING] = "being taken",
	[SNAPSHOT_AWAITING_MOVE] = "awaiting its program's move",
	[SNAPSHOT_FROZEN] = "frozen",
	[SNAPSHOT_LEAVING] = "leaving",
	[SNAPSHOT_LEFT] = "left",
};

static const uint32_t next_states[SNAPSHOT_N_STATES] = {
	[SNAPSHOT_NEW] = STATE_BIT(SNAPSHOT_TAKING),
	[SNAPSHOT_TAKING] = STATE_BIT(SNAPSHOT_AWAITING_MOVE) | STATE_BIT(SNAPSHOT_FROZEN) |
			    STATE_BIT(SNAPSHOT_LEFT),
	[SNAPSHOT_AWAITING_MOVE] = STATE_BIT(SNAPSHOT_FROZEN) | STATE_BIT(SNAPSHOT_LEFT),
	[SNAPSHOT_FROZEN] = STATE_BIT(SNAPSHOT_LEAVING),
	[SNAPSHOT_LEAVING] = STATE_BIT(SNAPSHOT_LEFT),
};

const struct state_table snapshot_states = {
	.what = "snapshot", .names = state_names, .next = next_states, .n = SNAPSHOT_N_STATES};

void snapshot_set_state(struct snapshot *snap, enum snapshot_state state)
{
	state_check(&snapshot_states, snap->id, atomic_exchange(&snap->state, state), state);
}

static void snapshot_free(struct snapshot *snap)
{
	snap->region->ops->drop(snap);
	charge_deinit(&snap->charge);
	snap->region->n_snapshots--;
	region_unref(snap->region);
	free(snap);
}

int snapshot_new(struct snapshot **out, struct region *region, const char *name)
{
	struct daemon *daemon = region->daemon;
	struct snapshot *snap;
	int r;

	assert(region->ops->snapshot_bytes >= sizeof(*snap));
	snap = calloc(1, region->ops->snapshot_bytes);
	if (!snap)
		return err_oom(region->ops->snapshot_bytes, "a snapshot");
	snap->n_refs = 1;
	snap->daemon = daemon;
	snap->region_id = region->id;
	snap->region = region_ref(region);
	region->n_snapshots++;
	region->ops->init_snapshot(snap);
	snap->mode = region->mode;
	snap->pid = region->pid;
	snap->uid = region->uid;
	snap->size_bytes = region->size_bytes;
	snap->taken_usec = now_usec();
	(void)snprintf(snap->region_name, sizeof(snap->region_name), "%s", region->name);
	(void)snprintf(snap->name, sizeof(snap->name), "%s", name ? name : "");

	r = quota_error(quota_charge(&snap->charge, region->user, QUOTA_SNAPSHOTS, 1));
	if (!r) {
		snap->id = daemon_new_id(daemon);
		HASH_ADD(hh, daemon->snapshots, id, sizeof(snap->id), snap);
		r = hash_check(&snap->hh, "a snapshot");
	}
	if (r) {
		snapshot_free(snap);
		return r;
	}
	*out = snap;
	return 0;
}

struct snapshot *snapshot_ref(struct snapshot *snap)
{
	snap->n_refs++;
	return snap;
}

static bool has_to_leave(const struct snapshot *snap)
{
	return snap->region->ops->leave && snap->state != SNAPSHOT_NEW &&
	       snap->state != SNAPSHOT_LEFT;
}

struct snapshot *snapshot_unref(struct snapshot *snap)
{
	if (!snap || --snap->n_refs)
		return NULL;
	HASH_DEL(snap->daemon->snapshots, snap);
	if (snap->op.region)
		return NULL; /* snapshot_left() frees it */
	if (has_to_leave(snap))
		snap->region->ops->leave(snap);
	else
		snapshot_free(snap);
	return NULL;
}

void snapshot_left(struct snapshot *snap)
{
	if (!snap->n_refs)
		snapshot_free(snap);
}

int snapshot_check_take(const struct region *region, const struct session *session,
			const Cow__V1__SnapshotTake *take, const struct fdset *fds)
{
	int r;

	assert(loop_is_mine(region->daemon->loop));
	r = region->ops->check_take(region, session, take, fds);
	assert(r == 0 || r == REGION_E_PROTOCOL || (r < 0 && *err_sentence()));
	return r;
}

int snapshot_prepare(struct snapshot *snap, struct session *session,
		     const Cow__V1__SnapshotTake *take, struct fdset *fds)
{
	int r;

	assert(loop_is_mine(snap->daemon->loop) && snap->state == SNAPSHOT_NEW);
	r = snap->region->ops->prepare(snap, session, take, fds);
	assert(r <= 0 && (!r || *err_sentence()));
	return r;
}

int snapshot_take(struct snapshot *snap)
{
	int r;

	assert(!loop_is_mine(snap->daemon->loop) && snap->op.region == snap->region);
	assert(snap->state == SNAPSHOT_TAKING);
	r = snap->region->ops->take(snap);
	assert(r == 0 || r == TAKE_E_AGAIN || (r < 0 && *err_sentence()));
	assert((snap->state == SNAPSHOT_TAKING) == (r != 0));
	return r;
}

void snapshot_submit_take(struct snapshot *snap, void (*run)(struct region_op *op),
			  void (*done)(struct region_op *op))
{
	snapshot_ref(snap);
	snapshot_set_state(snap, SNAPSHOT_TAKING);
	snap->op.run = run;
	snap->op.done = done;
	region_submit(snap->region, &snap->op);
}

void snapshot_take_done(struct snapshot *snap)
{
	if (snap->region->ops->taken)
		snap->region->ops->taken(snap);
	snapshot_unref(snap);
}

/* --- holds ------------------------------------------------------------------------------------ */

static struct hold *find_hold(struct session *session, uint64_t id)
{
	struct hold *hold;

	HASH_FIND(hh, session->holds, &id, sizeof(id), hold);
	if (hold)
		return hold;
	(void)err_raise(-ENOENT, "this client holds no snapshot %llu", (unsigned long long)id);
	return NULL;
}

struct snapshot *snapshot_find(struct session *session, uint64_t id)
{
	struct hold *hold = find_hold(session, id);

	return hold ? hold->snapshot : NULL;
}

int snapshot_hold(struct snapshot *snap, struct session *session)
{
	struct hold *hold;
	int r;

	HASH_FIND(hh, session->holds, &snap->id, sizeof(snap->id), hold);
	if (hold) {
		hold->count++;
		return 0;
	}
	hold = malloc(sizeof(*hold));
	if (!hold)
		return err_oom(sizeof(*hold), "a hold on a snapshot");
	*hold = (struct hold){.session = session, .id = snap->id, .count = 1};
	r = quota_charge(&hold->charge, session->user, QUOTA_QUEUED_BYTES, sizeof(*hold));
	if (r) {
		free(hold);
		return quota_error(r);
	}
	HASH_ADD(hh, session->holds, id, sizeof(hold->id), hold);
	r = hash_check(&hold->hh, "a hold on a snapshot");
	if (r) {
		charge_deinit(&hold->charge);
		free(hold);
		return r;
	}
	hold->snapshot = snapshot_ref(snap);
	DL_PREPEND(snap->holds, hold);
	snap->n_holders++;
	return 0;
}

static void drop_hold(struct hold *hold)
{
	struct snapshot *snap = hold->snapshot;

	HASH_DEL(hold->session->holds, hold);
	DL_DELETE(snap->holds, hold);
	snap->n_holders--;
	charge_deinit(&hold->charge);
	free(hold);
	snapshot_unref(snap);
}

int snapshot_release(struct session *session, uint64_t id)
{
	struct hold *hold = find_hold(session, id);

	if (!hold)
		return -ENOENT;
	if (!--hold->count)
		drop_hold(hold);
	return 0;
}

void snapshot_drop_holds(struct session *session)
{
	while (session->holds)
		drop_hold(session->holds);
}

/* --- lost ------------------------------------------------------------------------------------- */

/* A worker and a reader may find it out at once. */
void snapshot_mark_lost(struct snapshot *snap, const char *because)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

	pthread_mutex_lock(&lock);
	if (!snap->is_lost && snap->state < SNAPSHOT_LEAVING) {
		(void)snprintf(snap->lost_because, sizeof(snap->lost_because), "%s", because);
		atomic_store(&snap->is_lost, true);
		stats_add(&snap->daemon->stats, snapshots_lost, 1);
	}
	pthread_mutex_unlock(&lock);
}

void snapshot_tell_lost(struct snapshot *snap)
{
	snap->daemon->snapshot_events->lost(snap);
}

void snapshot_lose_memory(struct daemon *daemon, dev_t dev, ino_t ino)
{
	struct memory *memory = backing_find_memory(daemon, dev, ino);
	struct snapshot_extent *use = memory ? memory->uses : NULL;

	for (; use; use = use->next_use) {
		struct snapshot *snap = use->user;

		if (snap->is_lost)
			continue;
		snapshot_mark_lost(
			snap,
			"the connection of the program that took it ended, and it has connected "
			"again");
		snap->is_lost_told = true;
		snapshot_tell_lost(snap);
		frozen_end_lease(snap); /* who is reading it here finds it lost afterwards */
	}
}

/* --- read ------------------------------------------------------------------------------------- */

int snapshot_read(struct snapshot *snap, void *buf, size_t len, uint64_t off)
{
	int r;

	assert(off <= snap->size_bytes && len <= snap->size_bytes - off);
	if (snap->is_lost)
		return snapshot_stale(snap);
	r = snap->region->ops->read(snap, buf, len, off);
	assert(r <= 0 && (!r || *err_sentence()));
	return r;
}

void snapshot_trim_saved(struct snapshot *snap, uint64_t off)
{
	assert(snap->is_once && off <= snap->size_bytes);
	snap->region->ops->drain(snap, off);
}

uint64_t snapshot_kept_bytes(const struct snapshot *snap)
{
	const struct region_ops *ops = snap->region->ops;

	return ops->snapshot_kept_bytes ? ops->snapshot_kept_bytes(snap) : 0;
}

/* ---------------------------------------------------------------------------------------------- */

int snapshot_stale(const struct snapshot *snap)
{
	return err_raise(-ESTALE, "snapshot %llu is lost: %s", (unsigned long long)snap->id,
			 snap->lost_because);
}
