// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Pages that are not as a write of the program leaves them, and yet are its writes: every way of
 * looking for private pages counts them.
 */
#include "config.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backends/mmapcopy/mmapcopy.h"
#include "backends/scoot/internal.h"
#include "tests/unit/scoot-fixture.h"

#define REGION_BYTES ((uint64_t)4 << 20)

/* Under the thread sanitizer a child made with a bare clone(2) hangs. */
#ifdef __SANITIZE_THREAD__
#define N_CONFIGS_TESTED WITHOUT_UFFD
#else
#define N_CONFIGS_TESTED N_CONFIGS
#endif

/* --- the zero page ---------------------------------------------------------------------------- */

/*
 * Every second page is cleared by the program, and the kernel's zero page takes its place: what
 * KSM does with use_zero_pages, done here by a userfaultfd.
 */
static void clear_and_merge(struct scoot_region *region)
{
	const uint64_t page = page_size_bytes();
	AUTO_FD int uffd = make_uffd();

	ck_assert_int_eq(uffdio_api(uffd, UFFD_FEATURE_MISSING_SHMEM, NULL), 0);
	ck_assert_int_eq(uffdio_register(uffd, (uint64_t)(uintptr_t)region->addr, REGION_BYTES,
					 UFFDIO_REGISTER_MODE_MISSING),
			 0);
	for (uint64_t off = 0; off < REGION_BYTES; off += 2 * page) {
		ck_assert_int_eq(madvise(region->addr + off, page, MADV_DONTNEED), 0);
		ck_assert_int_eq(
			uffdio_zeropage(uffd, (uint64_t)(uintptr_t)region->addr + off, page), 0);
	}
	ck_assert_int_eq(uffdio_unregister(uffd, (uint64_t)(uintptr_t)region->addr, REGION_BYTES),
			 0);
}

static void fill(char *pages)
{
	memset(pages, 0xaa, REGION_BYTES);
}

/* @every_second: of the pages that were cleared */
static bool is_as_filled(const char *pages, char every_second)
{
	const uint64_t page = page_size_bytes();

	for (uint64_t off = 0; off < REGION_BYTES; off++) {
		if (pages[off] != (off / page % 2 ? (char)0xaa : every_second))
			return false;
	}
	return true;
}

static bool snapshot_is(const struct scoot_snapshot *snap, char every_second)
{
	CLEANUP(freep) char *buf = malloc(REGION_BYTES);

	ck_assert_int_eq(scoot_snapshot_read(snap, buf, REGION_BYTES, 0), 0);
	return is_as_filled(buf, every_second);
}

/*
 * Seen to fail: with PAGE_IS_PFNZERO left out of what pagemap_private() finds, a roll-back leaves
 * the zeroes, and a second snapshot taken by a child has what the first has.
 */
START_TEST(zero_pages_are_rolled_back_and_kept)
{
	struct scoot_region *region = make_region(REGION_BYTES, (enum config)_i);
	struct scoot_snapshot *first, *second;

	fill(region->addr);
	first = take(region);
	clear_and_merge(region);
	second = take(region);
	ck_assert(snapshot_is(first, (char)0xaa));
	ck_assert(snapshot_is(second, 0));
	ck_assert_int_eq(scoot_rollback(region, first), 0);
	ck_assert(is_as_filled(region->addr, (char)0xaa));
	ck_assert_int_eq(scoot_rollback(region, second), 0);
	ck_assert(is_as_filled(region->addr, 0));
	scoot_snapshot_free(first);
	scoot_snapshot_free(second);
	end_region(region);
}
END_TEST

/* Seen to fail: as above, what is settled is the snapshot's. */
START_TEST(zero_pages_are_settled)
{
	struct scoot_region *region = make_region(REGION_BYTES, (enum config)_i);

	fill(region->addr);
	scoot_snapshot_free(take(region));
	clear_and_merge(region);
	settle_all(region);
	ck_assert(extents_is_owned(&region->map));
	ck_assert(is_as_filled(region->addr, 0));
	end_region(region);
}
END_TEST

