// SPDX-License-Identifier: GPL-2.0-or-later
/* Registering and protecting a region, both ways, and undoing it; tracker.h says how they work. */
#include "config.h"

#include "backends/uffdio.h"
#include "common/clock.h"
#include "common/err.h"
#include "daemon/daemon.h"
#include "daemon/region/region.h"
#include "daemon/uffd/event.h"
#include "daemon/uffd/tracker.h"

/* The client's mmap lock, taken to read, is let go after protecting so much. */
#define PROTECT_BYTES    ((uint64_t)64 << 20)
/* Reports of the client's that are met while one piece is protected; more is no accident. */
#define N_AGAIN_MAX      1000
/* Unregistering takes it to write, which stops every fault of the client. */
#define UNREGISTER_BYTES ((uint64_t)4 << 20)

static int raise_outcome(int r)
{
	switch (r) {
	case UFFDIO_E_GONE:
		return err_raise(-ESRCH, "the process that has the region has ended");
	case UFFDIO_E_UNMAPPED:
		return err_raise(-EFAULT, "the region is no longer mapped as it was registered");
	case UFFDIO_E_AGAIN:
		return TAKE_E_AGAIN;
	default:
		return r;
	}
}

static int check_there(const struct tracker *tracker)
{
	if (tracker_is_gone(tracker) || tracker->uffd < 0)
		return raise_outcome(UFFDIO_E_GONE);
	if (!region_has_owner(&tracker->region))
		return err_raise(-ESRCH, "the client that had the region has freed it");
	return 0;
}

static int register_for(struct tracker *tracker, enum region_registered what)
{
	uint64_t mode = UFFDIO_REGISTER_MODE_WP;
	int r;

	if (tracker->registered >= what)
		return 0;
	if (what == REGION_ALL)
		mode |= UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;
	r = raise_outcome(uffdio_register(tracker->uffd, tracker->region.addr,
					  tracker->region.size_bytes, mode));
	if (!r)
		tracker->registered = what;
	return r;
}

/*
 * With served.lock held no worker reads what the client reports of its mapping, without which the
 * kernel protects nothing. Threads that are woken meanwhile are back before they have changed
 * anything.
 */
static int protect(struct tracker *tracker, uint64_t addr, uint64_t n_bytes)
{
	struct uffd_msg msgs[32];
	int r = uffdio_protect(tracker->uffd, addr, n_bytes);

	for (int i = 0; r == UFFDIO_E_AGAIN && i < N_AGAIN_MAX; i++) {
		bool has_moved;

		r = event_catch_up(tracker, msgs, sizeof(msgs), &has_moved);
		if (!r)
			r = event_wake_all(tracker);
		if (!r)
			r = uffdio_protect(tracker->uffd, addr, n_bytes);
	}
	return r;
}

/* Before Linux 6.4 WRITEPROTECT wants all of its range in one mapping; the client may have divided
 * its own (mprotect(), mlock(), madvise()). */
static int protect_parts(struct tracker *tracker, uint64_t addr, uint64_t n_bytes)
{
	const uint64_t n_half = align_down(n_bytes / 2, page_size_bytes());
	int r = protect(tracker, addr, n_bytes);

	if (r != UFFDIO_E_UNMAPPED || !n_half)
		return r;
	r = protect_parts(tracker, addr, n_half);
	return r ? r : protect_parts(tracker, addr + n_half, n_bytes - n_half);
}

int arm_eagerly(struct tracker *tracker)
{
	int r;

	r = check_there(tracker);
	if (!r)
		r = register_for(tracker, REGION_WP);
	for (uint64_t off = 0; off < tracker->region.size_bytes && !r; off += PROTECT_BYTES)
		r = raise_outcome(
			protect_parts(tracker, tracker->region.addr + off,
				      min_u64(PROTECT_BYTES, tracker->region.size_bytes - off)));
	return r;
}

int arm_prepare(struct tracker *tracker)
{
	int r;

	r = check_there(tracker);
	return r ? r : register_for(tracker, REGION_ALL);
}

/* --- disarming -------------------------------------------------------------------------------- */

/* With served.lock held: whether the region is frozen, or will be by a move that is on its way. */
static bool is_frozen(struct tracker *tracker)
{
	return tracker_is_frozen(tracker) || tracker->pending;
}

/*
 * Whoever waits for a page of the piece is woken, which unregistering alone does only for missing
 * ones. 0, or anything else to stop.
 */
static int disarm_piece(struct tracker *tracker, uint64_t off)
{
	uint64_t n_bytes = min_u64(UNREGISTER_BYTES, tracker->region.size_bytes - off);
	int r;

	served_lock(&tracker->served);
	r = is_frozen(tracker) ? 1 : check_there(tracker);
	if (!r)
		tracker->registered = REGION_PLAIN;
	if (!r)
		r = uffdio_unregister(tracker->uffd, tracker->region.addr + off, n_bytes);
	if (!r)
		r = uffdio_wake(tracker->uffd, tracker->region.addr + off, n_bytes);
	served_unlock(&tracker->served);
	return r;
}

/* Until another operation wants its turn: a snapshot does not wait for this. */
static void disarm_run(struct region_op *op)
{
	struct tracker *tracker = container_of(op, struct tracker, disarm_op);
	uint64_t since_nsec = now_nsec();
	int r = 0;

	for (uint64_t off = 0; off < tracker->region.size_bytes && !r; off += UNREGISTER_BYTES) {
		if (region_should_yield(&tracker->region))
			return;
		r = disarm_piece(tracker, off);
		job_give_way(&since_nsec);
	}
}

static void disarm_done(struct region_op *op)
{
	(void)op; /* if another operation made it stop, that one's end begins it again */
}

void disarm_unused(struct tracker *tracker)
{
	if (tracker->disarm_op.region || tracker->state != TRACKER_SERVED ||
	    !region_has_owner(&tracker->region))
		return;
	tracker->disarm_op.run = disarm_run;
	tracker->disarm_op.done = disarm_done;
	tracker->disarm_op.is_background = true;
	region_submit(&tracker->region, &tracker->disarm_op);
}
