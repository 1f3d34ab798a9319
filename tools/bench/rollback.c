// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowbench rollback: how often a second a program can change some pages and go back, as a fuzzer
 * does: by cow_region_rollback() in each mode that has a daemon behind it, and by changing them in
 * a fork() child that then exits. All take turns in one run, which change other pages each.
 */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "common/err.h"
#include "tools/bench/bench.h"
#include "tools/bench/options.h"
#include "tools/report.h"
#include "tools/samples.h"

/* A fork of gigabytes takes long: one for so many rollbacks. */
#define ROLLBACKS_PER_FORK 10

/**
 * struct way - a mode, and what was measured of it
 * @left_out: why it is not measured; "" if it is
 * @only:     cow_region_rollback() alone
 * @cycle:    changing the pages too
 */
struct way {
	const char *name;
	enum cow_mode mode;
	bool needs_device;
	char left_out[512];
	struct cow_region *region;
	struct cow_snapshot *snap;
	struct samples only;
	struct samples cycle;
};

static const struct way ways[] = {
	{.name = "scoot", .mode = COW_MODE_SCOOT},
	{.name = "uffd", .mode = COW_MODE_UFFD, .needs_device = true},
};

struct rollback {
	uint64_t size_bytes;
	uint64_t n_dirty;
	uint64_t n_runs;
	bool is_json;
	const char *socket;
	uint64_t *pages; /* indexes, drawn anew for each run */
	char *anonymous;
	struct way ways[ARRAY_SIZE(ways)];
	struct samples fork;
};

/* Each another one, from a page on that differs from time to time. */
static void draw_pages(struct rollback *rollback)
{
	uint64_t n_pages = rollback->size_bytes / page_size_bytes();
	uint64_t stride = samples_stride(n_pages);
	uint64_t idx = (uint64_t)random() % n_pages;

	for (uint64_t i = 0; i < rollback->n_dirty; i++) {
		rollback->pages[i] = idx;
		idx = (idx + stride) % n_pages;
	}
}

static void dirty(const struct rollback *rollback, char *base)
{
	for (uint64_t i = 0; i < rollback->n_dirty; i++)
		((volatile char *)base)[rollback->pages[i] * page_size_bytes()] = 2;
}

static int run_way(struct rollback *rollback, struct way *way)
{
	char *base = cow_region_address(way->region);
	uint64_t start, changed, end;
	int r;

	draw_pages(rollback);
	start = now_nsec();
	dirty(rollback, base);
	changed = now_nsec();
	r = cow_region_rollback(way->region, way->snap);
	end = now_nsec();
	if (r)
		return r;
	for (uint64_t i = 0; i < rollback->n_dirty; i++) {
		if (base[rollback->pages[i] * page_size_bytes()] != 1)
			return err_raise(-EIO, "a page was not rolled back in mode %s", way->name);
	}
	samples_add(&way->only, end - changed);
	samples_add(&way->cycle, end - start);
	return 0;
}

static int run_fork(struct rollback *rollback)
{
	uint64_t start;
	int status, r;
	pid_t pid;

	draw_pages(rollback);
	start = now_nsec();
	pid = fork();
	if (!pid) {
		dirty(rollback, rollback->anonymous);
		_exit(0);
	}
	if (pid < 0)
		return err_raise_errno("cannot fork");
	do
		r = waitpid(pid, &status, 0);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return err_raise_errno("cannot wait for a fork child");
	samples_add(&rollback->fork, now_nsec() - start);
	return 0;
}

static int run_all(struct rollback *rollback)
{
	int r = 0;

	for (uint64_t run = 0; !r && run < rollback->n_runs; run++) {
		for (size_t i = 0; !r && i < ARRAY_SIZE(ways); i++) {
			if (rollback->ways[i].snap)
				r = run_way(rollback, &rollback->ways[i]);
		}
		if (!r && run % ROLLBACKS_PER_FORK == 0)
			r = run_fork(rollback);
	}
	return r;
}

