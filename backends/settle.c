// SPDX-License-Identifier: LGPL-2.1-or-later
// Bringing frozen memory back to its backing; see settle.h.
#include "config.h"

#include "backends/settle.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

#include "backends/hold.h"
#include "backends/protect.h"
#include "backends/space.h"
#include "common/err.h"

static uint64_t skew_of(const char *addr)
{
	return (uint64_t)(uintptr_t)addr & (SETTLE_CHUNK_BYTES - 1);
}

/*
 * The first or second half of @side for a chunk, which lies in a page-table page there as it does
 * in the region, so that the entry can move. A longer one would reach into what the program has
 * behind @side.
 */
static char *aside_of(const struct settle *settle, unsigned int half, const char *addr,
		      uint64_t len)
{
	assert(skew_of(addr) + len <= SETTLE_CHUNK_BYTES);
	return settle->side + half * SETTLE_CHUNK_BYTES + skew_of(addr);
}

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

static int find_private(struct settle *settle, char *addr, uint64_t len)
{
	const uint64_t end = (uint64_t)(uintptr_t)addr + len;
	uint64_t at = (uint64_t)(uintptr_t)addr;
	int r = 0;

	settle->n_runs = 0;
	while (!r && at < end && settle->n_runs + 2 <= ARRAY_SIZE(settle->runs)) {
		struct page_run *runs = &settle->runs[settle->n_runs];
		const size_t max = ARRAY_SIZE(settle->runs) - settle->n_runs;
		size_t n_found;

		r = settle->is_adopting
			    ? pagemap_not_zero(settle->pagemap, &at, end, runs, max, &n_found)
			    : pagemap_private(settle->pagemap, &at, end, runs, max, &n_found);
		settle->n_runs += n_found;
	}
	return r || at >= end ? r : err_raise(-E2BIG, "a chunk has too many changed pages");
}

/* Undo changes that the program made to it while it was in place (mprotect()). 0 or -errno */
static int prepare_shadow(struct settle *settle, const struct chunk *chunk)
{
	if (mprotect(chunk->shadow, chunk->len, PROT_READ | PROT_WRITE))
		return err_raise_errno("cannot give access to a shared mapping");
	return pagemap_present(settle->pagemap, chunk->shadow, chunk->len / page_size_bytes(),
			       settle->is_mapped);
}

static bool is_mapped(const struct settle *settle, uint64_t off, uint64_t len)
{
	const uint64_t page = page_size_bytes();

	for (uint64_t i = off / page; i < (off + len) / page; i++) {
		if (!settle->is_mapped[i])
			return false;
	}
	return true;
}

/* Write the private pages of the chunk, which are at @old now, to its backing. */
static int write_back(struct settle *settle, const struct chunk *chunk, char *old)
{
	const bool is_within = !memfile_is_past_limit(chunk->backing_off + chunk->len);
	int r = find_private(settle, old, chunk->len);
	/* The program may have taken access away from part of it. This does not give write access:
	 * the kernel would copy locked pages then, as if they were written. */
	const bool can_copy =
		!r && settle->n_runs && protect_show(old, chunk->len) >= 0 && chunk->shadow;

	for (size_t i = 0; !r && i < settle->n_runs; i++) {
		const struct page_run *run = &settle->runs[i];
		uint64_t off = run->addr - (uint64_t)(uintptr_t)old;

		if (can_copy && is_mapped(settle, off, run->len))
			memcpy(chunk->shadow + off, old + off, run->len);
		else if (is_within)
			r = memfile_write_within(chunk->backing, old + off, run->len,
						 chunk->backing_off + off);
		else
			r = memfile_write(chunk->backing, old + off, run->len,
					  chunk->backing_off + off);
		settle->n_pages += run->len / page_size_bytes();
	}
	return r;
}

