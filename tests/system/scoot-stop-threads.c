// SPDX-License-Identifier: LGPL-2.1-or-later
/* What becomes of threads that are stopped, of their signals and system calls; see scoot-stop.c. */
#include "config.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include "system/scoot-stop.h"

/* --- signals ---------------------------------------------------------------------------------- */

enum {
	N_HANDLERS = 3,
	N_SIGNALS = 20000, /* to each, and as many to the process */
};

static _Atomic uint64_t n_handled, sum_handled;

static void count_signal(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	atomic_fetch_add(&n_handled, 1);
	atomic_fetch_add(&sum_handled, (uint64_t)info->si_value.sival_int);
}

/* In and out of the kernel and of the handler; it is the main thread that takes none. */
static void *handle(void *arg)
{
	struct busy *busy = arg;

	while (!atomic_load(&busy->is_over)) {
		(void)getppid();
		busy->region->addr[0] = 1;
	}
	return NULL;
}

/* Queued: each that was accepted has to arrive. What may be queued is limited. */
static void *send_signals(void *arg)
{
	struct busy *to = arg;
	sigset_t all;

	sigfillset(&all);
	(void)pthread_sigmask(SIG_BLOCK, &all, NULL);
	for (int i = 0; i < (N_HANDLERS + 1) * N_SIGNALS; i++) {
		const union sigval value = {.sival_int = i};
		const size_t who = (size_t)i % (N_HANDLERS + 1);

		while (who < N_HANDLERS ? pthread_sigqueue(to->threads[who], SIGRTMIN, value)
					: sigqueue(getpid(), SIGRTMIN, value))
			(void)sched_yield();
	}
	return NULL;
}

/*
 * Threads that are stopped when a signal is delivered to them.
 *
 * Seen to fail, by the time limit: with a detach() (backends/stop.c) that gives no signal back.
 */
START_TEST(no_signal_is_lost)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = region_without_uffd();
	const uint64_t n = (uint64_t)(N_HANDLERS + 1) * N_SIGNALS;
	struct sigaction action = {.sa_sigaction = count_signal, .sa_flags = SA_SIGINFO};
	struct busy busy;
	pthread_t sender;
	sigset_t signals;

	ck_assert(!sigaction(SIGRTMIN, &action, NULL));
	busy_start(&busy, region, N_HANDLERS, handle);
	sigemptyset(&signals);
	sigaddset(&signals, SIGRTMIN);
	ck_assert(!pthread_sigmask(SIG_BLOCK, &signals, NULL));
	ck_assert(!pthread_create(&sender, NULL, send_signals, &busy));
	while (atomic_load(&n_handled) < n / 2)
		(void)take(region);
	ck_assert(!pthread_join(sender, NULL));
	while (atomic_load(&n_handled) < n)
		(void)sched_yield();
	busy_end(&busy);
	ck_assert_uint_eq(atomic_load(&n_handled), n);
	ck_assert_uint_eq(atomic_load(&sum_handled), n * (n - 1) / 2);
}
END_TEST

/* --- threads that come and go ----------------------------------------------------------------- */

enum {
	N_CHAINS = 4,
};

struct chain {
	_Atomic uint64_t *word; /* of the region */
	atomic_bool is_over;
	atomic_bool has_ended;
	_Atomic uint64_t n_links;
};

/* One write, and then a thread to go on with: who looks for threads has one before it each time. */
static void *link_of(void *arg)
{
	struct chain *chain = arg;
	pthread_attr_t attr;
	pthread_t next;

	atomic_fetch_add(chain->word, 1);
	atomic_fetch_add(&chain->n_links, 1);
	if (atomic_load(&chain->is_over)) {
		atomic_store(&chain->has_ended, true);
		return NULL;
	}
	ck_assert(!pthread_attr_init(&attr));
	ck_assert(!pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED));
	while (pthread_create(&next, &attr, link_of, chain))
		(void)sched_yield();
	pthread_attr_destroy(&attr);
	return NULL;
}

/*
 * Seen to fail: with a helper (backends/stop.c) that is content with the first listing, and with
 * one that does not list again when who is new in it has ended.
 */