/* Plain fork() is to find anonymous memory of that size and nothing else. */
static int way_open(struct way *way, struct cow_client *client, uint64_t size_bytes)
{
	struct cow_region_params params = {
		.size_bytes = size_bytes,
		.mode = way->mode,
		.flags = way->mode == COW_MODE_SCOOT ? COW_REGION_NO_FORK : 0,
		.name = "cowbench rollback",
	};
	int r;

	r = cow_region_new(&way->region, client, &params);
	if (way->needs_device && (r == -ENODEV || r == -ENOSYS || r == -EPERM)) {
		(void)snprintf(way->left_out, sizeof(way->left_out), "%s", err_sentence());
		cli_say("mode %s is left out: %s", way->name, way->left_out);
		return 0;
	}
	if (r)
		return r;
	memset(cow_region_address(way->region), 1, size_bytes);
	return cow_snapshot_new(&way->snap, way->region);
}

static void way_close(struct way *way)
{
	way->snap = cow_snapshot_unref(way->snap);
	way->region = cow_region_unref(way->region);
}

static int measure(struct rollback *rollback)
{
	struct cow_client *client = NULL;
	int r;

	rollback->anonymous = mmap(NULL, rollback->size_bytes, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (rollback->anonymous == MAP_FAILED)
		return err_raise_errno("cannot map memory");
	(void)madvise(rollback->anonymous, rollback->size_bytes, MADV_NOHUGEPAGE);
	r = bench_connect(&client, rollback->socket);
	if (!r)
		memset(rollback->anonymous, 1, rollback->size_bytes);
	for (size_t i = 0; !r && i < ARRAY_SIZE(ways); i++)
		r = way_open(&rollback->ways[i], client, rollback->size_bytes);
	if (!r)
		r = run_all(rollback);
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++)
		way_close(&rollback->ways[i]);
	cow_client_unref(client);
	(void)munmap(rollback->anonymous, rollback->size_bytes);
	return r;
}

/* --- the result ------------------------------------------------------------------------------- */

static double usec_at(struct samples *samples, double q)
{
	return (double)samples_quantile(samples, q) / 1000;
}

static void put_figures(struct json_object *object, const char *key, struct samples *samples)
{
	struct json_object *figures = json_object_new_object();

	report_put_real(figures, "p50", usec_at(samples, 0.5));
	report_put_real(figures, "p99", usec_at(samples, 0.99));
	report_put_real(figures, "max", usec_at(samples, 1));
	json_object_object_add(object, key, figures);
}

/* How many times as fast as with fork. */
static double ratio_of(struct rollback *rollback, struct way *way)
{
	return usec_at(&rollback->fork, 0.5) / usec_at(&way->cycle, 0.5);
}

static void put_way(struct rollback *rollback, struct way *way, struct json_object *modes,
		    struct json_object *left_out)
{
	struct json_object *object;

	if (*way->left_out) {
		json_object_object_add(left_out, way->name, report_text(way->left_out));
		return;
	}
	object = json_object_new_object();
	put_figures(object, "rollback_us", &way->only);
	put_figures(object, "cycle_us", &way->cycle);
	report_put_real(object, "ratio", ratio_of(rollback, way));
	json_object_object_add(modes, way->name, object);
}

static int print_json(struct rollback *rollback)
{
	struct json_object *document = json_object_new_object();
	struct json_object *modes = json_object_new_object();
	struct json_object *left_out = json_object_new_object();
	struct json_object *forked = json_object_new_object();
	int r;

	json_object_object_add(document, "size_bytes",
			       json_object_new_uint64(rollback->size_bytes));
	json_object_object_add(document, "dirty_pages", json_object_new_uint64(rollback->n_dirty));
	json_object_object_add(document, "runs", json_object_new_uint64(rollback->n_runs));
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++)
		put_way(rollback, &rollback->ways[i], modes, left_out);
	put_figures(forked, "cycle_us", &rollback->fork);
	json_object_object_add(modes, "fork", forked);
	json_object_object_add(document, "modes", modes);
	if (json_object_object_length(left_out))
		json_object_object_add(document, "left_out", json_object_get(left_out));
	json_object_put(left_out);
	r = report_json(document);
	json_object_put(document);
	return r;
}

