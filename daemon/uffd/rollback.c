// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Rolling a uffd region back to one of its snapshots.
 *
 * The pages that changed since are those that a store from the snapshot's own onward has; they are
 * written to the region's memory by cowd. Such a write is not trapped, so what newer snapshots need
 * of the page is kept first. This is done in pieces, with the region's faults held off during each,
 * and so many of them by a job that other clients' jobs get their turns; the region's other
 * operations wait until all is done. The client knows not to write meanwhile.
 *
 * A page that a store has is not protected any more, so whether it was written since the last
 * rollback is not known, and pages that were written once would be written back ever after. So a
 * page is compared first. One that is as it was, which is to say that it was not written since it
 * was last rolled back, is *put away*: protected, and let go from the store, as if it had never
 * been written. Pages that are written again and again stay writable. So a rollback to the newest
 * snapshot costs what was written since the last two.
 *
 * A page that no store has is taken for what it was, unless the client may have removed it from
 * memory (event.h): then the snapshot is lost, and nothing is rolled back.
 */
#include "config.h"

#include "daemon/uffd/rollback.h"

#include <string.h>
#include <sys/mman.h>

#include "backends/uffdio.h"
#include "common/clock.h"
#include "common/err.h"
#include "daemon/base/outcome.h"
#include "daemon/daemon.h"
#include "daemon/region/backing.h"
#include "daemon/snapshot/snapshot.h"
#include "daemon/uffd/chain.h"
#include "daemon/uffd/event.h"
#include "daemon/uffd/tracker.h"

/* Of one job. */
#define TURN_USEC 10000

struct rollback {
	struct region_op op;
	rollback_done_fn *done;
	void *arg;
	struct snapshot *snap; /* a reference */
	void *was;             /* room for a page of the snapshot */
	int zero_fd;           /* a page of zeroes; -1: not needed yet */
	void *now;             /* room for a page of memory */
	char *map;             /* of memory, while a job writes to it; or NULL */
	uint64_t first;        /* page from which on it is to be done, or checked … */
	bool is_checked;       /* … as long as this is not set */
	size_t n_found;        /* of a piece, pages that the newest snapshot's store has, and … */
	size_t n_away; /* … those of them that may leave it, counted from the piece's first */
	uint16_t away[STORE_TOUCH_PAGES];
	struct outcome outcome;
};

/* Of all of the region: page tables come where pages are written. */
static int map_region(struct rollback *rollback)
{
	const struct region *region = rollback->snap->region;
	void *map = mmap(NULL, region->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
			 region->backing->fd, 0);

	if (map == MAP_FAILED)
		return err_raise_errno("cannot map memory that is rolled back");
	rollback->map = map;
	return 0;
}

static void unmap_region(struct rollback *rollback)
{
	if (rollback->map)
		(void)munmap(rollback->map, rollback->snap->region->size_bytes);
	rollback->map = NULL;
}

/* A page of zeroes that the kernel copies, as store_pool_read(): of a file that is one hole. */
static bool copy_zeroes(struct rollback *rollback, void *to)
{
	const size_t size = page_size_bytes();

	if (rollback->zero_fd < 0) {
		rollback->zero_fd = memfd_create("cowd-zeroes", MFD_CLOEXEC);
		if (rollback->zero_fd < 0 || ftruncate(rollback->zero_fd, (off_t)size))
			return false;
	}
	return pread(rollback->zero_fd, to, size, 0) == (ssize_t)size;
}

/*
 * Memory is to have page @idx as @slot has it. Not by pwrite(2), which waits for the lock of the
 * file: a client can hold that for ever, and here the region's locks are held.
 */
static int write_page(struct rollback *rollback, uint64_t idx, uint32_t slot)
{
	char *to;
	int r = rollback->map ? 0 : map_region(rollback);

	if (r)
		return r;
	to = rollback->map + idx * page_size_bytes();
	if (slot == STORE_ZERO)
		r = copy_zeroes(rollback, to) ? 0 : -EFAULT;
	else
		r = chain_read_slot(link_of(rollback->snap), slot, 0, to, page_size_bytes());
	return r == -EFAULT ? err_raise(-ENOMEM, "no memory for a region that is rolled back") : r;
}

/* Into rollback->was. */
static int read_slot(struct rollback *rollback, uint32_t slot)
{
	const size_t size = page_size_bytes();

	if (slot != STORE_ZERO)
		return chain_read_slot(link_of(rollback->snap), slot, 0, rollback->was, size);
	memset(rollback->was, 0, size);
	return 0;
}

