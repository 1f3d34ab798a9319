// SPDX-License-Identifier: LGPL-2.1-or-later
// Bringing frozen memory back to its backing; see settle.h.
#include "config.h"

#include "backends/settle.h"

#include <string.h>
#include <sys/mman.h>

#include "backends/hold.h"
#include "backends/space.h"
#include "common/err.h"

#define RUNS_MAX 512

int settle_init(struct settle *settle, int uffd, const struct pagemap *pagemap)
{
	*settle = (struct settle){.uffd = uffd, .pagemap = pagemap};
	return space_reserve(&settle->side, 2 * SETTLE_CHUNK_BYTES);
}

void settle_deinit(struct settle *settle)
{
	space_release(settle->side, 2 * SETTLE_CHUNK_BYTES);
	settle->side = NULL;
}

/* Write the private pages of [@addr, @addr + @len) to @backing. */
static int write_back(struct settle *settle, char *addr, uint64_t len,
		      const struct memfile *backing, uint64_t backing_off)
{
	const uint64_t start = (uint64_t)(uintptr_t)addr;
	struct page_run runs[RUNS_MAX];
	uint64_t at = start;
	size_t n_runs;
	int r;

	while (at < start + len) {
		r = pagemap_private(settle->pagemap, &at, start + len, runs, RUNS_MAX, &n_runs);
		for (size_t i = 0; !r && i < n_runs; i++) {
			uint64_t off = runs[i].addr - start;

			r = memfile_write(backing, addr + off, runs[i].len, backing_off + off);
			settle->n_pages += runs[i].len / page_size_bytes();
		}
		if (r)
			return r;
	}
	return 0;
}

/* Write what @from has data for, which is mapped at @addr, to @backing. */
static int write_data(char *addr, uint64_t len, const struct memfile *backing, uint64_t backing_off,
		      const struct memfile *from, uint64_t from_off)
{
	off_t data = (off_t)from_off, hole;
	uint64_t end = from_off + len;
	int r = 0;

	while (!r && (uint64_t)data < end) {
		data = lseek(from->fd, data, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			return 0;
		hole = data < 0 ? -1 : lseek(from->fd, data, SEEK_HOLE);
		if (hole < 0)
			return err_raise_errno("cannot find the pages to move");
		if ((uint64_t)data >= end)
			break;
		r = memfile_write(backing, addr + ((uint64_t)data - from_off),
				  min_u64((uint64_t)hole, end) - (uint64_t)data,
				  backing_off + ((uint64_t)data - from_off));
		data = hole;
	}
	return r;
}

/* A shared mapping of the backing that no fork child gets, ready to be moved into place. */
static int map_fresh(char *at, uint64_t len, const struct memfile *backing, uint64_t backing_off)
{
	void *p = mmap(at, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, backing->fd,
		       (off_t)backing_off);

	if (p == MAP_FAILED || madvise(at, len, MADV_DONTFORK))
		return err_raise_errno("cannot map %llu bytes shared again",
				       (unsigned long long)len);
	return 0;
}

int settle_chunk(struct settle *settle, char *addr, uint64_t len, const struct memfile *backing,
		 uint64_t backing_off, const struct memfile *from, uint64_t from_off)
{
	/* The chunk lies in a page-table page as it does in the region, so that the entry can move.
	 */
	const uint64_t skew = (uint64_t)(uintptr_t)addr & (SETTLE_CHUNK_BYTES - 1);
	char *old = settle->side + skew;
	char *fresh = settle->side + SETTLE_CHUNK_BYTES + skew;
	int r;

	r = map_fresh(fresh, len, backing, backing_off);
	if (!r)
		r = hold_begin(settle->uffd, addr, len, settle->is_adopting);
	if (r) {
		(void)space_clear(fresh, len);
		return r;
	}
	r = hold_take(settle->uffd, settle->pagemap, addr, len, old);
	if (!r) {
		r = from ? write_data(old, len, backing, backing_off, from, from_off)
			 : write_back(settle, old, len, backing, backing_off);
		if (!r && mremap(fresh, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
				 addr) == MAP_FAILED)
			r = err_raise_errno("cannot move a shared mapping into place");
		if (r)
			hold_give_back(settle->uffd, settle->pagemap, addr, len, old);
	}
	hold_end(settle->uffd, addr, len);
	(void)space_clear(old, len);
	(void)space_clear(fresh, len);
	return r;
}

/* Anonymous memory with what @from has, ready to be moved into place. */
static int copy_fresh(char *at, uint64_t len, const char *old, const struct memfile *from,
		      uint64_t from_off)
{
	off_t data = (off_t)from_off, hole;
	const uint64_t end = from_off + len;

	if (mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	    MAP_FAILED)
		return err_raise_errno("cannot map %llu bytes", (unsigned long long)len);
	while ((data = lseek(from->fd, data, SEEK_DATA)) >= 0 && (uint64_t)data < end) {
		uint64_t off = (uint64_t)data - from_off;

		hole = lseek(from->fd, data, SEEK_HOLE);
		memcpy(at + off, old + off, min_u64((uint64_t)hole, end) - (uint64_t)data);
		data = hole;
	}
	return 0;
}

int settle_revert_chunk(struct settle *settle, char *addr, uint64_t len, const struct memfile *from,
			uint64_t from_off)
{
	const uint64_t skew = (uint64_t)(uintptr_t)addr & (SETTLE_CHUNK_BYTES - 1);
	char *old = settle->side + skew;
	char *fresh = settle->side + SETTLE_CHUNK_BYTES + skew;
	int r;

	r = hold_begin(settle->uffd, addr, len, false);
	if (r)
		return r;
	r = hold_take(settle->uffd, settle->pagemap, addr, len, old);
	if (!r) {
		r = copy_fresh(fresh, len, old, from, from_off);
		if (!r && mremap(fresh, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
				 addr) == MAP_FAILED)
			r = err_raise_errno("cannot move anonymous memory into place");
		if (r)
			hold_give_back(settle->uffd, settle->pagemap, addr, len, old);
	}
	hold_end(settle->uffd, addr, len);
	(void)space_clear(old, len);
	(void)space_clear(fresh, len);
	return r;
}
