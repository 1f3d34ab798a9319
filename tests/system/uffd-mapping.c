/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mode uffd, and what another part of the program does to the mapping of a region: frees pages of
 * it, divides it, moves or unmaps parts. Snapshots are right or lost, no thread is left waiting.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "system/proof.h"

enum {
	/* Not a multiple of a huge page; so large that it is frozen by a move where that can be. */
	REGION_PAGES = 4096 + 513,
	/* Smaller than that. */
	SMALL_PAGES = 700,
	SEED = 7,
	N_STORM_WRITERS = 4,
	N_STORM_SNAPSHOTS = 12,
};

static const size_t sizes_pages[] = {SMALL_PAGES, REGION_PAGES};

#define N_SIZES ((int)ARRAY_SIZE(sizes_pages))

struct frozen {
	struct cow_region *region;
	struct cow_snapshot *snap;
	char *memory;
	size_t n_bytes;
};

/* A region full of bytes, and a snapshot of it. */
static void freeze(struct frozen *frozen, size_t n_pages)
{
	*frozen = (struct frozen){.n_bytes = n_pages * page_size_bytes()};
	frozen->region = proof_region(COW_MODE_UFFD, frozen->n_bytes);
	frozen->memory = cow_region_address(frozen->region);
	proof_fill(frozen->memory, frozen->n_bytes, SEED);
	proof_ok(cow_snapshot_new(&frozen->snap, frozen->region));
}

static void thaw(struct frozen *frozen)
{
	cow_snapshot_unref(frozen->snap);
	cow_region_unref(frozen->region);
}

static char *page_at(const struct frozen *frozen, size_t idx)
{
	return frozen->memory + idx * page_size_bytes();
}

static void advise(const struct frozen *frozen, size_t first, size_t n, int advice)
{
	ck_assert_msg(!madvise(page_at(frozen, first), n * page_size_bytes(), advice),
		      "madvise(%d): %s", advice, strerrordesc_np(errno));
}

/* Page @idx of the snapshot, which has it or is lost. */
static int read_page(const struct frozen *frozen, size_t idx)
{
	CLEANUP(freep) char *page = proof_alloc(page_size_bytes());
	const uint64_t off = idx * page_size_bytes();
	int r = cow_snapshot_read(frozen->snap, page, page_size_bytes(), off);

	ck_assert_msg(r || proof_is_filled(page, page_size_bytes(), SEED, off),
		      "page %zu of the snapshot is not what it was", idx);
	return r;
}

static void check_lost(int r)
{
	ck_assert_int_eq(r, -ESTALE);
	ck_assert_msg(strstr(cow_last_error(), "MADV_REMOVE"), "%s", cow_last_error());
}

/* Seen to fail without UFFD_FEATURE_EVENT_REMOVE: zeroes were read, and no error. */
START_TEST(pages_that_were_removed_are_lost_never_zeroes)
{
	struct frozen frozen;

	freeze(&frozen, sizes_pages[_i]);
	advise(&frozen, 100, 50, MADV_REMOVE);
	ck_assert_int_eq(read_page(&frozen, 99), 0);
	ck_assert_int_eq(read_page(&frozen, 150), 0);
	check_lost(read_page(&frozen, 149));
	check_lost(read_page(&frozen, 0));
	thaw(&frozen);
}
END_TEST

/* By a save, which asks for holes first. Seen to fail as above. */
START_TEST(removed_pages_are_not_saved_as_holes)
{
	AUTO_FD int fd = proof_file();
	struct frozen frozen;

	freeze(&frozen, sizes_pages[_i]);
	advise(&frozen, 0, sizes_pages[_i], MADV_REMOVE);
	check_lost(cow_snapshot_save(frozen.snap, fd, NULL, NULL));
	thaw(&frozen);
}
END_TEST

/*
 * The program touches what it removed: then memory has it again, as zeroes. Seen to fail in the
 * smaller region with pages in memory taken for never removed where only writes are faults.
 */
START_TEST(removed_pages_that_come_back_are_lost)
{
	struct frozen frozen;

	freeze(&frozen, sizes_pages[_i]);
	advise(&frozen, 100, 50, MADV_REMOVE);
	ck_assert_int_eq(*(volatile char *)page_at(&frozen, 120), 0);
	*page_at(&frozen, 130) = 1;
	check_lost(read_page(&frozen, 120));
	check_lost(read_page(&frozen, 130));
	thaw(&frozen);
}
END_TEST

/*
 * The kernel cannot divide a huge page that somebody has pinned: removed parts of it stay in
 * memory, as zeroes. Seen to fail in the larger region, with huge pages for all shared memory
 * (tests/with-huge-pages.sh), with pages in memory taken for never removed: zeroes were read.
 */
START_TEST(removed_pages_that_are_pinned_are_lost)
{
	struct frozen frozen;
	int pipe_fds[2];

	freeze(&frozen, sizes_pages[_i]);
	proof_ok(pipe(pipe_fds) ? -errno : 0);
	for (size_t i = 0; i < 8; i++) {
		struct iovec iov = {page_at(&frozen, 100 + i * 64), 16};

		ck_assert_int_eq(vmsplice(pipe_fds[1], &iov, 1, 0), 16);
	}
	advise(&frozen, 100, 500, MADV_REMOVE);
	check_lost(read_page(&frozen, 300));
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	thaw(&frozen);
}
END_TEST

