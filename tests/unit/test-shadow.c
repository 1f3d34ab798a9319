// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * backends/scoot/shadow.c: page tables that a take finds ready, for ever. What is right about the
 * bytes is tests/unit/test-scoot.c's and tests/system/scoot-oracle.c's.
 */
#include "config.h"

#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/skip.h"
#include "tests/unit/shadow-fixture.h"

static long n_mappings(void)
{
	FILE *file = fopen("/proc/self/maps", "re");
	long n = 0;
	int c;

	ck_assert_ptr_nonnull(file);
	while ((c = getc(file)) != EOF)
		n += c == '\n';
	fclose(file);
	return n;
}

static void write_some(struct scoot_region *region, uint64_t n)
{
	const uint64_t page = page_size_bytes(), n_pages = region->size_bytes / page;

	for (uint64_t i = 0; i < n; i++)
		region->addr[(uint64_t)random() % n_pages * page] ^= 1;
}

/*
 * Seen to fail: with scoot_populate_step() that fills nothing, and with make_shadow() that
 * fails.
 */
START_TEST(nothing_faults_after_the_second_take)
{
	struct scoot_region *region = make_filled();
	const uint64_t n_pages = SIZE_BYTES / page_size_bytes();
	long before;

	for (int i = 0; i < 4; i++) {
		struct scoot_snapshot *snap = take(region);

		/* Of the first take nothing was filled; then it is the background that fills. */
		before = n_faults();
		if (i) {
			ck_assert_uint_eq(read_all(region), n_pages);
			/* A handful for the test's own memory; 1024 without a shadow. */
			ck_assert_int_lt(n_faults() - before, 200);
		}
		scoot_snapshot_free(snap);
		settle_all(region);
		ck_assert(extents_is_owned(&region->map));
		before = n_faults();
		ck_assert_uint_eq(read_all(region), n_pages);
		ck_assert_int_lt(n_faults() - before, 200);
	}
	end_region(region);
}
END_TEST

/* Seen to fail: with make_shadow() in settle.c that fails. */
START_TEST(mappings_do_not_become_more)
{
	struct scoot_region *region = make_filled();
	long before = 0;

	for (int i = 0; i < 40; i++) {
		struct scoot_snapshot *snap = take(region);

		write_some(region, 500);
		scoot_snapshot_free(snap);
		settle_all(region);
		ck_assert_ptr_nonnull(region->shadow);
		if (i == 3)
			before = n_mappings();
	}
	ck_assert_int_le(n_mappings(), before + 4);
	end_region(region);
}
END_TEST

/*
 * What is frozen for nobody and discarded is mapped shared again, which its shadow is too. Seen to
 * fail: without scoot_shadow_drop() in map_zeroes() what is written changes the snapshot.
 */
START_TEST(what_is_mapped_otherwise_has_no_shadow)
{
	struct scoot_region *region = make_filled();
	CLEANUP(freep) char *copy = malloc(SIZE_BYTES), *buf = malloc(SIZE_BYTES);
	struct scoot_snapshot *snap = take(region);

	ck_assert_ptr_nonnull(region->shadow);
	scoot_snapshot_free(snap);
	ck_assert_int_eq(scoot_discard(region, 0, SIZE_BYTES / 2, true), 0);
	snap = take(region);
	memset(region->addr, 7, SIZE_BYTES);
	ck_assert_int_eq(scoot_snapshot_read(snap, buf, SIZE_BYTES, 0), 0);
	memset(copy, 0, SIZE_BYTES / 2);
	memset(copy + SIZE_BYTES / 2, 1, SIZE_BYTES / 2);
	ck_assert_int_eq(memcmp(buf, copy, SIZE_BYTES), 0);
	ck_assert_int_eq(scoot_rollback(region, snap), 0);
	ck_assert_uint_eq(read_all(region), SIZE_BYTES / page_size_bytes() / 2);
	scoot_snapshot_free(snap);
	settle_all(region);
	ck_assert_uint_eq(read_all(region), SIZE_BYTES / page_size_bytes() / 2);
	end_region(region);
}
END_TEST

/* As a kernel before 6.13 does, or a container's filter. */
static void refuse_process_madvise(void)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);

	ck_assert_ptr_nonnull(filter);
	ck_assert_int_eq(
		seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(process_madvise), 0), 0);
	ck_assert_int_eq(seccomp_load(filter), 0);
	seccomp_release(filter);
}

/*
 * Half settled, then taken: owned and frozen runs beside each other, in one cut. Seen to fail: with
 * private pages left in what becomes the shadow (forget_private()), in both ways.
 */
