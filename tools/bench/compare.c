// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowbench compare: every mode in one run of the program, taken in turn (fork, scoot, … fork,
 * scoot, …) so that a machine that gets slower or faster meanwhile does so for all of them. Only
 * one mode's memory exists at a time, and each turn begins with fresh memory that was written to
 * throughout.
 *
 * A turn has two halves, each in a process of its own (turn.h), for they would disturb each
 * other. First: freeze, then time single reads of pages in the upper half of the memory and single
 * writes to pages in the lower half, in random order; apart, since a read fault may map neighbours
 * too. Second: freeze new memory, rewrite every page in order, and see how much more memory is held
 * than before. Both halves give one stall each.
 *
 * A mode that this cowd cannot serve, for there is no /dev/userfaultfd, is left out, and the result
 * says why.
 *
 * A reading of the clock is part of each latency (20 to 40 ns); memcpy's column shows it.
 */
#include "config.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "backends/features.h"
#include "common/err.h"
#include "common/format.h"
#include "tools/bench/options.h"
#include "tools/bench/turn.h"
#include "tools/report.h"
#include "tools/samples.h"

#define TOUCHES_PER_RUN 20000 /* of each kind: 20 values are above the 99.9th percentile */
#define SEED            0x9e3779b97f4a7c15
#define N_MODES_MAX     8
#define WITHOUT_MAX     64 /* bytes of the name of a feature */

/* The measurements of one mode: nanoseconds, and bytes. */
struct figures {
	struct samples stall;
	struct samples first_read;
	struct samples first_write;
	struct samples rewrite;
	struct samples extra;
};

/**
 * struct compare - what was asked for, and what came of it
 * @without:  features of the kernel that the private cowd does without
 * @address:  of the cowd to be used
 * @left_out: why a mode is not measured; "" if it is
 */
struct compare {
	const char *socket;
	struct bench_texts without;
	char address[PATH_MAX + BENCH_TEXTS_MAX * (WITHOUT_MAX + 20)];
	uint64_t size_bytes;
	uint64_t n_runs;
	bool is_json;
	bool is_warm;
	struct figures figures[N_MODES_MAX];
	char left_out[N_MODES_MAX][512];
};

static void figures_deinit(struct figures *figures)
{
	samples_deinit(&figures->stall);
	samples_deinit(&figures->first_read);
	samples_deinit(&figures->first_write);
	samples_deinit(&figures->rewrite);
	samples_deinit(&figures->extra);
}

static int figures_init(struct figures *figures, uint64_t n_runs, size_t n_touches)
{
	int r;

	r = samples_init(&figures->stall, 2 * n_runs);
	if (!r)
		r = samples_init(&figures->first_read, n_runs * n_touches);
	if (!r)
		r = samples_init(&figures->first_write, n_runs * n_touches);
	if (!r)
		r = samples_init(&figures->rewrite, n_runs);
	if (!r)
		r = samples_init(&figures->extra, n_runs);
	return r;
}

/* How many pages of each half are touched. */
static size_t n_touches_of(uint64_t size_bytes)
{
	return min_u64(TOUCHES_PER_RUN, size_bytes / page_size_bytes() / 2);
}

/* xorshift64: the same order in every mode. */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* @n_chosen different numbers below @n_all in random order. 0 or -ENOMEM with a sentence. */
static int choose(uint64_t *chosen, size_t n_chosen, uint64_t n_all, uint64_t seed)
{
	CLEANUP(freep) uint64_t *all = malloc(n_all * sizeof(*all));
	uint64_t state = seed;

	if (!all)
		return err_oom(n_all * sizeof(*all), "the list of pages");
	for (uint64_t i = 0; i < n_all; i++)
		all[i] = i;
	for (size_t i = 0; i < n_chosen; i++) {
		uint64_t other = i + next_random(&state) % (n_all - i);

		chosen[i] = all[other];
		all[other] = all[i];
	}
	return 0;
}

static int run_half(struct turn *turn, enum turn_kind kind, struct figures *figures)
{
	int r;

	turn->kind = kind;
	r = turn_run(turn);
	if (r)
		return r;
	samples_add(&figures->stall, turn->stall_nsec);
	if (kind == TURN_REWRITE) {
		samples_add(&figures->rewrite, turn->rewrite_nsec);
		samples_add(&figures->extra, turn->extra_bytes);
		return 0;
	}
	for (size_t i = 0; i < turn->n_touches; i++) {
		samples_add(&figures->first_read, turn->reads[i]);
		samples_add(&figures->first_write, turn->writes[i]);
	}
	return 0;
}

