// SPDX-License-Identifier: LGPL-2.1-or-later
/* backends/scoot/shadow.c: the mapping that the first take puts in place. */
#include "config.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/skip.h"
#include "tests/unit/shadow-fixture.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define MUNLOCK_DOES_NOTHING true
#else
#define MUNLOCK_DOES_NOTHING false
#endif

/*
 * What the first take puts in place is there before. Seen to fail: without scoot_shadow_prepare(),
 * and without munlock() in is_clean(), where giving access copies all that mlockall() has locked.
 */
START_TEST(a_first_take_makes_no_mapping)
{
	struct scoot_region *region = make_filled();
	struct scoot_snapshot *snap;

	scoot_shadow_prepare(region);
	ck_assert_ptr_nonnull(region->shadow);
	/* As MCL_CURRENT would, which locks all that a sanitizer
	 * has as well; there is no access. */
	if (!MUNLOCK_DOES_NOTHING)
		ck_assert_int_eq(syscall(SYS_mlock, *(char **)region->shadow, SIZE_BYTES), -1);
	if (syscall(SYS_mlockall, MCL_FUTURE)) {
		ck_assert(errno == ENOMEM || errno == EPERM);
		end_region(region);
		test_skip("mlockall(MCL_FUTURE) is not allowed here (RLIMIT_MEMLOCK)");
	}
	snap = take(region);
	ck_assert_uint_eq(n_private(region), 0);
	ck_assert_uint_eq(read_all(region), SIZE_BYTES / page_size_bytes());
	memset(region->addr, 2, SIZE_BYTES / 2);
	ck_assert_int_eq(syscall(SYS_munlockall), 0);
	ck_assert_uint_eq(n_private(region), SIZE_BYTES / 2 / page_size_bytes());
	scoot_snapshot_free(snap);
	settle_all(region);
	ck_assert_uint_eq(read_all(region), (SIZE_BYTES + SIZE_BYTES / 2) / page_size_bytes());
	end_region(region);
}
END_TEST

/*
 * Nor does one fault that comes late enough. Seen to fail: without scoot_shadow_warm(), and with
 * one that is of use once only.
 */
START_TEST(a_first_take_finds_page_tables)
{
	struct scoot_region *region = make_region(SIZE_BYTES, WITH_SCAN);
	const uint64_t n_pages = SIZE_BYTES / page_size_bytes();
	struct scoot_snapshot *snap;
	long before;

	scoot_shadow_prepare(region);
	memset(region->addr, 1, SIZE_BYTES / 2);
	ck_assert(scoot_shadow_warm(region));
	while (scoot_populate_step(region))
		;
	memset(region->addr + SIZE_BYTES / 2, 1, SIZE_BYTES / 2);
	ck_assert(scoot_shadow_warm(region));
	while (scoot_populate_step(region))
		;
	memset(region->addr, 2, SIZE_BYTES / 2);
	snap = take(region);
	ck_assert(!scoot_shadow_warm(region));
	before = n_faults();
	ck_assert_uint_eq(read_all(region), n_pages + n_pages / 2);
	ck_assert_int_lt(n_faults() - before, 200);
	ck_assert_uint_eq(n_private(region), 0);
	memset(region->addr, 3, SIZE_BYTES);
	scoot_snapshot_free(snap);
	settle_all(region);
	ck_assert_uint_eq(read_all(region), 3 * n_pages);
	end_region(region);
}
END_TEST

/* Address space set aside for the first take is there for it, though the shadow is of no use. */
START_TEST(a_limit_after_the_shadow_was_made)
{
	struct scoot_region *region = make_filled();
	struct rlimit before, now;
	struct scoot_snapshot *snap;

	scoot_shadow_prepare(region);
	ck_assert_ptr_nonnull(region->shadow);
	if (_i)
		scoot_shadow_warm(region);
	ck_assert_int_eq(getrlimit(RLIMIT_DATA, &before), 0);
	now = before;
	now.rlim_cur = (rlim_t)1 << 60;
	ck_assert_int_eq(setrlimit(RLIMIT_DATA, &now), 0);
	snap = take(region);
	ck_assert_int_eq(setrlimit(RLIMIT_DATA, &before), 0);
	ck_assert_ptr_nonnull(region->shadow); /* the shared mapping that was moved aside */
	ck_assert_uint_eq(read_all(region), SIZE_BYTES / page_size_bytes());
	memset(region->addr, 2, SIZE_BYTES);
	scoot_snapshot_free(snap);
	settle_all(region);
	ck_assert_uint_eq(read_all(region), 2 * SIZE_BYTES / page_size_bytes());
	end_region(region);
}
END_TEST

/* In a process of its own: no more of @region's file is in memory than what was written. */
static int warm_as_nobody(struct scoot_region *region)
{
	struct stat st;

	if (setuid(65534))
		return 2;
	scoot_shadow_warm(region);
	while (scoot_populate_step(region))
		;
	return fstat(region->home->fd, &st) ||
	       (uint64_t)st.st_blocks * 512 > 64 * page_size_bytes();
}

/*
 * Memory that cowd made belongs to cowd's user, and mincore() tells nobody else what of it is
 * there. Seen to fail: with space_populate() by mincore(), which fills the holes of what it maps.
 */
START_TEST(holes_stay_holes_for_whom_the_file_is_not)
{
	CLEANUP(memfile_unrefp) struct memfile *home = make_backing(SIZE_BYTES, 1);
	struct scoot_region *region = NULL;
	int uffd, status;
	char *addr;
	pid_t pid;

	if (getuid() != 0)
		test_skip("another user than the file's can only be had by root");
	ck_assert_int_eq(fchmod(home->fd, 0600), 0);
	pid = fork();
	if (!pid) {
		uffd = make_uffd();
		if (space_reserve(&addr, SIZE_BYTES) ||
		    mmap(addr, SIZE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, home->fd,
			 0) != addr ||
		    scoot_region_new(&region, addr, home, &uffd))
			_exit(3);
		memset(addr, 1, 8 * page_size_bytes());
		scoot_shadow_prepare(region);
		_exit(warm_as_nobody(region));
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("early shadow");

	tcase_set_timeout(tcase, 120);
	tcase_add_test(tcase, a_first_take_makes_no_mapping);
	tcase_add_test(tcase, a_first_take_finds_page_tables);
	tcase_add_loop_test(tcase, a_limit_after_the_shadow_was_made, 0, 2);
	tcase_add_test(tcase, holes_stay_holes_for_whom_the_file_is_not);
	return run_with_uffd(tcase);
}
