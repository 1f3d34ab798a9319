// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A region's chain of stores: snapshots come, are lost and leave; contracts are in chain.h.
 *
 * A snapshot leaves the chain when nobody has it any more, or when it is lost: its pages go to the
 * next older snapshot, unless that has them already. This is done in pieces, with the chain lock
 * let go in between, and stops for others who want a turn. A fault worker may put further pages
 * into the store meanwhile, for older snapshots' sake, so the last piece goes over the store once
 * more and takes it out of the chain.
 */
#include "config.h"

#include "daemon/uffd/chain.h"

#include "common/clock.h"
#include "common/err.h"
#include "daemon/daemon.h"
#include "daemon/uffd/prealloc.h"
#include "daemon/uffd/tracker.h"

/* Pages handed down with the chain lock held. */
#define HAND_DOWN_PAGES ((uint64_t)1 << 12)
/* Pages saved between two trims of a store. */
#define DRAIN_PAGES     ((uint64_t)256)

/* --- stores ----------------------------------------------------------------------------------- */

static int need_pool(struct tracker *tracker)
{
	return tracker->pool ? 0
			     : store_pool_new(&tracker->pool, tracker->region.n_pages,
					      tracker->region.user);
}

int chain_init_store(struct link *link)
{
	struct tracker *tracker = tracker_of(link->snap.region);
	int r = need_pool(tracker);

	return r ? r : store_init(&link->store, tracker->pool, tracker->region.n_pages);
}

void chain_new_ahead(struct tracker *tracker)
{
	/* What fails the first snapshot will meet as well, and say so. */
	if (!need_pool(tracker))
		store_init_ahead(tracker->pool, tracker->region.n_pages);
}

/* --- the cut ---------------------------------------------------------------------------------- */

/* With served.lock held. */
static void append(struct tracker *tracker, struct link *link)
{
	pthread_rwlock_wrlock(&tracker->chain_lock);
	link->older = tracker->newest;
	if (link->older)
		link->older->newer = link;
	else
		tracker->oldest = link;
	tracker->newest = link;
	atomic_fetch_add(&tracker->n_chained, 1);
	snapshot_set_state(&link->snap, SNAPSHOT_FROZEN);
	pthread_rwlock_unlock(&tracker->chain_lock);
}

static int arm_with_lock(struct tracker *tracker, struct link *link, bool by_move)
{
	int r;

	if (by_move && tracker->pending)
		return err_raise(-EBUSY, "another snapshot of region %llu is being taken",
				 (unsigned long long)tracker->region.id);
	r = by_move ? arm_prepare(tracker) : arm_eagerly(tracker);
	if (r)
		return r;
	if (!by_move) {
		append(tracker, link);
		return 0;
	}
	snapshot_set_state(&link->snap, SNAPSHOT_AWAITING_MOVE);
	tracker->pending = link;
	return 0;
}

int chain_take(struct snapshot *snap)
{
	struct link *link = link_of(snap);
	struct tracker *tracker = tracker_of(link->snap.region);
	uint64_t started_usec = now_usec();
	int r;

	/*
	 * While served.lock is held no fault of the region is resolved: whoever writes to a page
	 * that is protected already waits until all of them are. So no write that is made because
	 * of another one is in the snapshot without it.
	 */
	served_lock(&tracker->served);
	r = arm_with_lock(tracker, link, link->snap.by_move);
	served_unlock(&tracker->served);
	tracker_wake_waiters(tracker); /* the newest snapshot, whose room matters, is another one */
	link->snap.taken_usec = now_usec();
	hist_add(&tracker->region.daemon->stats.arm_latency,
		 (link->snap.taken_usec - started_usec) * 1000);
	return r;
}

void chain_moved(struct tracker *tracker)
{
	if (tracker->pending)
		append(tracker, tracker->pending);
	tracker->pending = NULL;
	atomic_store(&tracker->sweep_off, 0);
	tracker->wants_sweep = true;
}

/* --- leaving ---------------------------------------------------------------------------------- */

static void unlink_from_chain(struct tracker *tracker, struct link *link)
{
	if (link->older)
		link->older->newer = link->newer;
	else
		tracker->oldest = link->newer;
	if (link->newer)
		link->newer->older = link->older;
	else
		tracker->newest = link->older;
	atomic_fetch_sub(&tracker->n_chained, 1);
}

/* Whether it was in the chain at all; if not, a move that comes now finds nothing pending. */
static bool begin_to_leave(struct tracker *tracker, struct link *link)
{
	bool is_chained;

	served_lock(&tracker->served);
	if (tracker->pending == link)
		tracker->pending = NULL;
	is_chained = link->snap.state == SNAPSHOT_FROZEN;
	snapshot_set_state(&link->snap, is_chained ? SNAPSHOT_LEAVING : SNAPSHOT_LEFT);
	served_unlock(&tracker->served);
	return is_chained;
}

/* Whether all is handed down that was there when it came by. */
static bool hand_down(struct tracker *tracker, struct link *link)
{
	struct store *store = &link->store;
	uint64_t since_nsec = now_nsec();

	for (uint64_t first = store_next_touched(store, 0); first < store->n_pages;
	     first = store_next_touched(store, first + HAND_DOWN_PAGES)) {
		if (region_should_yield(&tracker->region))
			return false;
		pthread_rwlock_wrlock(&tracker->chain_lock);
		store_hand_down(store, link->older ? &link->older->store : NULL, first,
				min_u64(first + HAND_DOWN_PAGES, store->n_pages));
		pthread_rwlock_unlock(&tracker->chain_lock);
		job_give_way(&since_nsec);
	}
	return true;
}

