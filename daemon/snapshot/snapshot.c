// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Life of a snapshot: new, held, lost, gone. How its bytes are read is in read.c.
 * Contracts are in snapshot.h, the chain and its locks in region.h.
 *
 * In mode uffd a snapshot leaves its region's chain when nobody has it any more, or when it is
 * lost: its pages go to the next older snapshot, unless that has them already. This is done in
 * pieces, with the chain lock let go in between, and stops for others who want a turn. A fault
 * worker may put further pages into the store meanwhile, for older snapshots' sake, so the last
 * piece goes over the store once more and takes it out of the chain.
 */
#include "config.h"

#include "daemon/snapshot/snapshot.h"

#include <stdio.h>
#include <utlist.h>

#include "common/clock.h"
#include "common/err.h"
#include "daemon/base/closer.h"
#include "daemon/daemon.h"
#include "daemon/process/log.h"
#include "daemon/region/backing.h"
#include "daemon/rpc/session.h"

/* Pages handed down with the chain lock held. */
#define HAND_DOWN_PAGES ((uint64_t)1 << 12)
/* Pages saved between two drains of a store. */
#define DRAIN_PAGES     ((uint64_t)256)

static void free_extents(struct snapshot *snap)
{
	for (size_t i = 0; i < snap->n_extents; i++) {
		struct snapshot_extent *extent = &snap->extents[i];

		if (extent->user)
			DL_DELETE2(extent->backing->memory->uses, extent, prev_use, next_use);
		free(extent->record);
		backing_unref(extent->backing);
	}
	free(snap->extents);
	charge_deinit(&snap->extents_charge);
	snap->extents = NULL;
	snap->n_extents = 0;
}

/* By a thread that may wait: a client that writes to the pipe, or reads it, can hold its lock. */
static void end_lease(struct snapshot *snap)
{
	if (snap->lease_fd >= 0)
		closer_give(snap->daemon->closer, snap->region->user, &snap->lease_fd, 1,
			    &snap->lease_charge, 1);
}

int snapshot_set_lease(struct snapshot *snap, int *fd)
{
	int r = quota_charge(&snap->lease_charge, snap->region->user, QUOTA_FDS, 1);

	if (r)
		return r > 0 ? -EDQUOT : r;
	snap->lease_fd = fd_steal(fd);
	return 0;
}

static void snapshot_free(struct snapshot *snap)
{
	store_deinit(&snap->store);
	free_extents(snap);
	end_lease(snap);
	charge_deinit(&snap->charge);
	snap->region->n_snapshots--;
	region_unref(snap->region);
	free(snap);
}

static int need_pool(struct region *region)
{
	return region->pool ? 0 : store_pool_new(&region->pool, region->n_pages, region->user);
}

/* What only mode uffd needs. */
static int init_store(struct snapshot *snap)
{
	struct region *region = snap->region;
	int r = need_pool(region);

	return r ? r : store_init(&snap->store, region->pool, region->n_pages);
}

void snapshot_new_ahead(struct region *region)
{
	/* What fails the first snapshot will meet as well, and say so. */
	if (!need_pool(region))
		store_init_ahead(region->pool, region->n_pages);
}

int snapshot_new(struct snapshot **out, struct region *region, const char *name)
{
	struct daemon *daemon = region->daemon;
	struct snapshot *snap;
	int r;

	snap = malloc(sizeof(*snap));
	if (!snap)
		return err_oom(sizeof(*snap), "a snapshot");
	*snap = (struct snapshot){.n_refs = 1,
				  .daemon = daemon,
				  .region_id = region->id,
				  .doubt_first = UINT64_MAX,
				  .lease_fd = -1};
	snap->region = region_ref(region);
	region->n_snapshots++;
	snap->mode = region->mode;
	snap->pid = region->pid;
	snap->uid = region->uid;
	snap->size_bytes = region->size_bytes;
	snap->taken_usec = now_usec();
	(void)snprintf(snap->region_name, sizeof(snap->region_name), "%s", region->name);
	(void)snprintf(snap->name, sizeof(snap->name), "%s", name ? name : "");

	r = quota_charge(&snap->charge, region->user, QUOTA_SNAPSHOTS, 1);
	if (r > 0)
		r = -EDQUOT;
	if (!r && region->mode == COW__V1__MODE__MODE_UFFD)
		r = init_store(snap);
	if (r) {
		snapshot_free(snap);
		return r;
	}
	snap->id = daemon_new_id(daemon);
	HASH_ADD(hh, daemon->snapshots, id, sizeof(snap->id), snap);
	*out = snap;
	return 0;
}