START_TEST(pages_kept_before_they_were_removed_are_right)
{
	struct frozen frozen;

	freeze(&frozen, sizes_pages[_i]);
	memset(page_at(&frozen, 100), 1, 50 * page_size_bytes());
	advise(&frozen, 100, 50, MADV_REMOVE);
	proof_check_snapshot(frozen.snap, SEED);
	thaw(&frozen);
}
END_TEST

/*
 * A page that was removed has not the bytes to go back to, and no store has them. Seen to fail with
 * pages that no store has taken for unchanged: 0, and zeroes in the region.
 */
START_TEST(removed_pages_are_not_rolled_back_to_zeroes)
{
	struct frozen frozen;

	freeze(&frozen, sizes_pages[_i]);
	memset(page_at(&frozen, 10), 1, page_size_bytes());
	advise(&frozen, 100, 50, MADV_REMOVE);
	check_lost(cow_region_rollback(frozen.region, frozen.snap));
	ck_assert_int_eq(*page_at(&frozen, 10), 1);
	thaw(&frozen);
}
END_TEST

START_TEST(pages_kept_before_they_were_removed_are_rolled_back)
{
	struct frozen frozen;

	freeze(&frozen, sizes_pages[_i]);
	memset(page_at(&frozen, 100), 1, 50 * page_size_bytes());
	advise(&frozen, 100, 50, MADV_REMOVE);
	proof_ok(cow_region_rollback(frozen.region, frozen.snap));
	ck_assert(proof_is_filled(frozen.memory, frozen.n_bytes, SEED, 0));
	thaw(&frozen);
}
END_TEST

/* One event is of both advices. */
START_TEST(advice_that_frees_nothing_loses_nothing)
{
	struct frozen frozen;

	freeze(&frozen, sizes_pages[_i]);
	*page_at(&frozen, 5) = 1;
	advise(&frozen, 0, sizes_pages[_i], MADV_DONTNEED);
	*page_at(&frozen, 6) = 1;
	proof_check_snapshot(frozen.snap, SEED);
	ck_assert_int_eq(*page_at(&frozen, 5), 1);
	ck_assert(proof_is_filled(page_at(&frozen, 7), page_size_bytes(), SEED,
				  7 * page_size_bytes()));
	thaw(&frozen);
}
END_TEST

START_TEST(pages_removed_between_snapshots_are_zeroes_in_the_next)
{
	CLEANUP(freep) char *page = proof_alloc(page_size_bytes());
	struct frozen frozen;

	freeze(&frozen, sizes_pages[_i]);
	frozen.snap = cow_snapshot_unref(frozen.snap);
	advise(&frozen, 0, 10, MADV_REMOVE);
	proof_ok(cow_snapshot_new(&frozen.snap, frozen.region));
	proof_ok(cow_snapshot_read(frozen.snap, page, page_size_bytes(), 0));
	for (size_t i = 0; i < page_size_bytes(); i++)
		ck_assert_int_eq(page[i], 0);
	ck_assert_int_eq(read_page(&frozen, 10), 0);
	thaw(&frozen);
}
END_TEST

/*
 * Linux before 6.4 protects no range that is more than one mapping: seen to fail there, as a
 * snapshot refused with EFAULT, without going on by parts.
 */
START_TEST(a_divided_region_is_frozen)
{
	struct frozen frozen;

	freeze(&frozen, sizes_pages[_i]);
	frozen.snap = cow_snapshot_unref(frozen.snap);
	advise(&frozen, 3, 1, MADV_DONTDUMP);
	ck_assert_int_eq(mlock(page_at(&frozen, 77), page_size_bytes()), 0);
	ck_assert_int_eq(mprotect(page_at(&frozen, 600), page_size_bytes(), PROT_READ), 0);
	proof_ok(cow_snapshot_new(&frozen.snap, frozen.region));
	for (size_t i = sizes_pages[_i]; i-- > 0;) /* the last one first */
		if (i != 600)
			memset(page_at(&frozen, i), 1, page_size_bytes());
	proof_check_snapshot(frozen.snap, SEED);
	thaw(&frozen);
}
END_TEST

