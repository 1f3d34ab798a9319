// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * While the library has locks, or keeps threads out of a region, nothing of the program runs on
 * that thread: no signal handler, which would touch the region or fork, and no cancellation.
 * Elsewhere in its calls signals come as ever.
 *
 * Seen to fail, each on a library without libclient/base/entry.c: see each test.
 */
#include "config.h"

#include "system/entries.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "libclient/internal.h"
#include "tests/skip.h"

enum {
	REGION_BYTES = 4 << 20,
	N_SIGNALS = 60,
	N_ROUNDS = 24,
	N_CANCELLED = 6,
	N_SETUID = 300,
};

/* A sanitizer calls handlers when it sees fit, in the middle of a call with its signals blocked. */
#ifdef __SANITIZE_THREAD__
#define HAS_OWN_SIGNALS true
#else
#define HAS_OWN_SIGNALS false
#endif

/* A sanitizer's shadow memory is copied with each fork. */
#ifdef COW_SANITIZED
#define CAN_FORK_IN_TIME false
#else
#define CAN_FORK_IN_TIME true
#endif

/* What a cancelled thread had on its stack stays poisoned; the end of a thread reads there. */
#ifdef __SANITIZE_ADDRESS__
#define CAN_UNWIND false
#else
#define CAN_UNWIND true
#endif

static volatile char *touched; /* of REGION_BYTES */
static volatile sig_atomic_t n_signals, is_child;

static void touch(int signal)
{
	static unsigned int at;

	(void)signal;
	at = at * 1103515245 + 12345;
	touched[(at >> 4) % REGION_BYTES]++;
	n_signals++;
}

static void start_timer(void (*handler)(int), long usec)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
	struct itimerval often = {.it_interval.tv_usec = usec, .it_value.tv_usec = usec};

	ck_assert(!sigaction(SIGALRM, &action, NULL));
	ck_assert(!setitimer(ITIMER_REAL, &often, NULL));
}

static void stop_timer(void)
{
	struct itimerval never = {.it_value.tv_usec = 0};

	ck_assert(!setitimer(ITIMER_REAL, &never, NULL));
}

static void write_some(char *memory)
{
	for (size_t off = 0; off < REGION_BYTES; off += 16384)
		memory[off]++;
}

static void fork_once(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0); /* in mode uffd it has no region */
	ck_assert_int_gt(pid, 0);
	proof_reap(pid, 0);
}

/* Everything that freezes, maps anew or waits; @snaps: the newest two stay. */
static void do_everything(struct cow_region *region, struct cow_snapshot **snaps, int round)
{
	char *memory = cow_region_address(region), bytes[4096];
	struct cow_snapshot **snap = &snaps[round % 2];
	const void *view;

	write_some(memory);
	cow_snapshot_unref(*snap);
	*snap = NULL;
	proof_ok(cow_snapshot_new(snap, region));
	proof_ok(cow_snapshot_read(*snap, bytes, sizeof(bytes), 8192));
	ck_assert_uint_ne(cow_snapshot_id(*snap), 0);
	write_some(memory);
	if (round % 3 == 0)
		proof_ok(cow_region_rollback(region, *snap));
	if (round % 4 == 0) {
		int r = cow_region_discard(region, 1 << 20, 1 << 20);

		ck_assert(!r || r == -ENOSYS);
		(void)cow_mmapcopy(memory + (2 << 20), memory, 1 << 20);
	}
	if (round % 4 == 1)
		fork_once();
	if (round % 4 == 2)
		proof_ok(cow_snapshot_map(*snap, &view));
}

static void handler_writes(const struct way *way)
{
	struct cow_region *region = entries_region(way, REGION_BYTES);
	struct cow_snapshot *snaps[2] = {NULL};

	touched = cow_region_address(region);
	start_timer(touch, 1000);
	for (int i = 0; i < N_ROUNDS || n_signals < N_SIGNALS; i++)
		do_everything(region, snaps, i);
	stop_timer();
}

/* Seen to fail: modes scoot and mmapcopy hang in handle_userfault where cowd lends one. */
START_TEST(a_handler_may_write_to_the_region)
{
	struct way way = entries_way(_i);

	entries_run("a handler that writes to the region", handler_writes, &way);
}
END_TEST

static void handler_writes_while_adopted(const struct way *way)
{
	struct cow_client *client = proof_client();
	struct cow_region_params params = {.mode = way->mode};

	for (int i = 0; i < N_ROUNDS || n_signals < N_SIGNALS; i++) {
		struct cow_region *region = NULL;
		char *memory = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		ck_assert(memory != MAP_FAILED);
		memset(memory, 1, REGION_BYTES);
		touched = memory;
		start_timer(touch, 1000);
		proof_ok(cow_region_adopt(&region, client, memory, REGION_BYTES, &params));
		cow_region_unref(region);
		stop_timer();
		ck_assert(!munmap(memory, REGION_BYTES));
	}
}