/* Seen to fail: as above, the copy has what the snapshot has. */
START_TEST(zero_pages_are_copied)
{
	struct scoot_region *region = make_region(REGION_BYTES, (enum config)_i);
	struct scoot_region *copy = make_region(REGION_BYTES, (enum config)_i);

	fill(region->addr);
	scoot_snapshot_free(take(region));
	clear_and_merge(region);
	ck_assert_uint_eq(mmapcopy_pages(copy, 0, region, 0, REGION_BYTES), REGION_BYTES);
	ck_assert(is_as_filled(copy->addr, 0));
	ck_assert(is_as_filled(region->addr, 0));
	end_region(copy);
	end_region(region);
}
END_TEST

/* --- locked pages ----------------------------------------------------------------------------- */

/* The bare call: sanitizers make mlock() do nothing. */
static bool lock(const char *pages)
{
	return !syscall(SYS_mlock, pages, REGION_BYTES);
}

static bool may_lock(void)
{
	char *pages = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			   -1, 0);
	bool may = pages != MAP_FAILED && lock(pages);

	(void)munmap(pages, REGION_BYTES);
	if (!may)
		fprintf(stderr, "no memory may be locked here: those tests are left out\n");
	return may;
}

/*
 * Seen to fail: with MADV_DONTNEED instead of MADV_DONTNEED_LOCKED in space_drop(), each roll-back
 * is refused with EINVAL.
 */
START_TEST(locked_memory_is_rolled_back)
{
	struct scoot_region *region = make_region(REGION_BYTES, (enum config)_i);
	struct scoot_snapshot *snap;

	fill(region->addr);
	snap = take(region);
	ck_assert(lock(region->addr));
	for (int i = 0; i < 2 * 64; i++) { /* each of the ways that struct roll chooses from */
		region->addr[(uint64_t)i * page_size_bytes()] = 1;
		ck_assert_msg(!scoot_rollback(region, snap), "%s", err_sentence());
		ck_assert(is_as_filled(region->addr, (char)0xaa));
	}
	scoot_snapshot_free(snap);
	end_region(region);
}
END_TEST

/*
 * Seen to fail: as above, with MADV_DONTNEED in space_drop_runs(): refused once, it is not tried
 * again in this process. (Before Linux 6.13 it is refused from the start.)
 */
START_TEST(locked_memory_is_dropped_in_runs)
{
	struct scoot_region *region = make_region(REGION_BYTES, WITH_SCAN);
	struct page_run run = {.addr = (uint64_t)(uintptr_t)region->addr, .len = REGION_BYTES};
	struct scoot_snapshot *snap;
	int r;

	fill(region->addr);
	snap = take(region);
	memset(region->addr, 1, REGION_BYTES);
	r = space_drop_runs(&run, 1);
	ck_assert(lock(region->addr));
	memset(region->addr, 1, REGION_BYTES);
	ck_assert_int_eq(space_drop_runs(&run, 1), r);
	ck_assert_int_eq(space_drop(region->addr, REGION_BYTES), 0);
	ck_assert(is_as_filled(region->addr, (char)0xaa));
	scoot_snapshot_free(snap);
	end_region(region);
}
END_TEST

static uint64_t n_private(const struct scoot_region *region)
{
	uint64_t at = (uint64_t)(uintptr_t)region->addr, end = at + REGION_BYTES, n = 0;
	struct page_run runs[64];
	size_t n_runs;

	while (at < end) {
		ck_assert_int_eq(pagemap_private(&region->pagemap, &at, end, runs, 64, &n_runs), 0);
		for (size_t i = 0; i < n_runs; i++)
			n += runs[i].len / page_size_bytes();
	}
	return n;
}

/*
 * mlockall() with MCL_FUTURE and without MCL_ONFAULT has the kernel fill private mappings with
 * copies when they are made: none of the region is copied by any of this.
 *
 * Seen to fail: with takes refused with EBUSY as long as the call is in effect, and with a
 * scoot_is_locking() that says no, where all of the region is private after the first take.
 */
