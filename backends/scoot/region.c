// SPDX-License-Identifier: LGPL-2.1-or-later
// A region's extent map, and what is done to it outside of a take; see scoot.h.
#include "config.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backends/hold.h"
#include "backends/protect.h"
#include "backends/scoot/internal.h"
#include "backends/space.h"
#include "common/err.h"
#include "common/own-fd.h"

#define SPACE_HUGE_BYTES ((uint64_t)1 << 30)

/* Written back in less time than fork() takes for a small program. */
#define PAGES_CHEAP 128

int scoot_aside_new(struct scoot_aside **out, const char *like, uint64_t len)
{
	CLEANUP(scoot_aside_freep) struct scoot_aside *aside = calloc(1, sizeof(*aside));
	uint64_t align = len >= SPACE_HUGE_BYTES ? SPACE_HUGE_BYTES : SETTLE_CHUNK_BYTES;
	uint64_t skew = (uint64_t)(uintptr_t)like & (align - 1);
	int r;

	if (!aside)
		return err_oom(sizeof(*aside), "old page tables");
	/* A page behind it stays reserved, so that space_move() can ask what it asks. */
	aside->base_len = max_u64(len + skew, align) + page_size_bytes();
	r = space_reserve(&aside->base, aside->base_len);
	if (r)
		return r;
	aside->addr = aside->base + skew;
	aside->len = len;
	*out = steal_ptr(&aside);
	return 0;
}

struct scoot_aside *scoot_aside_free(struct scoot_aside *aside)
{
	if (aside)
		space_release(aside->base, aside->base_len);
	free(aside);
	return NULL;
}

void scoot_aside_push(struct scoot_region *region, struct scoot_aside *aside)
{
	pthread_mutex_lock(&region->asides_lock);
	aside->next = region->asides;
	region->asides = aside;
	pthread_mutex_unlock(&region->asides_lock);
}

/* Unmapping keeps other threads from mapping anything, so it comes when all is dropped. */
bool scoot_tidy_step(struct scoot_region *region)
{
	struct scoot_aside *aside, **link;

	pthread_mutex_lock(&region->asides_lock);
	aside = region->asides;
	pthread_mutex_unlock(&region->asides_lock);
	if (!aside)
		return false;
	if (space_drop_step(aside->addr, aside->len, &aside->done))
		return true;
	pthread_mutex_lock(&region->asides_lock);
	for (link = &region->asides; *link != aside; link = &(*link)->next)
		;
	*link = aside->next;
	pthread_mutex_unlock(&region->asides_lock);
	scoot_aside_free(aside);
	return true;
}

int scoot_region_new(struct scoot_region **out, char *addr, struct memfile *home, int *uffd)
{
	CLEANUP(scoot_region_freep) struct scoot_region *region = calloc(1, sizeof(*region));
	int r;

	if (!region)
		return err_oom(sizeof(*region), "a region");
	region->uffd = -1;
	pthread_mutex_init(&region->asides_lock, NULL);
	region->addr = addr;
	region->size_bytes = home->size_bytes;
	region->n_pages_cheap = PAGES_CHEAP;
	region->home = memfile_ref(home);
	r = extents_init(&region->map, home, home->size_bytes, true);
	if (!r)
		r = pagemap_init(&region->pagemap);
	/* Without it the first take makes its own, and says so if it cannot. */
	if (!r && *uffd >= 0)
		(void)scoot_aside_new(&region->reserve, addr, home->size_bytes);
	if (!r && *uffd >= 0) {
		r = hold_init(*uffd);
		if (!r)
			r = settle_init(&region->settle, *uffd, &region->pagemap);
	}
	if (r)
		return r;
	if (madvise(addr, region->size_bytes, MADV_DONTFORK))
		return err_raise_errno("cannot keep a region from fork children");
	region->uffd = own_fd_note(fd_steal(uffd));
	*out = steal_ptr(&region);
	return 0;
}

