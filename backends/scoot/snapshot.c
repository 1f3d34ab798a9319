// SPDX-License-Identifier: LGPL-2.1-or-later
// Reading what was frozen; see scoot.h.
#include "config.h"

#include <string.h>
#include <sys/mman.h>

#include "backends/pagebits.h"
#include "backends/scoot/internal.h"
#include "backends/space.h"
#include "common/err.h"

/* Of the 65530 mappings that a process may have by default, at most so many for one view. */
#define VIEW_RUNS_MAX 8192

int scoot_snapshot_new(struct scoot_snapshot **out, const struct scoot_region *region)
{
	CLEANUP(scoot_snapshot_freep) struct scoot_snapshot *snap = calloc(1, sizeof(*snap));
	int r;

	if (!snap)
		return err_oom(sizeof(*snap), "a snapshot");
	r = extents_init_frozen(&snap->map, &region->map, 0, region->size_bytes);
	if (r)
		return r;
	*out = steal_ptr(&snap);
	return 0;
}

struct scoot_snapshot *scoot_snapshot_free(struct scoot_snapshot *snap)
{
	if (!snap)
		return NULL;
	extents_deinit(&snap->map);
	memfile_unref(snap->overlay);
	free(snap->kept);
	free(snap);
	return NULL;
}

static int kept_realloc(struct scoot_snapshot *snap, size_t n_alloc)
{
	struct page_run *kept = reallocarray(snap->kept, n_alloc, sizeof(*kept));

	if (!kept)
		return err_oom(n_alloc * sizeof(*kept), "runs of changed pages");
	snap->kept = kept;
	snap->n_alloc = n_alloc;
	return 0;
}

int scoot_snapshot_reserve(struct scoot_snapshot *snap, uint64_t n_runs)
{
	return snap->n_alloc - snap->n_kept >= n_runs ? 0
						      : kept_realloc(snap, snap->n_kept + n_runs);
}

void scoot_snapshot_trim(struct scoot_snapshot *snap)
{
	if (snap->n_kept && snap->n_kept < snap->n_alloc)
		(void)kept_realloc(snap, snap->n_kept);
	if (snap->n_kept)
		return;
	free(snap->kept);
	snap->kept = NULL;
	snap->n_alloc = 0;
}

int scoot_snapshot_note(struct scoot_snapshot *snap, uint64_t off, uint64_t len)
{
	struct page_run *last = snap->n_kept ? &snap->kept[snap->n_kept - 1] : NULL;

	if (last && last->addr + last->len == off) {
		last->len += len;
		return 0;
	}
	if (snap->n_kept == snap->n_alloc) {
		int r = kept_realloc(snap, snap->n_alloc ? 2 * snap->n_alloc : 64);

		if (r)
			return r;
	}
	snap->kept[snap->n_kept++] = (struct page_run){.addr = off, .len = len};
	return 0;
}

int scoot_snapshot_keep(struct scoot_snapshot *snap, const char *src, uint64_t off, uint64_t len)
{
	int r = scoot_snapshot_note(snap, off, len);

	return r ? r : memfile_write(snap->overlay, src, len, off);
}

int scoot_snapshot_note_bits(struct scoot_snapshot *snap, const uint8_t *bits, uint64_t first,
			     uint64_t n_pages)
{
	const uint64_t page = page_size_bytes();
	uint64_t idx = 0, end;
	int r = 0;

	while (!r && (idx = pagebits_next(bits, idx, n_pages, true)) < n_pages) {
		end = pagebits_next(bits, idx, n_pages, false);
		r = scoot_snapshot_note(snap, (first + idx) * page, (end - idx) * page);
		idx = end;
	}
	return r;
}

/* --- the record behind an overlay's pages, read and written in pieces ------------------------- */

#define PIECE_BYTES ((uint64_t)4096)
#define PIECE_PAGES (8 * PIECE_BYTES)

uint64_t scoot_record_bytes(uint64_t size_bytes)
{
	const uint64_t page = page_size_bytes();

	return align_up(pagebits_bytes(size_bytes / page), page);
}

int scoot_snapshot_record(const struct scoot_snapshot *snap, uint64_t off)
{
	const uint64_t page = page_size_bytes();
	uint8_t bits[PIECE_BYTES];
	uint64_t next = 0; /* the first page that is not recorded yet */
	size_t i = 0;
	int r = 0;

	while (!r && i < snap->n_kept) {
		uint64_t first = align_down(max_u64(next, snap->kept[i].addr / page), PIECE_PAGES);
		uint64_t last = first; /* the last one noted in this piece */

		memset(bits, 0, sizeof(bits));
		next = first + PIECE_PAGES;
		for (; i < snap->n_kept && snap->kept[i].addr / page < next; i++) {
			uint64_t from = max_u64(snap->kept[i].addr / page, first);
			uint64_t end = (snap->kept[i].addr + snap->kept[i].len) / page;

			last = min_u64(end, next) - 1;
			pagebits_set(bits, from - first, last + 1 - from);
			if (end > next)
				break;
		}
		r = memfile_write(snap->overlay, bits, pagebits_bytes(last + 1 - first),
				  off + first / 8);
	}
	return r;
}

