// SPDX-License-Identifier: GPL-2.0-or-later
/* Changes of a region's mapping, as the kernel reports them; event.h says how it does that. */
#include "config.h"

#include "daemon/uffd/event.h"

#include <sched.h>

#include "backends/uffdio.h"
#include "daemon/uffd/chain.h"

/* In a turn. Others of the worker wait meanwhile, and signals let threads fault without a wake. */
#define N_READS_MAX 64
/* Of those, such as find nothing: who makes the change may need the CPU to report it. */
#define N_EMPTY_MAX 4

int event_wake_all(const struct tracker *tracker)
{
	int r = uffdio_wake(tracker->uffd, tracker->region.addr, tracker->region.size_bytes);

	return r == UFFDIO_E_UNMAPPED ? 0 : r;
}

/* The cut is a move of the whole region; of a part of it, whoever asked for it, is none. */
static bool is_cut(const struct tracker *tracker, const struct uffd_msg *msg)
{
	return tracker->registered == REGION_ALL && tracker->pending &&
	       msg->arg.remap.from == tracker->region.addr &&
	       msg->arg.remap.len == tracker->region.size_bytes;
}

static bool is_move(const struct tracker *tracker, const struct uffd_msg *msg)
{
	return msg->event == UFFD_EVENT_REMAP &&
	       msg->arg.remap.from < tracker->region.addr + tracker->region.size_bytes &&
	       msg->arg.remap.from + msg->arg.remap.len > tracker->region.addr;
}

/*
 * The client has moved its page tables aside. The faults read along with the report may be from
 * before or after; they come again when woken, and are of the new snapshot's time then.
 */
static void serve_move(struct tracker *tracker, const struct uffd_msg *msg)
{
	if (is_cut(tracker, msg)) {
		chain_moved(tracker);
		return;
	}
	/* Its threads may use the new address: they are not to wait there for ever. */
	chain_lose_all(tracker, "the client moved its region, and writes to it untracked");
	(void)!uffdio_unregister(tracker->uffd, msg->arg.remap.to, msg->arg.remap.len);
	(void)!uffdio_wake(tracker->uffd, msg->arg.remap.to, msg->arg.remap.len);
}

static void raise_doubt(struct link *link, uint64_t first, uint64_t end)
{
	if (first < atomic_load(&link->doubt_first))
		atomic_store(&link->doubt_first, first);
	if (end > atomic_load(&link->doubt_end))
		atomic_store(&link->doubt_end, end);
}

/* Part of the region may be removed from now on. */
static void note_removal(struct tracker *tracker, const struct uffd_msg *msg)
{
	const size_t page = page_size_bytes();
	const uint64_t end = tracker->region.addr + tracker->region.size_bytes;
	uint64_t first_addr, end_addr;

	if (msg->event != UFFD_EVENT_REMOVE)
		return;
	tracker->n_removals++;
	first_addr = max_u64(msg->arg.remove.start, tracker->region.addr);
	end_addr = min_u64(msg->arg.remove.end, end);
	if (first_addr >= end_addr)
		return;
	pthread_rwlock_rdlock(&tracker->chain_lock);
	for (struct link *link = tracker->newest; link; link = link->older)
		raise_doubt(link, (first_addr - tracker->region.addr) / page,
			    (end_addr - tracker->region.addr) / page);
	pthread_rwlock_unlock(&tracker->chain_lock);
	/* Its cut may have been made: its event is behind this one. */
	if (tracker->pending)
		raise_doubt(tracker->pending, (first_addr - tracker->region.addr) / page,
			    (end_addr - tracker->region.addr) / page);
}

int event_read(struct tracker *tracker, struct uffd_msg *msgs, size_t max, size_t *n_msgs,
	       bool *has_moved)
{
	int r;

	*n_msgs = 0;
	*has_moved = false;
	atomic_fetch_add(&tracker->n_looks, 1);
	r = uffdio_read(tracker->uffd, msgs, max, n_msgs);
	for (size_t i = 0; i < *n_msgs; i++)
		note_removal(tracker, &msgs[i]);
	atomic_fetch_add(&tracker->n_looks, 1);
	for (size_t i = 0; i < *n_msgs; i++) {
		if (!is_move(tracker, &msgs[i]))
			continue;
		serve_move(tracker, &msgs[i]);
		*has_moved = true;
	}
	return *has_moved ? event_wake_all(tracker) : r;
}

int event_catch_up(struct tracker *tracker, void *buf, size_t n_bytes, bool *has_moved)
{
	size_t n_empty = 0;

	*has_moved = false;
	for (int i = 0; i < N_READS_MAX && n_empty < N_EMPTY_MAX; i++) {
		const uint32_t n_removals = tracker->n_removals;
		size_t n_msgs;
		int r = event_read(tracker, buf, n_bytes / sizeof(struct uffd_msg), &n_msgs,
				   has_moved);

		if (r || *has_moved || tracker->n_removals != n_removals)
			return r;
		if (n_msgs)
			continue;
		n_empty++;
		(void)sched_yield();
	}
	return 0;
}

void event_settle(const struct tracker *tracker)
{
	const uint32_t n_looks = atomic_load(&tracker->n_looks);

	while (n_looks % 2 && atomic_load(&tracker->n_looks) == n_looks)
		(void)sched_yield();
}

bool event_is_in_doubt(const struct link *link, uint64_t first, uint64_t end)
{
	return first < atomic_load(&link->doubt_end) && end > atomic_load(&link->doubt_first);
}

void event_lose_removed(struct tracker *tracker, uint64_t idx)
{
	for (struct link *link = tracker->newest; link; link = link->older) {
		if (store_get(&link->store, idx) != STORE_EMPTY)
			return;
		if (!link->snap.is_lost && link->snap.state == SNAPSHOT_FROZEN &&
		    idx >= link->trimmed_pages && event_is_in_doubt(link, idx, idx + 1))
			chain_lose_one(link, EVENT_REMOVED);
	}
}