static void show_turn(uint64_t run, uint64_t n_runs, const char *mode)
{
	if (!isatty(STDERR_FILENO))
		return;
	if (mode)
		fprintf(stderr, "\r\033[Krun %llu of %llu: %s", (unsigned long long)run + 1,
			(unsigned long long)n_runs, mode);
	else
		fputs("\r\033[K", stderr);
}

static int fail_in(const struct bench_mode *mode, int error)
{
	char sentence[512];

	(void)snprintf(sentence, sizeof(sentence), "%s", err_sentence());
	return err_raise(error, "%s: %s", mode->name, sentence);
}

/* One run: every mode has its turn. */
static int run_modes(struct compare *compare, struct turn *turn, uint64_t run)
{
	int r = 0;

	for (size_t i = 0; !r && i < n_bench_modes; i++) {
		if (*compare->left_out[i])
			continue;
		show_turn(run, compare->n_runs, bench_modes[i].name);
		turn->mode = &bench_modes[i];
		r = run_half(turn, TURN_TOUCH, &compare->figures[i]);
		if (!r)
			r = run_half(turn, TURN_REWRITE, &compare->figures[i]);
		show_turn(run, compare->n_runs, NULL);
		if (r)
			return fail_in(turn->mode, r);
	}
	return r;
}

/*
 * Try the modes before anything is measured, so that a minute of fork() does not pass before a
 * missing or wrong daemon is found. The sentence about the device does not depend on the size.
 */
static int try_modes(struct compare *compare, struct turn *turn)
{
	int r;

	turn->kind = TURN_TRY;
	for (size_t i = 0; i < n_bench_modes; i++) {
		turn->mode = &bench_modes[i];
		r = turn->mode->needs_cowd ? turn_run(turn) : 0;
		if (turn->mode->needs_device && (r == -ENODEV || r == -ENOSYS || r == -EPERM)) {
			(void)snprintf(compare->left_out[i], sizeof(compare->left_out[i]), "%s",
				       err_sentence());
			cli_say("mode %s is left out: %s", turn->mode->name, compare->left_out[i]);
		} else if (r) {
			return fail_in(turn->mode, r);
		}
	}
	return 0;
}

static int measure_all(struct compare *compare)
{
	uint64_t n_half = compare->size_bytes / page_size_bytes() / 2;
	size_t n_touches = n_touches_of(compare->size_bytes);
	struct turn *turn = NULL;
	int r;

	r = turn_new(&turn, n_touches);
	if (r)
		return r;
	turn->address = compare->address;
	turn->size_bytes = compare->size_bytes;
	turn->is_warm = compare->is_warm;
	r = try_modes(compare, turn);
	for (uint64_t run = 0; !r && run < compare->n_runs; run++) {
		r = choose(turn->list, n_touches, n_half, SEED + run);
		if (!r)
			r = run_modes(compare, turn, run);
	}
	turn_free(turn);
	return r;
}

/* --- output ----------------------------------------------------------------------------------- */

static struct json_object *quantiles(struct samples *samples, const char *last_key, double last)
{
	struct json_object *object = json_object_new_object();

	report_put_real(object, "p50", (double)samples_quantile(samples, 0.5) / 1e3);
	report_put_real(object, "p99", (double)samples_quantile(samples, 0.99) / 1e3);
	report_put_real(object, last_key, (double)samples_quantile(samples, last) / 1e3);
	return object;
}

static struct json_object *mode_document(struct figures *figures)
{
	struct json_object *object = json_object_new_object();

	json_object_object_add(object, "stall_us", quantiles(&figures->stall, "max", 1));
	json_object_object_add(object, "first_read_us",
			       quantiles(&figures->first_read, "p999", 0.999));
	json_object_object_add(object, "first_write_us",
			       quantiles(&figures->first_write, "p999", 0.999));
	report_put_real(object, "rewrite_ms",
			(double)samples_quantile(&figures->rewrite, 0.5) / 1e6);
	json_object_object_add(object, "extra_bytes",
			       json_object_new_uint64(samples_quantile(&figures->extra, 0.5)));
	return object;
}

