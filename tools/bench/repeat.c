// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowbench repeat: snapshots again and again, with a client that works all the while and writes
 * between them: by scoot, and by fork() beside it in the same run.
 *
 * The client's threads read (90 %) and write (10 %) pages at random. These are measured of each
 * snapshot:
 *
 *  - the stall;
 *  - the longest write during the take, while the snapshot lived, and while the region settled
 *    after its release;
 *  - the number of operations in the first 10 ms, 100 ms and second after the take, by itself and
 *    against the half second before. The latter differs between the ways: after the child of a
 *    fork() has ended, pages that it shared fault once more;
 *  - the CPU time of the library's thread for settling;
 *  - the bytes that the take itself settled and kept.
 *
 * Without a userfaultfd the region settles only in a take: of a program without other threads
 * (--threads 0), or of one whose threads may be stopped (--stop-threads). With --hold each snapshot
 * is held until the next one is taken: the region never settles then, and each take copies the
 * pages written since the previous one.
 */
#include "config.h"

#include "tools/bench/repeat.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "backends/scoot/scoot.h"
#include "common/err.h"
#include "libclient/internal.h"
#include "tools/bench/bench.h"
#include "tools/bench/options.h"

#define MSEC        ((uint64_t)1000000)
#define THREADS_MAX 64

static const uint64_t window_nsec[] = {10 * MSEC, 100 * MSEC, 1000 * MSEC};

struct worker {
	struct repeat *repeat;
	pthread_t thread;
	uint64_t seed;
	_Atomic uint64_t n_ops;
	uint64_t worst_nsec[N_PHASES];
};

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct repeat *repeat = worker->repeat;
	const uint64_t page = page_size_bytes(), n_pages = repeat->size_bytes / page;

	while (!atomic_load_explicit(&repeat->is_over, memory_order_relaxed)) {
		uint64_t number = next_random(&worker->seed);
		_Atomic uint64_t *word =
			(_Atomic uint64_t *)(void *)(repeat->base + number % n_pages * page);

		if (number >> 32 & 0xff && (number >> 40) % 10) {
			(void)atomic_load_explicit(word, memory_order_relaxed);
		} else {
			int phase = atomic_load_explicit(&repeat->phase, memory_order_relaxed);
			uint64_t start = now_nsec();

			atomic_store_explicit(word, number, memory_order_relaxed);
			worker->worst_nsec[phase] =
				max_u64(worker->worst_nsec[phase], now_nsec() - start);
		}
		atomic_fetch_add_explicit(&worker->n_ops, 1, memory_order_relaxed);
	}
	return NULL;
}

static uint64_t count_ops(const struct repeat *repeat, struct worker *workers)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < repeat->n_threads; i++)
		n += atomic_load(&workers[i].n_ops);
	return n;
}

static void pause_until(uint64_t until_nsec)
{
	struct timespec ts = {.tv_sec = (time_t)(until_nsec / 1000000000),
			      .tv_nsec = (long)(until_nsec % 1000000000)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

/* --- the two modes ---------------------------------------------------------------------------- */

static int take(struct repeat *repeat)
{
	int fds[2];
	char byte;

	if (repeat->region)
		return cow_snapshot_new(&repeat->copy.snap, repeat->region);
	if (pipe(fds))
		return err_raise_errno("cannot make a pipe");
	repeat->copy.child = fork();
	if (!repeat->copy.child) {
		/* The other end of its own pipe, and of that of the child that is held. */
		close(fds[1]);
		if (repeat->held.child > 0)
			close(repeat->held.child_fd);
		_exit(read(fds[0], &byte, 1) < 0);
	}
	close(fds[0]);
	repeat->copy.child_fd = fds[1];
	return repeat->copy.child < 0 ? err_raise_errno("cannot fork") : 0;
}

static bool is_settled(struct cow_region *region)
{
	bool is_owned;

	pthread_mutex_lock(&region->take_lock);
	is_owned = extents_is_owned(&region->scoot->map);
	pthread_mutex_unlock(&region->take_lock);
	return is_owned;
}

static void drop(struct copy *copy)
{
	if (copy->child > 0) {
		close(copy->child_fd);
		(void)waitpid(copy->child, NULL, 0);
	}
	(void)cow_snapshot_unref(copy->snap);
	*copy = (struct copy){.snap = NULL};
}

/* Give the copy up, or with --hold keep it until the next one has been taken. */
static void release(struct repeat *repeat)
{
	if (repeat->is_held) {
		repeat->held = repeat->copy;
		repeat->copy = (struct copy){.snap = NULL};
		return;
	}
	drop(&repeat->copy);
	/* Without a userfaultfd it never is; the next take does what there is to do. */
	while (repeat->region && repeat->region->scoot->uffd >= 0 && !is_settled(repeat->region))
		pause_until(now_nsec() + MSEC);
}

/* Nanoseconds of CPU that the library's thread has used. */
static uint64_t client_cpu_nsec(void)
{
	char path[320], comm[32];
	unsigned long long nsec = 0, total = 0;
	struct dirent *entry;
	DIR *dir = opendir("/proc/self/task");

	while (dir && (entry = readdir(dir))) {
		FILE *file;

		(void)snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (!fgets(comm, sizeof(comm), file))
			comm[0] = '\0';
		(void)fclose(file);
		if (strncmp(comm, "cowclient", strlen("cowclient")) != 0)
			continue;
		(void)snprintf(path, sizeof(path), "/proc/self/task/%s/schedstat", entry->d_name);
		file = fopen(path, "re");
		if (file && fscanf(file, "%llu", &nsec) == 1)
			total += nsec;
		if (file)
			(void)fclose(file);
	}
	if (dir)
		(void)closedir(dir);
	return total;
}

/* Pages that exist twice: private ones here, or the child's own. */
static uint64_t extra_bytes(const struct repeat *repeat)
{
	unsigned long long kib = 0, total = 0;
	char path[64], line[256];
	uint64_t bytes = 0;
	FILE *file;

	if (repeat->region) {
		uint64_t at = (uint64_t)(uintptr_t)repeat->base, end = at + repeat->size_bytes;
		struct page_run runs[256];
		size_t n_runs;

		while (at < end && !pagemap_private(&repeat->region->scoot->pagemap, &at, end, runs,
						    ARRAY_SIZE(runs), &n_runs)) {
			for (size_t i = 0; i < n_runs; i++)
				bytes += runs[i].len;
		}
		return bytes;
	}
	(void)snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)repeat->copy.child);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "Private_Dirty: %llu", &kib) == 1)
			total += kib << 10;
	}
	if (file)
		(void)fclose(file);
	return total;
}

