// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * cowd knows which fork children have a region's memory, and holds the region until the last of
 * them has ended: through the owner's freeing it, its death and its reconnection.
 */
#include "config.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "libclient/internal.h"
#include "proof.h"

#define MIB  ((uint64_t)1 << 20)
#define SIZE (2 * MIB)

/* What cowd lists: regions, and fork children of all of them. */
struct known {
	size_t n_regions;
	size_t n_children;
};

static struct known ask(struct cow_client *client)
{
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__ListRegions list = COW__V1__LIST_REGIONS__INIT;
	Cow__V1__Reply *reply = NULL;
	struct known known = {0};

	request.call_case = COW__V1__REQUEST__CALL_LIST_REGIONS;
	request.list_regions = &list;
	proof_ok(cowi_call(client, &request, NULL, 0, &reply, NULL));
	known.n_regions = reply->regions->n_regions;
	for (size_t i = 0; i < reply->regions->n_regions; i++)
		known.n_children += reply->regions->regions[i]->n_children;
	cow__v1__reply__free_unpacked(reply, NULL);
	return known;
}

/* cowd hears of it a moment later, and tells nobody; the test's time limit is the limit. */
static void wait_until(struct cow_client *client, size_t n_regions, size_t n_children)
{
	const struct timespec pause = {.tv_nsec = 2000000};
	struct known known = ask(client);

	while (known.n_regions != n_regions || known.n_children != n_children) {
		nanosleep(&pause, NULL);
		known = ask(client);
	}
}

static void wait_for_byte(int fd)
{
	char byte;

	if (read(fd, &byte, 1) != 1)
		_exit(3);
}

/* A child that waits for a byte, and then has what was there at the fork. */
static pid_t fork_waiting(struct cow_region *region, int *go_fd)
{
	int go[2];
	pid_t pid;

	ck_assert_int_eq(pipe2(go, O_CLOEXEC), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		close(go[1]);
		wait_for_byte(go[0]);
		_exit(proof_is_filled(cow_region_address(region), SIZE, 1, 0) ? 0 : 4);
	}
	close(go[0]);
	*go_fd = go[1];
	return pid;
}

static void let_end(pid_t pid, int *go_fd)
{
	ck_assert_int_eq(write(*go_fd, "", 1), 1);
	*go_fd = fd_close(*go_fd);
	proof_reap(pid, 0);
}

static struct cow_region *filled_region(void)
{
	struct cow_region *region = proof_region(COW_MODE_SCOOT, SIZE);

	proof_fill(cow_region_address(region), SIZE, 1);
	return region;
}

/* Seen to fail: all of these if the library does not tell (tell_fork_child()). */
START_TEST(each_child_is_known_until_it_ends)
{
	CLEANUP(cow_client_unrefp) struct cow_client *other = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = filled_region();
	struct proof_holdings before;
	pid_t pids[3];
	int go_fds[3];

	proof_holdings(&before);
	for (size_t i = 0; i < 3; i++) {
		pids[i] = fork_waiting(region, &go_fds[i]);
		wait_until(other, 1, i + 1);
	}
	for (size_t i = 0; i < 3; i++) {
		let_end(pids[i], &go_fds[i]);
		wait_until(other, 1, 2 - i);
	}
	proof_wait_for_holdings(&before);
}
END_TEST

