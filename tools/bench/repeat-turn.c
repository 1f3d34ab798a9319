// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowbench repeat: one turn of one mode. As many copies as are to be held are taken before those
 * that count; and with --period others after them, until the last second of operations that counts
 * is over, so that none is counted in which nothing is taken any more.
 *
 * A window of operations begins with its take, whose stall is part of it. With --period it may be
 * longer than the period, and then there are further takes in it.
 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/err.h"
#include "libclient/internal.h"
#include "tools/bench/bench.h"
#include "tools/bench/repeat.h"

#define QUIET_NSEC (500 * MSEC)

static const uint64_t window_nsec[N_WINDOWS] = {10 * MSEC, 100 * MSEC, 1000 * MSEC};

/* A take that counts: where its windows begin. */
struct begin {
	uint64_t nsec;
	uint64_t n_ops;
	double before_rate;
};

/**
 * struct turn_state - a turn, in its process; of its main thread
 * @n_begun, @begun: takes that count, so far
 * @n_done:          of each window, so many takes have theirs behind them
 * @n_warm:          takes that come before those that count
 * @next_nsec:       when the next take is due, with --period
 */
struct turn_state {
	struct repeat *repeat;
	struct worker *workers;
	uint64_t n_started;
	struct begin *begun;
	size_t n_begun;
	size_t n_done[N_WINDOWS];
	uint64_t n_warm, n_counted, n_takes;
	uint64_t next_nsec;
	double quiet_rate;
	uint64_t held_bytes;
	uint64_t begin_nsec;
	struct repeat_cpu begin_cpu;
	struct cowi_progress begin_progress;
};

static uint64_t count_ops(const struct turn_state *turn)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < turn->n_started; i++)
		n += atomic_load(&turn->workers[i].n_ops);
	return n;
}

static void pause_until(uint64_t until_nsec)
{
	struct timespec ts = {.tv_sec = (time_t)(until_nsec / 1000000000),
			      .tv_nsec = (long)(until_nsec % 1000000000)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

/* The window that ends next; N_WINDOWS if none is open. */
static enum window next_window(const struct turn_state *turn, uint64_t *end_nsec)
{
	enum window next = N_WINDOWS;

	for (unsigned int i = 0; i < N_WINDOWS; i++) {
		uint64_t end;

		if (turn->n_done[i] >= turn->n_begun)
			continue;
		end = turn->begun[turn->n_done[i]].nsec + window_nsec[i];
		if (next == N_WINDOWS || end < *end_nsec) {
			next = i;
			*end_nsec = end;
		}
	}
	return next;
}

static void end_window(struct turn_state *turn, enum window window)
{
	struct figures *now = turn->repeat->now;
	const struct begin *begin = &turn->begun[turn->n_done[window]++];
	double rate = (double)(count_ops(turn) - begin->n_ops) / (double)(now_nsec() - begin->nsec);

	now->rate[window] += rate;
	if (begin->before_rate > 0)
		now->dip[window] += rate / begin->before_rate;
}

static void run_until(struct turn_state *turn, uint64_t until_nsec)
{
	uint64_t end_nsec = 0;
	enum window window;

	while ((window = next_window(turn, &end_nsec)) != N_WINDOWS && end_nsec <= until_nsec) {
		pause_until(end_nsec);
		end_window(turn, window);
	}
	pause_until(until_nsec);
}

/* --- CPU ------------------------------------------------------------------------------------ */

static uint64_t thread_nsec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* The beginning of file @name of task @task; "" if there is none any more. */
static void read_task(int folder_fd, const char *task, const char *name, char *buf, size_t n_buf)
{
	AUTO_FD int task_fd = openat(folder_fd, task, O_PATH | O_DIRECTORY | O_CLOEXEC);
	AUTO_FD int fd = task_fd < 0 ? -1 : openat(task_fd, name, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, n_buf - 1);

	buf[n < 0 ? 0 : n] = '\0';
}

/* Nanoseconds of CPU that the threads of @pid have used whose names begin with @name. */
static uint64_t threads_nsec(pid_t pid, const char *name)
{
	char folder[64], text[128];
	uint64_t total = 0;
	struct dirent *entry;
	DIR *dir;

	(void)snprintf(folder, sizeof(folder), "/proc/%d/task", (int)pid);
	dir = opendir(folder);
	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		read_task(dirfd(dir), entry->d_name, "comm", text, sizeof(text));
		if (strncmp(text, name, strlen(name)) != 0)
			continue;
		read_task(dirfd(dir), entry->d_name, "schedstat", text, sizeof(text));
		total += strtoull(text, NULL, 10);
	}
	if (dir)
		(void)closedir(dir);
	return total;
}

static uint64_t library_nsec(void)
{
	return threads_nsec(getpid(), "cowclient");
}

static uint64_t children_nsec(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_CHILDREN, &usage))
		return 0;
	return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000 +
	       (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
}

