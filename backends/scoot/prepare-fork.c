// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Make the next fork() of a frozen region cheap.
 *
 * The kernel copies no page table of a private mapping of a memfd, unless the mapping has ever had
 * a private page: then it copies every entry, also entries that a fault could bring back. While a
 * snapshot lives such pages have to stay. With page tables that were filled ahead (scoot/shadow.c)
 * one such page makes fork() as expensive as that of anonymous memory. So before a fork a fresh
 * mapping takes the place of such a mapping, with copies of the private pages in it, and nothing
 * else. This is not done if so many pages are private that copying entries is cheaper, or if the
 * program may not access some. Threads that touch the region wait meanwhile.
 *
 * To search full page tables for private pages takes as long as a fork() that copies them. So it is
 * done only after such a fork was seen: a program that forks once pays once, and a program that
 * forks often pays twice.
 */
#include "config.h"

#include <string.h>
#include <sys/mman.h>

#include "backends/hold.h"
#include "backends/protect.h"
#include "backends/scoot/internal.h"

/* A fork that took longer for each page of the region copied page tables. */
#define FORK_NSEC_PER_PAGE 20

/* Copy the private pages of @run, which lie at @from, to their places in @to. */
static bool copy_private(const struct scoot_region *region, const struct extent *run,
			 const char *from, char *to)
{
	const uint64_t start = (uint64_t)(uintptr_t)from, end = start + run->len;
	uint64_t at = start, n_left = run->len / SCOOT_ENTRIES_PER_PAGE;
	struct page_run found[256];
	size_t n_found;

	while (at < end) {
		if (pagemap_private(&region->pagemap, &at, end, found, ARRAY_SIZE(found), &n_found))
			return false;
		for (size_t i = 0; i < n_found; i++) {
			if (found[i].len > n_left)
				return false;
			n_left -= found[i].len;
			memcpy(to + (found[i].addr - start), from + (found[i].addr - start),
			       found[i].len);
		}
	}
	return true;
}

/* Return: whether that was done; if not, the run is as it was. */
static bool prepare_run(struct scoot_region *region, const struct extent *run)
{
	CLEANUP(scoot_aside_freep) struct scoot_aside *old = NULL;
	CLEANUP(scoot_aside_freep) struct scoot_aside *fresh = NULL;
	char *addr = region->addr + run->off;
	uint64_t saved;
	bool is_done, is_held;

	if (run->owned || scoot_aside_new(&old, addr, run->len) ||
	    scoot_aside_new(&fresh, addr, run->len) ||
	    mmap(fresh->addr, run->len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, run->backing->fd,
		 (off_t)run->backing_off) == MAP_FAILED ||
	    madvise(fresh->addr, run->len, MADV_DONTFORK))
		return false;
	saved = hold_signals_block();
	is_held = !hold_begin(region->uffd, addr, run->len, false);
	is_done = is_held && !hold_take(region->uffd, &region->pagemap, addr, run->len, old->addr);
	if (is_done) {
		is_done = protect_is_plain(old->addr, run->len) &&
			  copy_private(region, run, old->addr, fresh->addr) &&
			  scoot_take_over(fresh->addr, run->len, addr);
		if (!is_done)
			hold_give_back(region->uffd, &region->pagemap, addr, run->len, old->addr);
	}
	if (is_held)
		hold_end(region->uffd, addr, run->len);
	hold_signals_restore(saved);
	scoot_aside_push(region, steal_ptr(&old));
	scoot_aside_push(region, steal_ptr(&fresh));
	return is_done;
}

void scoot_prepare_fork(struct scoot_region *region)
{
	size_t n_done = 0;

	if (!region->is_populated || region->uffd < 0 || scoot_is_locking() ||
	    region->fork_nsec / FORK_NSEC_PER_PAGE < region->size_bytes / page_size_bytes())
		return;
	for (size_t i = 0; i < region->map.n_runs; i++)
		n_done += prepare_run(region, &region->map.runs[i]);
	if (!n_done)
		return;
	region->is_populated = n_done < region->map.n_runs;
	region->populate_at = 0; /* settling makes an empty mapping the shadow */
}
