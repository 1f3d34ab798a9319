// SPDX-License-Identifier: GPL-2.0-or-later
/* Changes of a region's mapping, as the kernel reports them; event.h says how it does that. */
#include "config.h"

#include "daemon/event.h"

#include <sched.h>

#include "backends/uffdio.h"
#include "daemon/snapshot.h"

/* In a turn. Others of the worker wait meanwhile, and signals let threads fault without a wake. */
#define N_READS_MAX 64
/* Of those, such as find nothing: who makes the change may need the CPU to report it. */
#define N_EMPTY_MAX 4

static int wake_all(const struct region *region)
{
	int r = uffdio_wake(region->uffd, region->addr, region->size_bytes);

	return r == UFFDIO_E_UNMAPPED ? 0 : r;
}

/* The cut is a move of the whole region; of a part of it, whoever asked for it, is none. */
static bool is_cut(const struct region *region, const struct uffd_msg *msg)
{
	return region->registered == REGION_ALL && region->pending &&
	       msg->arg.remap.from == region->addr && msg->arg.remap.len == region->size_bytes;
}

static bool is_move(const struct region *region, const struct uffd_msg *msg)
{
	return msg->event == UFFD_EVENT_REMAP &&
	       msg->arg.remap.from < region->addr + region->size_bytes &&
	       msg->arg.remap.from + msg->arg.remap.len > region->addr;
}

/*
 * The client has moved its page tables aside. The faults read along with the report may be from
 * before or after; they come again when woken, and are of the new snapshot's time then.
 */
static void serve_move(struct region *region, const struct uffd_msg *msg)
{
	if (is_cut(region, msg)) {
		snapshot_moved(region);
		return;
	}
	/* Its threads may use the new address: they are not to wait there for ever. */
	snapshot_lose_all(region, "the client moved its region, and writes to it untracked");
	(void)!uffdio_unregister(region->uffd, msg->arg.remap.to, msg->arg.remap.len);
	(void)!uffdio_wake(region->uffd, msg->arg.remap.to, msg->arg.remap.len);
}

int event_read(struct region *region, struct uffd_msg *msgs, size_t max, size_t *n_msgs,
	       bool *has_event)
{
	int r;

	*n_msgs = 0;
	*has_event = false;
	r = uffdio_read(region->uffd, msgs, max, n_msgs);
	for (size_t i = 0; i < *n_msgs && !r; i++) {
		if (!is_move(region, &msgs[i]))
			continue;
		serve_move(region, &msgs[i]);
		*has_event = true;
	}
	return *has_event ? wake_all(region) : r;
}

int event_catch_up(struct region *region, void *buf, size_t n_bytes)
{
	size_t n_empty = 0;

	for (int i = 0; i < N_READS_MAX && n_empty < N_EMPTY_MAX; i++) {
		bool has_event;
		size_t n_msgs;
		int r = event_read(region, buf, n_bytes / sizeof(struct uffd_msg), &n_msgs,
				   &has_event);

		if (r || has_event)
			return r;
		if (n_msgs)
			continue;
		n_empty++;
		(void)sched_yield();
	}
	return wake_all(region);
}
