/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clients that die at any moment: what only they held is freed to the last descriptor, snapshots
 * that somebody else opened stay right until released, and others notice nothing.
 *
 * Seen to fail with: a session's end that does not drop its holds on snapshots, a save that forgets
 * to close its descriptor.
 */
#include "config.h"

#include <check.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "system/proof.h"

enum {
	REGION_BYTES = 4 << 20,
	N_DEATHS = 40,
	SEED = 3,
	OTHER_SEED = 5,
};

/* --- at random moments ------------------------------------------------------------------------ */

/* Everything that a client can be in the middle of, again and again. */
static void live(void *user)
{
	uint32_t mode = *(const uint32_t *)user;

	for (uint64_t round = 0;; round++) {
		CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
		AUTO_FD int fd = proof_file();

		region = proof_region(mode, REGION_BYTES);
		for (unsigned int i = 0; i < 3; i++) {
			CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
			const void *view = NULL;

			proof_fill(cow_region_address(region), REGION_BYTES, round);
			proof_ok(cow_snapshot_new(&snap, region));
			proof_fill(cow_region_address(region), REGION_BYTES, round + 1);
			proof_ok(cow_snapshot_map(snap, &view));
			ck_assert(proof_is_filled(view, REGION_BYTES, round, 0));
			proof_ok(cow_snapshot_save(snap, fd, NULL, NULL));
			proof_check_snapshot(snap, round);
		}
	}
}

/* The one that must notice nothing: snapshots of a region under load, until the pipe is closed. */
struct bystander {
	uint32_t mode;
	int stop_fd;
	int ready_fd;
};

static void watch(void *user)
{
	const struct bystander *bystander = user;
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(freep) char *bytes = proof_alloc(REGION_BYTES);
	uint64_t before[PAIRS_THREADS_MAX], after[PAIRS_THREADS_MAX];
	struct pairs pairs;
	char byte = 0;

	region = proof_region(bystander->mode, REGION_BYTES);
	pairs_start(&pairs, cow_region_address(region), REGION_BYTES, 2);
	do {
		CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;

		pairs_rounds(&pairs, before);
		proof_ok(cow_snapshot_new(&snap, region));
		pairs_rounds(&pairs, after);
		proof_ok(cow_snapshot_read(snap, bytes, REGION_BYTES, 0));
		pairs_check(&pairs, bytes, before, after, "bystander");
		/* nobody may be reading any more */
		(void)send(bystander->ready_fd, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (recv(bystander->stop_fd, &byte, 1, MSG_DONTWAIT) < 0);
	pairs_stop(&pairs);
	pairs_check_final(&pairs);
}

static void pause_at_random(unsigned int *seed, unsigned int up_to_usec)
{
	const struct timespec pause = {.tv_nsec = rand_r(seed) % (int)up_to_usec * 1000L};

	nanosleep(&pause, NULL);
}

/* Read what the bystander says so far; it must say something. */
static void await_bystander(int fd)
{
	char bytes[4096];

	ck_assert_int_gt(read(fd, bytes, sizeof(bytes)), 0);
}

START_TEST(death_at_any_moment_leaves_nothing)
{
	struct bystander bystander = {.mode = proof_mode(_i)};
	unsigned int seed = (unsigned int)time(NULL);
	struct proof_holdings at_first;
	int stop[2], ready[2];
	pid_t watcher;

	(void)fprintf(stderr, "seed %u\n", seed);
	proof_holdings(&at_first);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stop), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ready), 0);
	bystander.stop_fd = stop[1];
	bystander.ready_fd = ready[1];
	watcher = proof_fork(watch, &bystander);
	ready[1] = fd_close(ready[1]); /* or its death would not be noticed */
	await_bystander(ready[0]);

	for (int i = 0; i < N_DEATHS; i++) {
		pid_t victim = proof_fork(live, &bystander.mode);

		pause_at_random(&seed, 40000);
		ck_assert_int_eq(kill(victim, SIGKILL), 0);
		proof_reap(victim, SIGKILL);
		await_bystander(ready[0]);
	}

	ck_assert_int_eq(write(stop[0], "", 1), 1);
	proof_reap(watcher, 0);
	fd_close(stop[0]);
	fd_close(stop[1]);
	fd_close(ready[0]);
	proof_wait_for_holdings(&at_first);
}
END_TEST

/* --- opened elsewhere ------------------------------------------------------------------------- */

struct taker {
	uint32_t mode;
	int id_fd;
};

/* Take a snapshot, say which, and go on changing what it shows. */
static void take(void *user)
{
	const struct taker *taker = user;
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	uint64_t id;

	region = proof_region(taker->mode, REGION_BYTES);
	proof_fill(cow_region_address(region), REGION_BYTES, SEED);
	proof_ok(cow_snapshot_new(&snap, region));
	id = cow_snapshot_id(snap);
	ck_assert_msg(id, "%s", cow_last_error());
	proof_fill(cow_region_address(region), REGION_BYTES / 2, OTHER_SEED);
	ck_assert_int_eq(write(taker->id_fd, &id, sizeof(id)), sizeof(id));
	for (;;)
		proof_fill(cow_region_address(region), REGION_BYTES, OTHER_SEED);
}