struct snapshot *snapshot_ref(struct snapshot *snap)
{
	snap->n_refs++;
	return snap;
}

/* --- leaving the chain ------------------------------------------------------------------------ */

static void unlink_from_chain(struct region *region, struct snapshot *snap)
{
	if (snap->older)
		snap->older->newer = snap->newer;
	else
		region->oldest = snap->newer;
	if (snap->newer)
		snap->newer->older = snap->older;
	else
		region->newest = snap->older;
	atomic_fetch_sub(&region->n_chained, 1);
}

/* Whether it was in the chain at all; if not, a move that comes now finds nothing pending. */
static bool cancel_pending(struct region *region, struct snapshot *snap)
{
	bool is_chained;

	served_lock(&region->served);
	if (region->pending == snap)
		region->pending = NULL;
	is_chained = snap->is_chained;
	served_unlock(&region->served);
	return is_chained;
}

/* Whether all is handed down that was there when it came by. */
static bool hand_down(struct region *region, struct snapshot *snap)
{
	struct store *store = &snap->store;
	uint64_t since_nsec = now_nsec();

	for (uint64_t first = store_next_touched(store, 0); first < store->n_pages;
	     first = store_next_touched(store, first + HAND_DOWN_PAGES)) {
		if (region_should_yield(region))
			return false;
		pthread_rwlock_wrlock(&region->chain_lock);
		store_hand_down(store, snap->older ? &snap->older->store : NULL, first,
				min_u64(first + HAND_DOWN_PAGES, store->n_pages));
		pthread_rwlock_unlock(&region->chain_lock);
		job_give_way(&since_nsec);
	}
	return true;
}

static void leave_run(struct region_op *op)
{
	struct snapshot *snap = container_of(op, struct snapshot, op);
	struct region *region = snap->region;

	if (!atomic_exchange(&snap->is_leaving, true) && !cancel_pending(region, snap)) {
		snap->has_left = true;
		return;
	}
	if (!hand_down(region, snap))
		return;
	pthread_rwlock_wrlock(&region->chain_lock);
	store_hand_down(&snap->store, snap->older ? &snap->older->store : NULL, 0,
			snap->store.n_pages);
	unlink_from_chain(region, snap);
	snap->is_chained = false;
	pthread_rwlock_unlock(&region->chain_lock);
	snap->has_left = true;
	store_deinit(&snap->store);
	region_wake_waiters(region);
}

void snapshot_drain(struct snapshot *snap, uint64_t off)
{
	struct region *region = snap->region;
	uint64_t first = snap->drained_pages;
	uint64_t end = off / page_size_bytes();

	if (end <= first || (end - first < DRAIN_PAGES && off < snap->size_bytes &&
			     !atomic_load(&region->has_waiters)))
		return;
	pthread_rwlock_wrlock(&region->chain_lock);
	atomic_store(&snap->drained_pages, end);
	/* It leaves the chain when it is lost, whoever saves it. */
	if (snap->is_chained)
		store_hand_down(&snap->store, snap->older ? &snap->older->store : NULL,
				align_down(first, STORE_TOUCH_PAGES), end);
	pthread_rwlock_unlock(&region->chain_lock);
	region_wake_waiters(region);
}

static void leave_done(struct region_op *op)
{
	struct snapshot *snap = container_of(op, struct snapshot, op);

	if (!snap->has_left) {
		op->is_background =
			true; /* if the cut came after all there are pages to hand down */
		region_submit(snap->region, op);
		return;
	}
	atomic_fetch_sub(&snap->region->n_leaving, 1);
	arm_calm(snap->region);
	stock_trim(snap->region);
	if (!snap->n_refs)
		snapshot_free(snap);
}

