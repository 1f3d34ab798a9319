// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A private cowd, "exec:": nothing of the program's goes to it but the socket, it is no child that
 * the program has to know of, and it ends when the program or its client does.
 *
 * Seen to fail: with higher descriptors left open in exec.c, with posix_spawn() of cowd itself (a
 * SIGCHLD comes), and without POSIX_SPAWN_SETSID.
 */
#include "config.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#include "libclient/internal.h"
#include "system/proof.h"

enum {
	REGION_BYTES = 1 << 20,
};

static pid_t pid_of(struct cow_client *client)
{
	Cow__V1__Status status = COW__V1__STATUS__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__Reply *reply = NULL;
	pid_t pid;

	request.call_case = COW__V1__REQUEST__CALL_STATUS;
	request.status = &status;
	proof_ok(cowi_call(client, &request, NULL, 0, &reply, NULL));
	pid = (pid_t)reply->status->pid;
	cow__v1__reply__free_unpacked(reply, NULL);
	return pid;
}

/* Whether @pid has a descriptor of a file whose name has @words in it. */
static bool has_open(pid_t pid, const char *words)
{
	char path[64], target[512];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	ck_assert_ptr_nonnull(dir);
	while ((entry = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

		target[n < 0 ? 0 : n] = '\0';
		found |= strstr(target, words) != NULL;
	}
	closedir(dir);
	return found;
}

static void await_end(int pidfd)
{
	struct pollfd pollfd = {.fd = pidfd, .events = POLLIN};

	/* the test's time limit is the limit */
	while (poll(&pollfd, 1, -1) <= 0)
		;
}

static volatile sig_atomic_t n_sigchld;

static void count_sigchld(int signal)
{
	(void)signal;
	n_sigchld++;
}

START_TEST(it_is_no_child_and_has_nothing_of_ours)
{
	struct sigaction action = {.sa_handler = count_sigchld}, saved;
	CLEANUP(cow_client_unrefp) struct cow_client *client = NULL;
	AUTO_FD int marker_fd = memfd_create("cow-test-marker", 0); /* not CLOEXEC */
	AUTO_FD int pidfd = -1;
	pid_t pid;

	ck_assert_int_ge(marker_fd, 0);
	ck_assert(!sigaction(SIGCHLD, &action, &saved));
	proof_ok(cow_client_new(&client, "exec:"));
	pid = pid_of(client);
	ck_assert_int_gt(pid, 0);
	ck_assert(has_open(getpid(), "cow-test-marker"));
	ck_assert(!has_open(pid, "cow-test-marker"));
	ck_assert_int_eq(getsid(pid), pid);
	pidfd = pidfd_open(pid, 0);
	ck_assert_int_ge(pidfd, 0);
	client = cow_client_unref(client);
	await_end(pidfd);
	ck_assert_int_eq(n_sigchld, 0);
	ck_assert_int_eq(waitpid(pid, NULL, WNOHANG | __WALL), -1);
	ck_assert(!sigaction(SIGCHLD, &saved, NULL));
}
END_TEST

START_TEST(it_ends_with_a_program_that_is_killed)
{
	int fds[2], pidfd, status;
	pid_t program, pid = 0;

	ck_assert(!pipe2(fds, O_CLOEXEC));
	program = fork();
	if (!program) {
		struct cow_client *client = NULL;

		if (cow_client_new(&client, "exec:"))
			_exit(1);
		pid = pid_of(client);
		(void)!write(fds[1], &pid, sizeof(pid));
		for (;;)
			(void)pause();
	}
	fds[1] = fd_close(fds[1]);
	ck_assert_int_eq(read(fds[0], &pid, sizeof(pid)), sizeof(pid));
	fds[0] = fd_close(fds[0]);
	pidfd = pidfd_open(pid, 0);
	ck_assert_int_ge(pidfd, 0);
	ck_assert(!kill(program, SIGKILL));
	ck_assert_int_eq(waitpid(program, &status, 0), program);
	await_end(pidfd);
	(void)fd_close(pidfd);
}
END_TEST

/* With the standard descriptors closed the socket gets their numbers. */
static int use_without_standard_fds(void)
{
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = COW_MODE_SCOOT};
	struct cow_client *client = NULL;
	struct cow_region *region = NULL;
	struct cow_snapshot *snap = NULL;
	char byte = 1;

	for (int fd = 0; fd < 3; fd++)
		(void)fd_close(fd);
	if (cow_client_new(&client, "exec:") || cow_region_new(&region, client, &params) ||
	    cow_snapshot_new(&snap, region) || cow_snapshot_read(snap, &byte, 1, 0) ||
	    !cow_snapshot_id(snap))
		return 1;
	cow_snapshot_unref(snap);
	cow_region_unref(region);
	cow_client_unref(client);
	return byte;
}

START_TEST(closed_standard_descriptors_do_no_harm)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(use_without_standard_fds());
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(arguments_go_to_it)
{
	struct cow_client *client = NULL;
	char address[512];

	/* to the default program, and to one that is named */
	ck_assert_int_eq(cow_client_new(&client, "exec: --no-such-option"), -ECONNREFUSED);
	proof_ok(cow_client_new(&client, "exec: --verbose"));
	client = cow_client_unref(client);
	(void)snprintf(address, sizeof(address), "exec:%s --verbose", getenv("COWD_EXECUTABLE"));
	proof_ok(cow_client_new(&client, address));
	client = cow_client_unref(client);
	(void)snprintf(address, sizeof(address), "exec:%s --no-such-option",
		       getenv("COWD_EXECUTABLE"));
	ck_assert_int_eq(cow_client_new(&client, address), -ECONNREFUSED);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("private", 30);

	tcase_add_test(tcase, it_is_no_child_and_has_nothing_of_ours);
	tcase_add_test(tcase, it_ends_with_a_program_that_is_killed);
	tcase_add_test(tcase, closed_standard_descriptors_do_no_harm);
	tcase_add_test(tcase, arguments_go_to_it);
	return proof_run(tcase);
}
