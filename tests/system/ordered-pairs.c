/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Invariant 1, one cut, and the frozen half of invariant 2, in every mode: more threads than CPUs
 * write pairs of pages in a known order without pause (pairs.h), while snapshots are taken of them
 * and read in all three ways.
 *
 * Seen to fail with: faults resolved while a region is armed eagerly (fallbacks.sh), a read that
 * looks into memory only and into no store, a frozen scoot region mapped shared again, settling
 * that does not hold writers back.
 */
#include "config.h"

#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "system/proof.h"
#include "tests/skip.h"

/* A sanitizer makes all of it some ten times slower; what it looks for shows soon. */
#ifdef COW_SANITIZED
#define N_SNAPSHOTS 6u
#define N_CROWDED   3u
#else
#define N_SNAPSHOTS (proof_is_small() ? 6u : 24u)
#define N_CROWDED   (proof_is_small() ? 1u : 3u)
#endif

enum {
	REGION_PAGES = 1024,
	CROWD_PAGES = 8192,
	N_ALIVE = 3,
	/* Without, a crowd is a queue for the CPU, in which all that a snapshot takes waits too. */
	CROWD_PAUSE_USEC = 500,
};

/* A snapshot, what it must show, and the bytes that it showed when it was first read. */
struct shot {
	struct cow_snapshot *snap;
	char *bytes;
	uint64_t before[PAIRS_THREADS_MAX];
	uint64_t after[PAIRS_THREADS_MAX];
	char what[64];
};

static size_t region_bytes(void)
{
	return proof_size(REGION_PAGES * page_size_bytes());
}

static unsigned int n_writers(void)
{
	return (unsigned int)min_u64((uint64_t)sysconf(_SC_NPROCESSORS_ONLN) + 2,
				     PAIRS_THREADS_MAX);
}

static void shot_take(struct shot *shot, struct cow_region *region, const struct pairs *pairs,
		      unsigned int number)
{
	(void)snprintf(shot->what, sizeof(shot->what), "snapshot %u", number);
	pairs_rounds(pairs, shot->before);
	proof_ok(cow_snapshot_new(&shot->snap, region));
	pairs_rounds(pairs, shot->after);
}

/* Reads in odd pieces, so that pieces begin and end within pages. */
static void shot_read(const struct shot *shot, char *bytes)
{
	size_t len;

	for (size_t off = 0; off < region_bytes(); off += len) {
		len = min_u64(region_bytes() - off, 100003);
		proof_ok(cow_snapshot_read(shot->snap, bytes + off, len, off));
	}
}

static void shot_check(struct shot *shot, const struct pairs *pairs)
{
	AUTO_FD int fd = proof_file();
	CLEANUP(freep) char *saved = proof_alloc(region_bytes());
	const void *view = NULL;

	shot->bytes = proof_alloc(region_bytes());
	shot_read(shot, shot->bytes);
	pairs_check(pairs, shot->bytes, shot->before, shot->after, shot->what);

	proof_ok(cow_snapshot_map(shot->snap, &view));
	ck_assert_msg(!memcmp(view, shot->bytes, region_bytes()), "%s: mapped, it differs",
		      shot->what);

	proof_ok(cow_snapshot_save(shot->snap, fd, NULL, NULL));
	ck_assert_int_eq(pread(fd, saved, region_bytes(), 0), (ssize_t)region_bytes());
	ck_assert_msg(!memcmp(saved, shot->bytes, region_bytes()), "%s: saved, it differs",
		      shot->what);
}

/* What it showed is what it still shows; then it goes. */
static void shot_end(struct shot *shot)
{
	CLEANUP(freep) char *again = proof_alloc(region_bytes());

	if (!shot->snap)
		return;
	shot_read(shot, again);
	ck_assert_msg(!memcmp(again, shot->bytes, region_bytes()), "%s: not frozen", shot->what);
	shot->snap = cow_snapshot_unref(shot->snap);
	free(steal_ptr(&shot->bytes));
}

/*
 * Take, check and release with @n_alive snapshots alive at a time, the writers going on all the
 * while.
 */
static void run(uint32_t mode, unsigned int n_alive)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	struct shot shots[N_ALIVE] = {};
	struct pairs pairs;

	region = proof_region(mode, region_bytes());
	pairs_start(&pairs, cow_region_address(region), region_bytes(), n_writers());
	for (unsigned int i = 0; i < N_SNAPSHOTS; i++) {
		struct shot *shot = &shots[i % n_alive];

		shot_end(shot);
		pairs_wait(&pairs, 1); /* so that there is something to keep */
		shot_take(shot, region, &pairs, i);
		shot_check(shot, &pairs);
	}
	pairs_wait(&pairs, 1);
	/* not in the order in which they were taken */
	for (unsigned int i = n_alive; i-- > 0;)
		shot_end(&shots[i]);
	pairs_stop(&pairs);
	pairs_check_final(&pairs);
}