/* With served.lock, and chain_lock held shared. */
static int roll_page(struct rollback *rollback, uint64_t idx)
{
	struct snapshot *snap = rollback->snap;
	uint32_t slot = chain_find_slot(link_of(snap), idx);
	int r;

	if (slot == STORE_EMPTY)
		return 0;
	r = fault_keep(tracker_of(snap->region), idx);
	if (r)
		return r > 0 ? -EDQUOT : r;
	return write_page(rollback, idx, slot);
}

/* --- to the newest snapshot ------------------------------------------------------------------- */

/* Whether memory has page @idx as it was, which read_slot() has read. */
static bool is_same(const struct rollback *rollback, uint64_t idx)
{
	size_t size = page_size_bytes();

	return pread(rollback->snap->region->backing->ro_fd, rollback->now, size,
		     (off_t)(idx * size)) == (ssize_t)size &&
	       !memcmp(rollback->now, rollback->was, size);
}

/* Whether writes to page @idx are faults from now on. */
static bool protect(const struct tracker *tracker, uint64_t idx)
{
	size_t size = page_size_bytes();

	return !tracker_is_gone(tracker) && region_has_owner(&tracker->region) &&
	       tracker->uffd >= 0 &&
	       !uffdio_protect(tracker->uffd, tracker->region.addr + idx * size, size);
}

/*
 * As roll_page(); @put_away gets true for a page that may leave the store. Somebody may have
 * written to that one until it was protected, so it is compared again.
 */
static int roll_newest(struct rollback *rollback, uint64_t idx, uint32_t slot, bool *put_away)
{
	int r = read_slot(rollback, slot);
	bool same;

	if (r)
		return r;
	same = is_same(rollback, idx);
	*put_away = same && protect(tracker_of(rollback->snap->region), idx);
	if (*put_away)
		same = is_same(rollback, idx);
	return same ? 0 : write_page(rollback, idx, slot);
}

static int roll_newest_piece(struct rollback *rollback, uint64_t first, uint64_t end)
{
	const struct store *store = &link_of(rollback->snap)->store;
	int r = 0;

	for (uint64_t idx = first; idx < end && !r; idx++) {
		uint32_t slot = store_get(store, idx);
		bool put_away = false;

		if (slot == STORE_EMPTY)
			continue;
		rollback->n_found++;
		r = roll_newest(rollback, idx, slot, &put_away);
		if (!r && put_away)
			rollback->away[rollback->n_away++] = (uint16_t)(idx - first);
	}
	return r;
}

/*
 * Readers look at memory first and at stores afterwards, with the lock held all the while: one who
 * has the lock after us finds the bytes in memory, and nobody can change them but by a fault.
 */
static void let_go(struct rollback *rollback, uint64_t first, uint64_t end)
{
	struct link *link = link_of(rollback->snap);
	struct tracker *tracker = tracker_of(link->snap.region);

	pthread_rwlock_wrlock(&tracker->chain_lock);
	if (rollback->n_away == rollback->n_found)
		store_hand_down(&link->store, NULL, first, end); /* the piece is untouched now */
	for (size_t i = 0; i < rollback->n_away; i++)
		store_hand_down(&link->store, NULL, first + rollback->away[i],
				first + rollback->away[i] + 1);
	pthread_rwlock_unlock(&tracker->chain_lock);
}

/* --- all of it -------------------------------------------------------------------------------- */

static bool is_touched(const struct link *link, uint64_t idx)
{
	for (; link; link = link->newer)
		if (store_is_touched(&link->store, idx))
			return true;
	return false;
}

static int check_past(struct snapshot *snap)
{
	if (snap->is_lost)
		return snapshot_stale(snap);
	if (snap->state != SNAPSHOT_FROZEN || link_of(snap)->trimmed_pages)
		return err_raise(-ESTALE, "snapshot %llu has no whole past to go back to",
				 (unsigned long long)snap->id);
	return 0;
}

/* Whether memory has lost page @idx, which no store has. With served.lock and chain_lock held. */
static int check_page(struct rollback *rollback, uint64_t idx)
{
	struct snapshot *snap = rollback->snap;
	const size_t size = page_size_bytes();
	int r;

	if (!event_is_in_doubt(link_of(snap), idx, idx + 1) ||
	    chain_find_slot(link_of(snap), idx) != STORE_EMPTY)
		return 0;
	r = backing_read(snap->region->backing, rollback->now, size, idx * size);
	if (r || !is_zero(rollback->now, size))
		return r;
	chain_lose_one(link_of(snap), EVENT_REMOVED);
	return snapshot_stale(snap);
}