/* Its memory is cowd's as well, so what is not mapped any more is frozen all the same. */
START_TEST(a_hole_in_the_mapping_harms_no_snapshot_and_refuses_the_next)
{
	struct cow_snapshot *next = NULL;
	struct frozen frozen;
	int r;

	freeze(&frozen, sizes_pages[_i]);
	ck_assert_ptr_eq(mmap(page_at(&frozen, 40), 4 * page_size_bytes(), PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 page_at(&frozen, 40));
	ck_assert_int_eq(munmap(page_at(&frozen, 60), page_size_bytes()), 0);
	memset(page_at(&frozen, 30), 1, 20 * page_size_bytes());
	proof_check_snapshot(frozen.snap, SEED);
	r = cow_snapshot_new(&next, frozen.region);
	ck_assert_msg(r == -EFAULT || r == -EINVAL, "%d: %s", r, cow_last_error());
	ck_assert(*cow_last_error());
	*page_at(&frozen, 70) = 1;
	proof_check_snapshot(frozen.snap, SEED);
	thaw(&frozen);
}
END_TEST

/* Where the pages are now, writes are not tracked, and do not wait either. */
START_TEST(a_part_that_is_moved_loses_the_snapshot)
{
	const size_t page = page_size_bytes();
	struct frozen frozen;
	char *to;

	freeze(&frozen, REGION_PAGES);
	to = mmap(NULL, 8 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(to, MAP_FAILED);
	ck_assert_ptr_eq(
		mremap(page_at(&frozen, 16), 8 * page, 8 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to),
		to);
	memset(to, 1, 8 * page);
	proof_await_lost(frozen.snap);
	ck_assert_int_eq(munmap(to, 8 * page), 0);
	thaw(&frozen);
}
END_TEST

struct storm {
	pthread_t thread;
	const struct frozen *frozen;
	_Atomic bool is_over;
};

static void *advise_on(void *user)
{
	struct storm *storm = user;

	for (size_t i = 0; !atomic_load(&storm->is_over); i++)
		advise(storm->frozen, i * 37 % (REGION_PAGES - 64), 64, MADV_DONTNEED);
	return NULL;
}

/*
 * Each advice is an event, during which no fault can be resolved: snapshots are right, or lost so
 * that no write waits for ever. Seen not to end with each event followed by a wake of all, and
 * no fault tried again.
 */
START_TEST(no_fault_is_missed_beside_a_storm_of_advice)
{
	const size_t n_bytes = (size_t)REGION_PAGES * page_size_bytes();
	CLEANUP(freep) struct pairs *pairs = proof_alloc(sizeof(*pairs));
	CLEANUP(freep) char *bytes = proof_alloc(n_bytes);
	uint64_t before[PAIRS_THREADS_MAX], after[PAIRS_THREADS_MAX];
	struct storm storms[2] = {};
	struct frozen frozen;
	int r;

	freeze(&frozen, REGION_PAGES);
	frozen.snap = cow_snapshot_unref(frozen.snap);
	memset(frozen.memory, 0, n_bytes);
	pairs_start_paced(pairs, frozen.memory, n_bytes, N_STORM_WRITERS, 100);
	for (size_t i = 0; i < ARRAY_SIZE(storms); i++) {
		storms[i].frozen = &frozen;
		ck_assert_int_eq(pthread_create(&storms[i].thread, NULL, advise_on, &storms[i]), 0);
	}
	for (int i = 0; i < N_STORM_SNAPSHOTS; i++) {
		pairs_rounds(pairs, before);
		proof_ok(cow_snapshot_new(&frozen.snap, frozen.region));
		pairs_rounds(pairs, after);
		pairs_wait(pairs, 1);
		r = cow_snapshot_read(frozen.snap, bytes, n_bytes, 0);
		if (!r)
			pairs_check(pairs, bytes, before, after, "in a storm");
		else
			ck_assert_int_eq(r, -ESTALE);
		frozen.snap = cow_snapshot_unref(frozen.snap);
	}
	for (size_t i = 0; i < ARRAY_SIZE(storms); i++) {
		atomic_store(&storms[i].is_over, true);
		ck_assert_int_eq(pthread_join(storms[i].thread, NULL), 0);
	}
	pairs_stop(pairs);
	pairs_check_final(pairs);
	thaw(&frozen);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("the mapping of a region", 100);

	proof_need_uffd();
	tcase_add_loop_test(tcase, pages_that_were_removed_are_lost_never_zeroes, 0, N_SIZES);
	tcase_add_loop_test(tcase, removed_pages_are_not_saved_as_holes, 0, N_SIZES);
	tcase_add_loop_test(tcase, removed_pages_that_come_back_are_lost, 0, N_SIZES);
	tcase_add_loop_test(tcase, removed_pages_that_are_pinned_are_lost, 0, N_SIZES);
	tcase_add_loop_test(tcase, pages_kept_before_they_were_removed_are_right, 0, N_SIZES);
	tcase_add_loop_test(tcase, removed_pages_are_not_rolled_back_to_zeroes, 0, N_SIZES);
	tcase_add_loop_test(tcase, pages_kept_before_they_were_removed_are_rolled_back, 0, N_SIZES);
	tcase_add_loop_test(tcase, advice_that_frees_nothing_loses_nothing, 0, N_SIZES);
	tcase_add_loop_test(tcase, pages_removed_between_snapshots_are_zeroes_in_the_next, 0,
			    N_SIZES);
	tcase_add_loop_test(tcase, a_divided_region_is_frozen, 0, N_SIZES);
	tcase_add_loop_test(tcase, a_hole_in_the_mapping_harms_no_snapshot_and_refuses_the_next, 0,
			    N_SIZES);
	tcase_add_test(tcase, a_part_that_is_moved_loses_the_snapshot);
	tcase_add_test(tcase, no_fault_is_missed_beside_a_storm_of_advice);
	return proof_run(tcase);
}