/* Copy each piece before looking at it: the process that took the snapshot may still change it. */
static int read_record(struct scoot_snapshot *snap, uint64_t n_pages, uint64_t off)
{
	uint8_t bits[PIECE_BYTES];
	uint64_t n;
	int r = 0;

	for (uint64_t first = 0; !r && first < n_pages; first += n) {
		n = min_u64(PIECE_PAGES, n_pages - first);
		r = memfile_read(snap->overlay, bits, pagebits_bytes(n), off + first / 8);
		if (!r)
			r = scoot_snapshot_note_bits(snap, bits, first, n);
	}
	return r;
}

int scoot_snapshot_opened(struct scoot_snapshot **out, struct extents *map,
			  struct memfile **overlay, uint64_t record_off)
{
	CLEANUP(scoot_snapshot_freep) struct scoot_snapshot *snap = calloc(1, sizeof(*snap));
	int r;

	if (!snap)
		return err_oom(sizeof(*snap), "a snapshot");
	if (*overlay) {
		snap->overlay = memfile_ref(*overlay);
		r = read_record(snap, map->size_bytes / page_size_bytes(), record_off);
		if (r)
			return r;
		*overlay = memfile_unref(*overlay);
	}
	extents_move(&snap->map, map);
	*out = steal_ptr(&snap);
	return 0;
}

/* ---------------------------------------------------------------------------------------------- */

/* Index of the first kept run that ends behind @off. */
static size_t find_kept(const struct scoot_snapshot *snap, uint64_t off)
{
	size_t low = 0, high = snap->n_kept;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (snap->kept[mid].addr + snap->kept[mid].len <= off)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

bool scoot_snapshot_is_kept(const struct scoot_snapshot *snap, uint64_t off, uint64_t len)
{
	const uint64_t end = off + len;

	for (size_t i = find_kept(snap, off); off < end; i++) {
		if (i == snap->n_kept || snap->kept[i].addr > off)
			return false;
		off = snap->kept[i].addr + snap->kept[i].len;
	}
	return true;
}

static int read_map(const struct scoot_snapshot *snap, char *buf, uint64_t len, uint64_t off)
{
	const struct extents *map = &snap->map;

	for (size_t i = extents_find(map, off); len; i++) {
		const struct extent *run = &map->runs[i];
		uint64_t skip = off - run->off, n = min_u64(len, run->len - skip);
		int r = memfile_read(run->backing, buf, n, run->backing_off + skip);

		if (r)
			return r;
		buf += n;
		off += n;
		len -= n;
	}
	return 0;
}

int scoot_snapshot_read(const struct scoot_snapshot *snap, void *buf, uint64_t len, uint64_t off)
{
	char *to = buf;
	size_t i = find_kept(snap, off);
	int r = 0;

	while (!r && len) {
		const struct page_run *kept = i < snap->n_kept ? &snap->kept[i] : NULL;
		uint64_t n = len;

		if (kept && kept->addr <= off) {
			n = min_u64(len, kept->addr + kept->len - off);
			r = memfile_read(snap->overlay, to, n, off);
			i++;
		} else {
			if (kept)
				n = min_u64(len, kept->addr - off);
			r = read_map(snap, to, n, off);
		}
		to += n;
		off += n;
		len -= n;
	}
	return r;
}

static int map_run(char *addr, uint64_t len, const struct memfile *backing, uint64_t backing_off,
		   int prot, int flags)
{
	if (mmap(addr, len, prot, flags | MAP_FIXED | MAP_NORESERVE, memfile_read_fd(backing),
		 (off_t)backing_off) == MAP_FAILED)
		return err_raise_errno("cannot map %llu bytes of a snapshot",
				       (unsigned long long)len);
	return 0;
}

/* Kept pages as mappings of the overlay. */
static int map_kept(const struct scoot_snapshot *snap, char *addr)
{
	for (size_t i = 0; i < snap->n_kept; i++) {
		const struct page_run *kept = &snap->kept[i];
		int r = map_run(addr + kept->addr, kept->len, snap->overlay, kept->addr, PROT_READ,
				MAP_SHARED);

		if (r)
			return r;
	}
	return 0;
}

/* Kept pages as private pages. */
static int copy_kept(const struct scoot_snapshot *snap, char *addr)
{
	for (size_t i = 0; i < snap->n_kept; i++) {
		const struct page_run *kept = &snap->kept[i];
		int r = memfile_read(snap->overlay, addr + kept->addr, kept->len, kept->addr);

		if (r)
			return r;
	}
	return 0;
}

int scoot_snapshot_map(const struct scoot_snapshot *snap, char *addr, int prot)
{
	const struct extents *map = &snap->map;
	bool is_copied = prot & PROT_WRITE || snap->n_kept + map->n_runs > VIEW_RUNS_MAX;
	int r = 0;

	for (size_t i = 0; !r && i < map->n_runs; i++) {
		const struct extent *run = &map->runs[i];

		r = map_run(addr + run->off, run->len, run->backing, run->backing_off,
			    is_copied ? PROT_READ | PROT_WRITE : PROT_READ,
			    is_copied ? MAP_PRIVATE : MAP_SHARED);
	}
	if (!r)
		r = is_copied ? copy_kept(snap, addr) : map_kept(snap, addr);
	if (!r && is_copied && !(prot & PROT_WRITE) && mprotect(addr, map->size_bytes, prot))
		r = err_raise_errno("cannot make a view read-only");
	return r;
}
