// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowbench fork: how long a program stands still in cow_fork() and in fork() when its memory is a
 * region, against fork() when the same amount of memory is anonymous.
 *
 * Two processes, one with a region and one with anonymous memory, each with nothing else to copy,
 * are told in turns to fork, so all ways are measured in one run. Of each fork: how long the call
 * took in the parent; then the child reads pages for the first time; then, while the child lives,
 * the parent writes to other pages for the first time. Before the next fork of the region the
 * library has done what it does in the background: the steady state is measured, not the first
 * fork. With --again the child then lives on for a while, in which the parent writes nothing, and
 * the parent forks once more at once when that is over, in the same way, the first child alive: the
 * stall of that second fork is what a child that has lived so long leaves to the next.
 */
#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "common/err.h"
#include "libclient/internal.h"
#include "tools/bench/bench.h"
#include "tools/bench/options.h"
#include "tools/report.h"
#include "tools/samples.h"

#define TOUCHES_MAX 256
#define PAUSE_NSEC  1000000
#define AGAIN_NEVER UINT64_MAX
#define AGAIN_MAX   600000

enum home_kind {
	HOME_REGION,
	HOME_ANONYMOUS,
	N_HOMES,
};

static const struct way {
	const char *name;
	enum home_kind home;
	bool is_cow_fork;
} ways[] = {
	{"cow_fork", HOME_REGION, true},
	{"fork_of_region", HOME_REGION, false},
	{"fork", HOME_ANONYMOUS, false},
};

struct figures {
	struct samples stall;
	struct samples again;
	struct samples child_read;
	struct samples parent_write;
};

/**
 * struct fork_turn - what a process measured last; shared by all
 * @sentence: if @error is not 0
 */
struct fork_turn {
	int error;
	char sentence[512];
	uint64_t stall_nsec;
	uint64_t again_nsec; /* of the second fork, with --again */
	uint64_t reads[TOUCHES_MAX];
	uint64_t writes[TOUCHES_MAX];
};

/* A process that has memory, and is told by a byte which way to fork. */
struct home {
	pid_t pid;
	int sock;
};

struct fork_bench {
	uint64_t size_bytes;
	uint64_t n_runs;
	uint64_t again_msec; /* AGAIN_NEVER: fork once only */
	bool is_json;
	const char *socket;
	size_t n_touches;
	struct fork_turn *turn;
	struct home homes[N_HOMES];
	struct figures figures[ARRAY_SIZE(ways)];

	/* in a home */
	struct cow_client *client;
	struct cow_region *region;
	char *base;
	uint64_t seed;
};

/* --- in a home -------------------------------------------------------------------------------- */

static int open_region(struct fork_bench *bench)
{
	struct cow_region_params params = {
		.size_bytes = bench->size_bytes,
		.mode = COW_MODE_SCOOT,
		.name = "cowbench fork",
	};
	int r;

	r = bench_connect(&bench->client, bench->socket);
	if (!r)
		r = cow_region_new(&bench->region, bench->client, &params);
	if (!r)
		bench->base = cow_region_address(bench->region);
	return r;
}

