/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The extents that a client says its scoot or mmapcopy snapshot is made of, checked. */
#ifndef COWD_FROZEN_H
#define COWD_FROZEN_H

#include "daemon/snapshot/snapshot.h"

/* More extents than this are not taken; clients merge runs long before. */
#define EXTENTS_MAX 65536

/**
 * extent_parse() - set @snap's extents
 *
 * Each lies inside the snapshot and inside a backing that @session made, on page boundaries; those
 * that are not sparse cover the snapshot, and those that are have no more pages than it, all
 * together. The list, and the records that extent_read_records() will copy, are charged to the
 * region's user. Loop thread. Return: 0; -EINVAL, -ENOENT, -EDQUOT, -ENOMEM.
 */
int extent_parse(struct snapshot *snap, struct session *session, Cow__V1__Extent *const *list,
		 size_t n);

/**
 * extent_read_records() - copy what the client has recorded of the pages of sparse extents
 *
 * Once, when the snapshot is taken: what a client changes afterwards changes no snapshot. The file
 * itself is not asked what it has data for: huge pages make that a lie, and a client may hold the
 * lock that the answer would wait for. In a job thread: memory may have to come back from swap.
 * Return: 0; -ENOMEM, -EIO.
 */
int extent_read_records(struct snapshot *snap);

/** extent_end_lease() - close the lease, in the background; idempotent */
void extent_end_lease(struct snapshot *snap);

/** extent_read() - snapshot_read() of a snapshot that has extents */
int extent_read(struct snapshot *snap, void *buf, size_t len, uint64_t off);

#endif
