/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon/base/worker.c and daemon/uffd/follow.c: who serves, who waits, and where. Eventfds
 * stand for userfaultfds: all that a worker does with a descriptor is to wait for it.
 */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/base/worker.h"
#include "daemon/uffd/follow.h"
#include "tests/skip.h"

struct thing {
	struct served served;
	int fd;
	_Atomic enum served_verdict verdict;
	_Atomic bool is_busy; /* leaves its descriptor ready: served on and on */
	_Atomic unsigned int n_turns;
	_Atomic unsigned int n_tries; /* of the turns: nobody had said that it is ready */
	int turns_fd;                 /* counts them for those who wait */
	struct worker_pool *_Atomic follow_in;
	_Atomic int follow_cpu;
};

static struct worker_pool *pool;
static _Atomic bool is_epoll_full;

/* Instead of libc's: there may be no memory, or no watch left, for one more descriptor. */
int epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event)
{
	if (op == EPOLL_CTL_ADD && is_epoll_full) {
		errno = ENOSPC;
		return -1;
	}
	return (int)syscall(SYS_epoll_ctl, epoll_fd, op, fd, event);
}

static enum served_verdict serve(struct served *served, void *buf)
{
	struct thing *thing = container_of(served, struct thing, served);
	eventfd_t n;

	ck_assert_ptr_nonnull(buf);
	atomic_fetch_add(&thing->n_turns, 1);
	atomic_fetch_add(&thing->n_tries, served->is_try);
	if (!thing->is_busy)
		(void)eventfd_read(thing->fd, &n);
	if (thing->follow_in)
		worker_follow(thing->follow_in, served, thing->follow_cpu);
	(void)eventfd_write(thing->turns_fd, 1);
	return thing->verdict;
}

static void thing_init(struct thing *thing)
{
	*thing = (struct thing){.verdict = SERVED_AGAIN, .follow_cpu = -1};
	thing->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	thing->turns_fd = eventfd(0, EFD_CLOEXEC);
	ck_assert_int_eq(served_init(&thing->served, thing->fd, serve), 0);
	ck_assert_int_eq(worker_add(pool, &thing->served), 0);
}

static void thing_deinit(struct thing *thing)
{
	worker_remove(&thing->served);
	served_deinit(&thing->served);
	thing->fd = fd_close(thing->fd);
	thing->turns_fd = fd_close(thing->turns_fd);
}

static void poke(struct thing *thing)
{
	ck_assert_int_eq(eventfd_write(thing->fd, 1), 0);
}

static void wait_for_turn(struct thing *thing)
{
	eventfd_t n;

	ck_assert_int_eq(eventfd_read(thing->turns_fd, &n), 0);
}

static void set_up(void)
{
	ck_assert_int_eq(worker_pool_new(&pool, 2), 0);
}

static void tear_down(void)
{
	pool = worker_pool_free(pool);
}

START_TEST(what_is_ready_is_served)
{
	struct thing thing;

	thing_init(&thing);
	for (int i = 0; i < 3; i++) {
		poke(&thing);
		wait_for_turn(&thing);
	}
	thing_deinit(&thing);
}
END_TEST

START_TEST(nothing_is_served_while_locked_and_nothing_is_forgotten)
{
	struct thing thing, other;

	thing_init(&thing);
	thing_init(&other);
	for (int i = 0; i < 200; i++) {
		unsigned int n_before;

		served_lock(&thing.served);
		n_before = thing.n_turns;
		poke(&thing);
		/* Both workers have been round by the time that the other one was served. */
		poke(&other);
		wait_for_turn(&other);
		ck_assert_uint_eq(thing.n_turns, n_before);
		served_unlock(&thing.served);
		wait_for_turn(&thing);
	}
	thing_deinit(&other);
	thing_deinit(&thing);
}
END_TEST

/* Without n_wanted the worker may have the lock again before the one that waits is awake. */
START_TEST(one_that_is_served_on_and_on_can_be_locked)
{
	struct thing thing;

	thing_init(&thing);
	thing.is_busy = true;
	poke(&thing);
	for (int i = 0; i < 500; i++) {
		wait_for_turn(&thing);
		served_lock(&thing.served);
		served_unlock(&thing.served);
	}
	thing_deinit(&thing);
}
END_TEST