/* Old page tables and the chunk's side were not inherited: those addresses may become anything. */
void scoot_region_forked(struct scoot_region *region)
{
	pthread_mutex_init(&region->asides_lock, NULL);
	region->asides = NULL;
	free(region->shadow);
	free(region->reserve);
	region->shadow = region->reserve = NULL;
	region->shadow_is_early = false;
	region->shadow_is_bare = false;
	region->settle.side = NULL;
	region->uffd = own_fd_close(region->uffd);
}

struct scoot_region *scoot_region_free(struct scoot_region *region)
{
	struct scoot_aside *aside;

	if (!region)
		return NULL;
	while ((aside = region->asides)) {
		region->asides = aside->next;
		scoot_aside_free(aside);
	}
	scoot_aside_free(region->shadow);
	scoot_aside_free(region->reserve);
	if (region->settle.side)
		settle_deinit(&region->settle);
	region->uffd = own_fd_close(region->uffd);
	extents_deinit(&region->map);
	memfile_unref(region->second);
	memfile_unref(region->home);
	pthread_mutex_destroy(&region->asides_lock);
	free(region);
	return NULL;
}

/*
 * Under mlockall(MCL_FUTURE) the kernel populates a new writable private mapping before mmap()
 * returns: a copy of the whole region. Seen by what it does to one page, the same each time, whose
 * earlier mapping goes with the new one; threads that do this at once see the same.
 */
bool scoot_is_locking(void)
{
	static _Atomic(void *) known;
	const size_t page = page_size_bytes();
	void *probe = atomic_load(&known);
	unsigned char is_present = 0;

	probe = mmap(probe, page, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | (probe ? MAP_FIXED : 0), -1, 0);
	if (probe == MAP_FAILED)
		return errno == EAGAIN; /* RLIMIT_MEMLOCK */
	(void)mincore(probe, page, &is_present);
	atomic_store(&known, probe);
	return is_present & 1;
}

/*
 * A private mapping that mlockall(MCL_FUTURE) has not populated, to be moved into place: what
 * cannot be accessed is not, and what is not locked stays as it is when it can be.
 * (populate_vma_page_range() and mprotect_fixup() in mm/, so since 2.6.)
 */
static int map_unlocked(char **out, uint64_t len, int fd, uint64_t off)
{
	char *fresh = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE, fd, (off_t)off);
	int r;

	if (fresh == MAP_FAILED)
		return err_raise_errno(
			"cannot freeze %llu bytes: mlockall(MCL_FUTURE) is in effect, "
			"and RLIMIT_MEMLOCK has to have room for a second mapping",
			(unsigned long long)len);
	/* The bare call: sanitizers make munlock() do nothing. */
	if (!syscall(SYS_munlock, fresh, len) && !mprotect(fresh, len, PROT_READ | PROT_WRITE)) {
		*out = fresh;
		return 0;
	}
	r = err_raise_errno("cannot freeze %llu bytes under mlockall(MCL_FUTURE)",
			    (unsigned long long)len);
	(void)munmap(fresh, len);
	return r;
}

/* As scoot_map_private(), but all or nothing, at one instant, and for reading and writing. */
static int map_at_once(char *addr, uint64_t len, int fd, uint64_t off)
{
	char *fresh;
	int r = 0;

	if (scoot_is_locking()) {
		r = map_unlocked(&fresh, len, fd, off);
		if (r)
			return r;
		if (space_move(fresh, len, addr))
			r = err_raise_errno("cannot freeze %llu bytes", (unsigned long long)len);
		(void)munmap(fresh, len);
	} else if (space_map(addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd,
			     off)) {
		r = err_raise_errno("cannot freeze %llu bytes", (unsigned long long)len);
	}
	/* Fails only if there are too many mappings; then a fork
	 * child has frozen memory, no harm. */
	if (!r)
		(void)madvise(addr, len, MADV_DONTFORK);
	return r;
}

int scoot_map_private(const struct scoot_region *region, const struct extent *run, uint64_t off,
		      uint64_t len, uint64_t *done)
{
	const uint64_t backing_off = run->backing_off + (off - run->off);
	char *addr = region->addr + off, *fresh;
	int r;

	*done = 0;
	if (scoot_is_locking()) {
		r = map_unlocked(&fresh, len, run->backing->fd, backing_off);
		if (r)
			return r;
		r = protect_move(fresh, len, addr, done);
		(void)munmap(fresh, len);
	} else {
		r = protect_map(addr, len, MAP_PRIVATE | MAP_NORESERVE, run->backing->fd,
				backing_off, done);
	}
	if (*done)
		(void)madvise(addr, *done, MADV_DONTFORK);
	return r;
}

