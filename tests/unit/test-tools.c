// SPDX-License-Identifier: GPL-2.0-or-later
// What cowctl and cowbench rest on: quantiles, strides, numbers, nearest names, durations, files
// that are there whole or not at all.
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"
#include "tools/cli.h"
#include "tools/report.h"
#include "tools/samples.h"
#include "tools/savefile.h"

static char dir[] = "/tmp/cow-tools.XXXXXX";

static const char *in_dir(const char *name)
{
	static char path[256];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* The definition itself: how many values do not pass the quantile, and would fewer have done? */
START_TEST(quantile_is_the_smallest_value_that_enough_do_not_pass)
{
	static const double qs[] = {0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1};
	struct samples samples;
	uint64_t sorted[999];

	for (size_t n = 1; n <= ARRAY_SIZE(sorted); n = n * 2 + 1) {
		ck_assert_int_eq(samples_init(&samples, n), 0);
		for (size_t i = 0; i < n; i++) {
			sorted[i] = (i * 7919 + 13) % 1009;
			samples_add(&samples, sorted[i]);
		}
		qsort(sorted, n, sizeof(*sorted), compare_u64);
		for (size_t k = 0; k < ARRAY_SIZE(qs); k++) {
			uint64_t value = samples_quantile(&samples, qs[k]);
			size_t n_below = 0, n_up_to = 0;

			for (size_t i = 0; i < n; i++) {
				n_below += sorted[i] < value;
				n_up_to += sorted[i] <= value;
			}
			ck_assert_double_ge((double)n_up_to, qs[k] * (double)n);
			ck_assert_double_lt((double)n_below, qs[k] * (double)n);
		}
		ck_assert_uint_eq(samples_quantile(&samples, 1), sorted[n - 1]);
		samples_deinit(&samples);
	}
}
END_TEST

START_TEST(quantile_sees_values_added_after_it_was_asked)
{
	struct samples samples;

	ck_assert_int_eq(samples_init(&samples, 2), 0);
	ck_assert_uint_eq(samples_quantile(&samples, 0.5), 0);
	samples_add(&samples, 9);
	ck_assert_uint_eq(samples_quantile(&samples, 0.5), 9);
	samples_add(&samples, 3);
	ck_assert_uint_eq(samples_quantile(&samples, 0.5), 3);
	ck_assert_int_eq(samples_grow(&samples, 1), 0);
	samples_add(&samples, 1);
	ck_assert_uint_eq(samples_quantile(&samples, 0.1), 1);
	ck_assert_uint_eq(samples_quantile(&samples, 1), 9);
	samples_deinit(&samples);
}
END_TEST

START_TEST(strides_visit_all_once)
{
	static const uint64_t sizes[] = {1, 2, 3, 16, 36, 210, 256, 1000, 1024, 6 * 256, 65536};
	static bool is_seen[65536];

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint64_t stride = samples_stride(sizes[i]);

		memset(is_seen, 0, sizeof(is_seen));
		for (uint64_t n = 0, at = 5 % sizes[i]; n < sizes[i]; n++) {
			ck_assert(!is_seen[at]);
			is_seen[at] = true;
			at = (at + stride) % sizes[i];
		}
		if (sizes[i] > 256)
			ck_assert_uint_gt(stride, sizes[i] / 2);
	}
}
END_TEST

START_TEST(numbers_are_digits_and_in_range)
{
	uint64_t value = 77;

	ck_assert(cli_parse_u64(&value, "18446744073709551615", 1, UINT64_MAX));
	ck_assert_uint_eq(value, UINT64_MAX);
	ck_assert(cli_parse_u64(&value, "007", 1, 10));
	ck_assert_uint_eq(value, 7);
	ck_assert(!cli_parse_u64(&value, "", 0, 10));
	ck_assert(!cli_parse_u64(&value, "-1", 0, UINT64_MAX));
	ck_assert(!cli_parse_u64(&value, "+1", 0, 10));
	ck_assert(!cli_parse_u64(&value, " 1", 0, 10));
	ck_assert(!cli_parse_u64(&value, "1 ", 0, 10));
	ck_assert(!cli_parse_u64(&value, "0x1", 0, 10));
	ck_assert(!cli_parse_u64(&value, "11", 0, 10));
	ck_assert(!cli_parse_u64(&value, "0", 1, 10));
	ck_assert(!cli_parse_u64(&value, "18446744073709551616", 0, UINT64_MAX));
	ck_assert_uint_eq(value, 7);
}
END_TEST

