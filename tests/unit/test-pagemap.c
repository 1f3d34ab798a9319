// SPDX-License-Identifier: LGPL-2.1-or-later
// Both ways of finding private pages give the same, right answer.
#include "config.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backends/pagemap.h"

#define N_PAGES 3000

static bool is_found(const struct page_run *runs, size_t n_runs, uint64_t addr)
{
	for (size_t i = 0; i < n_runs; i++) {
		if (runs[i].addr <= addr && addr < runs[i].addr + runs[i].len)
			return true;
	}
	return false;
}

/* One page in @every written, one in three only read, the rest untouched. */
static void check_pattern(bool with_scan, unsigned int every, size_t max_runs)
{
	const size_t page = page_size_bytes();
	CLEANUP(freep) bool *is_written = calloc(N_PAGES, sizeof(bool));
	CLEANUP(freep) struct page_run *runs = calloc(N_PAGES, sizeof(*runs));
	AUTO_FD int fd = memfd_create("pagemap", MFD_CLOEXEC);
	struct pagemap pagemap;
	size_t n_runs = 0, n;
	uint64_t at, end;
	char *mem;

	ck_assert_int_eq(ftruncate(fd, (off_t)(N_PAGES * page)), 0);
	mem = mmap(NULL, N_PAGES * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	ck_assert_ptr_ne(mem, MAP_FAILED);
	for (size_t i = 0; i < N_PAGES; i++) {
		is_written[i] = (unsigned int)random() % every == 0;
		if (is_written[i])
			mem[i * page] = 1;
		else if (i % 3 == 0)
			(void)*(volatile char *)(mem + i * page);
	}
	ck_assert_int_eq(pagemap_init(&pagemap), 0);
	pagemap.has_scan &= with_scan;
	at = (uint64_t)(uintptr_t)mem;
	end = at + N_PAGES * page;
	while (at < end) {
		ck_assert_int_eq(pagemap_private(&pagemap, &at, end, runs + n_runs, max_runs, &n),
				 0);
		ck_assert_uint_le(n, max_runs);
		n_runs += n;
	}
	for (size_t i = 0; i < N_PAGES; i++)
		ck_assert_int_eq(is_found(runs, n_runs, (uint64_t)(uintptr_t)mem + i * page),
				 is_written[i]);
	munmap(mem, N_PAGES * page);
}

START_TEST(written_pages_are_found_and_no_others)
{
	srandom(7);
	for (int with_scan = 0; with_scan < 2; with_scan++) {
		check_pattern(with_scan, 1, 2);
		check_pattern(with_scan, 2, 2);
		check_pattern(with_scan, 2, 300);
		check_pattern(with_scan, 50, 64);
		check_pattern(with_scan, 100000000, 64);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("pagemap");
	TCase *tcase = tcase_create("pagemap");
	SRunner *runner = srunner_create(suite);
	int failed;

	suite_add_tcase(suite, tcase);
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, written_pages_are_found_and_no_others);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