START_TEST(a_take_in_the_middle_of_settling)
{
	struct scoot_region *region = make_filled();
	CLEANUP(freep) char *copy = malloc(SIZE_BYTES), *buf = malloc(SIZE_BYTES);

	if (_i)
		refuse_process_madvise();
	for (int i = 0; i < 30; i++) {
		struct scoot_snapshot *snap = take(region);
		bool more = true;

		write_some(region, 200);
		scoot_snapshot_free(snap);
		for (int n = (int)(random() % 40); more && n > 0; n--)
			ck_assert_int_eq(scoot_settle_step(region, &more), 0);
		write_some(region, 200);
		memcpy(copy, region->addr, SIZE_BYTES);
		snap = take(region);
		ck_assert_int_eq(memcmp(region->addr, copy, SIZE_BYTES), 0);
		write_some(region, 200);
		ck_assert_int_eq(scoot_snapshot_read(snap, buf, SIZE_BYTES, 0), 0);
		ck_assert_int_eq(memcmp(buf, copy, SIZE_BYTES), 0);
		memcpy(copy, region->addr, SIZE_BYTES);
		scoot_snapshot_free(snap);
		if (i % 3 == 0)
			settle_all(region);
		ck_assert_int_eq(memcmp(region->addr, copy, SIZE_BYTES), 0);
	}
	end_region(region);
}
END_TEST

/* Settle so many chunks at most. */
static void settle_some(struct scoot_region *region, int n_chunks)
{
	bool more = true;

	while (more && n_chunks-- > 0)
		ck_assert_int_eq(scoot_settle_step(region, &more), 0);
}

/*
 * After any number of chunks: the child has what there was, whatever the parent writes. Seen to
 * fail: with scoot_guard() that freezes nothing.
 */
START_TEST(a_fork_in_the_middle_of_settling)
{
	struct scoot_region *region = make_filled();
	CLEANUP(freep) char *copy = malloc(SIZE_BYTES);

	for (int i = 0; i < 8; i++) {
		struct scoot_snapshot *snap = take(region), *guard = NULL;
		int status, fds[2];
		char byte;
		pid_t pid;

		write_some(region, 200);
		scoot_snapshot_free(snap);
		settle_some(region, 4 * i + 1);
		memcpy(copy, region->addr, SIZE_BYTES);
		ck_assert_int_eq(scoot_guard(region, &(struct scoot_take_env){0}, &guard), 0);
		ck_assert_int_eq(madvise(region->addr, SIZE_BYTES, MADV_DOFORK), 0);
		ck_assert_int_eq(pipe(fds), 0);
		pid = fork();
		if (!pid) {
			close(fds[1]);
			_exit(read(fds[0], &byte, 1) || memcmp(region->addr, copy, SIZE_BYTES));
		}
		ck_assert_int_eq(madvise(region->addr, SIZE_BYTES, MADV_DONTFORK), 0);
		write_some(region, 500);
		close(fds[1]);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_int_eq(status, 0);
		close(fds[0]);
		scoot_snapshot_free(guard);
		settle_all(region);
	}
	end_region(region);
}
END_TEST

/*
 * mlockall(MCL_CURRENT) copies the shadow, which is a private mapping then. Seen to fail: without
 * is_clean() in shadow.c.
 */
START_TEST(copies_made_by_mlockall_are_not_put_in_place)
{
	struct scoot_region *region = make_filled();
	struct scoot_snapshot *snap = take(region);

	scoot_snapshot_free(snap);
	settle_all(region);
	if (mlockall(MCL_CURRENT) || munlockall()) {
		ck_assert(errno == ENOMEM || errno == EPERM);
		end_region(region);
		test_skip("mlockall(MCL_CURRENT) is not allowed here (RLIMIT_MEMLOCK)");
	}
	memset(region->addr, 2, SIZE_BYTES);
	snap = take(region);
	ck_assert_uint_eq(read_all(region), 2 * SIZE_BYTES / page_size_bytes());
	scoot_snapshot_free(snap);
	end_region(region);
}
END_TEST

/*
 * mlockall(MCL_FUTURE) has new mappings filled. An exchange makes none, and where there is no
 * shadow to exchange with, one is made that is not.
 *
 * Seen to fail: with a scoot_is_locking() that says no, all of the region is private after the
 * second take.
 */
