// SPDX-License-Identifier: LGPL-2.1-or-later
// Copying by mapping; see mmapcopy.h.
#include "config.h"

#include "backends/mmapcopy/mmapcopy.h"

#include <string.h>
#include <sys/mman.h>

#include "backends/protect.h"
#include "backends/scoot/internal.h"

/* Pages that the source has private are not in the memfd. */
static bool copy_private(char *dst, char *src, const struct pagemap *pagemap, uint64_t len)
{
	const uint64_t start = (uint64_t)(uintptr_t)src;
	struct page_run found[256];
	uint64_t at = start;
	size_t n_found;

	while (at < start + len) {
		if (pagemap_private(pagemap, &at, start + len, found, ARRAY_SIZE(found), &n_found))
			return false;
		for (size_t i = 0; i < n_found; i++) {
			uint64_t off = found[i].addr - start;

			memcpy(dst + off, src + off, found[i].len);
		}
	}
	return true;
}

uint64_t mmapcopy_pages(struct scoot_region *dst, uint64_t dst_off, struct scoot_region *src,
			uint64_t src_off, uint64_t len)
{
	uint64_t done = 0;

	if (dst->map.n_runs > MMAPCOPY_RUNS_MAX || src->map.n_runs > MMAPCOPY_RUNS_MAX ||
	    !protect_allows(dst->addr + dst_off, len, PROT_READ | PROT_WRITE) ||
	    !protect_allows(src->addr + src_off, len, PROT_READ) || scoot_freeze(src, src_off, len))
		return 0;
	scoot_shadow_drop(dst);
	scoot_set_aside(dst, dst_off, len);
	dst->wants_trim = true;
	while (done < len) {
		uint64_t from = src_off + done, to = dst_off + done, skip, n, n_mapped = 0;
		/* A copy: if both are one map, setting a run there moves the others. */
		struct extent run = src->map.runs[extents_find(&src->map, from)];
		struct extent copy = run;

		skip = from - run.off;
		n = min_u64(run.len - skip, len - done);
		copy.off = to;
		copy.backing_off += skip;
		if (run.backing->fd < 0 || extents_reserve(&dst->map, 1))
			break;
		(void)scoot_map_private(dst, &copy, to, n, &n_mapped);
		if (n_mapped)
			extents_set(&dst->map, to, n_mapped, run.backing, copy.backing_off, false);
		if (n_mapped < n)
			break;
		if (!copy_private(dst->addr + to, src->addr + from, &src->pagemap, n))
			break;
		done += n;
	}
	return done;
}
