// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * fork() at a bad moment: while other threads make and end clients, and while one waits in the
 * library. The child finds whole lists, can let go of what it has copies of, and make a client of
 * its own.
 *
 * Seen to fail: with list_add() a tenth of a millisecond before the client has its connection
 * (client.c), the child ends by SIGSEGV; without close_copies() of what is attached,
 * and of what is mapped, it has a userfaultfd.
 */
#include "config.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "libclient/conn/conn.h"
#include "system/proof.h"
#include "tests/skip.h"

enum {
	REGION_BYTES = 1 << 20,
	N_MAKERS = 3,
	N_FORKS = 200,
	N_MADE = 50,
};

/* A sanitizer's own locks may be held by a thread of the parent when it forks: then no thread can
 * be started in the child. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define CAN_START_THREADS false
#else
#define CAN_START_THREADS true
#endif

#ifdef __SANITIZE_THREAD__
#define CAN_FORK_BESIDE_THREADS false
#else
#define CAN_FORK_BESIDE_THREADS true
#endif

static atomic_bool is_over;
static _Atomic unsigned int n_made;

static void *make_clients(void *arg)
{
	(void)arg;
	while (!atomic_load(&is_over)) {
		struct cow_client *client = NULL;

		/* many that come to nothing soon, so that the making is most of it */
		for (int i = 0; i < 50; i++)
			ck_assert_int_eq(cow_client_new(&client, "/nonexistent/cowd.sock"),
					 -ENOENT);
		proof_ok(cow_client_new(&client, proof_address()));
		cow_client_unref(client);
		atomic_fetch_add(&n_made, 1);
	}
	return NULL;
}

/* A userfaultfd serves until the last copy of it is closed, by cowd or not. */
static bool has_userfaultfd(void)
{
	char path[64], target[64];
	ssize_t len;

	for (int fd = 0; fd < 256; fd++) {
		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		len = readlink(path, target, sizeof(target) - 1);
		if (len < 0)
			continue;
		target[len] = '\0';
		if (strstr(target, "userfaultfd"))
			return true;
	}
	return false;
}

/* Return: exit status. */
static int be_child(struct cow_client *of_parent)
{
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = COW_MODE_SCOOT};
	struct cow_client *client = NULL;
	struct cow_region *region = NULL;

	if (cow_region_new(&region, of_parent, &params) != -ECHILD)
		return 2;
	cow_client_unref(of_parent);
	if (!CAN_START_THREADS)
		return 0;
	if (cow_client_new(&client, proof_address()) || cow_region_new(&region, client, &params))
		return 3;
	cow_region_unref(region);
	cow_client_unref(client);
	return 0;
}

static void fork_and_reap(struct cow_client *client)
{
	pid_t pid = fork();

	if (!pid)
		_exit(be_child(client));
	ck_assert_int_ge(pid, 0); /* not in the child: another thread may have had Check's lock */
	proof_reap(pid, 0);
}

START_TEST(while_clients_are_made_and_ended)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	pthread_t threads[N_MAKERS];

	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		ck_assert(!pthread_create(&threads[i], NULL, make_clients, NULL));
	/* forks, with clients made beside them */
	for (unsigned int i = 0; i < N_FORKS || atomic_load(&n_made) < N_MADE; i++)
		fork_and_reap(client);
	atomic_store(&is_over, true);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		ck_assert(!pthread_join(threads[i], NULL));
}
END_TEST

/* --- while a thread waits --------------------------------------------------------------------- */

/* At the address of the test's cowd, which is gone: who connects waits for a greeting. */
static int listen_silently(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	(void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", proof_address());
	(void)unlink(addr.sun_path);
	ck_assert(!bind(fd, (struct sockaddr *)&addr, sizeof(addr)));
	ck_assert(!listen(fd, 8));
	return fd;
}

static void *ask_for_a_region(void *arg)
{
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = COW_MODE_SCOOT};
	struct cow_region *region = NULL;

	ck_assert_int_eq(cow_region_new(&region, arg, &params), -ENOTCONN);
	return NULL;
}

