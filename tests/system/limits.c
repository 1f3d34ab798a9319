// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Too little of something that a system limits: address space, data, size of files; for the program
 * and for cowd. What could not be had is a call that failed with the right errno and a sentence
 * that names the limit and how it is set; all else goes on, and with more of it all is well again.
 *
 * Seen to fail: with memfile_write() (backends/extents.c) writing by descriptor always, the program
 * is ended by SIGXFSZ; without append_limits() (common/err.c); with a region not given back when
 * its mapping failed (cow_region_unref() left out in region_new()); with a snapshot that is not
 * lost when a page of it could not be kept (snapshot_lose() left out in keep_or_lose()).
 */
#include "config.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "system/proof.h"
#include "tests/skip.h"

enum {
	REGION_BYTES = 8 << 20,
	/* what the library's threads and malloc() can do with, and no region can */
	SOME_BYTES = 1 << 20,
};

/* The last call failed with @error, and its sentence has @words. */
#define check_error(result, error, words)                                                          \
	do {                                                                                       \
		int result_ = (result);                                                            \
		ck_assert_msg(result_ == (error), #result ": %d: %s", result_, cow_last_error());  \
		ck_assert_msg(strstr(cow_last_error(), words) != NULL, "no \"%s\" in: %s", words,  \
			      cow_last_error());                                                   \
	} while (0)

static bool has_sanitizer(void)
{
	const char *names = getenv("COWD_SANITIZERS");

	return names && *names && strcmp(names, "no") != 0;
}

/* Of @pid, in bytes: "VmSize:" counts for RLIMIT_AS, "VmData:" for RLIMIT_DATA. */
static uint64_t used_bytes(pid_t pid, const char *what)
{
	unsigned long long kib = 0;
	char path[64], line[256];
	FILE *file;

	(void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file)) {
		if (!strncmp(line, what, strlen(what)))
			ck_assert_int_eq(sscanf(line + strlen(what), "%llu", &kib), 1);
	}
	(void)fclose(file);
	ck_assert_uint_ne(kib, 0);
	return kib * 1024;
}

static void set_limit(pid_t pid, __rlimit_resource_t resource, rlim_t value)
{
	struct rlimit limit;

	ck_assert(!prlimit(pid, resource, NULL, &limit));
	limit.rlim_cur = value < limit.rlim_max ? value : limit.rlim_max;
	ck_assert(!prlimit(pid, resource, &limit, NULL));
}

static void leave_some(pid_t pid, __rlimit_resource_t resource)
{
	const char *what = resource == RLIMIT_AS ? "VmSize:" : "VmData:";

	set_limit(pid, resource, used_bytes(pid, what) + SOME_BYTES);
}

START_TEST(no_address_space_for_a_region)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = proof_mode(_i)};
	struct proof_holdings before;
	struct cow_region *region = NULL;

	proof_holdings(&before);
	leave_some(getpid(), RLIMIT_AS);
	check_error(cow_region_new(&region, client, &params), -ENOMEM, "ulimit -v");
	set_limit(getpid(), RLIMIT_AS, RLIM_INFINITY);
	ck_assert_ptr_null(region);
	proof_wait_for_holdings(&before);
	proof_ok(cow_region_new(&region, client, &params));
	cow_region_unref(region);
}
END_TEST

/* A snapshot that cannot be taken leaves the memory as it is, and so does a view. */
START_TEST(no_address_space_for_a_snapshot)
{
	const uint32_t mode = proof_mode(_i);
	CLEANUP(cow_region_unrefp) struct cow_region *region = proof_region(mode, REGION_BYTES);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	struct cow_snapshot *second = NULL;
	char *memory = cow_region_address(region);
	const void *view = NULL;

	proof_fill(memory, REGION_BYTES, 1);
	leave_some(getpid(), RLIMIT_AS);
	/* Space for the first was set aside with the region; one beside it needs its own. */
	proof_ok(cow_snapshot_new(&snap, region));
	leave_some(getpid(), RLIMIT_AS); /* what was set aside besides has been given back */
	if (mode != COW_MODE_UFFD)
		check_error(cow_snapshot_new(&second, region), -ENOMEM, "ulimit -v");
	ck_assert_ptr_null(second);
	ck_assert(proof_is_filled(memory, REGION_BYTES, 1, 0));
	set_limit(getpid(), RLIMIT_AS, RLIM_INFINITY);
	proof_fill(memory, REGION_BYTES, 2);

	leave_some(getpid(), RLIMIT_AS);
	check_error(cow_snapshot_map(snap, &view), -ENOMEM, "ulimit -v");
	set_limit(getpid(), RLIMIT_AS, RLIM_INFINITY);
	proof_ok(cow_snapshot_map(snap, &view));
	ck_assert(proof_is_filled(view, REGION_BYTES, 1, 0));
	proof_check_snapshot(snap, 1);
	ck_assert(proof_is_filled(memory, REGION_BYTES, 2, 0));
}
END_TEST

/*
 * Frozen memory is private memory, which counts as data, but the kernel counts what is mapped over
 * against it: a take is not refused, though the mapping that was made ready cannot be used. Seen to
 * fail: with scoot_take_over() that asks for no limit and goes on without mprotect().
 */
