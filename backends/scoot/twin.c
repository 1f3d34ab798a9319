// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The twin: a second mapping of the whole region, at an address that nobody else knows.
 *
 * Building page tables is what makes memory slow after a take (a fault for every 16 pages read) and
 * dropping them what disturbs writers meanwhile (each batch interrupts every CPU the program runs
 * on). So neither is done: where the region is mapped shared its twin is mapped private, filled
 * ahead of need, and where it is frozen the twin is the shared mapping that lay there. A take and
 * settling exchange the two, page tables and all.
 *
 * That is kept up only while every run of the region is of home, at its own offset; whoever makes
 * it otherwise calls scoot_twin_drop() first, and the next shared mapping that is frozen as a whole
 * becomes the twin again. Costs page tables (1/512 of the region), and that RSS counts the region's
 * pages twice.
 *
 * Nobody writes to the twin, but mlockall(MCL_CURRENT) fills a private mapping as if it were
 * written, and those copies would be out of date once they are put in place. It does so from the
 * first page of each mapping on, so the private part of the twin always begins with page 0, and
 * that page is looked at before a swap.
 *
 * Without a userfaultfd nothing is settled, and there is no twin.
 */
#include "config.h"

#include <sys/mman.h>

#include "backends/hold.h"
#include "backends/scoot/internal.h"
#include "backends/space.h"

/* A few milliseconds. */
#define POPULATE_STEP_BYTES ((uint64_t)8 << 20)

static bool is_home(const struct scoot_region *region)
{
	const struct extents *map = &region->map;

	for (size_t i = 0; i < map->n_runs; i++) {
		if (map->runs[i].backing != region->home ||
		    map->runs[i].backing_off != map->runs[i].off)
			return false;
	}
	return true;
}

void scoot_twin_keep(struct scoot_region *region, struct scoot_aside **aside)
{
	if (region->uffd < 0 || region->twin || !is_home(region)) {
		scoot_aside_push(region, steal_ptr(aside));
		return;
	}
	region->twin = steal_ptr(aside);
	region->populate_at = 0;
}

void scoot_twin_drop(struct scoot_region *region)
{
	if (region->twin)
		scoot_aside_push(region, steal_ptr(&region->twin));
	region->room = scoot_aside_free(region->room);
	region->populate_at = region->size_bytes;
}

/* To the place of a mapping without page tables, which goes. */
static bool move_tables(char *from, char *to, uint64_t len)
{
	return mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) !=
	       MAP_FAILED;
}

static bool is_clean(struct scoot_region *region)
{
	struct page_run run[2];
	uint64_t at = (uint64_t)(uintptr_t)region->twin->addr;
	size_t n_runs;

	return !pagemap_private(&region->pagemap, &at, at + page_size_bytes(), run, ARRAY_SIZE(run),
				&n_runs) &&
	       !n_runs;
}

int scoot_twin_swap_all(struct scoot_region *region)
{
	struct scoot_aside *twin = region->twin;
	int r = 0;

	if (!is_clean(region))
		return SCOOT_E_TWIN;
	if (!region->room)
		r = scoot_aside_new(&region->room, region->addr, region->size_bytes);
	if (!r)
		r = hold_take(region->uffd, &region->pagemap, region->addr, region->size_bytes,
			      region->room->addr);
	if (r)
		return r;
	if (!move_tables(twin->addr, region->addr, region->size_bytes)) {
		hold_give_back(region->uffd, &region->pagemap, region->addr, region->size_bytes,
			       region->room->addr);
		return SCOOT_E_TWIN;
	}
	region->twin = region->room;
	region->room = twin;
	region->is_populated = true;
	return 0;
}

bool scoot_twin_swap(struct scoot_region *region, uint64_t off, uint64_t len, char *pages)
{
	if (!region->twin || off || !is_clean(region) ||
	    !move_tables(region->twin->addr, region->addr, len))
		return false;
	region->is_populated = true;
	if (!move_tables(pages, region->twin->addr, len))
		scoot_twin_drop(region);
	return true;
}

char *scoot_twin_to_settle(struct scoot_region *region, uint64_t off)
{
	const struct extent *first = region->map.runs;

	if (region->twin && off != (first->owned ? first->len : 0))
		scoot_twin_drop(region);
	return region->twin ? region->twin->addr + off : NULL;
}

bool scoot_populate_step(struct scoot_region *region)
{
	uint64_t n, off = region->populate_at;

	if (!region->twin || region->rolls_back || off >= region->size_bytes ||
	    !extents_is_owned(&region->map))
		return false;
	n = min_u64(region->size_bytes - off, POPULATE_STEP_BYTES);
	space_populate(region->twin->addr + off, n);
	region->populate_at = off + n;
	return region->populate_at < region->size_bytes;
}