START_TEST(mlockall_fills_no_mapping)
{
	struct scoot_region *region = make_filled();
	struct scoot_snapshot *snap = take(region);

	scoot_snapshot_free(snap);
	settle_all(region);
	/* The bare call: sanitizers make mlockall() do nothing. */
	if (syscall(SYS_mlockall, MCL_FUTURE)) {
		ck_assert(errno == ENOMEM || errno == EPERM);
		end_region(region);
		test_skip("mlockall(MCL_FUTURE) is not allowed here (RLIMIT_MEMLOCK)");
	}
	snap = take(region);
	ck_assert_uint_eq(n_private(region), 0);
	region->addr[0] = 2;
	ck_assert_uint_eq(n_private(region), 1);
	scoot_snapshot_free(snap);
	settle_all(region);
	ck_assert_ptr_nonnull(region->shadow);
	**(char **)region->shadow = 1; /* as mlockall(MCL_CURRENT) would, see above */
	snap = take(region);
	ck_assert_uint_eq(n_private(region), 0);
	ck_assert_uint_eq(read_all(region), SIZE_BYTES / page_size_bytes() + 1);
	scoot_snapshot_free(snap);
	ck_assert_int_eq(syscall(SYS_munlockall), 0);
	snap = take(region);
	scoot_snapshot_free(snap);
	end_region(region);
}
END_TEST

/* Seen to fail: without MADV_DONTFORK on what becomes the shadow. */
START_TEST(a_fork_child_does_not_inherit_the_shadow)
{
	struct scoot_region *region = make_filled();
	struct scoot_snapshot *snap = take(region);
	int status;
	pid_t pid;

	for (int i = 0; i < 2; i++) {
		char *shadow = *(char **)region->shadow; /* its first member is where it is */

		pid = fork();
		if (!pid)
			_exit(madvise(shadow, page_size_bytes(), MADV_NORMAL) ? errno : 0);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_int_eq(WEXITSTATUS(status), ENOMEM);
		if (!i) {
			scoot_snapshot_free(snap);
			settle_all(region);
			snap = NULL;
		}
	}
	end_region(region);
}
END_TEST

/*
 * What the program does to part of what is mapped goes to the shadow with it, and must not come
 * back a snapshot later. Seen to fail: without mprotect() in take_over() the write is a SIGSEGV.
 */
START_TEST(protections_do_not_come_back)
{
	struct scoot_region *region = make_filled();

	for (int i = 0; i < 4; i++) {
		struct scoot_snapshot *snap = take(region);
		char *part = region->addr + (i % 2 ? SIZE_BYTES / 2 + page_size_bytes() : 0);
		uint64_t len = i % 2 ? page_size_bytes() : SIZE_BYTES;

		ck_assert_int_eq(mprotect(part, len, PROT_READ), 0);
		ck_assert_int_eq(madvise(part, len, MADV_RANDOM), 0);
		scoot_snapshot_free(snap);
		settle_all(region);
		ck_assert_int_eq(mprotect(part, len, PROT_READ | PROT_WRITE), 0);
		snap = take(region);
		memset(region->addr, i, SIZE_BYTES);
		scoot_snapshot_free(snap);
		settle_all(region);
		ck_assert_uint_eq(read_all(region), (uint64_t)i * SIZE_BYTES / page_size_bytes());
		memset(region->addr, i + 1, SIZE_BYTES);
	}
	end_region(region);
}
END_TEST

/* A move may fail half way there. Seen to fail: with is_limited() that says no. */
/*
 * What the program may not read it may have written before. Seen to fail: without mprotect() in
 * write_back() the test ends by SIGSEGV.
 */
START_TEST(what_is_out_of_reach_settles)
{
	struct scoot_region *region = make_filled();
	struct scoot_snapshot *snap = take(region);
	const size_t page = page_size_bytes();

	memset(region->addr, 2, 8 * page);
	ck_assert_int_eq(mprotect(region->addr + 2 * page, 2 * page, PROT_NONE), 0);
	scoot_snapshot_free(snap);
	settle_all(region);
	ck_assert(extents_is_owned(&region->map));
	ck_assert_int_eq(mprotect(region->addr + 2 * page, 2 * page, PROT_READ), 0);
	ck_assert_uint_eq(read_all(region), SIZE_BYTES / page + 8);
	end_region(region);
}
END_TEST

START_TEST(who_is_limited_in_memory_has_no_shadow)
{
	struct scoot_region *region = make_filled();
	struct scoot_snapshot *snap = take(region);
	struct rlimit limit;

	ck_assert_ptr_nonnull(region->shadow);
	scoot_snapshot_free(snap);
	settle_all(region);
	ck_assert_int_eq(getrlimit(RLIMIT_DATA, &limit), 0);
	limit.rlim_cur = (rlim_t)1 << 55; /* the sanitizers' own memory is less */
	ck_assert_int_eq(setrlimit(RLIMIT_DATA, &limit), 0);
	snap = take(region);
	memset(region->addr, 3, SIZE_BYTES);
	scoot_snapshot_free(snap);
	settle_all(region);
	ck_assert_ptr_null(region->shadow); /* as a take does not wait for the question */
	ck_assert_uint_eq(read_all(region), 3 * SIZE_BYTES / page_size_bytes());
	end_region(region);
}
END_TEST