/* Seen to fail: hangs in handle_userfault. */
START_TEST(a_handler_may_write_to_what_is_adopted)
{
	struct way way = entries_way(_i);

	/* Without a userfaultfd nothing can be adopted; nor in mode uffd. */
	if (way.lends && way.mode != COW_MODE_UFFD)
		entries_run("a handler that writes to what is adopted",
			    handler_writes_while_adopted, &way);
}
END_TEST

/* --- fork() in a handler ---------------------------------------------------------------------- */

/* The child returns to what was interrupted, and ends there. */
static void fork_in_handler(int signal)
{
	const int saved_errno = errno;
	pid_t pid = fork();

	(void)signal;
	if (!pid) {
		is_child = 1;
	} else if (pid > 0) {
		int status = 0;

		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		if (!WIFEXITED(status) || WEXITSTATUS(status))
			_exit(3);
		n_signals++;
	}
	errno = saved_errno;
}

static void end_child(void)
{
	if (is_child)
		_exit(0);
}

/* Handlers run between these calls, and in those that wait. In a child any of them may fail. */
static void handler_forks(const struct way *way)
{
	struct cow_region *region = entries_region(way, REGION_BYTES);
	struct cow_client *client = proof_client();

	start_timer(fork_in_handler, 1500);
	while (n_signals < N_SIGNALS) {
		struct cow_snapshot *snap = NULL, *opened = NULL;
		char bytes[4096];
		int r;

		if (way->mode != COW_MODE_UFFD) /* which a child has no memory of */
			write_some(cow_region_address(region));
		end_child();
		r = cow_snapshot_new(&snap, region);
		end_child();
		proof_ok(r);
		r = cow_snapshot_read(snap, bytes, sizeof(bytes), 0);
		end_child();
		proof_ok(r);
		r = cow_snapshot_open(&opened, client, cow_snapshot_id(snap));
		end_child();
		proof_ok(r);
		cow_snapshot_unref(opened);
		cow_snapshot_unref(snap);
		end_child();
	}
	stop_timer();
}

/* Seen to fail: hangs in futex_do_wait, in all modes. */
START_TEST(a_handler_may_fork)
{
	struct way way = entries_way(_i);

	entries_run("a handler that forks", handler_forks, &way);
}
END_TEST

/* --- the caller's mask and cancellation are its own ------------------------------------------- */

static void check_own(void)
{
	sigset_t now;
	int state, type;

	ck_assert(!pthread_sigmask(SIG_SETMASK, NULL, &now));
	for (int i = 1; i < SIGRTMAX; i++)
		ck_assert_int_eq(sigismember(&now, i) == 1, i == SIGUSR2);
	ck_assert(!pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state));
	ck_assert_int_eq(state, PTHREAD_CANCEL_ENABLE);
	ck_assert(!pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type));
	ck_assert_int_eq(type, PTHREAD_CANCEL_ASYNCHRONOUS);
}

static int look_at_mask(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
	sigset_t now;

	(void)done_bytes;
	(void)total_bytes;
	ck_assert(!pthread_sigmask(SIG_SETMASK, NULL, &now));
	for (int i = 1; i < SIGRTMAX; i++)
		ck_assert_int_eq(sigismember(&now, i) == 1, i == SIGUSR2);
	++*(int *)user;
	return 0;
}

static void keeps_own(const struct way *way)
{
	struct cow_region *region = entries_region(way, REGION_BYTES);
	struct cow_snapshot *snaps[2] = {NULL};
	AUTO_FD int fd = proof_file();
	int n_calls = 0;
	sigset_t mask;
	pid_t pid;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR2);
	ck_assert(!pthread_sigmask(SIG_SETMASK, &mask, NULL));
	ck_assert(!pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL));
	for (int i = 0; i < 5; i++) {
		do_everything(region, snaps, i);
		check_own();
	}
	proof_ok(cow_snapshot_save(snaps[0], fd, look_at_mask, &n_calls));
	check_own();
	ck_assert_int_gt(n_calls, 0);
	pid = fork();
	check_own();
	if (!pid)
		_exit(0);
	proof_reap(pid, 0);
	pid = cow_fork(region->client);
	ck_assert_msg(pid >= 0, "%s", cow_last_error());
	check_own();
	if (!pid)
		_exit(0);
	proof_reap(pid, 0);
}

