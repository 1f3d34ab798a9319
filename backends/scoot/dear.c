// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Whether copying a region's private pages would take longer than a fork() that shares them.
 *
 * To copy or to write back a page costs about as much as the kernel needs to copy 16 entries of
 * page tables. fork() copies the entries of the region, if it has a private page, and those of the
 * program's other anonymous memory. The kernel counts both for the whole process. Where its count
 * of anonymous pages is below the limit, the region cannot have more, and nothing is searched.
 * Otherwise its page tables are searched until that many private pages are found: other threads go
 * on meanwhile.
 *
 * Any thread, under the region's lock; nothing is allocated.
 */
#include "config.h"

#include <stdlib.h>

#include "backends/own-proc.h"
#include "backends/scoot/internal.h"

static struct own_proc own = {.path = "/proc/self/statm"};

/* Pages of this process: of files and shared memory, and anonymous ones. False: not known. */
static bool count_pages(uint64_t *shared, uint64_t *anonymous)
{
	char text[128], *at;
	int fd = own_proc_fd(&own);
	ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);
	uint64_t resident;

	if (n <= 0)
		return false;
	text[n] = '\0';
	(void)strtoull(text, &at, 10); /* address space */
	resident = strtoull(at, &at, 10);
	*shared = strtoull(at, NULL, 10);
	*anonymous = resident > *shared ? resident - *shared : 0;
	return true;
}

/* Return: whether [@off, @off + @len) has more than *@n_left private pages; else they are taken
 * off. */
static bool has_more(const struct scoot_region *region, const struct extent *run, uint64_t *n_left)
{
	uint64_t at = (uint64_t)(uintptr_t)region->addr + run->off, end = at + run->len;
	struct page_run found[256];
	size_t n_found;

	while (at < end) {
		if (pagemap_private(&region->pagemap, &at, end, found, ARRAY_SIZE(found), &n_found))
			return false;
		for (size_t i = 0; i < n_found; i++) {
			uint64_t n = found[i].len / page_size_bytes();

			if (n > *n_left)
				return true;
			*n_left -= n;
		}
	}
	return false;
}

/* If somebody else needs a run's bytes nothing is written back: a search would be for nothing. */
static bool is_kept_anyway(const struct scoot_region *region)
{
	for (size_t i = 0; i < region->map.n_runs; i++) {
		const struct extent *run = &region->map.runs[i];

		if (!run->owned &&
		    extents_is_shared(run->backing, run->backing_off, run->len, &region->map))
			return true;
	}
	return false;
}

bool scoot_is_dear(const struct scoot_region *region)
{
	uint64_t shared, anonymous, n_left;

	if (extents_is_owned(&region->map) || is_kept_anyway(region) ||
	    !count_pages(&shared, &anonymous))
		return false;
	shared = min_u64(shared, region->size_bytes / page_size_bytes());
	n_left = max_u64((shared + anonymous) / SCOOT_ENTRIES_PER_PAGE, region->n_pages_cheap);
	if (anonymous <= n_left)
		return false;
	for (size_t i = 0; i < region->map.n_runs; i++) {
		const struct extent *run = &region->map.runs[i];

		if (!run->owned && has_more(region, run, &n_left))
			return true;
	}
	return false;
}