/*
 * Freeze one owned run, or part of it, if the program has taken away access to parts: those are
 * mappings of their own, so there is no single instant, and threads wait meanwhile. If an error
 * comes between two of them, the @done bytes before it are frozen. The run's pages are at @pages
 * afterwards.
 *
 * Without a userfaultfd no thread can be made to wait: then one call maps all, and access is taken
 * away again.
 */
static int exchange_protected(struct scoot_region *region, const struct extent *run, uint64_t off,
			      uint64_t len, char *pages, uint64_t *done)
{
	const uint64_t backing_off = run->backing_off + (off - run->off);
	char *addr = region->addr + off;
	int r = hold_take(region->uffd, &region->pagemap, addr, len, pages);

	*done = 0;
	if (r) /* nothing was moved, or it is back */
		return r;
	if (region->uffd >= 0) {
		r = scoot_map_private(region, run, off, len, done);
	} else {
		r = map_at_once(addr, len, run->backing->fd, backing_off);
		*done = r ? 0 : len;
		protect_copy(pages, addr, *done);
	}
	if (r)
		hold_give_back(region->uffd, &region->pagemap, addr + *done, len - *done,
			       pages + *done);
	return r;
}

static int freeze_protected(struct scoot_region *region, struct extent run, uint64_t off,
			    uint64_t len)
{
	CLEANUP(scoot_aside_freep) struct scoot_aside *aside = NULL;
	char *addr = region->addr + off;
	uint64_t saved, done = 0;
	int r = scoot_aside_new(&aside, addr, len);

	if (r)
		return r;
	saved = hold_signals_block();
	r = hold_begin(region->uffd, addr, len, false);
	if (!r) {
		r = exchange_protected(region, &run, off, len, aside->addr, &done);
		hold_end(region->uffd, addr, len);
	}
	hold_signals_restore(saved);
	if (done)
		extents_set(&region->map, off, done, run.backing, run.backing_off + (off - run.off),
			    false);
	if (done == region->size_bytes)
		region->is_populated = false;
	scoot_aside_push(region, steal_ptr(&aside));
	return r;
}

/* One owned run, or part of it, with a mapping that has no page tables yet. */
static int freeze_part(struct scoot_region *region, struct extent run, uint64_t off, uint64_t len)
{
	CLEANUP(scoot_aside_freep) struct scoot_aside *aside = NULL;
	const uint64_t backing_off = run.backing_off + (off - run.off);
	int r = 0;

	if (len == region->size_bytes && region->reserve)
		aside = steal_ptr(&region->reserve);
	else
		r = scoot_aside_new(&aside, region->addr + off, len);
	if (!r)
		r = hold_take(region->uffd, &region->pagemap, region->addr + off, len, aside->addr);
	if (r)
		return r;
	r = map_at_once(region->addr + off, len, run.backing->fd, backing_off);
	if (r) { /* the shared mapping is still in place, and its page tables come back */
		scoot_aside_push(region, steal_ptr(&aside));
		return r;
	}
	extents_set(&region->map, off, len, run.backing, backing_off, false);
	if (len < region->size_bytes) {
		scoot_aside_push(region, steal_ptr(&aside));
		return 0;
	}
	region->is_populated = false;
	scoot_shadow_keep(region, &aside);
	return 0;
}

/* A part that is one run may be one mapping as well, whatever its protection. */
static bool is_plain(const struct scoot_region *region, uint64_t off, uint64_t len)
{
	return len == region->size_bytes ? protect_is_plain_or_whole(region->addr, len)
					 : protect_is_plain(region->addr + off, len);
}

