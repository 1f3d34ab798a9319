/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Snapshots of modes scoot and mmapcopy: made of extents of backings, as their client says, which
 * nobody writes any more. frozen.c has the table of these modes; all is the loop thread's but what
 * ops.h gives to others.
 */
#ifndef COWD_FROZEN_H
#define COWD_FROZEN_H

#include <assert.h>

#include "daemon/snapshot/snapshot.h"

struct backing;

/* More extents than this are not taken; clients merge runs long before. */
#define EXTENTS_MAX 65536

struct snapshot_extent {
	uint64_t off;
	uint64_t size_bytes;
	uint64_t backing_off;
	struct backing *backing; /* a reference */
	uint64_t record_off; /* is_sparse: where in @backing its client has recorded its pages */
	uint8_t *record;     /* is_sparse: a copy of that; NULL: all pages are there */
	bool is_sparse;
	struct snapshot *user; /* the one that has it, if it is in backing->memory->uses */
	struct snapshot_extent *prev_use;
	struct snapshot_extent *next_use;
};

/**
 * struct frozen - a snapshot of mode scoot or mmapcopy
 * @lease_fd:       a pipe's write end: its client changes nothing as long as this is open; -1: none
 * @extents_charge: of QUOTA_KEPT_BYTES: the list, and the records of sparse ones
 *
 * Each extent lies inside the snapshot and inside a backing that its session made, on page
 * boundaries; those that are not sparse cover the snapshot, and those that are have no more pages
 * than it, all together.
 */
struct frozen {
	struct snapshot snap; /* first: snapshot_new() makes both */
	int lease_fd;
	struct charge lease_charge;
	struct snapshot_extent *extents;
	size_t n_extents;
	struct charge extents_charge;
};

static_assert(offsetof(struct frozen, snap) == 0, "it begins with its snapshot");

/** frozen_of() - of a snapshot of mode scoot or mmapcopy */
static inline struct frozen *frozen_of(struct snapshot *snap)
{
	assert(snap->region->ops == &region_ops_frozen);
	return container_of(snap, struct frozen, snap);
}

/** frozen_end_lease() - close the lease, in the background; idempotent */
void frozen_end_lease(struct snapshot *snap);

#endif