/* After each call, in parent and child, and in progress functions. */
START_TEST(the_mask_and_cancellation_are_as_before)
{
	struct way way = entries_way(_i);

	entries_run("masks", keeps_own, &way);
}
END_TEST

static int reader_fd;

static void close_reader(int signal)
{
	(void)signal;
	(void)close(reader_fd);
}

/* Nobody reads: the handler ends that. */
static void save_is_interruptible(const struct way *way)
{
	struct cow_region *region = entries_region(way, REGION_BYTES);
	struct cow_snapshot *snap = NULL;
	int fds[2];

	ck_assert(!pipe(fds));
	reader_fd = fds[0];
	proof_ok(cow_snapshot_new(&snap, region));
	start_timer(close_reader, 50000);
	ck_assert_int_eq(cow_snapshot_save(snap, fds[1], NULL, NULL), -EPIPE);
	stop_timer();
}

/* Seen to fail: without cowi_entry_open() in wait_change(). */
START_TEST(a_save_that_waits_lets_signals_in)
{
	struct way way = entries_way(_i);

	entries_run("a save that waits", save_is_interruptible, &way);
}
END_TEST

/* --- cancellation ----------------------------------------------------------------------------- */

struct taker {
	struct cow_region *region;
	struct cow_snapshot *snap;
	int kind, type, fd;
	_Atomic int n_done;
};

enum kind {
	TAKE,
	ROLL_BACK,
	DISCARD,
	MMAPCOPY,
	SAVE,
	READ,
	MAP,
	OPEN,
	MAKE_REGION,
	ADOPT,
	FORK,
	N_KINDS,
};

static const char *const kind_names[] = {
	[TAKE] = "take",         [ROLL_BACK] = "roll back", [DISCARD] = "discard",
	[MMAPCOPY] = "mmapcopy", [SAVE] = "save",           [READ] = "read",
	[MAP] = "map",           [OPEN] = "open",           [MAKE_REGION] = "make a region",
	[ADOPT] = "adopt",       [FORK] = "fork",
};

static void make_region(struct taker *taker, void *adopted)
{
	struct cow_region_params params = {.size_bytes = 1 << 20, .mode = taker->region->mode};
	struct cow_region *region = NULL;
	int r = adopted ? cow_region_adopt(&region, taker->region->client, adopted, 1 << 20,
					   &params)
			: cow_region_new(&region, taker->region->client, &params);

	if (!r)
		cow_region_unref(region);
}

static void do_kind(struct taker *taker, char *memory, void *adopted)
{
	struct cow_snapshot *snap = NULL;
	static __thread char bytes[65536];
	const void *view;

	switch (taker->kind) {
	case TAKE:
		memory[(taker->n_done * 4096) % REGION_BYTES]++;
		if (!cow_snapshot_new(&snap, taker->region))
			cow_snapshot_unref(snap);
		break;
	case ROLL_BACK:
		(void)cow_region_rollback(taker->region, taker->snap);
		break;
	case DISCARD:
		(void)cow_region_discard(taker->region, 0, 1 << 20);
		break;
	case MMAPCOPY:
		(void)cow_mmapcopy(memory + (2 << 20), memory, 1 << 20);
		break;
	case SAVE:
		(void)cow_snapshot_save(taker->snap, taker->fd, NULL, NULL);
		break;
	case READ:
		(void)cow_snapshot_read(taker->snap, bytes, sizeof(bytes), 0);
		break;
	case MAP:
		(void)cow_snapshot_map(taker->snap, &view);
		break;
	case OPEN:
		if (!cow_snapshot_open(&snap, taker->region->client, cow_snapshot_id(taker->snap)))
			cow_snapshot_unref(snap);
		break;
	case MAKE_REGION:
		make_region(taker, NULL);
		break;
	case ADOPT:
		make_region(taker, adopted);
		break;
	default:
		break;
	}
}

/* Nothing of its own may be interrupted half done but what the library does. */
static void *work(void *arg)
{
	struct taker *taker = arg;
	char *memory = cow_region_address(taker->region);
	void *adopted =
		mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)pthread_setcanceltype(taker->type, NULL);
	for (;;) {
		do_kind(taker, memory, adopted);
		/* fork() itself has locks of glibc's, which asynchronous cancellation leaves. */
		if (taker->kind == FORK && taker->type == PTHREAD_CANCEL_DEFERRED)
			fork_once();
		taker->n_done++;
		pthread_testcancel();
	}
	return NULL;
}