START_TEST(later_means_not_before_a_kick)
{
	struct thing thing;

	thing_init(&thing);
	thing.verdict = SERVED_LATER;
	thing.is_busy = true;
	poke(&thing);
	wait_for_turn(&thing);
	for (unsigned int i = 2; i < 50; i++) {
		/* Who makes it possible does so with the lock, so the turn before is over. */
		served_lock(&thing.served);
		served_unlock(&thing.served);
		wait_for_turn(&thing);
		ck_assert_uint_le(thing.n_turns, i);
	}
	thing_deinit(&thing);
}
END_TEST

/* Seen to hang without the loop in take_turns(), and the next one without its bound. */
START_TEST(one_that_wants_more_gets_some_turns_at_once)
{
	struct thing thing;

	thing_init(&thing);
	thing.verdict = SERVED_MORE;
	poke(&thing);
	while (thing.n_turns < 8)
		wait_for_turn(&thing);
	served_lock(&thing.served); /* the last of them is over */
	served_unlock(&thing.served);
	poke(&thing);
	while (thing.n_turns < 9)
		wait_for_turn(&thing);
	worker_remove(&thing.served);
	ck_assert_uint_eq(thing.n_turns - thing.n_tries, 2);
	ck_assert_uint_le(thing.n_turns, 16);
	thing_deinit(&thing);
}
END_TEST

START_TEST(one_that_always_wants_more_keeps_nobody_waiting)
{
	struct thing thing, others[2];

	thing_init(&thing);
	thing_init(&others[0]);
	thing_init(&others[1]);
	thing.verdict = SERVED_MORE;
	thing.is_busy = true;
	poke(&thing);
	for (int i = 0; i < 200; i++) {
		wait_for_turn(&thing);
		served_lock(&thing.served);
		served_unlock(&thing.served);
		/* One of them has the same worker. */
		poke(&others[0]);
		poke(&others[1]);
		wait_for_turn(&others[0]);
		wait_for_turn(&others[1]);
	}
	thing_deinit(&others[1]);
	thing_deinit(&others[0]);
	thing_deinit(&thing);
}
END_TEST

START_TEST(gone_is_never_served_again)
{
	struct thing thing, other;

	thing_init(&thing);
	thing_init(&other);
	thing.verdict = SERVED_GONE;
	thing.is_busy = true;
	poke(&thing);
	wait_for_turn(&thing);
	served_lock(&thing.served); /* its turn is over */
	served_unlock(&thing.served);
	poke(&other);
	wait_for_turn(&other);
	ck_assert_uint_eq(thing.n_turns, 1);
	thing_deinit(&other);
	thing_deinit(&thing);
}
END_TEST

START_TEST(after_removal_nobody_is_inside)
{
	for (int i = 0; i < 300; i++) {
		struct thing thing;
		unsigned int n_turns;

		thing_init(&thing);
		thing.is_busy = true;
		poke(&thing);
		if (i % 2)
			wait_for_turn(&thing);
		worker_remove(&thing.served);
		n_turns = thing.n_turns;
		worker_remove(&thing.served);
		ck_assert_uint_eq(thing.n_turns, n_turns);
		thing_deinit(&thing);
	}
}
END_TEST

/* Seen to fail when move() lets served->lock go after the other worker may look (hangs). */
START_TEST(service_moves_between_cpus_and_loses_nothing)
{
	struct thing thing;
	int cpus[2];

	thing_init(&thing);
	cpus[0] = worker_cpu(&thing.served);
	cpus[1] = -1;
	for (int cpu = 0; cpu < 64 && cpus[1] < 0; cpu++) {
		thing.follow_in = pool;
		thing.follow_cpu = cpu;
		poke(&thing);
		wait_for_turn(&thing);
		served_lock(&thing.served);
		if (worker_cpu(&thing.served) != cpus[0])
			cpus[1] = worker_cpu(&thing.served);
		served_unlock(&thing.served);
	}
	if (cpus[1] < 0) {
		thing_deinit(&thing);
		test_skip("there is one CPU only");
	}
	for (int i = 0; i < 200; i++) {
		thing.follow_cpu = cpus[i % 2];
		poke(&thing);
		wait_for_turn(&thing);
	}
	served_lock(&thing.served);
	ck_assert_int_eq(worker_cpu(&thing.served), cpus[1]);
	served_unlock(&thing.served);
	ck_assert_uint_ge(thing.served.n_moves, 199);
	thing_deinit(&thing);
}
END_TEST