static struct repeat_cpu read_cpu(const struct repeat *repeat)
{
	return (struct repeat_cpu){
		.library_nsec = repeat->region ? library_nsec() : 0,
		.cowd_nsec = repeat->now->child.cowd_pid
				     ? threads_nsec(repeat->now->child.cowd_pid, "")
				     : 0,
		.children_nsec = repeat->region ? 0 : children_nsec(),
	};
}

/* --- one take ------------------------------------------------------------------------------- */

static void drop(struct repeat *repeat, size_t n, bool is_counted)
{
	uint64_t start = thread_nsec();

	repeat_drop(repeat, n);
	if (is_counted)
		repeat->now->cpu.take_nsec += thread_nsec() - start;
}

static void begin_counting(struct turn_state *turn)
{
	struct repeat *repeat = turn->repeat;

	atomic_store(&repeat->is_counted, true);
	turn->begin_nsec = now_nsec();
	turn->begin_cpu = read_cpu(repeat);
	if (repeat->region)
		cowi_region_progress(repeat->region, &turn->begin_progress);
}

static void end_counting(struct turn_state *turn)
{
	struct repeat *repeat = turn->repeat;
	struct figures *now = repeat->now;
	struct repeat_cpu cpu = read_cpu(repeat);
	struct cowi_progress progress;

	atomic_store(&repeat->is_counted, false);
	now->measured_nsec += now_nsec() - turn->begin_nsec;
	now->cpu.library_nsec += cpu.library_nsec - turn->begin_cpu.library_nsec;
	now->cpu.cowd_nsec += cpu.cowd_nsec - turn->begin_cpu.cowd_nsec;
	now->cpu.children_nsec += cpu.children_nsec - turn->begin_cpu.children_nsec;
	if (!repeat->region || !repeat->period_nsec)
		return;
	cowi_region_progress(repeat->region, &progress);
	now->n_settled += progress.n_settled - turn->begin_progress.n_settled;
	now->settle_cpu_nsec += cpu.library_nsec - turn->begin_cpu.library_nsec;
}

/* What the take did by itself of what is the background's work where there is a userfaultfd. */
static int add_cost(struct repeat *repeat)
{
	struct cow_snapshot_cost cost = {0};
	int r = 0;

	if (repeat->mode == REPEAT_SCOOT)
		r = cow_snapshot_cost(repeat->copies[repeat->n_copies - 1].snap, &cost);
	repeat->now->cost.settled_bytes += cost.settled_bytes;
	repeat->now->cost.kept_bytes += cost.kept_bytes;
	return r;
}

static int add_stall(struct turn_state *turn, uint64_t stall_nsec)
{
	struct figures *now = turn->repeat->now;

	if (!now->n_stalls)
		now->first_stall_nsec = stall_nsec;
	now->last_stall_nsec = stall_nsec;
	now->stalls[now->n_stalls++] = stall_nsec;
	return add_cost(turn->repeat);
}

static void begin_round(struct repeat *repeat)
{
	atomic_store(&repeat->round_nsec, now_nsec());
	atomic_fetch_add(&repeat->round, 1);
}

static int take(struct turn_state *turn, bool is_counted)
{
	struct repeat *repeat = turn->repeat;
	struct begin *begin = &turn->begun[turn->n_begun];
	uint64_t cpu, stall;
	int r;

	r = repeat_prepare(repeat);
	if (r)
		return r;
	begin_round(repeat);
	atomic_store(&repeat->phase, PHASE_TAKE);
	cpu = thread_nsec();
	*begin = (struct begin){.n_ops = count_ops(turn), .before_rate = turn->quiet_rate};
	begin->nsec = now_nsec();
	r = repeat_take(repeat);
	stall = now_nsec() - begin->nsec;
	atomic_store(&repeat->phase, PHASE_LIVE);
	if (r || !is_counted)
		return r;
	repeat->now->cpu.take_nsec += thread_nsec() - cpu;
	repeat->now->before_rate += turn->quiet_rate;
	turn->n_begun++;
	return add_stall(turn, stall);
}

