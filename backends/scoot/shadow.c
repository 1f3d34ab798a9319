// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The shadow: a second mapping of the whole region, at an address that nobody else knows.
 *
 * Building page tables makes memory slow after a take (a fault for every 16 pages read). Dropping
 * them disturbs writers meanwhile (each batch interrupts every CPU that the program runs on). The
 * shadow avoids both. While the region is mapped shared, its shadow is mapped private, with page
 * tables filled ahead of need. While the region is frozen, the shadow is the shared mapping that
 * lay there. A take and settling exchange the two, page tables and all.
 *
 * For the first take the shadow is made ahead as well. As long as the region is new the shadow
 * gives no access, so that mlockall(MCL_CURRENT), which programs call when they start, makes no
 * copies of it.
 *
 * A shadow exists only while every run of the region is of home, at its own offset. Code that
 * changes that calls scoot_shadow_drop() first, and the next shared mapping that is frozen as a
 * whole becomes the shadow again. A shadow costs page tables (1/512 of the region) and address
 * space (for the shadow, and for the next move), and RSS counts the region's pages twice.
 *
 * Nobody writes to the shadow, but mlockall(MCL_CURRENT) fills a private mapping as if it were
 * written, and those copies would be out of date once they are put in place. It does so from the
 * first page of each mapping on, so the private part of the shadow is one mapping that begins with
 * page 0, and that page is looked at before a swap. A mlockall() during the call itself may still
 * go unnoticed: cow-scoot(7) forbids it.
 *
 * Without a userfaultfd nothing is settled, and there is no shadow. If the program has taken away
 * access to parts of the region, the shadow is not put in place: a mapping that has these
 * protections from the start is made instead.
 */
#include "config.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "backends/hold.h"
#include "backends/protect.h"
#include "backends/scoot/internal.h"
#include "backends/space.h"

/* Some 50 us where memory is warm: as long as a take may have to wait for it. */
#define POPULATE_STEP_BYTES ((uint64_t)512 << 10)

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

/*
 * A move charges a private mapping anew after it gave its destination up, and must not fail then:
 * a process with a limit on that has no shadow. Strict overcommit is checked when the shadow is
 * first used, limits of the process before each move.
 */
static bool is_limited(void)
{
	static const int kinds[] = {RLIMIT_AS, RLIMIT_DATA};
	struct rlimit limit;

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (getrlimit(kinds[i], &limit) || limit.rlim_cur != RLIM_INFINITY)
			return true;
	}
	return false;
}

static bool is_overcommit_strict(void)
{
	AUTO_FD int fd = open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
	char mode;

	return fd < 0 || read(fd, &mode, 1) != 1 || mode == '2';
}

void scoot_shadow_keep(struct scoot_region *region, struct scoot_aside **aside)
{
	if (region->uffd < 0 || region->shadow || !is_home(region)) {
		scoot_aside_push(region, steal_ptr(aside));
		return;
	}
	region->shadow = steal_ptr(aside);
	region->shadow_is_checked = false;
	region->shadow_is_early = false;
	region->shadow_is_bare = false;
	region->populate_at = 0;
}

void scoot_shadow_prepare(struct scoot_region *region)
{
	CLEANUP(scoot_aside_freep) struct scoot_aside *aside = NULL;

	if (region->uffd < 0 || region->shadow || is_limited() || is_overcommit_strict() ||
	    scoot_is_locking() || scoot_aside_new(&aside, region->addr, region->size_bytes))
		return;
	if (space_map(aside->addr, region->size_bytes, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE,
		      region->home->fd, 0) ||
	    madvise(aside->addr, region->size_bytes, MADV_DONTFORK))
		return;
	region->shadow = steal_ptr(&aside);
	region->shadow_is_checked = true;
	region->shadow_is_early = true;
	region->shadow_is_bare = true;
	region->populate_at = region->size_bytes;
}

bool scoot_shadow_warm(struct scoot_region *region)
{
	struct scoot_aside *shadow = region->shadow;

	if (!region->shadow_is_early)
		return false;
	if (is_limited()) { /* with access it would count */
		scoot_shadow_drop(region);
		return false;
	}
	/* The kernel would copy pages that mlockall() has locked when access is given. */
	if (region->shadow_is_bare && (munlock(shadow->addr, shadow->len) ||
				       mprotect(shadow->addr, shadow->len, PROT_READ | PROT_WRITE)))
		return true;
	region->shadow_is_bare = false;
	region->populate_at = 0;
	return true;
}

/* Whether there may be a shadow is looked into when it is first used, not while a take waits. */
static bool has_shadow(struct scoot_region *region)
{
	if (region->shadow && !region->shadow_is_checked &&
	    (is_limited() || is_overcommit_strict()))
		scoot_shadow_drop(region);
	region->shadow_is_checked = true;
	return region->shadow;
}