START_TEST(every_snapshot_is_one_instant_and_frozen)
{
	run(proof_mode(_i), 1);
}
END_TEST

START_TEST(overlapping_snapshots_are_each_one_instant_and_frozen)
{
	run(proof_mode(_i), N_ALIVE);
}
END_TEST

/* Released while being written: the next one must not see pages of the one before. */
START_TEST(snapshots_taken_back_to_back_differ_by_what_was_written)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	struct pairs pairs;

	region = proof_region(proof_mode(_i), region_bytes());
	pairs_start(&pairs, cow_region_address(region), region_bytes(), n_writers());
	for (unsigned int i = 0; i < N_SNAPSHOTS; i++) {
		struct shot shot = {};

		shot_take(&shot, region, &pairs, i);
		shot.bytes = proof_alloc(region_bytes());
		shot_read(&shot, shot.bytes);
		pairs_check(&pairs, shot.bytes, shot.before, shot.after, shot.what);
		cow_snapshot_unref(shot.snap);
		free(shot.bytes);
	}
	pairs_stop(&pairs);
	pairs_check_final(&pairs);
}
END_TEST

#ifndef __SANITIZE_THREAD__
/* So large that mode uffd freezes it by a move; no smaller, whatever the machine. */
static size_t crowd_bytes(void)
{
	return CROWD_PAGES * page_size_bytes();
}

static void save_to(struct cow_snapshot *snap, char *bytes)
{
	AUTO_FD int fd = proof_file();

	proof_ok(cow_snapshot_save(snap, fd, NULL, NULL));
	ck_assert_int_eq(pread(fd, bytes, crowd_bytes(), 0), (ssize_t)crowd_bytes());
}

static void take_in_a_crowd(struct cow_region *region, const struct pairs *pairs,
			    unsigned int number, uint64_t *longest_nsec)
{
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *older = NULL;
	CLEANUP(freep) char *bytes = proof_alloc(crowd_bytes());
	CLEANUP(freep) char *again = proof_alloc(crowd_bytes());
	struct shot shot = {};
	uint64_t since_nsec;

	proof_ok(cow_snapshot_new(&older, region));
	pairs_wait(pairs, 1);
	since_nsec = now_nsec();
	shot_take(&shot, region, pairs, number);
	*longest_nsec = max_u64(*longest_nsec, now_nsec() - since_nsec);
	save_to(shot.snap, bytes);
	pairs_check(pairs, bytes, shot.before, shot.after, shot.what);
	older = cow_snapshot_unref(older);
	pairs_wait(pairs, 1);
	save_to(shot.snap, again);
	ck_assert_msg(!memcmp(again, bytes, crowd_bytes()), "%s: not frozen", shot.what);
	cow_snapshot_unref(shot.snap);
}

/*
 * Many more threads than the messages of a turn of cowd's, all of them faulting at the moment of
 * the cut. Seen not to end in mode uffd with threads woken while the report of the cut is unread.
 */
static void run_crowd(uint32_t mode, unsigned int n_threads)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(freep) struct pairs *pairs = proof_alloc(sizeof(*pairs));
	uint64_t longest_nsec = 0;

	region = proof_region(mode, crowd_bytes());
	pairs_start_paced(pairs, cow_region_address(region), crowd_bytes(), n_threads,
			  CROWD_PAUSE_USEC);
	for (unsigned int i = 0; i < N_CROWDED; i++)
		take_in_a_crowd(region, pairs, i, &longest_nsec);
	pairs_stop(pairs);
	pairs_check_final(pairs);
	printf("mode %u, %u writers: longest take %.1f ms, longest round of writes %.1f ms\n", mode,
	       n_threads, (double)longest_nsec / 1e6, (double)pairs_longest_nsec(pairs) / 1e6);
}

START_TEST(snapshots_of_128_writers_end)
{
	run_crowd(proof_mode(_i), 128);
}
END_TEST

START_TEST(snapshots_of_256_writers_end)
{
	run_crowd(proof_mode(_i), 256);
}
END_TEST
#endif

int main(void)
{
	TCase *tcase = proof_tcase("ordered pairs", 100);

	tcase_add_loop_test(tcase, every_snapshot_is_one_instant_and_frozen, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, overlapping_snapshots_are_each_one_instant_and_frozen, 0,
			    PROOF_N_MODES);
	tcase_add_loop_test(tcase, snapshots_taken_back_to_back_differ_by_what_was_written, 0,
			    PROOF_N_MODES);
#ifdef __SANITIZE_THREAD__
	tests_left_out("128 and 256 writers: with the thread sanitizer on two CPUs they take many "
		       "minutes");
#else
	tcase_add_loop_test(tcase, snapshots_of_128_writers_end, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, snapshots_of_256_writers_end, 0, PROOF_N_MODES);
#endif
	return proof_run(tcase);
}