START_TEST(mlockall_copies_nothing)
{
	struct scoot_region *region = make_region(REGION_BYTES, (enum config)_i);
	struct scoot_region *copy = make_region(REGION_BYTES, (enum config)_i);
	struct scoot_snapshot *first, *second;

	fill(region->addr);
	/* The bare call: sanitizers make mlockall() do nothing. */
	ck_assert_int_eq(syscall(SYS_mlockall, MCL_FUTURE), 0);
	first = take(region);
	ck_assert_uint_eq(n_private(region), 0);
	region->addr[0] = 1;
	second = take(region);
	region->addr[0] = 2;
	ck_assert_uint_eq(n_private(region), 1);
	ck_assert(snapshot_is(first, (char)0xaa));
	ck_assert_int_eq(scoot_rollback(region, first), 0);
	ck_assert(is_as_filled(region->addr, (char)0xaa));
	ck_assert_uint_eq(mmapcopy_pages(copy, 0, region, 0, REGION_BYTES), REGION_BYTES);
	ck_assert_uint_eq(n_private(copy), 0);
	ck_assert_int_eq(scoot_rollback(region, second), 0);
	ck_assert_int_eq(region->addr[0], 1);
	ck_assert(is_as_filled(copy->addr, (char)0xaa));
	scoot_snapshot_free(first);
	scoot_snapshot_free(second);
	end_region(copy);
	if (region->uffd >= 0)
		settle_all(region);
	ck_assert_int_eq(syscall(SYS_munlockall), 0);
	scoot_snapshot_free(take(region));
	ck_assert_int_eq(region->addr[0], 1);
	end_region(region);
}
END_TEST

/*
 * A region whose address is no multiple of 2 MiB is settled in chunks that end where page-table
 * pages do. Seen to fail with chunks that end at multiples of 2 MiB of the region: memory of the
 * program behind the address space set aside for them became PROT_NONE.
 */
START_TEST(settling_leaves_its_neighbours_alone)
{
	const uint64_t size_bytes = SETTLE_CHUNK_BYTES + SETTLE_CHUNK_BYTES / 2;
	const uint64_t side_bytes = 2 * SETTLE_CHUNK_BYTES;
	const uint64_t skew = SETTLE_CHUNK_BYTES / 4 * 3;
	struct scoot_region *region;
	struct scoot_snapshot *snap;
	char *addr, *around, *side;

	ck_assert_int_eq(space_reserve(&addr, skew + size_bytes), 0);
	ck_assert_int_eq(space_reserve(&around, 2 * side_bytes), 0);
	region = make_region_at(addr + skew, size_bytes, WITH_SCAN);
	space_release(region->settle.side, side_bytes);
	side = region->settle.side = around + SETTLE_CHUNK_BYTES;
	ck_assert_int_eq(mprotect(around, SETTLE_CHUNK_BYTES, PROT_READ | PROT_WRITE), 0);
	ck_assert_int_eq(mprotect(side + side_bytes, SETTLE_CHUNK_BYTES, PROT_READ | PROT_WRITE),
			 0);
	memset(around, 1, SETTLE_CHUNK_BYTES);
	memset(side + side_bytes, 2, SETTLE_CHUNK_BYTES);
	memset(region->addr, 3, size_bytes);
	snap = take(region);
	memset(region->addr, 4, size_bytes);
	scoot_snapshot_free(snap);
	scoot_shadow_drop(region); /* with one, only half of the side is used */
	settle_all(region);
	for (uint64_t off = 0; off < SETTLE_CHUNK_BYTES; off++) {
		ck_assert_int_eq(around[off], 1);
		ck_assert_int_eq(side[side_bytes + off], 2);
	}
	for (uint64_t off = 0; off < size_bytes; off++)
		ck_assert_int_eq(region->addr[off], 4);
	ck_assert(extents_is_owned(&region->map));
	region->settle.side = NULL;
	scoot_region_free(region);
	space_release(addr, skew + size_bytes);
	space_release(around, 2 * side_bytes);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("pages");

	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, zero_pages_are_rolled_back_and_kept, 0, N_CONFIGS_TESTED);
	tcase_add_loop_test(tcase, zero_pages_are_settled, 0, WITHOUT_UFFD);
	tcase_add_loop_test(tcase, zero_pages_are_copied, 0, N_CONFIGS_TESTED);
	tcase_add_test(tcase, settling_leaves_its_neighbours_alone);
	if (may_lock()) {
		tcase_add_loop_test(tcase, locked_memory_is_rolled_back, 0, N_CONFIGS_TESTED);
		tcase_add_test(tcase, locked_memory_is_dropped_in_runs);
		tcase_add_loop_test(tcase, mlockall_copies_nothing, 0, N_CONFIGS_TESTED);
	}
	return run_with_uffd(tcase);
}
