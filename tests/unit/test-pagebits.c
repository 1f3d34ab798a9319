// SPDX-License-Identifier: GPL-2.0-or-later
/* Records of pages: any run noted and found again, at every place within bytes. */
#include "config.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "backends/pagebits.h"

#define N_PAGES ((uint64_t)41) /* the last byte is not full */

START_TEST(a_run_is_found_where_it_was_noted)
{
	for (uint64_t first = 0; first < N_PAGES; first++) {
		for (uint64_t n = 0; n <= N_PAGES - first; n++) {
			uint8_t bits[8] = {0};

			pagebits_set(bits, first, n);
			for (uint64_t i = 0; i < N_PAGES; i++)
				ck_assert_int_eq(pagebits_get(bits, i),
						 i >= first && i < first + n);
			ck_assert_uint_eq(pagebits_next(bits, 0, N_PAGES, true),
					  n ? first : N_PAGES);
			if (n)
				ck_assert_uint_eq(pagebits_next(bits, first, N_PAGES, false),
						  first + n);
			for (size_t i = pagebits_bytes(N_PAGES); i < sizeof(bits); i++)
				ck_assert_uint_eq(bits[i], 0);
		}
	}
}
END_TEST

/* What comes behind the last page, in its byte or after it, is nobody's. */
START_TEST(nothing_is_found_behind_the_end)
{
	uint8_t bits[8];

	memset(bits, 0xff, sizeof(bits));
	for (uint64_t end = 0; end <= N_PAGES; end++) {
		ck_assert_uint_eq(pagebits_next(bits, 0, end, false), end);
		ck_assert_uint_eq(pagebits_next(bits, end, end, true), end);
	}
	memset(bits, 0, sizeof(bits));
	pagebits_set(bits, N_PAGES, 64 - N_PAGES);
	for (uint64_t from = 0; from <= N_PAGES; from++)
		ck_assert_uint_eq(pagebits_next(bits, from, N_PAGES, true), N_PAGES);
}
END_TEST

START_TEST(any_bytes_are_a_record)
{
	uint8_t bits[6];

	for (int round = 0; round < 10000; round++) {
		uint64_t n_noted = 0, n_found = 0;

		for (size_t i = 0; i < sizeof(bits); i++)
			bits[i] = (uint8_t)random();
		for (uint64_t i = 0; i < N_PAGES; i++)
			n_noted += pagebits_get(bits, i);
		for (uint64_t i = pagebits_next(bits, 0, N_PAGES, true), end; i < N_PAGES;
		     i = pagebits_next(bits, end, N_PAGES, true)) {
			end = pagebits_next(bits, i, N_PAGES, false);
			ck_assert_uint_gt(end, i);
			n_found += end - i;
		}
		ck_assert_uint_eq(n_found, n_noted);
	}
}
END_TEST

START_TEST(a_record_has_room_for_each_page)
{
	ck_assert_uint_eq(pagebits_bytes(0), 0);
	ck_assert_uint_eq(pagebits_bytes(1), 1);
	ck_assert_uint_eq(pagebits_bytes(8), 1);
	ck_assert_uint_eq(pagebits_bytes(9), 2);
	ck_assert_uint_eq(pagebits_bytes(UINT64_MAX), (uint64_t)1 << 61);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("pagebits");
	TCase *tcase = tcase_create("pagebits");
	SRunner *runner = srunner_create(suite);
	int n_failed;

	tcase_add_test(tcase, a_run_is_found_where_it_was_noted);
	tcase_add_test(tcase, nothing_is_found_behind_the_end);
	tcase_add_test(tcase, any_bytes_are_a_record);
	tcase_add_test(tcase, a_record_has_room_for_each_page);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
