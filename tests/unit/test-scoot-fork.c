// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What backends/scoot does with a region before a fork(): pages written since it was frozen go
 * back to their backing, or stay for fork() to share where that is cheaper.
 */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/scoot-fixture.h"

static uint64_t count_private(const struct scoot_region *region)
{
	uint64_t at = (uint64_t)(uintptr_t)region->addr, end = at + region->size_bytes, n = 0;
	struct page_run found[256];
	size_t n_found;

	while (at < end) {
		ck_assert_int_eq(pagemap_private(&region->pagemap, &at, end, found,
						 ARRAY_SIZE(found), &n_found),
				 0);
		for (size_t i = 0; i < n_found; i++)
			n += found[i].len / page_size_bytes();
	}
	return n;
}

static int child_sees(const struct scoot_region *region, const char *copy, int go_fd)
{
	char byte;

	if (read(go_fd, &byte, 1) != 1)
		return 2;
	return memcmp(region->addr, copy, region->size_bytes) != 0;
}

/* A child that reads when the parent has written again. */
static void check_child(struct scoot_region *region)
{
	CLEANUP(freep) char *copy = malloc(region->size_bytes);
	int ends[2], status;
	pid_t pid;

	memcpy(copy, region->addr, region->size_bytes);
	ck_assert_int_eq(madvise(region->addr, region->size_bytes, MADV_DOFORK), 0);
	ck_assert_int_eq(pipe(ends), 0);
	pid = fork();
	if (!pid)
		_exit(child_sees(region, copy, ends[0]));
	ck_assert_int_gt(pid, 0);
	ck_assert_int_eq(madvise(region->addr, region->size_bytes, MADV_DONTFORK), 0);
	memset(region->addr, 3, region->size_bytes);
	ck_assert_int_eq(write(ends[1], "", 1), 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	(void)close(ends[0]);
	(void)close(ends[1]);
}

/*
 * Seen to fail: where scoot_guard() writes back however many there are, and where it leaves private
 * however few there are.
 */
START_TEST(a_guard_leaves_to_fork_what_is_dear)
{
	const uint64_t page = page_size_bytes(), n_pages = 4096;
	const uint64_t n_written[] = {100, n_pages, 3000, 60};
	struct scoot_region *region = make_region(n_pages * page, (enum config)_i);

	memset(region->addr, 1, region->size_bytes);
	for (size_t i = 0; i < ARRAY_SIZE(n_written); i++) {
		CLEANUP(scoot_snapshot_freep) struct scoot_snapshot *guard = NULL;
		const bool is_dear = n_written[i] > 2 * n_pages / 16;

		scoot_snapshot_free(take(region));
		for (uint64_t n = 0; n < n_written[i]; n++)
			region->addr[n * (n_pages / n_written[i]) * page] = 2;
		ck_assert_uint_eq(count_private(region), n_written[i]);
		ck_assert_msg(!scoot_guard(region, &(struct scoot_take_env){0}, &guard), "%s",
			      err_sentence());
		ck_assert_uint_eq(count_private(region), is_dear ? n_written[i] : 0);
		check_child(region);
		guard = scoot_snapshot_free(guard);
		settle_all(region);
		ck_assert(extents_is_owned(&region->map));
	}
	end_region(region);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("scoot and fork");

	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, a_guard_leaves_to_fork_what_is_dear, 0, WITHOUT_UFFD);
	return run_with_uffd(tcase);
}