START_TEST(no_data_for_frozen_memory)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_SCOOT, REGION_BYTES);
	struct cow_snapshot *first = NULL, *second = NULL;
	char *memory = cow_region_address(region);

	proof_fill(memory, REGION_BYTES, 1);
	set_limit(getpid(), RLIMIT_DATA, used_bytes(getpid(), "VmData:"));
	proof_ok(cow_snapshot_new(&first, region));
	ck_assert(proof_is_filled(memory, REGION_BYTES, 1, 0));
	set_limit(getpid(), RLIMIT_DATA, RLIM_INFINITY);
	proof_fill(memory, REGION_BYTES, 2);
	proof_ok(cow_snapshot_new(&second, region));
	proof_check_snapshot(first, 1);
	proof_check_snapshot(second, 2);
	cow_snapshot_unref(first);
	cow_snapshot_unref(second);
}
END_TEST

/*
 * The limit counts for memfds too, of which the library writes parts that are past it: when
 * snapshots overlap, when pages settle, when one is read, saved, rolled back to.
 */
START_TEST(a_program_with_a_limit_on_files)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(proof_mode(_i), REGION_BYTES);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *last = NULL;
	char *memory = cow_region_address(region);

	set_limit(getpid(), RLIMIT_FSIZE, REGION_BYTES / 8);
	for (uint64_t seed = 1; seed <= 6; seed++) {
		struct cow_snapshot *snap = NULL;

		proof_fill(memory, REGION_BYTES, seed);
		proof_ok(cow_snapshot_new(&snap, region));
		if (last)
			proof_check_snapshot(last, seed - 1);
		cow_snapshot_unref(last);
		last = snap;
	}
	proof_fill(memory, REGION_BYTES, 7);
	proof_check_snapshot(last, 6);
	ck_assert(proof_is_filled(memory, REGION_BYTES, 7, 0));
	proof_ok(cow_region_rollback(region, last));
	ck_assert(proof_is_filled(memory, REGION_BYTES, 6, 0));
}
END_TEST

/* cowd's own: regions that are too large, and what it would keep of those that are there. */
START_TEST(a_cowd_with_a_limit_on_files)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = proof_mode(_i)};
	struct cow_region *region = NULL;
	struct proof_holdings before;

	proof_holdings(&before);
	set_limit(proof_cowd(), RLIMIT_FSIZE, REGION_BYTES / 2);
	check_error(cow_region_new(&region, client, &params), -EFBIG, "ulimit -f");
	ck_assert_msg(strstr(cow_last_error(), "cowd"), "%s", cow_last_error());
	proof_wait_for_holdings(&before);
	set_limit(proof_cowd(), RLIMIT_FSIZE, RLIM_INFINITY);
	proof_ok(cow_region_new(&region, client, &params));
	cow_region_unref(region);
}
END_TEST

/* An overlapping snapshot of mode scoot needs a memfd of cowd's. */
START_TEST(a_cowd_with_a_limit_on_files_meets_an_overlap)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_SCOOT, REGION_BYTES);
	struct cow_snapshot *first = NULL, *second = NULL;
	char *memory = cow_region_address(region);

	proof_fill(memory, REGION_BYTES, 1);
	proof_ok(cow_snapshot_new(&first, region));
	ck_assert_uint_ne(cow_snapshot_id(first), 0);
	proof_fill(memory, REGION_BYTES, 2);
	set_limit(proof_cowd(), RLIMIT_FSIZE, REGION_BYTES / 2);
	check_error(cow_snapshot_new(&second, region), -EFBIG, "ulimit -f");
	ck_assert_ptr_null(second);
	proof_check_snapshot(first, 1);
	ck_assert(proof_is_filled(memory, REGION_BYTES, 2, 0));
	set_limit(proof_cowd(), RLIMIT_FSIZE, RLIM_INFINITY);
	proof_ok(cow_snapshot_new(&second, region));
	proof_fill(memory, REGION_BYTES, 3);
	proof_check_snapshot(second, 2);
	cow_snapshot_unref(first);
	cow_snapshot_unref(second);
}
END_TEST

/* cowd cannot keep a page: the snapshot is lost and says why, the write is done. */
START_TEST(no_memory_in_cowd_for_a_page)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_UFFD, REGION_BYTES);
	struct cow_snapshot *snap = NULL;
	char *memory = cow_region_address(region);
	char byte = 0;

	proof_fill(memory, REGION_BYTES, 1);
	leave_some(proof_cowd(), RLIMIT_AS);
	proof_ok(cow_snapshot_new(&snap, region));
	proof_fill(memory, REGION_BYTES, 2);
	check_error(cow_snapshot_read(snap, &byte, 1, 0), -ESTALE, "ulimit -v");
	ck_assert_msg(strstr(cow_last_error(), "cowd"), "%s", cow_last_error());
	cow_snapshot_unref(snap);
	ck_assert(proof_is_filled(memory, REGION_BYTES, 2, 0));
	set_limit(proof_cowd(), RLIMIT_AS, RLIM_INFINITY);
	proof_ok(cow_snapshot_new(&snap, region));
	proof_fill(memory, REGION_BYTES, 3);
	proof_check_snapshot(snap, 2);
	cow_snapshot_unref(snap);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("limits", 60);

	if (!has_sanitizer()) {
		tcase_add_loop_test(tcase, no_address_space_for_a_region, 0, PROOF_N_MODES);
		tcase_add_loop_test(tcase, no_address_space_for_a_snapshot, 0, PROOF_N_MODES);
		tcase_add_test(tcase, no_data_for_frozen_memory);
		if (proof_has_uffd())
			tcase_add_test(tcase, no_memory_in_cowd_for_a_page);
	} else {
		tests_left_out("limits of memory: the sanitizer maps terabytes for itself");
	}
	tcase_add_loop_test(tcase, a_program_with_a_limit_on_files, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, a_cowd_with_a_limit_on_files, 0, PROOF_N_MODES);
	tcase_add_test(tcase, a_cowd_with_a_limit_on_files_meets_an_overlap);
	return proof_run(tcase);
}