static void print_cycle(const char *name, struct samples *cycle)
{
	double p50 = usec_at(cycle, 0.5);

	printf("%-6s %9.1f / %9.1f  %8.0f a second", name, p50, usec_at(cycle, 0.99), 1e6 / p50);
}

static int print_result(struct rollback *rollback)
{
	if (rollback->is_json)
		return print_json(rollback);
	printf("%llu MiB, %llu pages changed each time, us (p50 / p99):\n",
	       (unsigned long long)(rollback->size_bytes >> 20),
	       (unsigned long long)rollback->n_dirty);
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		struct way *way = &rollback->ways[i];

		if (*way->left_out)
			continue;
		print_cycle(way->name, &way->cycle);
		printf("  %.1f times as fast as fork; rolling back alone %.1f / %.1f\n",
		       ratio_of(rollback, way), usec_at(&way->only, 0.5),
		       usec_at(&way->only, 0.99));
	}
	print_cycle("fork", &rollback->fork);
	printf("  change the pages in a child, which exits\n");
	return 0;
}

static int parse_options(struct rollback *rollback, int argc, char **argv)
{
	const struct bench_option options[] = {
		{"s", BENCH_SIZE, &rollback->size_bytes, .wants = BENCH_SIZE_WANTS},
		{"n", BENCH_NUMBER, &rollback->n_runs, 1, 1000000, "a number of runs from 1 on"},
		{"dirty", BENCH_NUMBER, &rollback->n_dirty, 1, 1000000, "a number of pages"},
		{"json", BENCH_FLAG, &rollback->is_json},
		{"socket", BENCH_TEXT, &rollback->socket},
	};
	int r;

	r = bench_parse_options(options, ARRAY_SIZE(options), argc, argv);
	if (!r && rollback->n_dirty > rollback->size_bytes / page_size_bytes())
		r = cli_usage("rollback: --dirty %" PRIu64 " is more than the %" PRIu64
			      " pages of -s %" PRIu64,
			      rollback->n_dirty, rollback->size_bytes / page_size_bytes(),
			      rollback->size_bytes >> 20);
	return r;
}

static int make_room(struct rollback *rollback)
{
	int r;

	rollback->pages = calloc(rollback->n_dirty, sizeof(*rollback->pages));
	if (!rollback->pages)
		return err_oom(rollback->n_dirty * sizeof(*rollback->pages), "a list of pages");
	r = samples_init(&rollback->fork, rollback->n_runs);
	for (size_t i = 0; !r && i < ARRAY_SIZE(ways); i++) {
		r = samples_init(&rollback->ways[i].only, rollback->n_runs);
		if (!r)
			r = samples_init(&rollback->ways[i].cycle, rollback->n_runs);
	}
	return r;
}

int bench_rollback(int argc, char **argv)
{
	struct rollback rollback = {.size_bytes = 1ULL << 30, .n_dirty = 100, .n_runs = 500};
	int r;

	memcpy(rollback.ways, ways, sizeof(ways));
	r = parse_options(&rollback, argc, argv);
	if (r)
		return r;
	/* The anonymous memory as well. */
	r = memory_check(rollback.size_bytes, ARRAY_SIZE(ways) + 1);
	if (!r)
		r = make_room(&rollback);
	if (!r)
		r = measure(&rollback);
	if (!r)
		r = print_result(&rollback);
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		samples_deinit(&rollback.ways[i].only);
		samples_deinit(&rollback.ways[i].cycle);
	}
	samples_deinit(&rollback.fork);
	free(rollback.pages);
	return r ? cli_fail(r, err_sentence(), "rollback") : CLI_OK;
}