/* It lets go of the lock by waiting, so whoever has the lock and
 * sees that it asked knows it waits. */
static bool is_waited(struct cow_client *client)
{
	bool is_waited;

	pthread_mutex_lock(&client->lock);
	is_waited = client->conn->n_wanted > client->conn->n_answered;
	pthread_mutex_unlock(&client->lock);
	return is_waited;
}

static void *make_regions(void *arg)
{
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = COW_MODE_UFFD};

	while (!atomic_load(&is_over)) {
		struct cow_region *region = NULL;

		proof_ok(cow_region_new(&region, arg, &params));
		cow_region_unref(region);
		atomic_fetch_add(&n_made, 1);
	}
	return NULL;
}

/* Threads would wait for a cowd that has gone, as long as such a child lives. */
START_TEST(while_cowd_is_given_a_userfaultfd)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = COW_MODE_UFFD};
	pthread_t thread;
	const void *view;

	proof_ok(cow_region_new(&region, client, &params));
	proof_ok(cow_snapshot_new(&snap, region));
	proof_ok(cow_snapshot_map(snap, &view));
	ck_assert(!pthread_create(&thread, NULL, make_regions, client));
	for (int i = 0; i < N_FORKS || atomic_load(&n_made) < N_MADE; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(has_userfaultfd() ? 2 : 0);
		ck_assert_int_ge(pid, 0);
		proof_reap(pid, 0);
	}
	atomic_store(&is_over, true);
	ck_assert(!pthread_join(thread, NULL));
}
END_TEST

/* --- by a signal handler ---------------------------------------------------------------------- */

static pid_t forked[N_FORKS];
static volatile sig_atomic_t n_forked;
static volatile sig_atomic_t is_child;

static void fork_here(int number)
{
	(void)number;
	if (is_child || n_forked == N_FORKS)
		return;
	forked[n_forked] = fork();
	if (!forked[n_forked])
		is_child = 1;
	else
		n_forked++;
}

/*
 * The handler runs on the thread that makes the region, which goes on with that in the child.
 *
 * Seen to fail: if cowi_attach_end() takes for granted that what it began is in its list.
 */
START_TEST(by_a_handler_of_the_thread_that_makes_a_region)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = COW_MODE_UFFD};
	const struct itimerval often = {.it_interval = {.tv_usec = 700},
					.it_value = {.tv_usec = 700}};
	const struct itimerval never = {.it_value = {.tv_usec = 0}};
	struct sigaction action = {.sa_handler = fork_here, .sa_flags = SA_RESTART};

	ck_assert(!sigaction(SIGALRM, &action, NULL));
	ck_assert(!setitimer(ITIMER_REAL, &often, NULL));
	while (n_forked < N_FORKS) {
		struct cow_region *region = NULL;
		int r = cow_region_new(&region, client, &params);

		if (is_child)
			_exit(r && r != -ECHILD); /* at some other moment it may be done */
		ck_assert(r <= 0);
		cow_region_unref(region);
		if (is_child)
			_exit(0);
	}
	ck_assert(!setitimer(ITIMER_REAL, &never, NULL));
	for (int i = 0; i < N_FORKS; i++)
		proof_reap(forked[i], 0);
}
END_TEST

/* --- while a thread waits for cowd ------------------------------------------------------------ */

static void *take_snapshot(void *arg)
{
	struct cow_snapshot *snap = NULL;

	proof_ok(cow_snapshot_new(&snap, arg));
	cow_snapshot_unref(snap);
	return NULL;
}

static bool is_asked(struct cow_client *client)
{
	bool is_asked;

	pthread_mutex_lock(&client->lock);
	is_asked = client->conn->n_turns > 0;
	pthread_mutex_unlock(&client->lock);
	return is_asked;
}