/* While threads are kept out free() has to wait: one of them may be in it. */
static void end_aside(struct scoot_region *region, struct scoot_aside **aside)
{
	if (*aside && region->is_held)
		scoot_aside_push(region, steal_ptr(aside));
	else
		*aside = scoot_aside_free(*aside);
}

void scoot_shadow_drop(struct scoot_region *region)
{
	if (region->shadow_is_bare) /* there is nothing to drop in it */
		end_aside(region, &region->shadow);
	if (region->shadow)
		scoot_aside_push(region, steal_ptr(&region->shadow));
	if (!region->shadow_is_early) /* else the first mapping that is made needs it */
		end_aside(region, &region->reserve);
	region->shadow_is_early = false;
	region->shadow_is_bare = false;
	region->populate_at = region->size_bytes;
}

/* The shadow kept changes that the program made to parts of it in place (mprotect(), madvise()). */
bool scoot_take_over(char *from, uint64_t len, char *to)
{
	return !is_limited() && !mprotect(from, len, PROT_READ | PROT_WRITE) &&
	       !space_move(from, len, to);
}

static bool is_clean(struct scoot_region *region)
{
	struct page_run run[2];
	uint64_t at = (uint64_t)(uintptr_t)region->shadow->addr;
	size_t n_runs;

	/* Without access it has no page at all. The kernel would copy pages that mlockall() has
	 * locked when access is given. */
	if (region->shadow_is_bare)
		return !munlock(region->shadow->addr, region->size_bytes);
	return !pagemap_private(&region->pagemap, &at, at + page_size_bytes(), run, ARRAY_SIZE(run),
				&n_runs) &&
	       !n_runs;
}

int scoot_shadow_swap_all(struct scoot_region *region)
{
	struct scoot_aside *shadow;
	int r = 0;

	if (!has_shadow(region))
		return SCOOT_E_SHADOW;
	shadow = region->shadow;
	if (!region->reserve)
		r = scoot_aside_new(&region->reserve, region->addr, region->size_bytes);
	if (!r)
		r = hold_take(region->uffd, &region->pagemap, region->addr, region->size_bytes,
			      region->reserve->addr);
	if (r)
		return r;
	if (!is_clean(region) || !scoot_take_over(shadow->addr, region->size_bytes, region->addr)) {
		hold_give_back(region->uffd, &region->pagemap, region->addr, region->size_bytes,
			       region->reserve->addr);
		if (region->shadow_is_early) /* it may have access now */
			scoot_shadow_drop(region);
		return SCOOT_E_SHADOW;
	}
	region->shadow = region->reserve;
	region->reserve = shadow;
	region->reserve_is_mapped = true;
	region->is_populated = !region->shadow_is_bare;
	if (region->shadow_is_early)
		region->populate_at = 0; /* of what becomes the shadow by settling not all is */
	region->shadow_is_early = false;
	region->shadow_is_bare = false;
	return 0;
}

bool scoot_shadow_swap(struct scoot_region *region, uint64_t off, uint64_t len, char *pages)
{
	if (!has_shadow(region) || off || !is_clean(region) ||
	    !protect_is_plain(region->addr, len) ||
	    !scoot_take_over(region->shadow->addr, len, region->addr))
		return false;
	region->is_populated = true;
	region->shadow_is_early = false;
	region->shadow_is_bare = false;
	if (space_move(pages, len, region->shadow->addr)) {
		(void)space_reserve_at(region->shadow->addr, len);
		scoot_shadow_drop(region);
	}
	return true;
}

void scoot_reserve_clear(struct scoot_region *region)
{
	if (region->reserve && region->reserve_is_mapped)
		(void)space_clear(region->reserve->addr, region->size_bytes);
	region->reserve_is_mapped = false;
}

char *scoot_shadow_to_settle(struct scoot_region *region, uint64_t off)
{
	const struct extent *first = region->map.runs;

	if (has_shadow(region) && off != (first->owned ? first->len : 0))
		scoot_shadow_drop(region);
	return region->shadow ? region->shadow->addr + off : NULL;
}

/* Pages that are mapped in place are in memory, so the shadow's page tables can have them too. */
static int populate(struct scoot_region *region, uint64_t off, uint64_t len)
{
	unsigned char is_there[POPULATE_STEP_BYTES >> 12];
	const size_t n_pages = len / page_size_bytes();

	if (pagemap_present(&region->pagemap, region->addr + off, n_pages, is_there))
		return -1;
	space_populate(region->shadow->addr + off, n_pages, is_there);
	return 0;
}

bool scoot_populate_step(struct scoot_region *region)
{
	uint64_t n, off = region->populate_at;

	if (!has_shadow(region) || region->rolls_back || off >= region->size_bytes ||
	    !extents_is_owned(&region->map))
		return false;
	n = min_u64(region->size_bytes - off, POPULATE_STEP_BYTES);
	region->populate_at = populate(region, off, n) ? region->size_bytes : off + n;
	return region->populate_at < region->size_bytes;
}