/* Add members for unusual conditions, if there are any. */
static void put_special(const struct compare *compare, struct json_object *document)
{
	struct json_object *without = json_object_new_array();
	struct json_object *left_out = json_object_new_object();

	if (compare->is_warm)
		json_object_object_add(document, "is_warm", json_object_new_boolean(true));
	for (size_t i = 0; i < compare->without.n_texts; i++)
		json_object_array_add(without, report_text(compare->without.texts[i]));
	for (size_t i = 0; i < n_bench_modes; i++) {
		if (*compare->left_out[i])
			json_object_object_add(left_out, bench_modes[i].name,
					       report_text(compare->left_out[i]));
	}
	if (json_object_array_length(without))
		json_object_object_add(document, "without_features", json_object_get(without));
	if (json_object_object_length(left_out))
		json_object_object_add(document, "left_out", json_object_get(left_out));
	json_object_put(without);
	json_object_put(left_out);
}

static struct json_object *document_of(struct compare *compare)
{
	struct json_object *document = json_object_new_object();
	struct json_object *modes = json_object_new_object();
	struct utsname kernel;

	uname(&kernel);
	json_object_object_add(document, "size_bytes", json_object_new_uint64(compare->size_bytes));
	json_object_object_add(document, "runs", json_object_new_uint64(compare->n_runs));
	json_object_object_add(document, "page_bytes", json_object_new_uint64(page_size_bytes()));
	json_object_object_add(document, "kernel", report_text(kernel.release));
	put_special(compare, document);
	for (size_t i = 0; i < n_bench_modes; i++) {
		if (!*compare->left_out[i])
			json_object_object_add(modes, bench_modes[i].name,
					       mode_document(&compare->figures[i]));
	}
	json_object_object_add(document, "modes", modes);
	return document;
}

/* Member "b" of member "a", or of the object itself where @b is NULL, as a number. */
static double number_at(struct json_object *mode, const char *a, const char *b)
{
	struct json_object *value = json_object_object_get(mode, a);

	return json_object_get_double(b ? json_object_object_get(value, b) : value);
}

static void put_ratio(struct json_object *row, const char *key, struct json_object *fork,
		      const char *a, const char *b)
{
	double base = number_at(fork, a, b);

	if (base > 0)
		report_put_real(row, key, number_at(row, a, b) / base);
}

/* One mode as a row of a table, with its ratios to fork. */
static struct json_object *row_of(const char *name, struct json_object *mode,
				  struct json_object *fork)
{
	static const char *const keys[] = {"stall_us", "first_read_us", "first_write_us",
					   "rewrite_ms", "extra_bytes"};
	struct json_object *row = json_object_new_object();

	/* An object of its own: the ratios are for people and are no part of the document. */
	json_object_object_add(row, "mode", json_object_new_string(name));
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		json_object_object_add(row, keys[i],
				       json_object_get(json_object_object_get(mode, keys[i])));
	put_ratio(row, "stall_ratio", fork, "stall_us", "p50");
	put_ratio(row, "write_ratio", fork, "first_write_us", "p50");
	put_ratio(row, "rewrite_ratio", fork, "rewrite_ms", NULL);
	return row;
}

static struct json_object *rows_of(struct json_object *document)
{
	struct json_object *modes = json_object_object_get(document, "modes");
	struct json_object *fork = json_object_object_get(modes, "fork");
	struct json_object *rows = json_object_new_array();

	for (size_t i = 0; i < n_bench_modes; i++) {
		const char *name = bench_modes[i].name;
		struct json_object *mode = json_object_object_get(modes, name);

		if (mode)
			json_object_array_add(rows, row_of(name, mode, fork));
	}
	return rows;
}

static const struct report_column whole_columns[] = {
	{"mode", "MODE", REPORT_TEXT},
	{"stall_us.p50", "STALL us p50", REPORT_NUMBER},
	{"stall_us.p99", "p99", REPORT_NUMBER},
	{"stall_us.max", "max", REPORT_NUMBER},
	{"stall_ratio", "to fork", REPORT_RATIO},
	{"rewrite_ms", "REWRITE ms", REPORT_NUMBER},
	{"rewrite_ratio", "to fork", REPORT_RATIO},
	{"extra_bytes", "EXTRA", REPORT_BYTES},
};