/* Seen to fail: if a fork waits for the takes of regions that the child does not get. */
START_TEST(while_cowd_does_not_answer)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = COW_MODE_UFFD};
	pthread_t thread;
	pid_t pid;

	proof_ok(cow_region_new(&region, client, &params));
	ck_assert(!kill(proof_cowd(), SIGSTOP));
	ck_assert(!pthread_create(&thread, NULL, take_snapshot, region));
	while (!is_asked(client))
		(void)sched_yield();
	pid = fork();
	if (!pid) {
		cow_region_unref(region);
		_exit(0);
	}
	ck_assert_int_ge(pid, 0);
	proof_reap(pid, 0);
	ck_assert(!kill(proof_cowd(), SIGCONT));
	ck_assert(!pthread_join(thread, NULL));
}
END_TEST

/*
 * A take of mode scoot that needs memory of cowd's for what was written beside an earlier snapshot.
 *
 * Seen to fail: with take_lock held in cowi_overlay_new(), the fork never ends.
 */
START_TEST(while_cowd_makes_no_overlay)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = COW_MODE_SCOOT};
	pthread_t thread;
	char *memory;
	pid_t pid;

	proof_ok(cow_region_new(&region, client, &params));
	memory = cow_region_address(region);
	proof_fill(memory, REGION_BYTES, 1);
	proof_ok(cow_snapshot_new(&snap, region));
	ck_assert_uint_ne(cow_snapshot_id(snap), 0);
	proof_fill(memory, REGION_BYTES, 2);
	ck_assert(!kill(proof_cowd(), SIGSTOP));
	ck_assert(!pthread_create(&thread, NULL, take_snapshot, region));
	while (!is_asked(client))
		(void)sched_yield();
	pid = fork();
	if (!pid)
		_exit(proof_is_filled(memory, REGION_BYTES, 2, 0) ? 0 : 1);
	ck_assert_int_ge(pid, 0);
	proof_reap(pid, 0);
	ck_assert(!kill(proof_cowd(), SIGCONT));
	ck_assert(!pthread_join(thread, NULL));
	proof_check_snapshot(snap, 1);
	ck_assert(proof_is_filled(memory, REGION_BYTES, 2, 0));
}
END_TEST

START_TEST(while_a_thread_waits_for_a_connection)
{
	struct cow_client *client = proof_client();
	int listen_fd = -1;
	pthread_t thread;
	pid_t pid;

	proof_cowd_kill();
	while (cowi_generation_up(client))
		(void)sched_yield(); /* else the request may find out, and nobody waits */
	listen_fd = listen_silently();
	ck_assert(!pthread_create(&thread, NULL, ask_for_a_region, client));
	while (!is_waited(client))
		(void)sched_yield();
	pid = fork();
	if (!pid) {
		cow_client_unref(client);
		_exit(0);
	}
	ck_assert_int_ge(pid, 0);
	proof_reap(pid, 0);
	listen_fd = fd_close(listen_fd);
	ck_assert(!pthread_join(thread, NULL));
	cow_client_unref(client);
	(void)unlink(proof_address());
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("fork moments", 60);

	/* The sanitizer may itself be in the middle of something in another thread. */
	if (CAN_FORK_BESIDE_THREADS)
		tcase_add_test(tcase, while_clients_are_made_and_ended);
	else
		tests_left_out(
			"forks beside threads that make clients: the sanitizer may itself be "
			"in the middle of something");
	if (CAN_FORK_BESIDE_THREADS && proof_has_uffd()) {
		tcase_add_test(tcase, while_cowd_is_given_a_userfaultfd);
		tcase_add_test(tcase, by_a_handler_of_the_thread_that_makes_a_region);
	}
	if (proof_has_uffd())
		tcase_add_test(tcase, while_cowd_does_not_answer);
	tcase_add_test(tcase, while_cowd_makes_no_overlay);
	tcase_add_test(tcase, while_a_thread_waits_for_a_connection);
	return proof_run(tcase);
}
