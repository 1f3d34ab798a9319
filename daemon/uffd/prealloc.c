// SPDX-License-Identifier: GPL-2.0-or-later
/* Making memory for old pages ready ahead of need, and giving it back; prealloc.h says why. */
#include "config.h"

#include "daemon/uffd/prealloc.h"

#include "common/clock.h"
#include "daemon/daemon.h"
#include "daemon/uffd/chain.h"

#define SLOTS_MIN  64u
#define SLOTS_MAX  2048u
/* Unused slots that a region with snapshots keeps warm. */
#define WARM_SLOTS 1024

static void prealloc_run(struct job *job)
{
	struct prealloc *prealloc = container_of(job, struct prealloc, job);
	struct tracker *tracker = container_of(prealloc, struct tracker, prealloc);

	if (!quota_has_waiters(tracker->region.user))
		(void)store_pool_prealloc(tracker->pool, prealloc->n_now, prealloc->max_warm);
}

static void prealloc_done(struct job *job)
{
	struct prealloc *prealloc = container_of(job, struct prealloc, job);
	struct tracker *tracker = container_of(prealloc, struct tracker, prealloc);

	atomic_store(&prealloc->is_wanted, false);
	if (quota_has_waiters(tracker->region.user)) /* since it began */
		prealloc_trim(tracker);
	region_unref(&tracker->region);
}

static void prealloc_task(struct task *task)
{
	struct prealloc *prealloc = container_of(task, struct prealloc, task);
	struct tracker *tracker = container_of(prealloc, struct tracker, prealloc);

	/* All its snapshots may have gone meanwhile, and the region with them. */
	if (tracker->region.state == REGION_ENDING)
		return;
	prealloc->job = (struct job){
		.run = prealloc_run, .done = prealloc_done, .client_id = tracker->region.client_id};
	region_ref(&tracker->region);
	job_submit(tracker->region.daemon->jobs, &prealloc->job);
}

void prealloc_init(struct prealloc *prealloc)
{
	*prealloc = (struct prealloc){.task.run = prealloc_task, .n_slots = SLOTS_MIN / 2};
}

void prealloc_want(struct tracker *tracker)
{
	const struct link *link = tracker->newest;
	struct prealloc *prealloc = &tracker->prealloc;
	/* Of a small region, or near the end of a large one, fewer than usual can be needed. */
	uint64_t rest =
		tracker->region.n_pages - min_u64(tracker->region.n_pages, link->store.n_slots);
	uint64_t n = min_u64(min_u64(prealloc->n_slots * 2, SLOTS_MAX), rest);

	if (link->snap.budget_pages)
		n = min_u64(n, link->snap.budget_pages -
				       min_u64(link->snap.budget_pages, link->store.n_slots));
	if (!n || atomic_exchange(&prealloc->is_wanted, true))
		return;
	/* Those that are ready already count: a budget is not to be
	 * passed by what may be needed. */
	prealloc->n_now = (uint32_t)n;
	prealloc->max_warm = store_pool_used(tracker->pool) + n;
	if (n < rest)
		prealloc->n_slots = (uint32_t)n;
	loop_post(tracker->region.daemon->loop, &prealloc->task);
}

/* --- and giving it back ----------------------------------------------------------------------- */

/* Unused slots that keep their memory: none, when somebody waits for as much as one. */
static size_t n_to_keep(struct tracker *tracker)
{
	return !quota_has_waiters(tracker->region.user) && tracker_is_frozen(tracker) ? WARM_SLOTS
										      : 0;
}

static void trim_run(struct region_op *op)
{
	struct tracker *tracker = container_of(op, struct tracker, trim_op);
	uint64_t since_nsec = now_nsec();

	do {
		tracker->n_trim_keep = n_to_keep(tracker);
		tracker->is_trimmed = !store_pool_trim(tracker->pool, tracker->n_trim_keep);
		if (tracker->n_trim_keep) /* else somebody may wait for it */
			job_give_way(&since_nsec);
	} while (!tracker->is_trimmed && !region_should_yield(&tracker->region));
}

static void trim_done(struct region_op *op)
{
	struct tracker *tracker = container_of(op, struct tracker, trim_op);

	/* Who has begun to wait since found this one under way. */
	if (!tracker->is_trimmed ||
	    (tracker->n_trim_keep && quota_has_waiters(tracker->region.user)))
		region_submit(&tracker->region, op);
}

void prealloc_trim(struct tracker *tracker)
{
	if (tracker->trim_op.region || !tracker->pool || store_pool_is_cold(tracker->pool))
		return;
	tracker->trim_op.run = trim_run;
	tracker->trim_op.done = trim_done;
	tracker->trim_op.is_background = true;
	region_submit(&tracker->region, &tracker->trim_op);
}