START_TEST(nearest_name_is_near_or_none)
{
	static const struct {
		const char *name;
		int other;
	} table[] = {{"status", 0}, {"clients", 0}, {"snapshots", 0}, {"stats", 0}, {"save", 0}};

#define NEAREST(word) cli_nearest(word, &table[0].name, ARRAY_SIZE(table), sizeof(table[0]))
	ck_assert_str_eq(NEAREST("sanpshots"), "snapshots");
	ck_assert_str_eq(NEAREST("snap"), "snapshots");
	ck_assert_str_eq(NEAREST("stat"), "status");
	ck_assert_str_eq(NEAREST("sav"), "save");
	ck_assert_str_eq(NEAREST("client"), "clients");
	ck_assert_ptr_null(NEAREST("qqqqqq"));
	ck_assert_ptr_null(NEAREST("z"));
	/* A third of a word may be wrong. */
	ck_assert_ptr_null(NEAREST("stripes"));
	ck_assert_ptr_null(NEAREST("safari"));
	/* longer than any name, and than what is compared */
	ck_assert_ptr_null(NEAREST("an-answer-that-nobody-could-have-given-in-earnest"));
}
END_TEST

START_TEST(durations_and_figures_are_short)
{
	char buf[REPORT_DURATION_MAX];

	ck_assert_str_eq(report_duration(buf, 0), "0.0s");
	ck_assert_str_eq(report_duration(buf, 9900000), "9.9s");
	ck_assert_str_eq(report_duration(buf, 59000000), "59s");
	ck_assert_str_eq(report_duration(buf, 61000000), "1m01s");
	ck_assert_str_eq(report_duration(buf, 3660000000), "1h01m");
	ck_assert_str_eq(report_duration(buf, 90000000000), "1d01h");
	ck_assert_str_eq(report_micros(buf, 0.214), "0.21");
	ck_assert_str_eq(report_micros(buf, 18.71), "18.7");
	ck_assert_str_eq(report_micros(buf, 98730), "98730");
}
END_TEST

static const struct report_column columns[] = {
	{"id", "ID", REPORT_NUMBER, 0},
	{"name", "NAME", REPORT_TEXT, 0},
	{"size", "SIZE", REPORT_BYTES, 1},
	{"why", "LOST BECAUSE", REPORT_TEXT, 2},
};

/* What report_table_within() prints for two rows; the caller frees it. */
static char *table_within(unsigned int width)
{
	struct json_object *rows = json_tokener_parse(
		"[{\"id\": 7, \"name\": \"häufig\", \"size\": 1024, \"why\": \"no room\"},"
		" {\"id\": 123, \"name\": \"index\", \"size\": 1048576, \"why\": \"\"}]");
	FILE *real = stdout;
	char *text = NULL;
	size_t n;

	stdout = open_memstream(&text, &n);
	ck_assert_ptr_nonnull(stdout);
	ck_assert_int_eq(report_table_within(rows, columns, ARRAY_SIZE(columns), width), 0);
	(void)fclose(stdout);
	stdout = real;
	json_object_put(rows);
	return text;
}

/* Seen to fail with a table that leaves nothing out, and with widths counted in bytes. */
START_TEST(tables_leave_out_what_does_not_fit)
{
	static const struct {
		unsigned int width;
		const char *text;
	} tables[] = {
		{0, " ID NAME      SIZE LOST BECAUSE\n"
		    "  7 häufig 1.0 KiB no room\n"
		    "123 index  1.0 MiB -\n"},
		{31, " ID NAME      SIZE LOST BECAUSE\n"
		     "  7 häufig 1.0 KiB no room\n"
		     "123 index  1.0 MiB -\n"},
		{30, " ID NAME      SIZE\n"
		     "  7 häufig 1.0 KiB\n"
		     "123 index  1.0 MiB\n"
		     "(--wide shows LOST BECAUSE)\n"},
		{17, " ID NAME\n"
		     "  7 häufig\n"
		     "123 index\n"
		     "(--wide shows SIZE,\n"},
	};

	ck_assert_ptr_nonnull(setlocale(LC_CTYPE, "C.UTF-8"));
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
		CLEANUP(freep) char *text = table_within(tables[i].width);

		ck_assert_msg(!strncmp(text, tables[i].text, strlen(tables[i].text)),
			      "in %u cells:\n%s", tables[i].width, text);
	}
}
END_TEST

