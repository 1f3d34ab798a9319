// SPDX-License-Identifier: LGPL-2.1-or-later
// Sizes and strangers' text.
#include "config.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>

#include "common/format.h"

START_TEST(sizes_are_written_with_a_tenth)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} rows[] = {
		{0, "0 B"},
		{1023, "1023 B"},
		{1024, "1.0 KiB"},
		{1536, "1.5 KiB"},
		{UINT64_C(1) << 20, "1.0 MiB"},
		{(UINT64_C(1) << 20) - 1, "1.0 MiB"}, /* not 1024.0 KiB */
		{UINT64_C(4) << 30, "4.0 GiB"},
		{UINT64_MAX, "16.0 EiB"},
	};
	char buf[FORMAT_BYTES_MAX];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		ck_assert_str_eq(format_bytes(buf, rows[i].bytes), rows[i].text);
}
END_TEST

START_TEST(sizes_are_read_with_units_of_1024)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} rows[] = {
		{"0", 0},
		{"65536", 65536},
		{"64K", 65536},
		{" 64 KiB", 65536},
		{"1.5g", UINT64_C(3) << 29},
		{"2T", UINT64_C(2) << 40},
		{"7B", 7},
		{"15E", UINT64_C(15) << 60},
	};
	uint64_t bytes;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		ck_assert_int_eq(format_parse_bytes(&bytes, rows[i].text), 0);
		ck_assert_uint_eq(bytes, rows[i].bytes);
	}
}
END_TEST

START_TEST(what_is_no_size_is_refused)
{
	static const char *const texts[] = {"", "K", "-1", "1X", "1KB2", "1 2", "0x10", ".5G"};
	uint64_t bytes = 42;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		ck_assert_int_eq(format_parse_bytes(&bytes, texts[i]), -EINVAL);
	ck_assert_int_eq(format_parse_bytes(&bytes, "16E"), -ERANGE);
	ck_assert_int_eq(format_parse_bytes(&bytes, "18446744073709551616"), -ERANGE);
	ck_assert_uint_eq(bytes, 42);
}
END_TEST

START_TEST(strangers_cannot_write_log_lines)
{
	char buf[8];

	format_clean(buf, sizeof(buf), "a\nb\x1b\xff longer");
	ck_assert_str_eq(buf, "a?b?? l");
}
END_TEST

/* Seen to fail with all but ASCII replaced, and with a cut in the middle of a character. */
START_TEST(names_of_strangers_are_theirs_if_they_do_no_harm)
{
	static const struct {
		const char *given, *shown;
	} texts[] = {
		{"h\u00e4user", "h\u00e4user"},
		{"\U0001f404", "\U0001f404"},
		{"\xc2\x9b"
		 "31m",
		 "?31m"},                            /* a control sequence in one character */
		{"a\u202eb\u2028c\u2066", "a?b?c?"}, /* backwards, and a line of its own */
		{"\xed\xa0\x80", "???"},             /* half of a pair */
		{"\xf4\x90\x80\x80", "????"},        /* above U+10FFFF */
		{"\xe0\x80\xaf", "???"},             /* a slash in three bytes */
		{"12345678901234\u00e4", "12345678901234"}, /* no room for both bytes */
	};
	char buf[16];

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		format_clean(buf, sizeof(buf), texts[i].given);
		ck_assert_str_eq(buf, texts[i].shown);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("format");
	TCase *tcase = tcase_create("format");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tcase, sizes_are_written_with_a_tenth);
	tcase_add_test(tcase, sizes_are_read_with_units_of_1024);
	tcase_add_test(tcase, what_is_no_size_is_refused);
	tcase_add_test(tcase, strangers_cannot_write_log_lines);
	tcase_add_test(tcase, names_of_strangers_are_theirs_if_they_do_no_harm);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