START_TEST(threads_may_come_and_go)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = region_without_uffd();
	static struct chain chains[N_CHAINS];
	uint64_t n_settled = 0;

	for (size_t i = 0; i < N_CHAINS; i++) {
		chains[i].word = (_Atomic uint64_t *)(void *)(region->addr + i * page_size_bytes());
		link_of(&chains[i]);
	}
	for (int i = 0; i < 10 * N_TAKES; i++) {
		CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
		uint64_t before[N_CHAINS], frozen;

		wait_until_unshared(region);
		for (size_t k = 0; k < N_CHAINS; k++)
			before[k] = atomic_load(&chains[k].n_links);
		region->scoot_glue->stopper.retry_at_nsec = 0;
		proof_ok(cow_snapshot_new(&snap, region));
		n_settled += cost_of(snap).settled_bytes;
		for (size_t k = 0; k < N_CHAINS; k++) {
			proof_ok(cow_snapshot_read(snap, &frozen, sizeof(frozen),
						   k * page_size_bytes()));
			ck_assert_uint_ge(frozen, before[k]);
			ck_assert_uint_le(frozen, atomic_load(&chains[k].n_links) + 1);
		}
	}
	ck_assert_uint_gt(n_settled, 0);
	for (size_t k = 0; k < N_CHAINS; k++) {
		atomic_store(&chains[k].is_over, true);
		while (!atomic_load(&chains[k].has_ended))
			(void)sched_yield();
		ck_assert_uint_eq(atomic_load(chains[k].word), atomic_load(&chains[k].n_links));
	}
}
END_TEST

/* --- system calls ----------------------------------------------------------------------------- */

struct sleeper {
	pthread_t thread;
	_Atomic pid_t id;
	int fd;
	long result;
	int error;
};

/* Until the kernel says that the thread waits in that call. */
static void await_asleep(struct sleeper *sleeper, long call)
{
	char path[64], state = 0;
	long nr = -1;

	while (state != 'S' || nr != call) {
		FILE *file;

		(void)sched_yield();
		state = 0;
		if (!atomic_load(&sleeper->id))
			continue;
		(void)snprintf(path, sizeof(path), "/proc/self/task/%d/syscall",
			       (int)atomic_load(&sleeper->id));
		file = fopen(path, "re");
		ck_assert_ptr_nonnull(file);
		if (fscanf(file, "%ld", &nr) == 1)
			state = 'S';
		(void)fclose(file);
	}
}

static void *sleep_in_epoll(void *arg)
{
	struct sleeper *sleeper = arg;
	struct epoll_event event;

	atomic_store(&sleeper->id, (pid_t)syscall(SYS_gettid));
	sleeper->result = syscall(SYS_epoll_pwait, sleeper->fd, &event, 1, -1, NULL, 8);
	sleeper->error = errno;
	return NULL;
}

static void *sleep_in_read(void *arg)
{
	struct sleeper *sleeper = arg;
	char byte;

	atomic_store(&sleeper->id, (pid_t)syscall(SYS_gettid));
	sleeper->result = syscall(SYS_read, sleeper->fd, &byte, 1);
	sleeper->error = errno;
	return NULL;
}

/*
 * As cow-scoot(7) says: one fails with EINTR, the other goes on, and only a take that settles stops
 * anybody.
 *
 * Seen to fail: with a library that does not know of the flag.
 */
START_TEST(a_stop_ends_epoll_wait_but_not_read)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = region_without_uffd();
	struct sleeper poller = {.fd = epoll_create1(EPOLL_CLOEXEC)}, reader;
	int fds[2];

	ck_assert(!pipe2(fds, O_CLOEXEC));
	reader = (struct sleeper){.fd = fds[0]};
	ck_assert(!pthread_create(&poller.thread, NULL, sleep_in_epoll, &poller));
	ck_assert(!pthread_create(&reader.thread, NULL, sleep_in_read, &reader));
	await_asleep(&poller, SYS_epoll_pwait);
	await_asleep(&reader, SYS_read);
	(void)take(region);
	await_asleep(&poller, SYS_epoll_pwait);
	region->addr[0] = 1;
	ck_assert_uint_eq(take(region).settled_bytes, page_size_bytes());
	ck_assert(!pthread_join(poller.thread, NULL));
	ck_assert_int_eq(poller.result, -1);
	ck_assert_int_eq(poller.error, EINTR);
	await_asleep(&reader, SYS_read);
	close(fds[1]);
	ck_assert(!pthread_join(reader.thread, NULL));
	ck_assert_int_eq(reader.result, 0);
	close(fds[0]);
	close(poller.fd);
}
END_TEST

void add_thread_tests(TCase *tcase)
{
	tcase_add_test(tcase, no_signal_is_lost);
	tcase_add_test(tcase, threads_may_come_and_go);
	tcase_add_test(tcase, a_stop_ends_epoll_wait_but_not_read);
}