START_TEST(text_from_others_is_valid_utf8)
{
	static const struct {
		const char *given, *shown;
	} texts[] = {
		{"heap", "heap"},
		{"h\xc3\xa4 \xe2\x82\xac \xf0\x9f\x90\x84",
		 "h\xc3\xa4 \xe2\x82\xac \xf0\x9f\x90\x84"},
		{"\xff\xfe", "??"},
		{"cut \xe2\x82", "cut ??"},
		{"\xc0\xaf", "??"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct json_object *text = report_text(texts[i].given);

		ck_assert_str_eq(json_object_get_string(text), texts[i].shown);
		json_object_put(text);
	}
}
END_TEST

static void write_all(int fd, const char *text)
{
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void check_content(const char *path, const char *text)
{
	char buf[64] = "";
	AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(read(fd, buf, sizeof(buf)), (ssize_t)strlen(text));
	ck_assert_str_eq(buf, text);
}

START_TEST(savefile_has_its_name_only_when_committed)
{
	struct savefile file;
	struct stat st;

	ck_assert_int_eq(savefile_open(&file, in_dir("a"), false), 0);
	write_all(file.fd, "half");
	ck_assert_int_eq(access(in_dir("a"), F_OK), -1);
	savefile_deinit(&file);
	ck_assert_int_eq(access(in_dir("a"), F_OK), -1);
	ck_assert_int_eq(rmdir(dir), 0); /* nothing at all is left */
	ck_assert_int_eq(mkdir(dir, 0700), 0);

	ck_assert_int_eq(savefile_open(&file, in_dir("a"), false), 0);
	write_all(file.fd, "whole");
	ck_assert_int_eq(savefile_commit(&file), 0);
	savefile_deinit(&file);
	check_content(in_dir("a"), "whole");
	ck_assert_int_eq(stat(in_dir("a"), &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
	(void)unlink(in_dir("a"));
}
END_TEST

START_TEST(savefile_replaces_only_when_told)
{
	static char path[256];
	struct savefile file;

	(void)strcpy(path, in_dir("b"));
	ck_assert_int_eq(savefile_open(&file, path, false), 0);
	write_all(file.fd, "first");
	ck_assert_int_eq(savefile_commit(&file), 0);
	savefile_deinit(&file);

	ck_assert_int_eq(savefile_open(&file, path, false), -EEXIST);
	savefile_deinit(&file);

	ck_assert_int_eq(savefile_open(&file, path, true), 0);
	write_all(file.fd, "second");
	check_content(path, "first");
	ck_assert_int_eq(savefile_commit(&file), 0);
	savefile_deinit(&file);
	check_content(path, "second");
	(void)unlink(path);
	ck_assert_int_eq(rmdir(dir), 0); /* no temporary name is left */
	ck_assert_int_eq(mkdir(dir, 0700), 0);
}
END_TEST

/* Somebody else makes a file of that name between open and commit. */
START_TEST(savefile_does_not_replace_what_appeared_meanwhile)
{
	static char path[256];
	struct savefile file;
	AUTO_FD int other_fd = -1;

	(void)strcpy(path, in_dir("c"));
	ck_assert_int_eq(savefile_open(&file, path, false), 0);
	write_all(file.fd, "ours");
	other_fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	write_all(other_fd, "theirs");
	ck_assert_int_eq(savefile_commit(&file), -EEXIST);
	savefile_deinit(&file);
	check_content(path, "theirs");
	(void)unlink(path);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tools");
	TCase *tcase = tcase_create("tools");
	SRunner *runner = srunner_create(suite);
	int failed;

	if (!mkdtemp(dir)) {
		perror(dir);
		return EXIT_FAILURE;
	}
	suite_add_tcase(suite, tcase);
	tcase_add_test(tcase, quantile_is_the_smallest_value_that_enough_do_not_pass);
	tcase_add_test(tcase, quantile_sees_values_added_after_it_was_asked);
	tcase_add_test(tcase, strides_visit_all_once);
	tcase_add_test(tcase, numbers_are_digits_and_in_range);
	tcase_add_test(tcase, nearest_name_is_near_or_none);
	tcase_add_test(tcase, durations_and_figures_are_short);
	tcase_add_test(tcase, tables_leave_out_what_does_not_fit);
	tcase_add_test(tcase, text_from_others_is_valid_utf8);
	tcase_add_test(tcase, savefile_has_its_name_only_when_committed);
	tcase_add_test(tcase, savefile_replaces_only_when_told);
	tcase_add_test(tcase, savefile_does_not_replace_what_appeared_meanwhile);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	(void)rmdir(dir);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
