/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The extents that a client says its scoot or mmapcopy snapshot is made of, checked. */
#ifndef COWD_EXTENT_H
#define COWD_EXTENT_H

#include "daemon/snapshot.h"

/* More extents than this are not taken; clients merge runs long before. */
#define EXTENTS_MAX 65536

/**
 * extent_parse() - set @snap's extents
 *
 * Each lies inside the snapshot and inside a backing that @session made, on page boundaries; those
 * that are not sparse cover the snapshot, and those that are have no more pages than it, all
 * together. The list, and the bits that extent_find_present() will need, are charged to the
 * region's user. Loop thread. Return: 0; -EINVAL, -ENOENT, -EDQUOT, -ENOMEM.
 */
int extent_parse(struct snapshot *snap, struct session *session, Cow__V1__Extent *const *list,
		 size_t n);

/**
 * extent_find_present() - see which pages sparse extents have
 *
 * Done once, when the snapshot is taken: a hole may be filled later on by somebody who only reads
 * it through a mapping. In a job thread. Return: 0; -ENOMEM, -EIO.
 */
int extent_find_present(struct snapshot *snap);

#endif
