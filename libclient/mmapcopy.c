// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * cow_mmapcopy(): what of a copy can be mapped is mapped, the rest is copied.
 *
 * Mapped are whole pages that lie in regions of one client at both ends and at the same offset
 * within a page. Whatever stands in the way (another client, a fork child, a region in too many
 * parts, a failing mmap()) only means that bytes are copied.
 */
#include "config.h"

#include "backends/mmapcopy/mmapcopy.h"

#include <string.h>
#include <sys/mman.h>

#include "libclient/scoot/mode.h"

/* --- copying ---------------------------------------------------------------------------------- */

static struct cow_region *find_region(const char *addr, size_t len)
{
	struct cow_region *region = cowi_registry_find(addr);

	if (region && (!region->scoot || addr + len > region->addr + region->size_bytes ||
		       cowi_check_process(region->client)))
		region = cow_region_unref(region);
	return region;
}

/* By address, so that two copies in opposite directions do not wait for each other. */
static void lock_both(struct cow_region *a, struct cow_region *b)
{
	struct cow_region *first = a->addr < b->addr ? a : b;

	cowi_region_lock(first);
	if (a != b)
		cowi_region_lock(first == a ? b : a);
}

static void unlock_both(struct cow_region *a, struct cow_region *b)
{
	cowi_region_unlock(a);
	if (a != b)
		cowi_region_unlock(b);
}

/* Whole pages. Return: how many bytes were mapped. */
static uint64_t map_pages(char *dst, const char *src, uint64_t len)
{
	COWI_ENTRY(); /* not in what is copied: a handler of SIGSEGV may have to mend that */
	struct cow_region *to = find_region(dst, len);
	struct cow_region *from = to ? find_region(src, len) : NULL;
	uint64_t done = 0;

	if (from && from->client == to->client) {
		lock_both(to, from);
		done = mmapcopy_pages(to->scoot, (uint64_t)(dst - to->addr), from->scoot,
				      (uint64_t)(src - from->addr), len);
		unlock_both(to, from);
		cowi_scoot_post_soon(to); /* nobody waits for that */
	}
	cow_region_unref(from);
	cow_region_unref(to);
	return done;
}

void *cow_mmapcopy(void *dst, const void *src, size_t len)
{
	const uint64_t page = page_size_bytes();
	const uint64_t to = (uint64_t)(uintptr_t)dst, from = (uint64_t)(uintptr_t)src;
	uint64_t head, whole, done = 0;

	if (to < from + len && from < to + len)
		return memmove(dst, src, len); /* overlapping: no two pages can be one */
	if (len < COWI_MMAPCOPY_LEAST_BYTES || (to ^ from) & (page - 1) ||
	    (len < COWI_MMAPCOPY_MOST_BYTES && len < cowi_mmapcopy_min_bytes()))
		return memcpy(dst, src, len);
	head = align_up(to, page) - to;
	whole = align_down(len - head, page);
	memcpy(dst, src, head);
	done = map_pages((char *)dst + head, (const char *)src + head, whole);
	head += done;
	memcpy((char *)dst + head, (const char *)src + head, len - head);
	return dst;
}