/* Add the work of the take itself, which the background does if there is a userfaultfd. */
static int add_cost(const struct repeat *repeat, struct figures *figures)
{
	struct cow_snapshot_cost cost = {0};
	int r = repeat->region ? cow_snapshot_cost(repeat->copy.snap, &cost) : 0;

	figures->cost.settled_bytes += cost.settled_bytes;
	figures->cost.kept_bytes += cost.kept_bytes;
	return r;
}

/* --- one snapshot ----------------------------------------------------------------------------- */

/* As many pages as are to be written, each once, in another order each time. */
static void dirty_pages(const struct repeat *repeat, uint64_t *seed)
{
	const uint64_t page = page_size_bytes(), n_pages = repeat->size_bytes / page;
	const uint64_t stride = samples_stride(n_pages);
	uint64_t idx = next_random(seed) % n_pages;

	for (uint64_t i = n_pages * repeat->percent / 100; i > 0; i--) {
		atomic_store_explicit((_Atomic uint64_t *)(void *)(repeat->base + idx * page), i,
				      memory_order_relaxed);
		idx = (idx + stride) % n_pages;
	}
}

static int run_one(struct repeat *repeat, struct figures *figures, struct worker *workers,
		   uint64_t *seed, bool is_first)
{
	uint64_t before, start, taken, after, cpu, n_settled;
	double rate, window_rate;
	int r;

	before = count_ops(repeat, workers);
	pause_until(now_nsec() + 500 * MSEC);
	rate = (double)(count_ops(repeat, workers) - before) / (500 * MSEC);
	if (repeat->n_threads && rate <= 0)
		return err_raise(-EAGAIN, "no thread came to run in half a second; is the machine "
					  "busy with something else?");
	figures->before_rate += rate;
	atomic_store(&repeat->phase, PHASE_TAKE);
	before = count_ops(repeat, workers);
	start = now_nsec();
	r = take(repeat);
	taken = now_nsec();
	atomic_store(&repeat->phase, PHASE_LIVE);
	if (!r)
		r = add_cost(repeat, figures);
	drop(&repeat->held);
	if (r)
		return r;
	samples_add(&figures->stall, taken - start);
	figures->last_stall_nsec = taken - start;
	if (is_first)
		figures->first_stall_nsec = taken - start;
	/* The windows begin with the take: its own stall is part of the dip. */
	for (size_t i = 0; i < N_WINDOWS; i++) {
		pause_until(start + window_nsec[i]);
		after = count_ops(repeat, workers);
		window_rate = (double)(after - before) / (double)(now_nsec() - start);
		figures->rate[i] += window_rate;
		figures->dip[i] += window_rate / rate;
	}
	dirty_pages(repeat, seed);
	figures->extra_bytes = max_u64(figures->extra_bytes, extra_bytes(repeat));
	cpu = client_cpu_nsec();
	n_settled = repeat->region ? repeat->region->scoot->settle.n_pages : 0;
	atomic_store(&repeat->phase, PHASE_SETTLE);
	release(repeat);
	atomic_store(&repeat->phase, PHASE_QUIET);
	figures->settle_cpu_nsec += client_cpu_nsec() - cpu;
	if (repeat->region)
		figures->n_settled += repeat->region->scoot->settle.n_pages - n_settled;
	return 0;
}

