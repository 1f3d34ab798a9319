// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Overlapping snapshots that differ in single pages, seen in every way there is: read and mapped by
 * who took them, saved by cowd, opened by their id, and rolled back to. With and without a
 * userfaultfd (without, a child copies the pages), while other threads write.
 *
 * What it is for is huge pages of shared memory, where writing one page of an overlay gives it 511
 * others: ./check has it run with them (tests/with-huge-pages.sh). Seen to fail there: with pages
 * of an overlay looked for by SEEK_DATA, in what cowd saves, and without a userfaultfd in what its
 * taker reads.
 */
#include "config.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proof.h"

#define MIB       ((size_t)1 << 20)
#define SIZE      proof_size(16 * MIB)
#define PART      (SIZE / 4)
#define N_WRITERS 3
#define SEED      7

/* Under the thread sanitizer a child made with a bare clone(2) hangs. */
#ifdef __SANITIZE_THREAD__
#define N_WAYS 2
#else
#define N_WAYS 4
#endif

/* A thread that writes to its page what that has already, so that
 * it is changed in every snapshot. */
struct writer {
	pthread_t thread;
	volatile char *byte;
	atomic_bool is_over;
};

static void *write_on(void *user)
{
	struct writer *writer = user;
	const char byte = *writer->byte;

	while (!atomic_load(&writer->is_over))
		*writer->byte = byte;
	return NULL;
}

/* Where nobody else writes. */
static void start_writers(struct writer *writers, char *memory)
{
	for (size_t i = 0; i < N_WRITERS; i++) {
		writers[i].byte = memory + PART + i * PART / N_WRITERS + 3 * page_size_bytes();
		atomic_store(&writers[i].is_over, false);
		ck_assert_int_eq(pthread_create(&writers[i].thread, NULL, write_on, &writers[i]),
				 0);
	}
}

static void stop_writers(struct writer *writers)
{
	for (size_t i = 0; i < N_WRITERS; i++) {
		atomic_store(&writers[i].is_over, true);
		ck_assert_int_eq(pthread_join(writers[i].thread, NULL), 0);
	}
}

static void check_same(const char *what, const void *got, const void *want)
{
	size_t page = page_size_bytes(), n_bad = 0;

	for (size_t off = 0; off < SIZE; off += page)
		n_bad += !!memcmp((const char *)got + off, (const char *)want + off, page);
	ck_assert_msg(!n_bad, "%s: %zu of %zu pages are wrong", what, n_bad, SIZE / page);
}

static void check_saved(const char *what, struct cow_snapshot *snap, const void *want)
{
	CLEANUP(freep) char *got = proof_alloc(SIZE);
	AUTO_FD int fd = proof_file();

	proof_ok(cow_snapshot_save(snap, fd, NULL, NULL));
	ck_assert_int_eq(pread(fd, got, SIZE, 0), SIZE);
	check_same(what, got, want);
}

static void check_read(const char *what, struct cow_snapshot *snap, const void *want)
{
	CLEANUP(freep) char *got = proof_alloc(SIZE);
	const void *view;

	proof_ok(cow_snapshot_read(snap, got, SIZE, 0));
	check_same(what, got, want);
	proof_ok(cow_snapshot_map(snap, &view));
	check_same(what, view, want);
}

static void check_snapshot(struct cow_snapshot *snap, const void *want)
{
	CLEANUP(cow_client_unrefp) struct cow_client *other = proof_client();
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *opened = NULL;

	check_read("as its taker reads it", snap, want);
	check_saved("saved", snap, want);
	proof_ok(cow_snapshot_open(&opened, other, cow_snapshot_id(snap)));
	check_read("opened by its id", opened, want);
	check_saved("opened by its id and saved", opened, want);
}

/* A page here and there; @plain gets the same. */
static void touch(char *memory, char *plain, size_t first_off, size_t step, char byte)
{
	for (size_t off = first_off; off < SIZE; off += step) {
		memory[off] = byte;
		plain[off] = byte;
	}
}

/* In mode mmapcopy part of the memory is another region's, and given back. */
static void copy_part(struct cow_region *region, struct cow_region *from, char *plain)
{
	cow_mmapcopy(cow_region_address(region), cow_region_address(from), PART);
	memcpy(plain, cow_region_address(from), PART);
}

static void discard_part(struct cow_region *region, char *plain)
{
	proof_ok(cow_region_discard(region, 2 * PART, PART));
	memset(plain + 2 * PART, 0, PART);
}

static struct cow_region *region_of(struct cow_client *client, uint32_t mode)
{
	struct cow_region_params params = {.size_bytes = SIZE, .mode = mode};
	struct cow_region *region = NULL;

	proof_ok(cow_region_new(&region, client, &params));
	return region;
}

/* The first quarter is copied to, the second has the writers, the third is discarded. */
START_TEST(single_pages_are_right_in_every_way)
{
	const uint32_t mode = _i % 2 ? COW_MODE_MMAPCOPY : COW_MODE_SCOOT;
	CLEANUP(freep)
	char *plain = proof_alloc(SIZE), *second = proof_alloc(SIZE), *third = proof_alloc(SIZE);
	struct cow_snapshot *snaps[3] = {NULL};
	struct writer writers[N_WRITERS];
	struct cow_region *region, *from;
	struct cow_client *client;
	char *memory;

	if (_i / 2) {
		proof_cowd_kill();
		proof_cowd_start("[daemon]\nlend = no\n");
	}
	client = proof_client();
	region = region_of(client, mode);
	from = region_of(client, mode);
	memory = cow_region_address(region);
	proof_fill(memory, SIZE, SEED);
	memcpy(plain, memory, SIZE);
	proof_fill(cow_region_address(from), SIZE, SEED + 1);
	start_writers(writers, memory);

	proof_ok(cow_snapshot_new(&snaps[0], region));
	touch(memory, plain, 0, MIB, 99);
	memcpy(second, plain, SIZE);
	proof_ok(cow_snapshot_new(&snaps[1], region));
	copy_part(region, from, plain);
	touch(memory, plain, MIB / 2, MIB, 98);
	memcpy(third, plain, SIZE);
	proof_ok(cow_snapshot_new(&snaps[2], region));
	check_snapshot(snaps[1], second);
	check_snapshot(snaps[2], third);

	stop_writers(writers); /* rolling back and discarding are not for beside writers */
	discard_part(region, plain);
	check_same("discarded", memory, plain);
	proof_ok(cow_region_rollback(region, snaps[1]));
	check_same("rolled back", memory, second);
	touch(memory, second, MIB / 4, MIB, 97);
	proof_ok(cow_region_rollback(region, snaps[2]));
	check_same("rolled back to a later one", memory, third);
	check_snapshot(snaps[2], third);

	for (size_t i = 0; i < ARRAY_SIZE(snaps); i++)
		cow_snapshot_unref(snaps[i]);
	touch(memory, third, MIB / 8, MIB, 96);
	proof_ok(cow_snapshot_new(&snaps[0], region));
	check_snapshot(snaps[0], third);
	cow_snapshot_unref(snaps[0]);
	cow_region_unref(from);
	cow_region_unref(region);
	cow_client_unref(client);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("overlays", 60);

	tcase_add_loop_test(tcase, single_pages_are_right_in_every_way, 0, N_WAYS);
	return proof_run(tcase);
}