/* Fill page tables at the runs. Their pages are in memory, having been written to the backing. */
static void populate_runs(const struct settle *settle)
{
	uint64_t done = 0;

	for (size_t i = 0; i < settle->n_runs; i++) {
		const struct page_run *run = &settle->runs[i];
		uint64_t from = max_u64(run->addr, done);

		if (from < run->addr + run->len)
			done = space_populate_known((char *)(uintptr_t)from,
						    run->addr + run->len - from);
	}
}

/*
 * Drop private pages that the backing has now, so that its pages show. Each call interrupts the
 * CPUs that the program runs on, so one call drops these pages, or else all of the chunk's pages.
 */
static int forget_private(const struct settle *settle, char *old, uint64_t len)
{
	int r;

	if (!settle->n_runs)
		return 0;
	if (!space_drop_runs(settle->runs, settle->n_runs)) {
		populate_runs(settle);
		return 0;
	}
	r = space_drop(old, len);
	if (r)
		return r;
	space_populate(old, len / page_size_bytes(), settle->is_mapped);
	return 0;
}

/* The mapping that was in place becomes the shadow of the one that is now. */
static int make_shadow(struct settle *settle, char *old, uint64_t len, char *shadow)
{
	if (protect_is_plain(old, len) && !forget_private(settle, old, len) &&
	    !space_move(old, len, shadow))
		return 0;
	(void)space_reserve_at(shadow, len);
	return SETTLE_E_SHADOW;
}

/* Read, looked at for zeroes and copied together: on the stack,
 * as malloc()'s own memory may wait. */
#define COPY_BYTES  ((size_t)16384)
#define BLOCK_BYTES ((size_t)4096)

/* All of @buf that is not zero, to @off of @to or, if that is NULL, to @at. 0 or -errno */
static int put_nonzero(const char *buf, size_t n_bytes, const struct memfile *to, uint64_t off,
		       char *at)
{
	int r = 0;

	for (size_t pos = 0, end; !r && pos < n_bytes; pos = end) {
		bool is_hole = is_zero(buf + pos, BLOCK_BYTES);

		end = pos + BLOCK_BYTES;
		while (end < n_bytes && is_zero(buf + end, BLOCK_BYTES) == is_hole)
			end += BLOCK_BYTES;
		if (is_hole)
			continue;
		if (to)
			r = memfile_write(to, buf + pos, end - pos, off + pos);
		else
			memcpy(at + pos, buf + pos, end - pos);
	}
	return r;
}

/*
 * Copy the bytes of @from into a range of zeroes. Pages of zeroes are left out, so that holes stay
 * holes. SEEK_DATA is not used to find holes of @from: until Linux 6.4 a page that khugepaged is
 * collapsing looks like one for a moment (commit a2e17cc2efc7), and its bytes would be lost here.
 */
static int copy_nonzero(const struct memfile *from, uint64_t from_off, uint64_t len,
			const struct memfile *to, uint64_t to_off, char *at)
{
	char buf[COPY_BYTES];
	uint64_t done = 0;
	int r = 0;

	while (!r && done < len) {
		const size_t n = min_u64(len - done, sizeof(buf));

		r = memfile_read(from, buf, n, from_off + done);
		if (!r)
			r = put_nonzero(buf, n, to, to_off + done, at ? at + done : NULL);
		done += n;
	}
	return r;
}

/* A shared mapping of the backing that no fork child gets, ready to be moved into place. */
static int map_fresh(char *at, const struct chunk *chunk)
{
	void *p = mmap(at, chunk->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		       chunk->backing->fd, (off_t)chunk->backing_off);

	if (p == MAP_FAILED || madvise(at, chunk->len, MADV_DONTFORK))
		return err_raise_errno("cannot map %llu bytes shared again",
				       (unsigned long long)chunk->len);
	return 0;
}