static int freeze_run(struct scoot_region *region, struct extent run, uint64_t off, uint64_t len)
{
	int r = extents_reserve(&region->map, 1);

	if (r)
		return r;
	if (!is_plain(region, off, len)) {
		scoot_shadow_drop(region);
		return freeze_protected(region, run, off, len);
	}
	if (region->shadow && len == region->size_bytes) {
		r = scoot_shadow_swap_all(region);
		if (!r)
			extents_set(&region->map, off, len, run.backing, run.backing_off, false);
		if (r != SCOOT_E_SHADOW)
			return r;
	}
	if (region->shadow)
		scoot_shadow_drop(region);
	return freeze_part(region, run, off, len);
}

int scoot_check_descriptors(const struct scoot_region *region)
{
	int r = memfile_check(region->home);

	return r ? r : pagemap_check(&region->pagemap);
}

int scoot_freeze(struct scoot_region *region, uint64_t off, uint64_t len)
{
	int r = scoot_check_descriptors(region);

	return r ? r : scoot_freeze_checked(region, off, len);
}

int scoot_freeze_checked(struct scoot_region *region, uint64_t off, uint64_t len)
{
	const uint64_t end = off + len;
	int r = 0;

	while (!r && off < end) {
		struct extent run = region->map.runs[extents_find(&region->map, off)];
		uint64_t n = min_u64(run.off + run.len, end) - off;

		if (run.owned)
			r = freeze_run(region, run, off, n);
		off += n;
	}
	return r;
}

/* Whether a run may become owned, or what is owned elsewhere may come home. */
static bool is_settleable(const struct scoot_region *region, const struct extent *run, uint64_t off,
			  uint64_t len)
{
	if (run->owned)
		return run->backing == region->second &&
		       !extents_is_shared(region->home, off, len, NULL);
	return run->backing->fd >= 0 &&
	       !extents_is_shared(run->backing, run->backing_off, run->len, &region->map);
}

/* The next chunk from settle_at on that may be settled; false when there is none to the end. */
static bool find_settleable(struct scoot_region *region, struct chunk *chunk, uint64_t *off)
{
	const struct extents *map = &region->map;
	uint64_t at = region->settle_at;

	for (size_t i = extents_find(map, at); i < map->n_runs; i++) {
		const struct extent *run = &map->runs[i];
		uint64_t start = max_u64(at, run->off);
		uint64_t n = settle_chunk_len(region->addr + start, run->off + run->len - start);
		uint64_t run_off = run->backing_off + (start - run->off);

		if (!is_settleable(region, run, start, n))
			continue;
		*off = start;
		*chunk = (struct chunk){
			.addr = region->addr + start,
			.len = n,
			.backing = run->owned ? region->home : run->backing,
			.backing_off = run->owned ? start : run_off,
			.from = run->owned ? run->backing : NULL,
			.from_off = run_off,
			.shadow = scoot_shadow_to_settle(region, start),
		};
		return true;
	}
	return false;
}

int scoot_settle_step(struct scoot_region *region, bool *more)
{
	struct chunk chunk;
	uint64_t off;
	int r;

	*more = false;
	if (region->uffd < 0 || extents_is_owned(&region->map))
		return 0;
	r = scoot_check_descriptors(region);
	if (r)
		return r;
	scoot_reserve_clear(region);
	if (region->settle_at >= region->size_bytes)
		region->settle_at = 0;
	if (!find_settleable(region, &chunk, &off)) {
		*more = region->settle_at != 0;
		region->settle_at = 0;
		return 0;
	}
	r = extents_reserve(&region->map, 1);
	/* Bytes that home kept for snapshots that are gone must not show in holes of @from. */
	if (!r && chunk.from)
		r = scoot_punch(chunk.backing, chunk.backing_off, chunk.len);
	if (r)
		return r;
	r = settle_chunk(&region->settle, &chunk);
	if (r && chunk.shadow)
		scoot_shadow_drop(region);
	if (region->settle.n_settled)
		extents_set(&region->map, off, region->settle.n_settled, chunk.backing,
			    chunk.backing_off, true);
	region->wants_trim |= chunk.from != NULL;
	if (r < 0) {
		*more = chunk.shadow; /* tried again without it */
		return chunk.shadow ? 0 : r;
	}
	region->settle_at = off + chunk.len;
	*more = !extents_is_owned(&region->map);
	return 0;
}
