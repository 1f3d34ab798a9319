// SPDX-License-Identifier: GPL-2.0-or-later
// The sandbox, closed in a child: what cowd needs still works, what it gave up does not.
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/err.h"
#include "daemon/process/log.h"
#include "daemon/process/sandbox.h"

static struct options options = {.client_fd = -1, .is_sandboxed = true};

/* Runs @attempt inside; its return is the exit status: 0 well. */
static int run_inside(int (*attempt)(void), bool is_strict)
{
	int status;
	pid_t child;

	child = fork();
	ck_assert_int_ge(child, 0);
	if (!child) {
		const struct rlimit no_core = {0, 0};

		(void)setrlimit(RLIMIT_CORE, &no_core);
		options.is_strict = is_strict;
		log_init(false);
		if (sandbox_enter(&options, sandbox_next_user(&options)) ||
		    sandbox_close(&options)) {
			fprintf(stderr, "%s\n", err_sentence());
			_exit(100);
		}
		_exit(attempt());
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	return status;
}

static int use_memory_and_descriptors(void)
{
	AUTO_FD int self_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	AUTO_FD int memfd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	AUTO_FD int ro_fd = -1;
	char name[16], target[64];
	void *addr;

	if (memfd < 0 || ftruncate(memfd, 4096) || fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		return 1;
	addr = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (addr == MAP_FAILED || munmap(addr, 4096))
		return 2;
	(void)snprintf(name, sizeof(name), "%d", memfd);
	/* undumpable and without capabilities, and still allowed to look at its own */
	if (readlinkat(self_fd, name, target, sizeof(target)) <= 0)
		return 3;
	ro_fd = openat(self_fd, name, O_RDONLY | O_CLOEXEC);
	return ro_fd < 0 ? 4 : 0;
}

START_TEST(what_is_needed_still_works)
{
	ck_assert_int_eq(run_inside(use_memory_and_descriptors, true), 0);
	ck_assert_int_eq(run_inside(use_memory_and_descriptors, false), 0);
}
END_TEST

static bool has_landlock;

static int try_files(void)
{
	if (has_landlock && open("/etc/passwd", O_RDONLY | O_CLOEXEC) >= 0)
		return 1;
	if (open("/tmp/cowd-test-made", O_WRONLY | O_CREAT | O_CLOEXEC, 0600) >= 0)
		return 2;
	return 0;
}

START_TEST(files_are_out_of_reach)
{
	has_landlock =
		syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) >= 1;
	ck_assert_int_eq(run_inside(try_files, false), 0);
}
END_TEST

static int try_calls(void)
{
	if (socket(AF_INET, SOCK_STREAM, 0) >= 0 || errno != EPERM)
		return 1;
	if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
		    MAP_FAILED ||
	    errno != EPERM)
		return 2;
	if (kill(getppid(), 0) == 0 || errno != EPERM)
		return 3;
	if (ioctl(0, TIOCSTI, "x") == 0 || errno != EPERM)
		return 4;
	return 0;
}

START_TEST(calls_outside_of_the_list_fail)
{
	ck_assert_int_eq(run_inside(try_calls, false), 0);
}
END_TEST

static int try_exec(void)
{
	execl("/bin/true", "true", (char *)NULL);
	return 1;
}

static int try_inet(void)
{
	return socket(AF_INET, SOCK_STREAM, 0) >= 0 ? 1 : 2;
}

START_TEST(what_only_an_attacker_calls_kills)
{
	int status = run_inside(try_exec, false);

	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}
END_TEST

START_TEST(strictly_every_gap_kills)
{
	int status = run_inside(try_inet, true);

	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}
END_TEST

static int look_at_self(void)
{
	FILE *file = fopen("/proc/self/status", "re");
	char line[256];
	int n_found = 0;

	if (!file)
		return 1;
	while (fgets(line, sizeof(line), file)) {
		unsigned long long value;

		if (sscanf(line, "CapEff: %llx", &value) == 1 ||
		    sscanf(line, "CapPrm: %llx", &value) == 1 ||
		    (geteuid() == 0 && sscanf(line, "CapBnd: %llx", &value) == 1)) {
			n_found++;
			if (value)
				return 2;
		}
		if (sscanf(line, "NoNewPrivs: %llu", &value) == 1 && ++n_found && value != 1)
			return 3;
		if (sscanf(line, "Seccomp: %llu", &value) == 1 && ++n_found && value != 2)
			return 4;
	}
	fclose(file);
	return n_found >= 4 ? 0 : 5;
}

START_TEST(no_capability_is_left)
{
	ck_assert_int_eq(run_inside(look_at_self, false), 0);
}
END_TEST

static int pipe_to_thread[2];
static int thread_result;

static void *thread_tries(void *arg)
{
	char byte;

	(void)arg;
	if (read(pipe_to_thread[0], &byte, 1) != 1) /* until the list is closed by another thread */
		return NULL;
	thread_result = socket(AF_INET, SOCK_STREAM, 0) < 0 && errno == EPERM ? 0 : 1;
	return NULL;
}

/* Broken by leaving out TSYNC: threads started before keep all calls. */
START_TEST(threads_that_run_already_are_held_too)
{
	int status;
	pid_t child = fork();

	ck_assert_int_ge(child, 0);
	if (!child) {
		pthread_t thread;

		thread_result = 2;
		if (pipe(pipe_to_thread) || sandbox_enter(&options, sandbox_next_user(&options)) ||
		    pthread_create(&thread, NULL, thread_tries, NULL) || sandbox_close(&options))
			_exit(100);
		if (write(pipe_to_thread[1], "x", 1) != 1)
			_exit(101);
		pthread_join(thread, NULL);
		_exit(thread_result);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
}
END_TEST

#ifdef COW_SANITIZED
#define HAS_SANDBOX false
#else
#define HAS_SANDBOX true
#endif

static int run(void)
{
	Suite *suite = suite_create("sandbox");
	TCase *tcase = tcase_create("sandbox");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tcase, what_is_needed_still_works);
	tcase_add_test(tcase, files_are_out_of_reach);
	tcase_add_test(tcase, calls_outside_of_the_list_fail);
	tcase_add_test(tcase, what_only_an_attacker_calls_kills);
	tcase_add_test(tcase, strictly_every_gap_kills);
	tcase_add_test(tcase, no_capability_is_left);
	tcase_add_test(tcase, threads_that_run_already_are_held_too);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(void)
{
	if (HAS_SANDBOX)
		return run();
	puts("a build with sanitizers has no sandbox");
	return 77;
}