static void submit_leave(struct snapshot *snap)
{
	if (snap->op.region)
		return;
	snap->op.run = leave_run;
	snap->op.done = leave_done;
	/* One whose cut was not made is in the way of the next take, and leaves at once. */
	snap->op.is_background = atomic_load(&snap->is_frozen);
	atomic_fetch_add(&snap->region->n_leaving, 1);
	region_submit(snap->region, &snap->op);
}

struct snapshot *snapshot_unref(struct snapshot *snap)
{
	if (!snap || --snap->n_refs)
		return NULL;
	HASH_DEL(snap->daemon->snapshots, snap);
	if (snap->op.region)
		return NULL; /* leave_done() frees it */
	if (snap->was_taken && !snap->has_left)
		submit_leave(snap);
	else
		snapshot_free(snap);
	return NULL;
}

void snapshot_submit_take(struct snapshot *snap, void (*run)(struct region_op *op),
			  void (*done)(struct region_op *op))
{
	snapshot_ref(snap);
	snap->was_taken = snap->mode == COW__V1__MODE__MODE_UFFD;
	snap->op.run = run;
	snap->op.done = done;
	region_submit(snap->region, &snap->op);
}

void snapshot_take_done(struct snapshot *snap)
{
	/* Lost before anybody had it: its holders are told soon. */
	if (snap->is_lost)
		snapshot_post_lost(snap->region);
	snapshot_unref(snap);
}

/* --- mode uffd: the cut ----------------------------------------------------------------------- */

/* With served.lock held. */
static void append(struct region *region, struct snapshot *snap)
{
	pthread_rwlock_wrlock(&region->chain_lock);
	snap->older = region->newest;
	if (snap->older)
		snap->older->newer = snap;
	else
		region->oldest = snap;
	region->newest = snap;
	atomic_fetch_add(&region->n_chained, 1);
	pthread_rwlock_unlock(&region->chain_lock);
	snap->is_chained = true;
	atomic_store(&snap->is_frozen, true);
}

static int arm_with_lock(struct region *region, struct snapshot *snap, bool by_move)
{
	int r;

	if (by_move && region->pending)
		return err_raise(-EBUSY, "another snapshot of region %llu is being taken",
				 (unsigned long long)region->id);
	r = by_move ? arm_prepare(region) : arm_eagerly(region);
	if (r)
		return r;
	if (by_move)
		region->pending = snap;
	else
		append(region, snap);
	return 0;
}

int snapshot_arm(struct snapshot *snap, bool by_move)
{
	struct region *region = snap->region;
	uint64_t started_usec = now_usec();
	int r;

	/*
	 * While served.lock is held no fault of the region is resolved: whoever writes to a page
	 * that is protected already waits until all of them are. So no write that is made because
	 * of another one is in the snapshot without it.
	 */
	served_lock(&region->served);
	r = arm_with_lock(region, snap, by_move);
	served_unlock(&region->served);
	region_wake_waiters(region); /* the newest snapshot, whose room matters, is another one */
	snap->taken_usec = now_usec();
	hist_add(&region->daemon->stats.arm_latency, (snap->taken_usec - started_usec) * 1000);
	return r;
}

void snapshot_moved(struct region *region)
{
	if (region->pending)
		append(region, region->pending);
	region->pending = NULL;
	atomic_store(&region->sweep_off, 0);
	region->wants_sweep = true;
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
		return r > 0 ? -EDQUOT : r;
	}
	hold->snapshot = snapshot_ref(snap);
	HASH_ADD(hh, session->holds, id, sizeof(hold->id), hold);
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

/* One who serves and one who reads may find it out at once. */
static void lose(struct snapshot *snap, const char *because)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

	pthread_mutex_lock(&lock);
	if (!snap->is_lost && !snap->is_leaving) {
		(void)snprintf(snap->lost_because, sizeof(snap->lost_because), "%s", because);
		atomic_store(&snap->is_lost, true);
		stats_add(&snap->daemon->stats, snapshots_lost, 1);
	}
	pthread_mutex_unlock(&lock);
}