static int measure_quiet(struct turn_state *turn)
{
	uint64_t n_ops = count_ops(turn), start = now_nsec();

	run_until(turn, start + QUIET_NSEC);
	turn->quiet_rate = (double)(count_ops(turn) - n_ops) / (double)(now_nsec() - start);
	if (turn->repeat->n_threads && turn->quiet_rate <= 0)
		return err_raise(-EAGAIN, "no thread came to run in half a second; is the machine "
					  "busy with something else?");
	return 0;
}

static void dirty_pages(struct repeat *repeat)
{
	uint64_t round = atomic_load(&repeat->round), n_dirty = repeat_n_dirty(repeat);

	for (uint64_t i = 0; i < n_dirty; i++) {
		uint64_t page = repeat_page(repeat, round, i);

		atomic_store_explicit(
			(_Atomic uint64_t *)(void *)(repeat->base + page * page_size_bytes()),
			i + 1, memory_order_relaxed);
	}
}

/* While the last copies live, and all that was to be written has been. */
static int measure_extra(struct turn_state *turn)
{
	struct repeat *repeat = turn->repeat;
	uint64_t bytes;
	int r = repeat_held(repeat, &bytes);

	if (!r && bytes > turn->held_bytes)
		repeat->now->extra_bytes =
			max_u64(repeat->now->extra_bytes, bytes - turn->held_bytes);
	return r;
}

static void await_settled(struct cow_region *region)
{
	struct cowi_progress progress;

	for (;;) {
		cowi_region_progress(region, &progress);
		/* Without a userfaultfd it never is; the next take does what there is to do. */
		if (!progress.settles || progress.is_settled)
			return;
		pause_until(now_nsec() + MSEC);
	}
}

/* The copy goes, or with --hold an older one has gone already, and the region settles. */
static void release_slowly(struct repeat *repeat, bool is_counted)
{
	struct cowi_progress before = {0}, after = {0};
	uint64_t cpu;

	if (repeat->n_held)
		return;
	if (repeat->region)
		cowi_region_progress(repeat->region, &before);
	cpu = library_nsec();
	atomic_store(&repeat->phase, PHASE_SETTLE);
	drop(repeat, 0, is_counted);
	/*
	 * What cow_mmapcopy() made private is settled by a snapshot only: there is none to wait
	 * for.
	 */
	if (repeat->mode == REPEAT_SCOOT)
		await_settled(repeat->region);
	atomic_store(&repeat->phase, PHASE_QUIET);
	if (!repeat->region || !is_counted)
		return;
	cowi_region_progress(repeat->region, &after);
	repeat->now->settle_cpu_nsec += library_nsec() - cpu;
	repeat->now->n_settled += after.n_settled - before.n_settled;
}

/*
 * Without --period: half a second, the take, the windows; then a share of all pages is written, the
 * copy is released, and the region settles.
 */
static int run_slowly(struct turn_state *turn, uint64_t i)
{
	struct repeat *repeat = turn->repeat;
	bool is_counted = i >= turn->n_warm;
	int r;

	r = measure_quiet(turn);
	if (!r)
		r = take(turn, is_counted);
	if (r)
		return r;
	drop(repeat, max_u64(repeat->n_held, 1), is_counted);
	run_until(turn, now_nsec());
	if (is_counted)
		run_until(turn, turn->begun[turn->n_begun - 1].nsec + window_nsec[WINDOW_1_S]);
	dirty_pages(repeat);
	if (i + 1 == turn->n_takes)
		r = measure_extra(turn);
	release_slowly(repeat, is_counted);
	return r;
}

/* With --period: what is not held is released when half of the period is over. */
static int run_periodically(struct turn_state *turn, uint64_t i)
{
	struct repeat *repeat = turn->repeat;
	bool is_counted = i >= turn->n_warm && i < turn->n_warm + turn->n_counted;
	bool is_last = i + 1 == turn->n_takes;
	int r;

	run_until(turn, turn->next_nsec);
	if (!repeat->n_threads)
		dirty_pages(repeat);
	turn->next_nsec = now_nsec() + repeat->period_nsec;
	r = take(turn, is_counted);
	if (r)
		return r;
	drop(repeat, max_u64(repeat->n_held, 1), is_counted);
	if (is_last) {
		run_until(turn, turn->next_nsec);
		if (!repeat->n_threads)
			dirty_pages(repeat);
		return measure_extra(turn);
	}
	if (!repeat->n_held) {
		run_until(turn, turn->next_nsec - repeat->period_nsec / 2);
		atomic_store(&repeat->phase, PHASE_SETTLE);
		drop(repeat, 0, is_counted);
	}
	return 0;
}