static void cancel_one(struct taker *taker)
{
	pthread_t thread;

	taker->n_done = 0;
	ck_assert(!pthread_create(&thread, NULL, work, taker));
	while (taker->n_done < 2)
		(void)sched_yield();
	ck_assert(!pthread_cancel(thread));
	ck_assert(!pthread_join(thread, NULL));
}

static void others_go_on(struct cow_region *region)
{
	struct cow_snapshot *snap = NULL;

	write_some(cow_region_address(region));
	proof_ok(cow_snapshot_new(&snap, region));
	ck_assert_uint_ne(cow_snapshot_id(snap), 0);
	cow_snapshot_unref(snap);
	fork_once();
}

static void takers_are_cancelled(const struct way *way)
{
	struct taker taker = {.region = entries_region(way, REGION_BYTES), .fd = proof_file()};
	static const int types[] = {PTHREAD_CANCEL_DEFERRED, PTHREAD_CANCEL_ASYNCHRONOUS};

	proof_ok(cow_snapshot_new(&taker.snap, taker.region));
	for (taker.kind = 0; taker.kind < N_KINDS; taker.kind++) {
		(void)fprintf(stderr, "%s\n", kind_names[taker.kind]);
		for (int i = 0; i < N_CANCELLED; i++) {
			taker.type = types[i % 2];
			cancel_one(&taker);
			others_go_on(taker.region);
		}
	}
}

/* Seen to fail: the next take hangs in futex_do_wait, in all modes. */
START_TEST(cancelled_callers_leave_no_lock)
{
	struct way way = entries_way(_i);

	entries_run("cancelled callers", takers_are_cancelled, &way);
}
END_TEST

/* --- setuid() and its kind -------------------------------------------------------------------- */

static atomic_bool is_over;
static _Atomic int n_setuid;

static void *set_ids(void *arg)
{
	(void)arg;
	while (!is_over) {
		ck_assert(!setresuid((uid_t)-1, (uid_t)-1, (uid_t)-1));
		n_setuid++;
	}
	return NULL;
}

static void *save_to_pipe(void *arg)
{
	ck_assert_int_eq(cow_snapshot_save(arg, 1, NULL, NULL), -EPIPE);
	return NULL;
}

/* A thread whose call waits, and one that takes. */
static void beside_setuid(const struct way *way)
{
	struct cow_region *region = entries_region(way, REGION_BYTES);
	struct cow_snapshot *saved = NULL, *snaps[2] = {NULL};
	pthread_t setter, saver;
	int fds[2];

	ck_assert(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
	ck_assert(!pipe(fds));
	ck_assert_int_eq(dup2(fds[1], 1), 1);
	ck_assert(!close(fds[1]));
	proof_ok(cow_snapshot_new(&saved, region));
	ck_assert(!pthread_create(&saver, NULL, save_to_pipe, saved));
	ck_assert(!pthread_create(&setter, NULL, set_ids, NULL));
	for (int i = 0; i < N_ROUNDS || n_setuid < N_SETUID; i++)
		do_everything(region, snaps, i);
	is_over = true;
	ck_assert(!pthread_join(setter, NULL));
	ck_assert(!close(fds[0]));
	ck_assert(!pthread_join(saver, NULL));
}

/* Seen to fail: with SIGSETXID in KEPT_AWAY, and without cowi_entry_open() in wait_change(). */
START_TEST(setuid_waits_for_no_call)
{
	struct way way = entries_way(_i);

	entries_run("setresuid() beside calls", beside_setuid, &way);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("entries", 100);
	const int n_ways = entries_n_ways();

	if (!HAS_OWN_SIGNALS) {
		tcase_add_loop_test(tcase, a_handler_may_write_to_the_region, 0, n_ways);
		tcase_add_loop_test(tcase, a_handler_may_write_to_what_is_adopted, 0, n_ways);
		if (CAN_FORK_IN_TIME)
			tcase_add_loop_test(tcase, a_handler_may_fork, 0, n_ways);
		else
			tests_left_out("forks in handlers: each takes longer than the timer's "
				       "period");
		tcase_add_loop_test(tcase, a_save_that_waits_lets_signals_in, 0, n_ways);
		if (CAN_UNWIND)
			tcase_add_loop_test(tcase, cancelled_callers_leave_no_lock, 0, n_ways);
		else
			tests_left_out(
				"cancelled threads: the sanitizer takes their stack for poisoned");
	}
	tcase_add_loop_test(tcase, the_mask_and_cancellation_are_as_before, 0, n_ways);
	tcase_add_loop_test(tcase, setuid_waits_for_no_call, 0, n_ways);
	return proof_run(tcase);
}
