/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mmapcopy: copy memory by mapping it a second time.
 *
 * The copy freezes whole pages of the source in place (scoot_freeze()) and maps the destination
 * private on the same bytes of the same memfd: both read one copy, and the first write to a page of
 * either side makes a page for that side. It copies pages of the source that are private already.
 * The shared bytes stay frozen as long as any map refers to them (extents_is_shared()).
 *
 * After Korb, Kotthaus, Marwedel: mmapcopy, SAC 2016.
 */
#ifndef COW_BACKENDS_MMAPCOPY_H
#define COW_BACKENDS_MMAPCOPY_H

#include "backends/scoot/scoot.h"

/* A region in more runs than that is copied to, not mapped:
 * vm.max_map_count is 65530 by default. */
#define MMAPCOPY_RUNS_MAX 1024

/**
 * mmapcopy_pages() - give [@dst_off, @dst_off + @len) of @dst the bytes of @src at @src_off
 *
 * Offsets and @len are whole pages; the ranges do not overlap; @dst may be @src. Under the locks of
 * both regions. The call leaves memory that the program may not access to the caller's copy, which
 * then fails as any copy would. Return: number of bytes from the start that are done. The rest of
 * the destination, if any, is writable memory of any content, and the caller has to copy it.
 */
uint64_t mmapcopy_pages(struct scoot_region *dst, uint64_t dst_off, struct scoot_region *src,
			uint64_t src_off, uint64_t len);

#endif