static int run_takes(struct turn_state *turn)
{
	struct repeat *repeat = turn->repeat;
	int r = 0;

	if (repeat->period_nsec) {
		begin_round(repeat);
		r = measure_quiet(turn);
		turn->next_nsec = now_nsec();
	}
	for (uint64_t i = 0; !r && i < turn->n_takes; i++) {
		if (i == turn->n_warm)
			begin_counting(turn);
		r = repeat->period_nsec ? run_periodically(turn, i) : run_slowly(turn, i);
	}
	/*
	 * All windows are behind us but that of the last take, with a period of a second or
	 * more.
	 */
	if (!r && turn->n_begun)
		run_until(turn, turn->begun[turn->n_begun - 1].nsec + window_nsec[WINDOW_1_S]);
	if (!r)
		end_counting(turn);
	return r;
}

/* --- the turn ------------------------------------------------------------------------------- */

static int start_workers(struct turn_state *turn)
{
	struct repeat *repeat = turn->repeat;

	for (; turn->n_started < repeat->n_threads; turn->n_started++) {
		struct worker *worker = &turn->workers[turn->n_started];

		worker->repeat = repeat;
		worker->idx = turn->n_started;
		worker->seed = 88172645463325252 + worker->idx * 7919;
		if (pthread_create(&worker->thread, NULL, repeat_work, worker))
			return err_raise(-EAGAIN, "cannot start a thread");
	}
	return 0;
}

static void end_workers(struct turn_state *turn)
{
	struct figures *now = turn->repeat->now;

	atomic_store(&turn->repeat->is_over, true);
	for (uint64_t i = 0; i < turn->n_started; i++) {
		const struct worker *worker = &turn->workers[i];

		pthread_join(worker->thread, NULL);
		waits_merge(&now->waits, &worker->waits);
		now->written_bytes += worker->n_fresh * page_size_bytes();
		for (size_t k = 0; k < N_PHASES; k++)
			now->worst_nsec[k] = max_u64(now->worst_nsec[k], worker->worst_nsec[k]);
	}
}

static double time_copy(const struct repeat *repeat)
{
	const uint64_t page = page_size_bytes(), n = repeat->size_bytes / page / 2;
	uint64_t seed = 12345, start = now_nsec();

	for (uint64_t i = 0; i < n; i++)
		memcpy(repeat->base + i * page,
		       repeat->base + (n + repeat_random(&seed) % n) * page, page);
	return (double)(now_nsec() - start) / 1000 / (double)n;
}

static int measure(struct repeat *repeat, uint64_t n)
{
	struct turn_state turn = {
		.repeat = repeat,
		.n_warm = repeat->n_held - (repeat->period_nsec ? 0 : min_u64(repeat->n_held, 1)),
		.n_counted = n,
	};
	int r;

	turn.n_takes = turn.n_warm + n;
	if (repeat->period_nsec)
		turn.n_takes += window_nsec[WINDOW_1_S] / repeat->period_nsec;
	turn.begun = calloc(n + 1, sizeof(*turn.begun));
	turn.workers = calloc(repeat->n_threads + 1, sizeof(*turn.workers));
	if (!turn.begun || !turn.workers)
		return err_oom((n + 1) * sizeof(*turn.begun), "takes and threads");
	r = repeat_open(repeat);
	if (r)
		goto out;
	memset(repeat->base, 1, repeat->size_bytes);
	repeat->now->child.cowd_pid =
		bench_private_cowd(repeat->client, bench_address(repeat->socket));
	r = repeat_held(repeat, &turn.held_bytes);
	if (!r)
		r = start_workers(&turn);
	if (!r)
		r = run_takes(&turn);
	end_workers(&turn);
	repeat_drop(repeat, 0);
	if (!r && repeat->mode == REPEAT_FORK)
		repeat->now->copy_usec = time_copy(repeat);
out:
	repeat_close(repeat);
	free(turn.begun);
	free(turn.workers);
	return r;
}

struct task {
	struct repeat *repeat;
	enum repeat_mode mode;
	uint64_t n;
};

static int turn_main(void *arg)
{
	const struct task *task = arg;
	struct repeat *repeat = task->repeat;

	repeat->mode = task->mode;
	repeat->now = repeat->figures[task->mode];
	return measure(repeat, task->n);
}

int repeat_turn(struct repeat *repeat, enum repeat_mode mode, uint64_t n)
{
	struct task task = {.repeat = repeat, .mode = mode, .n = n};

	return bench_child_run(&repeat->figures[mode]->child, turn_main, &task);
}