void snapshot_post_lost(struct region *region)
{
	if (!atomic_exchange(&region->is_lost_posted, true))
		loop_post(region->daemon->loop, &region->lost_task);
}

void snapshot_lose(struct region *region, uint64_t idx, const char *because)
{
	struct snapshot *snap = region->newest;

	for (; snap && store_get(&snap->store, idx) == STORE_EMPTY; snap = snap->older)
		lose(snap, because);
	snapshot_post_lost(region);
}

void snapshot_lose_one(struct snapshot *snap, const char *because)
{
	lose(snap, because);
	snapshot_post_lost(snap->region);
}

void snapshot_lose_all(struct region *region, const char *because)
{
	pthread_rwlock_rdlock(&region->chain_lock);
	for (struct snapshot *snap = region->newest; snap; snap = snap->older)
		lose(snap, because);
	pthread_rwlock_unlock(&region->chain_lock);
	snapshot_post_lost(region);
}

static void tell_lost(struct snapshot *snap)
{
	Cow__V1__SnapshotLost lost = COW__V1__SNAPSHOT_LOST__INIT;
	Cow__V1__Reply event = COW__V1__REPLY__INIT;

	lost.snapshot_id = snap->id;
	lost.sentence = snap->lost_because;
	event.result_case = COW__V1__REPLY__RESULT_SNAPSHOT_LOST;
	event.snapshot_lost = &lost;
	log_lost(snap);
	for (struct hold *hold = snap->holds; hold; hold = hold->next)
		session_send(hold->session, &event, NULL, 0);
}

void snapshot_lose_memory(struct daemon *daemon, dev_t dev, ino_t ino)
{
	struct memory *memory = backing_find_memory(daemon, dev, ino);
	struct snapshot_extent *use = memory ? memory->uses : NULL;

	for (; use; use = use->next_use) {
		struct snapshot *snap = use->user;

		if (snap->is_lost)
			continue;
		lose(snap, "the connection of the program that took it ended, and it has connected "
			   "again");
		snap->is_lost_told = true;
		tell_lost(snap);
		end_lease(snap); /* who is reading it here finds it lost afterwards */
	}
}

static void await_chain_run(struct job *job)
{
	struct region *region = container_of(job, struct region, chain_job);

	pthread_rwlock_rdlock(&region->chain_lock);
	pthread_rwlock_unlock(&region->chain_lock);
}

static void await_chain_done(struct job *job)
{
	struct region *region = container_of(job, struct region, chain_job);

	region->is_awaiting_chain = false;
	snapshot_post_lost(region);
	region_unref(region);
}

/* Look again at what was lost when the chain's lock is free. */
static void await_chain(struct region *region)
{
	if (region->is_awaiting_chain)
		return;
	region->is_awaiting_chain = true;
	region->chain_job = (struct job){
		.run = await_chain_run, .done = await_chain_done, .client_id = region->client_id};
	region_ref(region);
	job_submit(region->daemon->jobs, &region->chain_job);
}

void snapshot_lost_task(struct task *task)
{
	struct region *region = container_of(task, struct region, lost_task);
	struct snapshot *snap;

	atomic_store(&region->is_lost_posted, false);
	/* Nobody has it or a snapshot of it any more: its end is on its way, and closes what is
	 * open. */
	if (!region->n_refs)
		return;
	/* The loop waits for no lock that others hold while a client's address space is busy. */
	if (pthread_rwlock_tryrdlock(&region->chain_lock)) {
		await_chain(region);
		return;
	}
	for (snap = region->oldest; snap; snap = snap->newer) {
		/* With its take under way nobody holds it yet: snapshot_take_done() calls again. */
		if (!snap->is_lost || snap->is_lost_told || snap->op.region || snap->has_left)
			continue;
		snap->is_lost_told = true;
		tell_lost(snap);
		submit_leave(snap);
	}
	pthread_rwlock_unlock(&region->chain_lock);
	if (region->is_gone)
		region_gone(region);
}

int snapshot_stale(const struct snapshot *snap)
{
	return err_raise(-ESTALE, "snapshot %llu is lost: %s", (unsigned long long)snap->id,
			 snap->lost_because);
}