static int run_all(struct repeat *repeat, struct figures *figures)
{
	struct worker workers[THREADS_MAX] = {0};
	uint64_t seed = 88172645463325252, n_started = 0;
	int r = samples_init(&figures->stall, repeat->n_snapshots);

	memset(repeat->base, 1, repeat->size_bytes);
	atomic_store(&repeat->is_over, false);
	atomic_store(&repeat->phase, PHASE_QUIET);
	while (!r && n_started < repeat->n_threads) {
		struct worker *worker = &workers[n_started];

		worker->repeat = repeat;
		worker->seed = seed + n_started * 7919;
		if (pthread_create(&worker->thread, NULL, work, worker))
			r = err_raise(-EAGAIN, "cannot start a thread");
		else
			n_started++;
	}
	for (uint64_t i = 0; !r && i < repeat->n_snapshots; i++)
		r = run_one(repeat, figures, workers, &seed, !i);
	drop(&repeat->held);
	atomic_store(&repeat->is_over, true);
	for (uint64_t i = 0; i < n_started; i++) {
		pthread_join(workers[i].thread, NULL);
		for (size_t k = 0; k < N_PHASES; k++)
			figures->worst_nsec[k] =
				max_u64(figures->worst_nsec[k], workers[i].worst_nsec[k]);
	}
	return r;
}

static int measure_scoot(struct repeat *repeat)
{
	struct cow_region_params params = {
		.size_bytes = repeat->size_bytes,
		.mode = COW_MODE_SCOOT,
		.flags = COW_REGION_NO_FORK | (repeat->stops_threads ? COW_REGION_STOP_THREADS : 0),
		.name = "cowbench repeat",
	};
	int r;

	r = bench_connect(&repeat->client, repeat->socket);
	if (!r)
		r = cow_region_new(&repeat->region, repeat->client, &params);
	if (!r) {
		repeat->base = cow_region_address(repeat->region);
		r = run_all(repeat, &repeat->figures[0]);
	}
	drop(&repeat->copy);
	repeat->region = cow_region_unref(repeat->region);
	repeat->client = cow_client_unref(repeat->client);
	return r;
}

static void time_copy(struct repeat *repeat)
{
	const uint64_t page = page_size_bytes(), n = repeat->size_bytes / page / 2;
	uint64_t seed = 12345, start = now_nsec();

	for (uint64_t i = 0; i < n; i++)
		memcpy(repeat->base + i * page, repeat->base + (n + next_random(&seed) % n) * page,
		       page);
	repeat->copy_usec = (double)(now_nsec() - start) / 1000 / (double)n;
}

static int measure_fork(struct repeat *repeat)
{
	int r;

	repeat->base = mmap(NULL, repeat->size_bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (repeat->base == MAP_FAILED)
		return err_raise_errno("cannot map memory");
	(void)madvise(repeat->base, repeat->size_bytes, MADV_NOHUGEPAGE);
	r = run_all(repeat, &repeat->figures[1]);
	if (!r)
		time_copy(repeat);
	(void)munmap(repeat->base, repeat->size_bytes);
	return r;
}

static int parse_options(struct repeat *repeat, int argc, char **argv)
{
	const struct bench_option options[] = {
		{"s", BENCH_SIZE, &repeat->size_bytes, .wants = BENCH_SIZE_WANTS},
		{"n", BENCH_NUMBER, &repeat->n_snapshots, 1, 100000,
		 "a number of snapshots from 1 on"},
		{"dirty", BENCH_NUMBER, &repeat->percent, 0, 100, "0 to 100 percent"},
		{"threads", BENCH_NUMBER, &repeat->n_threads, 0, THREADS_MAX, "0 to 64"},
		{"stop-threads", BENCH_FLAG, &repeat->stops_threads},
		{"hold", BENCH_FLAG, &repeat->is_held},
		{"json", BENCH_FLAG, &repeat->is_json},
		{"socket", BENCH_TEXT, &repeat->socket},
	};

	return bench_parse_options(options, ARRAY_SIZE(options), argc, argv);
}

int bench_repeat(int argc, char **argv)
{
	struct repeat repeat = {
		.size_bytes = 1ULL << 30, .percent = 10, .n_snapshots = 10, .n_threads = 1};
	int r;

	r = parse_options(&repeat, argc, argv);
	if (r)
		return r;
	r = memory_check(repeat.size_bytes, 2);
	if (!r)
		r = measure_scoot(&repeat);
	if (!r)
		r = measure_fork(&repeat);
	if (!r)
		r = bench_repeat_report(&repeat);
	for (size_t i = 0; i < ARRAY_SIZE(repeat.figures); i++)
		samples_deinit(&repeat.figures[i].stall);
	return r ? cli_fail(r, err_sentence(), "repeat") : CLI_OK;
}