/* A child of the child, which then ends. */
START_TEST(a_childs_child_is_known)
{
	CLEANUP(cow_client_unrefp) struct cow_client *other = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = filled_region();
	int go[2];
	pid_t pid;

	ck_assert_int_eq(pipe2(go, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		if (!fork())
			wait_for_byte(go[0]);
		_exit(0);
	}
	proof_reap(pid, 0);
	wait_until(other, 1, 1);
	ck_assert_int_eq(write(go[1], "", 1), 1);
	wait_until(other, 1, 0);
	close(go[0]);
	close(go[1]);
}
END_TEST

/* Seen to fail: if RegionChildEnd does nothing. */
START_TEST(a_child_that_executes_another_program_is_none)
{
	CLEANUP(cow_client_unrefp) struct cow_client *other = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = filled_region();
	int in[2], go[2];
	pid_t pid;

	ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(go, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		close(go[1]);
		wait_for_byte(go[0]);
		if (dup2(in[0], 0) == 0)
			execlp("cat", "cat", NULL);
		_exit(3);
	}
	wait_until(other, 1, 1);
	ck_assert_int_eq(write(go[1], "", 1), 1);
	wait_until(other, 1, 0);
	close(in[1]);
	proof_reap(pid, 0);
	close(in[0]);
	close(go[0]);
	close(go[1]);
}
END_TEST

START_TEST(a_freed_region_is_held_for_its_children)
{
	CLEANUP(cow_client_unrefp) struct cow_client *other = proof_client();
	struct proof_holdings before, holdings;
	struct cow_region *region;
	int go_fd;
	pid_t pid;

	proof_holdings(&before);
	region = filled_region();
	pid = fork_waiting(region, &go_fd);
	wait_until(other, 1, 1);
	region = cow_region_unref(region);
	wait_until(other, 1, 1);
	proof_holdings(&holdings);
	ck_assert_uint_eq(holdings.region_bytes, SIZE);
	let_end(pid, &go_fd);
	wait_until(other, 0, 0);
	proof_wait_for_holdings(&before); /* a thread of cowd for nothing else gives memory back */
}
END_TEST

struct orphans {
	int report[2];
	int go[2];
	int daemon_go[2];
};

/* Has a child, waits until cowd knows, and dies. */
static void die_with_a_child(void *user)
{
	struct orphans *orphans = user;
	CLEANUP(cow_client_unrefp) struct cow_client *other = proof_client();
	struct cow_region *region = filled_region();
	pid_t pid = fork();
	char byte;

	if (!pid) {
		close(orphans->go[1]);
		wait_for_byte(orphans->go[0]);
		byte = proof_is_filled(cow_region_address(region), SIZE, 1, 0) ? 1 : 2;
		_exit(write(orphans->report[1], &byte, 1) == 1 ? 0 : 1);
	}
	wait_until(other, 1, 1);
	_exit(0);
}

START_TEST(a_dead_owners_region_is_held_for_its_children)
{
	CLEANUP(cow_client_unrefp) struct cow_client *other = NULL;
	struct proof_holdings holdings;
	struct orphans orphans;
	char byte = 0;

	ck_assert_int_eq(pipe2(orphans.report, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(orphans.go, O_CLOEXEC), 0);
	proof_reap(proof_fork(die_with_a_child, &orphans), 0);
	other = proof_client();
	do
		proof_holdings(&holdings);
	while (holdings.n_clients > 2); /* this one, and the one that asks */
	wait_until(other, 1, 1);
	ck_assert_int_eq(write(orphans.go[1], "", 1), 1);
	ck_assert_int_eq(read(orphans.report[0], &byte, 1), 1);
	ck_assert_int_eq(byte, 1);
	wait_until(other, 0, 0);
	for (int i = 0; i < 2; i++) {
		close(orphans.report[i]);
		close(orphans.go[i]);
	}
}
END_TEST

/* Has a child that waits for its end, and then has a child itself, which looks at the memory. */
static void die_before_a_grandchild(void *user)
{
	struct orphans *orphans = user;
	struct cow_region *region = filled_region();
	pid_t pid = fork();
	char byte;

	if (pid)
		_exit(0);
	wait_for_byte(orphans->go[0]);
	pid = fork();
	if (pid)
		_exit(0);
	wait_for_byte(orphans->go[0]);
	byte = proof_is_filled(cow_region_address(region), SIZE, 1, 0) ? 1 : 2;
	_exit(write(orphans->report[1], &byte, 1) == 1 ? 0 : 1);
}

/* Seen to fail: if a parent that has gone cannot be told, and so the memory is taken away. */
START_TEST(children_of_orphans_have_the_memory)
{
	struct orphans orphans;
	char byte = 0;

	ck_assert_int_eq(pipe2(orphans.report, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(orphans.go, O_CLOEXEC), 0);
	proof_reap(proof_fork(die_before_a_grandchild, &orphans), 0);
	ck_assert_int_eq(write(orphans.go[1], "12", 2), 2);
	close(orphans.report[1]); /* so that the end of all of them ends the test */
	ck_assert_int_eq(read(orphans.report[0], &byte, 1), 1);
	ck_assert_int_eq(byte, 1);
	close(orphans.report[0]);
	close(orphans.go[0]);
	close(orphans.go[1]);
}
END_TEST

/* --- without descriptors ---------------------------------------------------------------------- */

/* Has a child, which closes all descriptors and then looks at the memory. */
static void have_a_daemon(struct cow_region *region, const struct orphans *orphans)
{
	char byte;

	wait_for_byte(orphans->go[0]);
	if (fork()) {
		wait_for_byte(orphans->go[0]);
		_exit(0);
	}
	if (write(orphans->report[1], "", 1) != 1)
		_exit(3);
	wait_for_byte(orphans->daemon_go[0]);
	if (dup2(orphans->daemon_go[0], 0) != 0 || dup2(orphans->report[1], 1) != 1)
		_exit(3);
	closefrom(2);
	if (write(1, "", 1) != 1)
		_exit(3);
	wait_for_byte(0);
	byte = proof_is_filled(cow_region_address(region), SIZE, 1, 0) ? 1 : 2;
	_exit(write(1, &byte, 1) == 1 ? 0 : 1);
}

/* Return: how many were free. */
static size_t use_all_descriptors(int *fds, size_t n_max)
{
	struct rlimit limit = {.rlim_cur = n_max, .rlim_max = n_max};
	size_t n = 0;

	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	while (n < n_max && (fds[n] = dup(STDERR_FILENO)) >= 0)
		n++;
	ck_assert_uint_lt(n, n_max);
	ck_assert_int_eq(errno, EMFILE);
	return n;
}

/* What the library had of a child that has ended. */
static int wait_for_descriptor(void)
{
	int fd;

	while ((fd = dup(STDERR_FILENO)) < 0)
		(void)sched_yield();
	return fd;
}

static void change(struct cow_region *region, uint64_t seed)
{
	struct cow_snapshot *snap = NULL;

	proof_fill(cow_region_address(region), SIZE, seed);
	proof_ok(cow_snapshot_new(&snap, region));
	ck_assert_uint_ne(cow_snapshot_id(snap), 0);
	cow_snapshot_unref(snap);
}

/*
 * Seen to fail: if any error of receiving passes for the end of all children, and if a pidfd that
 * there was no room for is not received again.
 */
START_TEST(a_child_is_known_once_there_is_a_descriptor)
{
	CLEANUP(cow_client_unrefp) struct cow_client *other = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = filled_region();
	struct orphans orphans;
	int fds[256], first_go_fd;
	pid_t pid, first = fork_waiting(region, &first_go_fd);
	size_t n_fds;
	char byte = 0;

	ck_assert_int_eq(pipe2(orphans.report, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(orphans.go, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(orphans.daemon_go, O_CLOEXEC), 0);
	pid = fork();
	if (!pid)
		have_a_daemon(region, &orphans);
	wait_until(other, 1, 2);
	n_fds = use_all_descriptors(fds, ARRAY_SIZE(fds));
	ck_assert_int_eq(write(orphans.go[1], "", 1), 1);
	ck_assert_int_eq(read(orphans.report[0], &byte, 1), 1);
	/* Once it has seen this end, the library has found no room for what came before. */
	ck_assert_int_eq(write(first_go_fd, "", 1), 1);
	proof_reap(first, 0);
	close(wait_for_descriptor());
	while (n_fds)
		close(fds[--n_fds]);
	wait_until(other, 1, 2);
	ck_assert_int_eq(write(orphans.go[1], "", 1), 1);
	proof_reap(pid, 0);
	wait_until(other, 1, 1);
	ck_assert_int_eq(write(orphans.daemon_go[1], "", 1), 1);
	ck_assert_int_eq(read(orphans.report[0], &byte, 1), 1);
	change(region, 2);
	change(region, 3);
	ck_assert(!proof_is_settled(region));
	ck_assert_int_eq(write(orphans.daemon_go[1], "", 1), 1);
	ck_assert_int_eq(read(orphans.report[0], &byte, 1), 1);
	ck_assert_int_eq(byte, 1);
	wait_until(other, 1, 0);
	proof_wait_until_settled(region);
}
END_TEST

/* Seen to fail: if scoot_restore() does not tell. */
START_TEST(the_next_cowd_is_told)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = filled_region();
	CLEANUP(cow_client_unrefp) struct cow_client *other = NULL;
	struct cow_snapshot *snap = NULL;
	int go_fd;
	pid_t pid = fork_waiting(region, &go_fd);

	proof_cowd_kill();
	proof_cowd_start(NULL);
	other = proof_client();
	while (cow_snapshot_new(&snap, region))
		; /* it is connecting again */
	cow_snapshot_unref(snap);
	wait_until(other, 1, 1);
	let_end(pid, &go_fd);
	wait_until(other, 1, 0);
}
END_TEST

/* Nothing that never ends may pass for a process. */
START_TEST(only_a_pidfd_is_taken)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = filled_region();
	Cow__V1__RegionChild child = COW__V1__REGION_CHILD__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	AUTO_FD int fd = eventfd(0, EFD_CLOEXEC);

	child.region_id = region->id;
	request.call_case = COW__V1__REQUEST__CALL_REGION_CHILD;
	request.region_child = &child;
	ck_assert_int_eq(
		cowi_call_in(region->client, region->generation, &request, &fd, 1, NULL, NULL),
		-ENOTCONN);
}
END_TEST

/* It does not follow a program that has threads into its children. */
#ifdef __SANITIZE_THREAD__
#define CAN_FORK false
#else
#define CAN_FORK true
#endif

int main(void)
{
	TCase *tcase;

	if (!CAN_FORK) {
		puts("the thread sanitizer cannot follow forks of a program with threads");
		return 77;
	}
	tcase = proof_tcase("scoot children", 60);
	tcase_add_test(tcase, each_child_is_known_until_it_ends);
	tcase_add_test(tcase, a_childs_child_is_known);
	tcase_add_test(tcase, a_child_that_executes_another_program_is_none);
	tcase_add_test(tcase, a_freed_region_is_held_for_its_children);
	tcase_add_test(tcase, a_dead_owners_region_is_held_for_its_children);
	tcase_add_test(tcase, children_of_orphans_have_the_memory);
	tcase_add_test(tcase, a_child_is_known_once_there_is_a_descriptor);
	tcase_add_test(tcase, the_next_cowd_is_told);
	tcase_add_test(tcase, only_a_pidfd_is_taken);
	return proof_run(tcase);
}