static int open_anonymous(struct fork_bench *bench)
{
	void *p = mmap(NULL, bench->size_bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return err_raise_errno("cannot map memory");
	(void)madvise(p, bench->size_bytes, MADV_NOHUGEPAGE);
	bench->base = p;
	return 0;
}

/* Until the background has nothing left to do that a fork would find half done. */
static void await_quiet(struct cow_region *region)
{
	const struct timespec pause = {.tv_nsec = PAUSE_NSEC};
	struct cowi_progress progress;

	for (;;) {
		cowi_region_progress(region, &progress);
		/* Without a userfaultfd nothing is done in the background. */
		if (!progress.settles ||
		    (progress.is_settled && progress.is_populated && progress.is_tidy))
			return;
		(void)nanosleep(&pause, NULL);
	}
}

/* The @i-th of the pages that are touched, of the lower half or of the upper. */
static volatile char *page_of(const struct fork_bench *bench, size_t i, bool is_upper)
{
	uint64_t n_half = bench->size_bytes / page_size_bytes() / 2;
	uint64_t stride = n_half / bench->n_touches;
	uint64_t idx = i * stride + (bench->seed * 2654435761u + i * 40503u) % stride;

	return bench->base + ((is_upper ? n_half : 0) + idx) * page_size_bytes();
}

static void child_main(const struct fork_bench *bench, int sock)
{
	bool is_inherited = true;
	char byte = 1;

	for (size_t i = 0; i < bench->n_touches; i++) {
		volatile char *page = page_of(bench, i, true);
		uint64_t start = now_nsec();

		is_inherited &= *page == 1;
		bench->turn->reads[i] = now_nsec() - start;
	}
	/* Until the parent has written. */
	if (write(sock, &byte, 1) != 1 || read(sock, &byte, 1) < 0)
		_exit(1);
	_exit(is_inherited ? 0 : 1);
}

static void time_writes(const struct fork_bench *bench)
{
	for (size_t i = 0; i < bench->n_touches; i++) {
		volatile char *page = page_of(bench, i, false);
		uint64_t start = now_nsec();

		*page = 2;
		bench->turn->writes[i] = now_nsec() - start;
	}
}

static int end_child(pid_t pid, bool has_read)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return err_raise_errno("lost sight of the child");
	}
	if (!has_read || status)
		return err_raise(-EIO, "the child does not have the memory of its parent");
	return 0;
}

/* The child of fork_again(): it looks at one page and ends. */
static void second_child_main(const struct fork_bench *bench)
{
	_exit(*page_of(bench, 0, true) == 1 ? 0 : 1);
}

static int do_fork(const struct fork_bench *bench, const struct way *way)
{
	pid_t pid = way->is_cow_fork ? cow_fork(bench->client) : fork();

	return pid < 0 && !way->is_cow_fork ? err_raise_errno("cannot fork") : pid;
}

/* The next fork, while the first child lives. */
static int fork_again(struct fork_bench *bench, const struct way *way)
{
	const struct timespec pause = {
		.tv_sec = (time_t)(bench->again_msec / 1000),
		.tv_nsec = (long)(bench->again_msec % 1000 * 1000000),
	};
	uint64_t start;
	pid_t pid;

	(void)nanosleep(&pause, NULL);
	start = now_nsec();
	pid = do_fork(bench, way);
	if (!pid)
		second_child_main(bench);
	bench->turn->again_nsec = now_nsec() - start;
	return pid < 0 ? pid : end_child(pid, true);
}

static int fork_once(struct fork_bench *bench, const struct way *way)
{
	int socks[2], pid, r = 0, r_end;
	uint64_t start;
	bool has_read;
	char byte;

	bench->seed++;
	if (bench->region)
		await_quiet(bench->region);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks))
		return err_raise_errno("cannot make a socket");
	start = now_nsec();
	pid = do_fork(bench, way);
	if (!pid) {
		close(socks[0]);
		child_main(bench, socks[1]);
	}
	bench->turn->stall_nsec = now_nsec() - start;
	close(socks[1]);
	if (pid < 0) {
		close(socks[0]);
		return pid;
	}
	has_read = read(socks[0], &byte, 1) == 1;
	if (has_read)
		time_writes(bench);
	if (has_read && bench->again_msec != AGAIN_NEVER)
		r = fork_again(bench, way);
	close(socks[0]);
	r_end = end_child(pid, has_read);
	return r ? r : r_end;
}

/* Answer each byte with one; the first answer is to none, and says that there is memory now. */
static void home_main(struct fork_bench *bench, enum home_kind kind, int sock)
{
	unsigned char way = 0;
	int r;

	r = kind == HOME_REGION ? open_region(bench) : open_anonymous(bench);
	if (!r)
		memset(bench->base, 1, bench->size_bytes);
	do {
		bench->turn->error = r;
		if (r)
			(void)snprintf(bench->turn->sentence, sizeof(bench->turn->sentence), "%s",
				       err_sentence());
		if (write(sock, &way, 1) != 1 || read(sock, &way, 1) != 1)
			break;
		r = fork_once(bench, &ways[way]);
	} while (1);
	cow_region_unref(bench->region);
	cow_client_unref(bench->client);
	_exit(0);
}

/* --- who tells them --------------------------------------------------------------------------- */

