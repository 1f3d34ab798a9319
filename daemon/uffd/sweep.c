// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * After a region was frozen lazily its mapping is empty. The sweep maps what its memory holds,
 * write-protected, so that most pages are there again before they are touched.
 *
 * It needs no lock against the worker: a page mapped write-protected is never wrong, whatever the
 * worker does at the same time, and one that is mapped already is left as it is. It goes in short
 * jobs, so that others get their turns; a new cut sends it back to the start.
 */
#include "config.h"

#include "backends/uffdio.h"
#include "common/clock.h"
#include "daemon/daemon.h"
#include "daemon/region/backing.h"
#include "daemon/region/region.h"
#include "daemon/uffd/chain.h"
#include "daemon/uffd/tracker.h"

#define SLICE_BYTES ((uint64_t)4 << 20)
static_assert(SLICE_BYTES <= BACKING_LOOK_BYTES, "all of a slice is looked at");
/* Mapped by one call, which holds the client's mmap lock: its own calls get their turns between. */
#define STEP_BYTES ((uint64_t)512 << 10)

/*
 * Behind a hole at @off: where something is in memory again, beyond @off in any case; @end:
 * nowhere.
 */
static uint64_t skip_hole(const struct tracker *tracker, uint64_t off, uint64_t end)
{
	uint64_t next = off, len;

	if (!backing_find_resident(tracker->region.backing, &next, &len, end))
		return end;
	return max_u64(next, off + page_size_bytes());
}

/*
 * Map what there is from *@off on, up to @end, which is not far; *@off gets how far it came. 0; or
 * UFFDIO_E_AGAIN, to go on later; anything else to stop.
 *
 * UFFDIO_CONTINUE itself finds where data ends. What is swapped out behind a hole stays absent
 * until it is touched.
 */
static int sweep_range(const struct tracker *tracker, uint64_t *off, uint64_t end)
{
	uint64_t since_nsec = now_nsec();

	while (*off < end) {
		uint64_t done_bytes = 0;
		int r = uffdio_continue(tracker->uffd, tracker->region.addr + *off,
					min_u64(end - *off, STEP_BYTES), UFFDIO_CONTINUE_MODE_WP,
					&done_bytes);

		*off += done_bytes;
		if (r && r != UFFDIO_E_HOLE)
			return r;
		if (r)
			*off = skip_hole(tracker, *off, end);
		job_give_way(&since_nsec);
	}
	return 0;
}

static void sweep_run(struct job *job)
{
	struct tracker *tracker = container_of(job, struct tracker, sweep_job);
	uint64_t first = atomic_load(&tracker->sweep_off);
	uint64_t end = min_u64(first + SLICE_BYTES, tracker->region.size_bytes);
	uint64_t off = first;
	int r = sweep_range(tracker, &off, end);

	if (r && r != UFFDIO_E_AGAIN)
		off = tracker->region.size_bytes;
	/* Unless a cut has set it back to 0 meanwhile. */
	atomic_compare_exchange_strong(&tracker->sweep_off, &first, off);
}

static bool is_wanted(struct tracker *tracker)
{
	if (tracker_is_gone(tracker) || !region_has_owner(&tracker->region) ||
	    atomic_load(&tracker->sweep_off) >= tracker->region.size_bytes)
		return false;
	return tracker_is_frozen(tracker);
}

static void sweep_done(struct job *job)
{
	struct tracker *tracker = container_of(job, struct tracker, sweep_job);

	if (is_wanted(tracker)) {
		job_submit(tracker->region.daemon->jobs, &tracker->sweep_job);
		return;
	}
	tracker->is_sweeping = false;
	tracker_close(tracker);
	region_unref(&tracker->region);
}

void sweep_moved_task(struct task *task)
{
	struct tracker *tracker = container_of(task, struct tracker, moved_task);

	atomic_store(&tracker->is_moved_posted, false);
	if (tracker->is_sweeping || !is_wanted(tracker))
		return;
	tracker->is_sweeping = true;
	tracker->sweep_job = (struct job){
		.run = sweep_run, .done = sweep_done, .client_id = tracker->region.client_id};
	region_ref(&tracker->region);
	job_submit(tracker->region.daemon->jobs, &tracker->sweep_job);
	/* Whoever took this one has its answer by now. */
	chain_new_ahead(tracker);
}