static void leave_run(struct region_op *op)
{
	struct link *link = container_of(op, struct link, snap.op);
	struct tracker *tracker = tracker_of(link->snap.region);

	if (link->snap.state != SNAPSHOT_LEAVING && !begin_to_leave(tracker, link))
		return;
	if (!hand_down(tracker, link))
		return;
	pthread_rwlock_wrlock(&tracker->chain_lock);
	store_hand_down(&link->store, link->older ? &link->older->store : NULL, 0,
			link->store.n_pages);
	unlink_from_chain(tracker, link);
	snapshot_set_state(&link->snap, SNAPSHOT_LEFT);
	pthread_rwlock_unlock(&tracker->chain_lock);
	store_deinit(&link->store);
	tracker_wake_waiters(tracker);
}

void chain_drain(struct snapshot *snap, uint64_t off)
{
	struct link *link = link_of(snap);
	struct tracker *tracker = tracker_of(link->snap.region);
	uint64_t first = link->trimmed_pages;
	uint64_t end = off / page_size_bytes();

	if (end <= first || (end - first < DRAIN_PAGES && off < link->snap.size_bytes &&
			     !atomic_load(&tracker->has_waiters)))
		return;
	pthread_rwlock_wrlock(&tracker->chain_lock);
	atomic_store(&link->trimmed_pages, end);
	/* It leaves the chain when it is lost, whoever saves it. */
	if (link->snap.state == SNAPSHOT_FROZEN || link->snap.state == SNAPSHOT_LEAVING)
		store_hand_down(&link->store, link->older ? &link->older->store : NULL,
				align_down(first, STORE_TOUCH_PAGES), end);
	pthread_rwlock_unlock(&tracker->chain_lock);
	tracker_wake_waiters(tracker);
}

static void leave_done(struct region_op *op)
{
	struct link *link = container_of(op, struct link, snap.op);

	if (link->snap.state != SNAPSHOT_LEFT) {
		op->is_background =
			true; /* if the cut came after all there are pages to hand down */
		region_submit(link->snap.region, op);
		return;
	}
	atomic_fetch_sub(&link->snap.region->n_leaving, 1);
	disarm_unused(tracker_of(link->snap.region));
	prealloc_trim(tracker_of(link->snap.region));
	snapshot_left(&link->snap);
}

void chain_leave(struct snapshot *snap)
{
	if (snap->op.region)
		return;
	snap->op.run = leave_run;
	snap->op.done = leave_done;
	/* One whose cut was not made is in the way of the next take, and leaves at once. */
	snap->op.is_background = snap->state == SNAPSHOT_FROZEN;
	atomic_fetch_add(&snap->region->n_leaving, 1);
	region_submit(snap->region, &snap->op);
}

/* --- lost ------------------------------------------------------------------------------------- */

static void post_lost(struct tracker *tracker)
{
	if (!atomic_exchange(&tracker->is_lost_posted, true))
		loop_post(tracker->region.daemon->loop, &tracker->lost_task);
}

void chain_lose(struct tracker *tracker, uint64_t idx, const char *because)
{
	struct link *link = tracker->newest;

	for (; link && store_get(&link->store, idx) == STORE_EMPTY; link = link->older)
		snapshot_mark_lost(&link->snap, because);
	post_lost(tracker);
}

void chain_lose_one(struct link *link, const char *because)
{
	snapshot_mark_lost(&link->snap, because);
	post_lost(tracker_of(link->snap.region));
}

void chain_lose_all(struct tracker *tracker, const char *because)
{
	pthread_rwlock_rdlock(&tracker->chain_lock);
	for (struct link *link = tracker->newest; link; link = link->older)
		snapshot_mark_lost(&link->snap, because);
	pthread_rwlock_unlock(&tracker->chain_lock);
	post_lost(tracker);
}

static void wait_run(struct job *job)
{
	struct tracker *tracker = container_of(job, struct tracker, lost_job);

	pthread_rwlock_rdlock(&tracker->chain_lock);
	pthread_rwlock_unlock(&tracker->chain_lock);
}

static void wait_done(struct job *job)
{
	struct tracker *tracker = container_of(job, struct tracker, lost_job);

	tracker->is_lost_job = false;
	chain_tell_lost(tracker);
	region_unref(&tracker->region);
}

/* Tell of those that were lost when the chain's lock is free. */
static void tell_later(struct tracker *tracker)
{
	if (tracker->is_lost_job)
		return;
	tracker->is_lost_job = true;
	tracker->lost_job = (struct job){
		.run = wait_run, .done = wait_done, .client_id = tracker->region.client_id};
	region_ref(&tracker->region);
	job_submit(tracker->region.daemon->jobs, &tracker->lost_job);
}

void chain_tell_lost(struct tracker *tracker)
{
	/* The loop waits for no lock that others hold while a client's address space is busy. */
	if (pthread_rwlock_tryrdlock(&tracker->chain_lock)) {
		tell_later(tracker);
		return;
	}
	for (struct link *link = tracker->oldest; link; link = link->newer) {
		/* With its take under way nobody holds it yet: the end of the take calls again. */
		if (!link->snap.is_lost || link->snap.is_lost_told || link->snap.op.region)
			continue;
		link->snap.is_lost_told = true;
		snapshot_tell_lost(&link->snap);
		chain_leave(&link->snap);
	}
	pthread_rwlock_unlock(&tracker->chain_lock);
}

void chain_lost_task(struct task *task)
{
	struct tracker *tracker = container_of(task, struct tracker, lost_task);

	atomic_store(&tracker->is_lost_posted, false);
	/* Nobody has it or a snapshot of it any more: its end is on its way. */
	if (tracker->region.state != REGION_ENDING)
		chain_tell_lost(tracker);
}
