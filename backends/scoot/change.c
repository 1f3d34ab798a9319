// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Changing the backing of a region: rolling back, discarding, and freeing memory that nobody refers
 * to any more; see scoot.h.
 *
 * A hole is punched only if no map refers to the bytes, or only the owned run that is discarded. A
 * backing's unreferenced bytes stay so: a map gets bytes only from another map, or from its own
 * region's discard, which has the lock.
 */
#include "config.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "backends/hold.h"
#include "backends/protect.h"
#include "backends/scoot/internal.h"
#include "backends/space.h"
#include "common/clock.h"
#include "common/err.h"

#define PUNCH_STEP_BYTES ((uint64_t)16 << 20)
#define FAULT_NSEC       2000 /* about what a fault costs that maps pages of a memfd */
#define ROLLS_PER_TRY    64   /* of the way that was dearer */

/* A run of an overlay. */
struct kept_run {
	const struct memfile *overlay;
	uint64_t off;
};

void scoot_set_aside(struct scoot_region *region, uint64_t off, uint64_t len)
{
	CLEANUP(scoot_aside_freep) struct scoot_aside *aside = NULL;

	if (len == region->size_bytes && region->reserve && !region->shadow)
		aside = steal_ptr(&region->reserve);
	if ((!aside && scoot_aside_new(&aside, region->addr + off, len)) ||
	    hold_take(region->uffd, &region->pagemap, region->addr + off, len, aside->addr))
		return; /* mmap() over it does the same, but takes its time */
	scoot_aside_push(region, steal_ptr(&aside));
}

/* --- rolling back ----------------------------------------------------------------------------- */

/*
 * Drop private pages; the next read gets the backing's bytes. If a page table has one, all of its
 * pages are dropped: since 6.13 that frees the page table, and the next search skips it.
 */
static int drop_private(const struct scoot_region *region, uint64_t off, uint64_t len)
{
	const uint64_t start = (uint64_t)(uintptr_t)region->addr + off, end = start + len;
	struct page_run found[256];
	uint64_t at = start, dropped = start;
	size_t n_found;
	int r = 0;

	while (!r && at < end) {
		r = pagemap_private(&region->pagemap, &at, end, found, ARRAY_SIZE(found), &n_found);
		for (size_t i = 0; !r && i < n_found; i++) {
			uint64_t from = align_down(found[i].addr, SETTLE_CHUNK_BYTES);
			uint64_t to = align_up(found[i].addr + found[i].len, SETTLE_CHUNK_BYTES);

			from = max_u64(from, dropped);
			dropped = min_u64(to, end);
			if (from < dropped && space_drop((char *)(uintptr_t)from, dropped - from))
				r = err_raise_errno("cannot drop %llu changed bytes",
						    (unsigned long long)found[i].len);
		}
	}
	return r;
}

static int drop_all(const struct scoot_region *region, uint64_t off, uint64_t len)
{
	if (space_drop(region->addr + off, len))
		return err_raise_errno("cannot drop what was changed in %llu bytes",
				       (unsigned long long)len);
	return 0;
}

/* Page faults of this process so far. */
static uint64_t n_faults(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_SELF, &usage) ? 0 : (uint64_t)usage.ru_minflt;
}

/*
 * Searching page tables for private pages costs some 20 ns for every page mapped; dropping all that
 * is mapped costs a tenth, but what was only read has to fault again. Which is less depends on what
 * the program reads, so each way's cost is taken: its time, and the faults until the next rollback.
 *
 * Neither way alone would do (writing, reading and rollback, ms, p50; 1 GiB, 100 pages written;
 * Linux 6.18, 2 CPUs that had other work too, two runs):
 *
 *   read between two rollbacks   search      drop      learnt
 *   nothing                      1.3  1.9    0.7  1.1  1.3  0.9
 *   everything, at first only    1.8  2.4    0.9  0.9  1.6  0.9
 *   everything                    64   78    119  184    45   54
 */