static pid_t start_taker(uint32_t mode, uint64_t *id)
{
	struct taker taker = {.mode = mode};
	pid_t pid;
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	taker.id_fd = fds[1];
	pid = proof_fork(take, &taker);
	fd_close(fds[1]);
	ck_assert_int_eq(read(fds[0], id, sizeof(*id)), sizeof(*id));
	fd_close(fds[0]);
	return pid;
}

START_TEST(snapshot_opened_elsewhere_outlives_its_taker)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL, *again = NULL;
	struct proof_holdings at_first;
	const char *view;
	const void *p;
	uint64_t id;
	pid_t pid;

	proof_holdings(&at_first);
	pid = start_taker(proof_mode(_i), &id);
	client = proof_client();
	proof_ok(cow_snapshot_open(&snap, client, id));
	proof_check_snapshot(snap, SEED);
	proof_ok(cow_snapshot_map(snap, &p));
	view = p;
	ck_assert(proof_is_filled(view, REGION_BYTES / 4, SEED, 0));

	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	proof_reap(pid, SIGKILL);
	proof_check_snapshot(snap, SEED);
	ck_assert(proof_is_filled(view, REGION_BYTES, SEED, 0));
	/* it can even be opened once more, while it is held */
	proof_ok(cow_snapshot_open(&again, client, id));
	proof_check_snapshot(again, SEED);

	snap = cow_snapshot_unref(snap);
	proof_check_snapshot(again, SEED);
	again = cow_snapshot_unref(again);
	ck_assert_int_eq(cow_snapshot_open(&snap, client, id), -ENOENT);
	client = cow_client_unref(client);
	proof_wait_for_holdings(&at_first);
}
END_TEST

struct saving {
	struct cow_snapshot *snap;
	int fd;
	int result;
};

static void *save(void *user)
{
	struct saving *saving = user;

	saving->result = cow_snapshot_save(saving->snap, saving->fd, NULL, NULL);
	return NULL;
}

/* The pipe is full and the save waits when the taker dies; all of it arrives nevertheless. */
START_TEST(taker_dies_while_its_snapshot_is_saved_elsewhere)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	CLEANUP(freep) char *bytes = proof_alloc(REGION_BYTES);
	struct proof_holdings at_first;
	struct saving saving;
	pthread_t thread;
	uint64_t id;
	pid_t pid;
	int fds[2];

	proof_holdings(&at_first);
	pid = start_taker(proof_mode(_i), &id);
	client = proof_client();
	proof_ok(cow_snapshot_open(&snap, client, id));
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	saving = (struct saving){.snap = snap, .fd = fds[1]};
	ck_assert_int_eq(pthread_create(&thread, NULL, save, &saving), 0);
	ck_assert_int_eq(recv(fds[0], bytes, 1, MSG_PEEK), 1); /* it has begun */

	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	proof_reap(pid, SIGKILL);
	ck_assert_int_eq(recv(fds[0], bytes, REGION_BYTES, MSG_WAITALL), REGION_BYTES);
	ck_assert(proof_is_filled(bytes, REGION_BYTES, SEED, 0));
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert_int_eq(saving.result, 0);
	fd_close(fds[0]);
	fd_close(fds[1]);
	snap = cow_snapshot_unref(snap);
	client = cow_client_unref(client);
	proof_wait_for_holdings(&at_first);
}
END_TEST

/* The other way round: the one that reads dies; the taker's snapshot stays. */
START_TEST(reader_dies_and_the_taker_goes_on)
{
	struct taker reader = {.mode = proof_mode(_i)};
	struct proof_holdings at_first, held;
	uint64_t id;
	pid_t taker_pid;

	proof_holdings(&at_first);
	taker_pid = start_taker(reader.mode, &id);
	{
		CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
		CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;

		proof_ok(cow_snapshot_open(&snap, client, id));
	}
	for (int i = 0; i < 5; i++) {
		pid_t pid = fork();

		ck_assert_int_ge(pid, 0);
		if (!pid) {
			struct cow_client *client = proof_client();
			struct cow_snapshot *snap = NULL;

			proof_ok(cow_snapshot_open(&snap, client, id));
			proof_check_snapshot(snap, SEED);
			(void)raise(SIGKILL);
		}
		proof_reap(pid, SIGKILL);
	}
	{
		CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
		CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;

		proof_ok(cow_snapshot_open(&snap, client, id));
		proof_check_snapshot(snap, SEED);
	}
	proof_holdings(&held);
	ck_assert_uint_eq(held.n_snapshots, at_first.n_snapshots + 1);
	ck_assert_int_eq(kill(taker_pid, SIGKILL), 0);
	proof_reap(taker_pid, SIGKILL);
	proof_wait_for_holdings(&at_first);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("death", 60);

	tcase_add_loop_test(tcase, death_at_any_moment_leaves_nothing, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, snapshot_opened_elsewhere_outlives_its_taker, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, taker_dies_while_its_snapshot_is_saved_elsewhere, 0,
			    PROOF_N_MODES);
	tcase_add_loop_test(tcase, reader_dies_and_the_taker_goes_on, 0, PROOF_N_MODES);
	return proof_run(tcase);
}