static int await_home(struct fork_bench *bench, const struct home *home)
{
	char byte;
	ssize_t n;

	do {
		n = read(home->sock, &byte, 1);
	} while (n < 0 && errno == EINTR);
	if (n != 1)
		return err_raise(-EIO, "a measuring process ended early");
	return bench->turn->error ? err_raise(bench->turn->error, "%s", bench->turn->sentence) : 0;
}

static int start_home(struct fork_bench *bench, enum home_kind kind)
{
	struct home *home = &bench->homes[kind];
	pid_t parent = getpid();
	int socks[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks))
		return err_raise_errno("cannot make a socket");
	fflush(NULL); /* the child must not write it again */
	home->pid = fork();
	if (!home->pid) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(0);
		for (size_t i = 0; i < N_HOMES; i++)
			fd_close(bench->homes[i].sock);
		close(socks[0]);
		home_main(bench, kind, socks[1]);
	}
	close(socks[1]);
	home->sock = socks[0];
	return home->pid < 0 ? err_raise_errno("no process to measure in")
			     : await_home(bench, home);
}

static void end_home(struct home *home)
{
	home->sock = fd_close(home->sock);
	if (home->pid > 0) {
		while (waitpid(home->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
}

static int run_way(struct fork_bench *bench, size_t number)
{
	const struct home *home = &bench->homes[ways[number].home];
	const unsigned char byte = (unsigned char)number;
	struct figures *figures = &bench->figures[number];
	int r;

	if (send(home->sock, &byte, 1, MSG_NOSIGNAL) != 1)
		return err_raise_errno("a measuring process ended early");
	r = await_home(bench, home);
	if (r)
		return r;
	samples_add(&figures->stall, bench->turn->stall_nsec);
	if (bench->again_msec != AGAIN_NEVER)
		samples_add(&figures->again, bench->turn->again_nsec);
	for (size_t i = 0; i < bench->n_touches; i++) {
		samples_add(&figures->child_read, bench->turn->reads[i]);
		samples_add(&figures->parent_write, bench->turn->writes[i]);
	}
	return 0;
}

static int measure(struct fork_bench *bench)
{
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(ways); i++) {
		struct figures *figures = &bench->figures[i];

		r = samples_init(&figures->stall, bench->n_runs);
		if (!r)
			r = samples_init(&figures->again, bench->n_runs);
		if (!r)
			r = samples_init(&figures->child_read, bench->n_runs * bench->n_touches);
		if (!r)
			r = samples_init(&figures->parent_write, bench->n_runs * bench->n_touches);
	}
	bench->turn = mmap(NULL, sizeof(*bench->turn), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (bench->turn == MAP_FAILED)
		return err_oom(sizeof(*bench->turn), "what is measured");
	for (int i = 0; !r && i < N_HOMES; i++)
		r = start_home(bench, (enum home_kind)i);
	for (uint64_t run = 0; !r && run < bench->n_runs; run++) {
		for (size_t i = 0; !r && i < ARRAY_SIZE(ways); i++)
			r = run_way(bench, i);
	}
	for (size_t i = 0; i < N_HOMES; i++)
		end_home(&bench->homes[i]);
	(void)munmap(bench->turn, sizeof(*bench->turn));
	return r;
}

/* --- the result ------------------------------------------------------------------------------- */

static double usec_at(struct samples *samples, double q)
{
	return (double)samples_quantile(samples, q) / 1000;
}

static struct json_object *quantiles(struct samples *samples)
{
	struct json_object *object = json_object_new_object();

	report_put_real(object, "p50", usec_at(samples, 0.5));
	report_put_real(object, "p99", usec_at(samples, 0.99));
	report_put_real(object, "max", usec_at(samples, 1));
	return object;
}

static struct json_object *document_of(struct figures *figures)
{
	struct json_object *object = json_object_new_object();

	json_object_object_add(object, "stall_us", quantiles(&figures->stall));
	if (figures->again.n_values)
		json_object_object_add(object, "again_us", quantiles(&figures->again));
	json_object_object_add(object, "child_read_us", quantiles(&figures->child_read));
	json_object_object_add(object, "parent_write_us", quantiles(&figures->parent_write));
	return object;
}

static int print_json(struct fork_bench *bench)
{
	struct json_object *document = json_object_new_object();
	struct json_object *object = json_object_new_object();
	double forked = usec_at(&bench->figures[ARRAY_SIZE(ways) - 1].stall, 0.5);
	int r;

	json_object_object_add(document, "size_bytes", json_object_new_uint64(bench->size_bytes));
	json_object_object_add(document, "runs", json_object_new_uint64(bench->n_runs));
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++)
		json_object_object_add(object, ways[i].name, document_of(&bench->figures[i]));
	json_object_object_add(document, "ways", object);
	if (bench->again_msec != AGAIN_NEVER)
		json_object_object_add(document, "again_ms",
				       json_object_new_uint64(bench->again_msec));
	report_put_real(document, "ratio", forked / usec_at(&bench->figures[0].stall, 0.5));
	r = report_json(document);
	json_object_put(document);
	return r;
}

static const struct report_column columns[] = {
	{"way", "WAY", REPORT_TEXT},
	{"stall_us.p50", "STALL us p50", REPORT_NUMBER},
	{"stall_us.p99", "p99", REPORT_NUMBER},
	{"stall_us.max", "max", REPORT_NUMBER},
	{"stall_ratio", "to fork", REPORT_RATIO},
	{"child_read_us.p50", "CHILD READS us p50", REPORT_NUMBER},
	{"child_read_us.p99", "p99", REPORT_NUMBER},
	{"parent_write_us.p50", "PARENT WRITES us p50", REPORT_NUMBER},
	{"parent_write_us.p99", "p99", REPORT_NUMBER},
	{"again_us.p50", "AGAIN us p50", REPORT_NUMBER},
	{"again_us.max", "max", REPORT_NUMBER},
};
#define N_AGAIN_COLUMNS 2

static int print_result(struct fork_bench *bench)
{
	double forked = usec_at(&bench->figures[ARRAY_SIZE(ways) - 1].stall, 0.5);
	struct json_object *rows;
	int r;

	if (bench->is_json)
		return print_json(bench);
	rows = json_object_new_array();
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		struct json_object *row = document_of(&bench->figures[i]);
		double stall = usec_at(&bench->figures[i].stall, 0.5);

		json_object_object_add(row, "way", json_object_new_string(ways[i].name));
		if (forked > 0)
			report_put_real(row, "stall_ratio", stall / forked);
		json_object_array_add(rows, row);
	}
	printf("%llu MiB, %llu forks of each kind\n", (unsigned long long)(bench->size_bytes >> 20),
	       (unsigned long long)bench->n_runs);
	r = report_table(rows, columns,
			 ARRAY_SIZE(columns) -
				 (bench->again_msec == AGAIN_NEVER ? N_AGAIN_COLUMNS : 0));
	json_object_put(rows);
	return r;
}

static int parse_options(struct fork_bench *bench, int argc, char **argv)
{
	const struct bench_option options[] = {
		{"s", BENCH_SIZE, &bench->size_bytes, .wants = BENCH_SIZE_WANTS},
		{"n", BENCH_NUMBER, &bench->n_runs, 1, 10000, "a number of runs from 1 on"},
		{"again", BENCH_NUMBER, &bench->again_msec, 0, AGAIN_MAX,
		 "milliseconds up to 600000"},
		{"json", BENCH_FLAG, &bench->is_json},
		{"socket", BENCH_TEXT, &bench->socket},
	};

	return bench_parse_options(options, ARRAY_SIZE(options), argc, argv);
}

int bench_fork(int argc, char **argv)
{
	struct fork_bench bench = {
		.size_bytes = 1ULL << 30,
		.n_runs = 20,
		.again_msec = AGAIN_NEVER,
		.homes = {{.sock = -1}, {.sock = -1}},
	};
	int r;

	r = parse_options(&bench, argc, argv);
	if (r)
		return r;
	bench.n_touches = min_u64(TOUCHES_MAX, bench.size_bytes / page_size_bytes() / 2);
	r = memory_check(bench.size_bytes, 2);
	if (!r)
		r = measure(&bench);
	if (!r)
		r = print_result(&bench);
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		samples_deinit(&bench.figures[i].stall);
		samples_deinit(&bench.figures[i].again);
		samples_deinit(&bench.figures[i].child_read);
		samples_deinit(&bench.figures[i].parent_write);
	}
	return r ? cli_fail(r, err_sentence(), "fork") : CLI_OK;
}
