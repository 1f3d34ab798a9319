// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowbench rollback: how often a second a program can change some pages and go back, as a fuzzer
 * does: by cow_region_rollback(), and by changing them in a fork() child that then exits. The two
 * take turns in one run.
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "common/err.h"
#include "tools/bench-options.h"
#include "tools/bench.h"
#include "tools/report.h"
#include "tools/samples.h"

/* A fork of gigabytes takes long: one for so many rollbacks. */
#define ROLLBACKS_PER_FORK 10

struct rollback {
	uint64_t size_bytes;
	uint64_t n_dirty;
	uint64_t n_runs;
	bool is_json;
	const char *socket;
	uint64_t *pages; /* indexes, drawn anew for each run */
	char *anonymous;
	struct samples only; /* cow_region_rollback() alone */
	struct samples scoot;
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

static int run_scoot(struct rollback *rollback, struct cow_region *region,
		     struct cow_snapshot *snap)
{
	char *base = cow_region_address(region);
	uint64_t start, changed, end;
	int r;

	draw_pages(rollback);
	start = now_nsec();
	dirty(rollback, base);
	changed = now_nsec();
	r = cow_region_rollback(region, snap);
	end = now_nsec();
	if (r)
		return r;
	for (uint64_t i = 0; i < rollback->n_dirty; i++) {
		if (base[rollback->pages[i] * page_size_bytes()] != 1)
			return err_raise(-EIO, "a page was not rolled back");
	}
	samples_add(&rollback->only, end - changed);
	samples_add(&rollback->scoot, end - start);
	return 0;
}

static int run_fork(struct rollback *rollback)
{
	uint64_t start;
	int status;
	pid_t pid;

	draw_pages(rollback);
	start = now_nsec();
	pid = fork();
	if (!pid) {
		dirty(rollback, rollback->anonymous);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return err_raise_errno("cannot fork");
	samples_add(&rollback->fork, now_nsec() - start);
	return 0;
}

static int run_all(struct rollback *rollback, struct cow_region *region)
{
	struct cow_snapshot *snap = NULL;
	int r;

	memset(cow_region_address(region), 1, rollback->size_bytes);
	memset(rollback->anonymous, 1, rollback->size_bytes);
	r = cow_snapshot_new(&snap, region);
	for (uint64_t i = 0; !r && i < rollback->n_runs; i++) {
		r = run_scoot(rollback, region, snap);
		if (!r && i % ROLLBACKS_PER_FORK == 0)
			r = run_fork(rollback);
	}
	cow_snapshot_unref(snap);
	return r;
}

/* Plain fork() is to find anonymous memory of that size and nothing else. */
static int measure(struct rollback *rollback)
{
	struct cow_region_params params = {
		.size_bytes = rollback->size_bytes,
		.mode = COW_MODE_SCOOT,
		.flags = COW_REGION_NO_FORK,
		.name = "cowbench rollback",
	};
	struct cow_client *client = NULL;
	struct cow_region *region = NULL;
	int r;

	rollback->anonymous = mmap(NULL, rollback->size_bytes, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (rollback->anonymous == MAP_FAILED)
		return err_raise_errno("cannot map memory");
	(void)madvise(rollback->anonymous, rollback->size_bytes, MADV_NOHUGEPAGE);
	r = bench_connect(&client, rollback->socket);
	if (!r)
		r = cow_region_new(&region, client, &params);
	if (!r)
		r = run_all(rollback, region);
	cow_region_unref(region);
	cow_client_unref(client);
	(void)munmap(rollback->anonymous, rollback->size_bytes);
	return r;
}

static double usec_at(struct samples *samples, double q)
{
	return (double)samples_quantile(samples, q) / 1000;
}

static struct json_object *figures(struct samples *samples)
{
	struct json_object *object = json_object_new_object();

	json_object_object_add(object, "p50", json_object_new_double(usec_at(samples, 0.5)));
	json_object_object_add(object, "p99", json_object_new_double(usec_at(samples, 0.99)));
	json_object_object_add(object, "max", json_object_new_double(usec_at(samples, 1)));
	return object;
}

static int print_result(struct rollback *rollback)
{
	double scoot = usec_at(&rollback->scoot, 0.5), forked = usec_at(&rollback->fork, 0.5);
	struct json_object *document;
	int r;

	if (!rollback->is_json) {
		printf("%llu MiB, %llu pages changed each time, us (p50 / p99):\n",
		       (unsigned long long)(rollback->size_bytes >> 20),
		       (unsigned long long)rollback->n_dirty);
		printf("  change and roll back   %9.1f / %9.1f   %8.0f a second\n", scoot,
		       usec_at(&rollback->scoot, 0.99), 1e6 / scoot);
		printf("    rolling back alone   %9.1f / %9.1f\n", usec_at(&rollback->only, 0.5),
		       usec_at(&rollback->only, 0.99));
		printf("  fork, change, exit     %9.1f / %9.1f   %8.0f a second\n", forked,
		       usec_at(&rollback->fork, 0.99), 1e6 / forked);
		printf("  %.1f times faster\n", forked / scoot);
		return 0;
	}
	document = json_object_new_object();
	json_object_object_add(document, "size_bytes",
			       json_object_new_uint64(rollback->size_bytes));
	json_object_object_add(document, "dirty_pages", json_object_new_uint64(rollback->n_dirty));
	json_object_object_add(document, "runs", json_object_new_uint64(rollback->n_runs));
	json_object_object_add(document, "rollback_us", figures(&rollback->only));
	json_object_object_add(document, "scoot_us", figures(&rollback->scoot));
	json_object_object_add(document, "fork_us", figures(&rollback->fork));
	json_object_object_add(document, "ratio", json_object_new_double(forked / scoot));
	r = report_json(document);
	json_object_put(document);
	return r;
}

static int parse_options(struct rollback *rollback, int argc, char **argv)
{
	const struct bench_option options[] = {
		{"s", BENCH_SIZE, &rollback->size_bytes, .wants = "a size in MiB from 1 on"},
		{"n", BENCH_NUMBER, &rollback->n_runs, 1, 1000000, "a number of runs from 1 on"},
		{"dirty", BENCH_NUMBER, &rollback->n_dirty, 1, 1000000, "a number of pages"},
		{"json", BENCH_FLAG, &rollback->is_json},
		{"socket", BENCH_TEXT, &rollback->socket},
	};

	return bench_parse_options(options, ARRAY_SIZE(options), argc, argv);
}

int bench_rollback(int argc, char **argv)
{
	struct rollback rollback = {.size_bytes = 1ULL << 30, .n_dirty = 100, .n_runs = 500};
	int r;

	r = parse_options(&rollback, argc, argv);
	if (r)
		return r;
	r = memory_check(rollback.size_bytes, 2);
	rollback.pages = calloc(rollback.n_dirty, sizeof(*rollback.pages));
	if (!r && !rollback.pages)
		r = err_oom(rollback.n_dirty * sizeof(*rollback.pages), "a list of pages");
	if (!r)
		r = samples_init(&rollback.only, rollback.n_runs);
	if (!r)
		r = samples_init(&rollback.scoot, rollback.n_runs);
	if (!r)
		r = samples_init(&rollback.fork, rollback.n_runs);
	if (!r)
		r = measure(&rollback);
	if (!r)
		r = print_result(&rollback);
	samples_deinit(&rollback.only);
	samples_deinit(&rollback.scoot);
	samples_deinit(&rollback.fork);
	free(rollback.pages);
	return r ? cli_fail(r, err_sentence(), "rollback") : CLI_OK;
}
