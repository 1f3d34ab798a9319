// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Reading the bytes of a uffd region's snapshot, from any thread; contracts are in chain.h. Memory
 * first, stores afterwards: tracker.h says why that order.
 *
 * Holes are read like everything else, by pread(2), which gives zeroes for them without memory
 * being taken, at a speed that is little beside what is done with the bytes. Nothing is asked of
 * the file about holes. The answer waits for the lock of the file, which a client holds for as long
 * as it likes; and until Linux 6.4 a page that khugepaged is collapsing looks like a hole for a
 * moment (commit a2e17cc2efc7), so that data would be saved as zeroes.
 */
#include "config.h"

#include <string.h>

#include "common/err.h"
#include "daemon/region/backing.h"
#include "daemon/uffd/chain.h"
#include "daemon/uffd/event.h"

/* Why a snapshot is lost. */
#define UNREADABLE "a page that was kept for it cannot be read (back from swap)"

/* --- with tracker->chain_lock held shared ----------------------------------------------------- */

/* Pages that are looked up together. */
#define LOOKUP_PAGES ((size_t)256)

/* Those of @slots that are empty still, from one store. Return: how many it had. */
static size_t find_in_store(const struct store *store, uint64_t first, uint32_t *slots, size_t n)
{
	size_t n_found = 0;

	for (uint64_t i = 0, end; i < n; i = end) {
		end = min_u64(align_down(first + i, STORE_TOUCH_PAGES) + STORE_TOUCH_PAGES - first,
			      n);
		if (!store_is_touched(store, first + i))
			continue;
		for (; i < end; i++) {
			if (slots[i] != STORE_EMPTY)
				continue;
			slots[i] = store_get(store, first + i);
			n_found += slots[i] != STORE_EMPTY;
		}
	}
	return n_found;
}

/*
 * What the first store from @link's own onward says about each of @n pages. Each newer snapshot is
 * looked at once, not once for each page, and costs one bit if it kept nothing around there.
 */
static void find_slots(const struct link *link, uint64_t first, uint32_t *slots, size_t n)
{
	size_t n_found = 0;

	memset(slots, 0, n * sizeof(*slots));
	for (; link && n_found < n; link = link->newer)
		n_found += find_in_store(&link->store, first, slots, n);
}

uint32_t chain_find_slot(const struct link *link, uint64_t idx)
{
	uint32_t slot = STORE_EMPTY;

	find_slots(link, idx, &slot, 1);
	return slot;
}

int chain_read_slot(struct link *link, uint32_t slot, size_t in_page, void *buf, size_t n_bytes)
{
	int r = store_pool_read(link->store.pool, slot, in_page, buf, n_bytes);

	if (r != -EIO)
		return r;
	chain_lose_one(link, UNREADABLE);
	return snapshot_stale(&link->snap);
}

/* How many of the @n can be read in one call. */
static size_t count_like(const uint32_t *slots, size_t n)
{
	const uint32_t step = slots[0] > STORE_ZERO;
	size_t i = 1;

	while (i < n && slots[i] == slots[0] + i * step)
		i++;
	return i;
}

/* Put pages that stores have over what was read from memory. */
static int overlay(struct link *link, char *buf, size_t len, uint64_t off)
{
	size_t size = page_size_bytes();
	uint64_t end_idx = align_up(off + len, size) / size;
	uint64_t first = off / size, n_slots = 0;
	uint32_t slots[LOOKUP_PAGES];
	int r = 0;

	for (size_t done = 0, n; done < len && !r; done += n) {
		uint64_t pos = off + done;
		size_t in_page = (size_t)(pos % size);
		const uint32_t *slot;

		if (pos / size >= first + n_slots) {
			first = pos / size;
			n_slots = min_u64(end_idx - first, LOOKUP_PAGES);
			find_slots(link, first, slots, n_slots);
		}
		slot = &slots[pos / size - first];
		n = count_like(slot, first + n_slots - pos / size);
		n = (size_t)min_u64(n * size - in_page, len - done);
		if (*slot == STORE_ZERO)
			memset(buf + done, 0, n);
		else if (*slot != STORE_EMPTY)
			r = chain_read_slot(link, *slot, in_page, buf + done, n);
	}
	return r;
}

/* Of one page: what a store has by now is right. */
static int check_doubt_page(struct link *link, char *buf, size_t len, uint64_t off)
{
	const uint64_t idx = off / page_size_bytes();
	bool is_removed;
	int r = 0;

	if (!event_is_in_doubt(link, idx, idx + 1) || !is_zero(buf, len))
		return 0;
	pthread_rwlock_rdlock(&tracker_of(link->snap.region)->chain_lock);
	is_removed = !link->snap.is_lost && chain_find_slot(link, idx) == STORE_EMPTY;
	if (is_removed)
		chain_lose_one(link, EVENT_REMOVED);
	else if (!link->snap.is_lost)
		r = overlay(link, buf, len, off);
	pthread_rwlock_unlock(&tracker_of(link->snap.region)->chain_lock);
	return !r && link->snap.is_lost ? snapshot_stale(&link->snap) : r;
}

/* Bytes that were read may be of pages that the client has removed: event.h. */
static int check_doubt(struct link *link, char *buf, size_t len, uint64_t off)
{
	const size_t page = page_size_bytes();
	int r = 0;

	event_settle(tracker_of(link->snap.region));
	if (!event_is_in_doubt(link, off / page, align_up(off + len, page) / page))
		return 0;
	for (size_t done = 0, n; done < len && !r; done += n) {
		n = (size_t)min_u64(page - (off + done) % page, len - done);
		r = check_doubt_page(link, buf + done, n, off + done);
	}
	return r;
}

/* ---------------------------------------------------------------------------------------------- */

/*
 * A client whose move has returned may read before the worker, who has the report of the move in
 * its hands, has done with it: the worker holds served.lock from before it took the report.
 */
static int check_frozen(struct link *link)
{
	if (link->snap.state >= SNAPSHOT_FROZEN)
		return 0;
	served_lock(&tracker_of(link->snap.region)->served);
	served_unlock(&tracker_of(link->snap.region)->served);
	if (link->snap.state >= SNAPSHOT_FROZEN)
		return 0;
	return err_raise(-ESTALE, "snapshot %llu was never frozen by its client",
			 (unsigned long long)link->snap.id);
}

int chain_read(struct snapshot *snap, void *buf, size_t len, uint64_t off)
{
	struct link *link = link_of(snap);
	struct tracker *tracker = tracker_of(link->snap.region);
	int r = check_frozen(link);

	if (r)
		return r;
	pthread_rwlock_rdlock(&tracker->chain_lock);
	r = backing_read(tracker->region.backing, buf, len, off);
	/* What was read of memory is ordered before what is read of the stores. */
	atomic_thread_fence(memory_order_acquire);
	if (!r && link->snap.is_lost)
		r = snapshot_stale(&link->snap);
	if (!r && off / page_size_bytes() < link->trimmed_pages)
		r = err_raise(-ESTALE, "snapshot %llu is for one save, which has passed this part",
			      (unsigned long long)link->snap.id);
	if (!r)
		r = overlay(link, buf, len, off);
	pthread_rwlock_unlock(&tracker->chain_lock);
	return r ? r : check_doubt(link, buf, len, off);
}