static uint64_t n_present(const struct scoot_region *region)
{
	const uint64_t first = (uint64_t)(uintptr_t)region->addr / page_size_bytes();
	const size_t n_pages = region->size_bytes / page_size_bytes();
	CLEANUP(freep) uint64_t *entries = calloc(n_pages, sizeof(*entries));
	const size_t n_bytes = n_pages * sizeof(*entries);
	uint64_t n = 0;

	ck_assert_int_eq(
		pread(region->pagemap.fd, entries, n_bytes, (off_t)(first * sizeof(*entries))),
		n_bytes);
	for (size_t i = 0; i < n_pages; i++)
		n += entries[i] >> 63;
	return n;
}

/* Seen to fail: without scoot_shadow_drop() in scoot_guard(). */
START_TEST(fork_finds_no_page_tables_to_copy)
{
	struct scoot_region *region = make_filled();
	struct scoot_snapshot *snap = take(region);

	write_some(region, 500);
	scoot_snapshot_free(snap);
	settle_all(region);
	ck_assert_int_eq(scoot_guard(region, &(struct scoot_take_env){0}, &snap), 0);
	ck_assert_uint_eq(n_present(region), 0);
	scoot_snapshot_free(snap);
	settle_all(region);
	snap = take(region);
	ck_assert_uint_gt(n_present(region), SIZE_BYTES / page_size_bytes() / 2);
	scoot_snapshot_free(snap);
	end_region(region);
}
END_TEST

/*
 * Where a snapshot lives what was written since stays private, and one such page has fork() copy
 * all that is filled. Seen to fail: without scoot_prepare_fork() in scoot_guard(), and without
 * copy_private() in it.
 */
START_TEST(fork_finds_private_pages_only)
{
	struct scoot_region *region = make_filled();
	const uint64_t page = page_size_bytes(), n_pages = SIZE_BYTES / page;
	struct scoot_snapshot *snap = take(region), *guard = NULL;

	scoot_snapshot_free(snap);
	settle_all(region);
	snap = take(region);
	ck_assert_uint_gt(n_present(region), n_pages / 2);
	region->fork_nsec = UINT64_MAX; /* a fork before this one took long */
	for (uint64_t i = 0; i < 4; i++)
		region->addr[i * n_pages / 4 * page] = 3;
	ck_assert_int_eq(scoot_guard(region, &(struct scoot_take_env){0}, &guard), 0);
	ck_assert_uint_eq(n_present(region), 4);
	ck_assert_uint_eq(read_all(region), n_pages + 4 * 2);
	scoot_snapshot_free(guard);
	scoot_snapshot_free(snap);
	settle_all(region);
	ck_assert_uint_eq(read_all(region), n_pages + 4 * 2);
	/* The next take has filled page tables again; with many private pages they stay. */
	snap = take(region);
	ck_assert_uint_gt(n_present(region), n_pages / 2);
	memset(region->addr, 5, SIZE_BYTES / 2);
	ck_assert_int_eq(scoot_guard(region, &(struct scoot_take_env){0}, &guard), 0);
	ck_assert_uint_gt(n_present(region), n_pages / 2);
	ck_assert_uint_eq(read_all(region), 5 * n_pages / 2 + n_pages / 2 + 2 * 2);
	scoot_snapshot_free(guard);
	scoot_snapshot_free(snap);
	end_region(region);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("shadow");

	tcase_set_timeout(tcase, 120);
	tcase_add_test(tcase, nothing_faults_after_the_second_take);
	tcase_add_test(tcase, mappings_do_not_become_more);
	tcase_add_test(tcase, what_is_mapped_otherwise_has_no_shadow);
	tcase_add_loop_test(tcase, a_take_in_the_middle_of_settling, 0, 2);
	tcase_add_test(tcase, a_fork_in_the_middle_of_settling);
	tcase_add_test(tcase, copies_made_by_mlockall_are_not_put_in_place);
	tcase_add_test(tcase, mlockall_fills_no_mapping);
	tcase_add_test(tcase, a_fork_child_does_not_inherit_the_shadow);
	tcase_add_test(tcase, protections_do_not_come_back);
	tcase_add_test(tcase, what_is_out_of_reach_settles);
	tcase_add_test(tcase, who_is_limited_in_memory_has_no_shadow);
	tcase_add_test(tcase, fork_finds_no_page_tables_to_copy);
	tcase_add_test(tcase, fork_finds_private_pages_only);
	return run_with_uffd(tcase);
}