/* Move the mapping at @old back, except for the part that is mapped anew already. */
static void give_back(const struct settle *settle, char *addr, uint64_t len, char *old)
{
	const uint64_t done = settle->n_settled;

	protect_copy(addr + done, old + done, len - done);
	hold_give_back(settle->uffd, settle->pagemap, addr + done, len - done, old + done);
}

/* While threads that touch the chunk wait: its pages to @old, then @fresh in place. */
static int exchange(struct settle *settle, const struct chunk *chunk, char *old, char *fresh)
{
	int r;

	r = hold_take(settle->uffd, settle->pagemap, chunk->addr, chunk->len, old);
	if (r)
		return r;
	if (chunk->from)
		r = copy_nonzero(chunk->from, chunk->from_off, chunk->len, chunk->backing,
				 chunk->backing_off, NULL);
	else
		r = write_back(settle, chunk, old);
	if (!r)
		r = protect_move(fresh, chunk->len, chunk->addr, &settle->n_settled);
	if (r)
		give_back(settle, chunk->addr, chunk->len, old);
	return r;
}

static int exchange_held(struct settle *settle, const struct chunk *chunk, char *old, char *fresh)
{
	const uint64_t saved = hold_signals_block();
	int r = hold_begin(settle->uffd, chunk->addr, chunk->len, settle->is_adopting);

	if (!r) {
		r = exchange(settle, chunk, old, fresh);
		hold_end(settle->uffd, chunk->addr, chunk->len);
	}
	hold_signals_restore(saved);
	return r;
}

uint64_t settle_chunk_len(const char *addr, uint64_t len)
{
	return min_u64(SETTLE_CHUNK_BYTES - skew_of(addr), len);
}

int settle_chunk(struct settle *settle, const struct chunk *chunk)
{
	char *old = aside_of(settle, 0, chunk->addr, chunk->len);
	char *fresh = chunk->shadow ? chunk->shadow : aside_of(settle, 1, chunk->addr, chunk->len);
	int r;

	settle->n_settled = 0;
	r = chunk->shadow ? prepare_shadow(settle, chunk) : map_fresh(fresh, chunk);
	if (!r)
		r = exchange_held(settle, chunk, old, fresh);
	if (!r && chunk->shadow)
		r = make_shadow(settle, old, chunk->len, chunk->shadow);
	if (r || !chunk->shadow)
		(void)space_clear(old, chunk->len);
	if (!chunk->shadow)
		(void)space_clear(fresh, chunk->len);
	return r;
}

/* Anonymous memory with what @from has, ready to be moved into place. */
static int copy_fresh(char *at, uint64_t len, const struct memfile *from, uint64_t from_off)
{
	if (mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	    MAP_FAILED)
		return err_raise_errno("cannot map %llu bytes", (unsigned long long)len);
	return copy_nonzero(from, from_off, len, NULL, 0, at);
}

static int revert_held(struct settle *settle, char *addr, uint64_t len, const struct memfile *from,
		       uint64_t from_off, char *old, char *fresh)
{
	int r = hold_begin(settle->uffd, addr, len, false);

	settle->n_settled = 0;
	if (r)
		return r;
	r = hold_take(settle->uffd, settle->pagemap, addr, len, old);
	if (!r) {
		r = copy_fresh(fresh, len, from, from_off);
		if (!r)
			r = protect_move(fresh, len, addr, &settle->n_settled);
		if (r)
			give_back(settle, addr, len, old);
	}
	hold_end(settle->uffd, addr, len);
	return r;
}

int settle_revert_chunk(struct settle *settle, char *addr, uint64_t len, const struct memfile *from,
			uint64_t from_off)
{
	char *old = aside_of(settle, 0, addr, len), *fresh = aside_of(settle, 1, addr, len);
	uint64_t saved;
	int r;

	saved = hold_signals_block();
	r = revert_held(settle, addr, len, from, from_off, old, fresh);
	hold_signals_restore(saved);
	(void)space_clear(old, len);
	(void)space_clear(fresh, len);
	return r;
}