static void roll_begin(struct roll *roll)
{
	if (roll->n)
		roll->cost_nsec[roll->is_blunt] =
			roll->nsec + (n_faults() - roll->n_faults) * FAULT_NSEC;
	roll->is_blunt = roll->cost_nsec[true] < roll->cost_nsec[false];
	if (++roll->n % ROLLS_PER_TRY == 0)
		roll->is_blunt = !roll->is_blunt;
	roll->nsec = now_nsec();
}

static void roll_end(struct roll *roll)
{
	roll->nsec = now_nsec() - roll->nsec;
	roll->n_faults = n_faults();
}

/* [@off, @off + @len) of the region becomes what @want, a run of a snapshot, has there. */
static int map_back(struct scoot_region *region, const struct extent *want, uint64_t off,
		    uint64_t len)
{
	uint64_t done;
	int r = extents_reserve(&region->map, 1);

	if (r)
		return r;
	scoot_set_aside(region, off, len);
	r = scoot_map_private(region, want, off, len, &done);
	if (done)
		extents_set(&region->map, off, done, want->backing,
			    want->backing_off + (off - want->off), false);
	return r;
}

static int read_back(void *arg, char *addr, uint64_t off, uint64_t len)
{
	const struct kept_run *run = arg;

	return memfile_read(run->overlay, addr, len, run->off + off);
}

/* Copy pages of the overlay, also to memory that the program may not write to. */
static int roll_kept_back(struct scoot_region *region, const struct scoot_snapshot *snap)
{
	const bool is_plain = protect_is_plain(region->addr, region->size_bytes);
	int r = 0;

	for (size_t i = 0; !r && i < snap->n_kept; i++) {
		const struct page_run *kept = &snap->kept[i];
		struct kept_run run = {.overlay = snap->overlay, .off = kept->addr};
		char *addr = region->addr + kept->addr;

		r = is_plain ? memfile_read(snap->overlay, addr, kept->len, kept->addr)
			     : protect_fill(addr, kept->len, read_back, &run);
	}
	return r;
}

/* @want is a run of the snapshot. */
static int roll_run_back(struct scoot_region *region, const struct extent *want)
{
	const uint64_t end = want->off + want->len;
	uint64_t off = want->off;
	int r = 0;

	while (!r && off < end) {
		struct extent run = region->map.runs[extents_find(&region->map, off)];
		uint64_t n = min_u64(run.off + run.len, end) - off;
		uint64_t want_off = want->backing_off + (off - want->off);

		if (!region->is_populated && !run.owned && run.backing == want->backing &&
		    run.backing_off + (off - run.off) == want_off) {
			r = region->roll.is_blunt ? drop_all(region, off, n)
						  : drop_private(region, off, n);
		} else {
			if (run.owned || run.backing != want->backing || want_off != off)
				scoot_shadow_drop(region);
			r = map_back(region, want, off, n);
			region->wants_trim = true;
		}
		off += n;
	}
	return r;
}

int scoot_rollback(struct scoot_region *region, const struct scoot_snapshot *snap)
{
	int r = scoot_check_descriptors(region);

	/* Full page tables go as a whole, once; from then on there are few. */
	region->rolls_back = true;
	roll_begin(&region->roll);
	for (size_t i = 0; !r && i < snap->map.n_runs; i++)
		r = roll_run_back(region, &snap->map.runs[i]);
	region->is_populated &= r != 0;
	if (!r && snap->n_kept)
		r = roll_kept_back(region, snap);
	roll_end(&region->roll);
	return r;
}

/* --- discarding ------------------------------------------------------------------------------- */

int scoot_punch(const struct memfile *backing, uint64_t off, uint64_t len)
{
	if (fallocate(backing->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off,
		      (off_t)len))
		return err_raise_errno("cannot give %llu bytes back", (unsigned long long)len);
	return 0;
}

static int clear(void *arg, char *addr, uint64_t off, uint64_t len)
{
	(void)arg;
	(void)off;
	memset(addr, 0, len);
	return 0;
}

/* Write zeroes as the program would, which makes private pages if the memory is frozen. */
static int fill_with_zeroes(char *addr, uint64_t len)
{
	return protect_fill(addr, len, clear, NULL);
}