/*
 * Seen to hang while move() took the object out of the old set before it was in the new one: with
 * room in neither, nobody served it any more.
 */
START_TEST(who_finds_no_room_where_it_should_go_is_served_where_it_was)
{
	struct thing thing;
	int home;

	thing_init(&thing);
	home = worker_cpu(&thing.served);
	is_epoll_full = true;
	thing.follow_in = pool;
	for (int cpu = 0; cpu < 64; cpu++) {
		thing.follow_cpu = cpu;
		poke(&thing);
		wait_for_turn(&thing);
		served_lock(&thing.served);
		ck_assert_int_eq(worker_cpu(&thing.served), home);
		served_unlock(&thing.served);
	}
	is_epoll_full = false;
	ck_assert_uint_eq(thing.served.n_moves, 0);
	thing_deinit(&thing);
}
END_TEST

#define MSEC 1000000ULL

START_TEST(a_steady_writer_is_followed)
{
	struct follow follow = {0};
	uint64_t now = 1000 * MSEC;
	int n_samples = 1;

	while (!follow_vote(&follow, 3, 0, now)) {
		now += MSEC;
		ck_assert_int_le(++n_samples, 8);
	}
	ck_assert_int_ge(n_samples, 3);
}
END_TEST

START_TEST(writers_on_many_cpus_are_not)
{
	struct follow follow = {0};

	for (uint64_t i = 0; i < 1000; i++)
		ck_assert(!follow_vote(&follow, (int)(i % 4), 0, (1000 + i) * MSEC));
}
END_TEST

START_TEST(samples_are_rare_and_this_thread_is_found)
{
	struct follow follow = {0};

	ck_assert(follow_is_due(&follow, 50 * MSEC));
	ck_assert(!follow_is_due(&follow, 52 * MSEC));
	follow.n_ahead = 1; /* there is something to be found out */
	ck_assert(follow_is_due(&follow, 52 * MSEC));
	follow.n_ahead = 0;
	ck_assert(!follow_is_due(&follow, 55 * MSEC));
	ck_assert(follow_is_due(&follow, 61 * MSEC));
	ck_assert_int_ge(follow_cpu_of(getpid()), 0);
	ck_assert_int_eq(follow_cpu_of(0), -1);
	ck_assert_int_eq(follow_cpu_of(0x3fffffff), -1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("worker");
	TCase *tcase = tcase_create("worker");
	SRunner *runner;
	int n_failed;

	tcase_set_timeout(tcase, 60);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, what_is_ready_is_served);
	tcase_add_test(tcase, nothing_is_served_while_locked_and_nothing_is_forgotten);
	tcase_add_test(tcase, one_that_is_served_on_and_on_can_be_locked);
	tcase_add_test(tcase, later_means_not_before_a_kick);
	tcase_add_test(tcase, one_that_wants_more_gets_some_turns_at_once);
	tcase_add_test(tcase, one_that_always_wants_more_keeps_nobody_waiting);
	tcase_add_test(tcase, gone_is_never_served_again);
	tcase_add_test(tcase, after_removal_nobody_is_inside);
	tcase_add_test(tcase, service_moves_between_cpus_and_loses_nothing);
	tcase_add_test(tcase, who_finds_no_room_where_it_should_go_is_served_where_it_was);
	tcase_add_test(tcase, a_steady_writer_is_followed);
	tcase_add_test(tcase, writers_on_many_cpus_are_not);
	tcase_add_test(tcase, samples_are_rare_and_this_thread_is_found);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return n_failed ? 1 : 0;
}