static const struct report_column page_columns[] = {
	{"mode", "MODE", REPORT_TEXT},
	{"first_read_us.p50", "READ us p50", REPORT_NUMBER},
	{"first_read_us.p99", "p99", REPORT_NUMBER},
	{"first_read_us.p999", "p99.9", REPORT_NUMBER},
	{"first_write_us.p50", "WRITE us p50", REPORT_NUMBER},
	{"first_write_us.p99", "p99", REPORT_NUMBER},
	{"first_write_us.p999", "p99.9", REPORT_NUMBER},
	{"write_ratio", "to fork", REPORT_RATIO},
};

static int print_tables(const struct compare *compare, struct json_object *document)
{
	struct json_object *rows = rows_of(document);
	char size[FORMAT_BYTES_MAX];
	int r;

	printf("%s, %llu run%s, pages of %zu bytes, Linux %s",
	       format_bytes(size, compare->size_bytes), (unsigned long long)compare->n_runs,
	       compare->n_runs == 1 ? "" : "s", page_size_bytes(),
	       json_object_get_string(json_object_object_get(document, "kernel")));
	for (size_t i = 0; i < compare->without.n_texts; i++)
		printf("%s%s", i ? ", " : ", without ", compare->without.texts[i]);
	printf("\n\nUntil the program goes on, then rewriting every page, and the memory this "
	       "takes:\n");
	r = report_table(rows, whole_columns, ARRAY_SIZE(whole_columns));
	printf("\nFirst touch of a page afterwards, pages in random order:\n");
	if (!r)
		r = report_table(rows, page_columns, ARRAY_SIZE(page_columns));
	json_object_put(rows);
	return r;
}

static int print_result(struct compare *compare)
{
	struct json_object *document = document_of(compare);
	int r;

	r = compare->is_json ? report_json(document) : print_tables(compare, document);
	json_object_put(document);
	return r;
}

/* --- arguments -------------------------------------------------------------------------------- */

static int choose_address(struct compare *compare)
{
	int n = snprintf(compare->address, sizeof(compare->address), "%s",
			 bench_address(compare->socket));
	char known[256];

	if (compare->socket && compare->without.n_texts)
		return cli_usage("compare: --without-feature is for a private cowd: "
				 "a cowd with --socket was started already");
	if (n > PATH_MAX)
		return cli_usage("compare: an address of %d bytes is too long", n);
	for (size_t i = 0; i < compare->without.n_texts; i++) {
		const char *name = compare->without.texts[i];

		if (!kernel_feature_find(name))
			return cli_usage("compare: --without-feature %s is none of %s", name,
					 kernel_feature_names(known, sizeof(known)));
		n += snprintf(compare->address + n, sizeof(compare->address) - (size_t)n,
			      " --without-feature=%s", name);
	}
	return CLI_OK;
}

static int parse_options(struct compare *compare, int argc, char **argv)
{
	const struct bench_option options[] = {
		{"s", BENCH_SIZE, &compare->size_bytes, .wants = BENCH_SIZE_WANTS},
		{"n", BENCH_NUMBER, &compare->n_runs, 1, 10000, "a number of runs from 1 on"},
		{"warm", BENCH_FLAG, &compare->is_warm},
		{"json", BENCH_FLAG, &compare->is_json},
		{"socket", BENCH_TEXT, &compare->socket},
		{"without-feature", BENCH_TEXTS, &compare->without,
		 .wants = "to be given 16 times at most"},
	};
	int r;

	r = bench_parse_options(options, ARRAY_SIZE(options), argc, argv);
	return r ? r : choose_address(compare);
}

static int run(struct compare *compare)
{
	size_t n_touches = n_touches_of(compare->size_bytes);
	int r;

	r = memory_check(compare->size_bytes, 2);
	for (size_t i = 0; !r && i < n_bench_modes; i++)
		r = figures_init(&compare->figures[i], compare->n_runs, n_touches);
	if (!r)
		r = measure_all(compare);
	return r ? r : print_result(compare);
}

int bench_compare(int argc, char **argv)
{
	struct compare compare = {.size_bytes = 1ULL << 30, .n_runs = 5};
	int r;

	r = parse_options(&compare, argc, argv);
	if (r)
		return r;
	r = run(&compare);
	if (r)
		r = cli_fail(r, err_sentence(), "cannot compare");
	for (size_t i = 0; i < n_bench_modes; i++)
		figures_deinit(&compare.figures[i]);
	return r;
}