/* Map zeroes of @backing; nobody else refers to its bytes there. */
static int map_zeroes(struct scoot_region *region, struct memfile *backing, uint64_t backing_off,
		      uint64_t off, uint64_t len)
{
	char *addr = region->addr + off;
	uint64_t done;
	int r;

	r = extents_reserve(&region->map, 1);
	if (!r)
		r = scoot_punch(backing, backing_off, len);
	if (r)
		return r;
	scoot_shadow_drop(region);
	scoot_set_aside(region, off, len);
	(void)protect_map(addr, len, MAP_SHARED, backing->fd, backing_off, &done);
	if (done) {
		(void)madvise(addr, done, MADV_DONTFORK);
		extents_set(&region->map, off, done, backing, backing_off, true);
		region->wants_trim = true;
	}
	/* Else what was private there is gone, and what is mapped reads as before the snapshot. */
	return done < len ? fill_with_zeroes(addr + done, len - done) : 0;
}

static bool is_free(const struct memfile *backing, uint64_t off, uint64_t len)
{
	return backing && !extents_is_shared(backing, off, len, NULL);
}

/* [@off, @off + @len) is inside @run of the region. */
static int discard_part(struct scoot_region *region, const struct extent *run, uint64_t off,
			uint64_t len, bool may_fill)
{
	uint64_t backing_off = run->backing_off + (off - run->off);

	if (run->owned)
		return scoot_punch(run->backing, backing_off, len);
	if (run->backing->fd >= 0 &&
	    !extents_is_shared(run->backing, backing_off, len, &region->map))
		return map_zeroes(region, run->backing, backing_off, off, len);
	if (is_free(region->home, off, len))
		return map_zeroes(region, region->home, off, off, len);
	if (is_free(region->second, off, len))
		return map_zeroes(region, region->second, off, off, len);
	if (!region->second && !may_fill)
		return SCOOT_E_OVERLAY;
	return fill_with_zeroes(region->addr + off, len);
}

int scoot_discard(struct scoot_region *region, uint64_t off, uint64_t len, bool may_fill)
{
	const uint64_t end = off + len;
	int r = scoot_check_descriptors(region);

	while (!r && off < end) {
		struct extent run = region->map.runs[extents_find(&region->map, off)];
		uint64_t n = min_u64(run.off + run.len, end) - off;

		r = discard_part(region, &run, off, n, may_fill);
		off += n;
	}
	return r;
}

/*
 * Find the next data of @backing from *@off on that nobody refers to; false if there is none. The
 * file's answer may be wrong either way, which only costs time, or keeps memory a while longer:
 * nobody reads these bytes, and a caller that gets them later begins by punching a hole.
 */
static bool find_unused(const struct memfile *backing, uint64_t *off, uint64_t *len)
{
	while (extents_next_unused(backing, off, len)) {
		off_t data = lseek(backing->fd, (off_t)*off, SEEK_DATA);

		if (data < 0)
			return false;
		if ((uint64_t)data < *off + *len) {
			*len -= (uint64_t)data - *off;
			*off = (uint64_t)data;
			return true;
		}
		*off = (uint64_t)data; /* the rest of that run is a hole, and so may be others */
	}
	return false;
}

/* @trim_at counts through home and then through second. */
bool scoot_trim_step(struct scoot_region *region)
{
	struct memfile *backings[] = {region->home, region->second};
	const uint64_t size_bytes = region->size_bytes;

	if (!region->wants_trim || scoot_check_descriptors(region))
		return false;
	for (size_t i = region->trim_at / size_bytes; i < ARRAY_SIZE(backings); i++) {
		uint64_t off = region->trim_at - i * size_bytes, len;

		if (backings[i] && find_unused(backings[i], &off, &len)) {
			len = min_u64(len, PUNCH_STEP_BYTES);
			(void)scoot_punch(backings[i], off, len);
			region->trim_at = i * size_bytes + off + len;
			return true;
		}
		region->trim_at = (i + 1) * size_bytes;
	}
	region->trim_at = 0;
	/* Bytes left out because a snapshot refers to them are freed when that is gone. */
	region->wants_trim = region->second || region->map.n_runs > 1;
	return false;
}