static int check_pages(struct rollback *rollback, uint64_t first, uint64_t end)
{
	int r = check_past(rollback->snap);

	if (r || !event_is_in_doubt(link_of(rollback->snap), first, end))
		return r;
	for (uint64_t idx = first; idx < end && !r; idx++)
		r = check_page(rollback, idx);
	return r;
}

/* All of them before any is written: a region that cannot go back stays as it is. */
static int check_piece(struct rollback *rollback, uint64_t first)
{
	struct tracker *tracker = tracker_of(rollback->snap->region);
	int r;

	served_lock(&tracker->served);
	pthread_rwlock_rdlock(&tracker->chain_lock);
	r = check_pages(rollback, first,
			min_u64(first + STORE_TOUCH_PAGES, tracker->region.n_pages));
	pthread_rwlock_unlock(&tracker->chain_lock);
	served_unlock(&tracker->served);
	return r;
}

static int roll_piece(struct rollback *rollback, uint64_t first)
{
	struct snapshot *snap = rollback->snap;
	struct tracker *tracker = tracker_of(snap->region);
	uint64_t end = min_u64(first + STORE_TOUCH_PAGES, tracker->region.n_pages);
	int r;

	rollback->n_found = 0;
	rollback->n_away = 0;
	served_lock(&tracker->served);
	pthread_rwlock_rdlock(&tracker->chain_lock);
	r = check_pages(rollback, first, end);
	if (!r && is_touched(link_of(snap), first)) {
		if (link_of(snap) == tracker->newest)
			r = roll_newest_piece(rollback, first, end);
		else
			for (uint64_t idx = first; idx < end && !r; idx++)
				r = roll_page(rollback, idx);
	}
	pthread_rwlock_unlock(&tracker->chain_lock);
	if (rollback->n_away)
		let_go(rollback, first, end);
	served_unlock(&tracker->served);
	return r;
}

static void rollback_run(struct region_op *op)
{
	struct rollback *rollback = container_of(op, struct rollback, op);
	const uint64_t n_pages = rollback->snap->region->n_pages;
	const uint64_t until_usec = now_usec() + TURN_USEC;
	int r = 0;

	while (rollback->first < n_pages && !r && !op->goes_on) {
		r = rollback->is_checked ? roll_piece(rollback, rollback->first)
					 : check_piece(rollback, rollback->first);
		rollback->first += STORE_TOUCH_PAGES;
		if (rollback->first >= n_pages && !rollback->is_checked) {
			rollback->is_checked = true;
			rollback->first = 0;
		}
		op->goes_on = !r && rollback->first < n_pages && now_usec() >= until_usec;
	}
	unmap_region(rollback);
	if (op->goes_on)
		return;
	outcome_set(&rollback->outcome, r);
	tracker_wake_waiters(
		tracker_of(rollback->snap->region)); /* pages that left a store made room */
}

static void rollback_free(struct rollback *rollback)
{
	snapshot_unref(rollback->snap);
	fd_close(rollback->zero_fd);
	free(rollback->was);
	free(rollback->now);
	free(rollback);
}

static void rollback_done(struct region_op *op)
{
	struct rollback *rollback = container_of(op, struct rollback, op);

	rollback->done(rollback->arg, outcome_raise(&rollback->outcome));
	rollback_free(rollback);
}

size_t rollback_memory_bytes(void)
{
	return sizeof(struct rollback) + 2 * page_size_bytes();
}

int rollback_begin(struct snapshot *snap, rollback_done_fn *done, void *arg)
{
	struct rollback *rollback;

	if (snap->region->ops != &region_ops_uffd)
		return err_raise(-EINVAL, "snapshot %llu is not of mode uffd",
				 (unsigned long long)snap->id);
	rollback = calloc(1, sizeof(*rollback));
	if (!rollback)
		return err_oom(sizeof(*rollback), "rolling back");
	rollback->zero_fd = -1;
	rollback->snap = snapshot_ref(snap);
	rollback->done = done;
	rollback->arg = arg;
	rollback->was = malloc(page_size_bytes());
	rollback->now = malloc(page_size_bytes());
	if (!rollback->was || !rollback->now) {
		rollback_free(rollback);
		return err_oom(page_size_bytes(), "rolling back");
	}
	rollback->op.run = rollback_run;
	rollback->op.done = rollback_done;
	region_submit(snap->region, &rollback->op);
	return 0;
}
