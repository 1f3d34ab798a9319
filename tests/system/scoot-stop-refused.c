// SPDX-License-Identifier: LGPL-2.1-or-later
/* Where threads cannot be stopped; see scoot-stop.c. */
#include "config.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "system/scoot-stop.h"
#include "tests/skip.h"

/* Snapshots are right, and keep what was written. */
static void check_as_without_flag(struct cow_region *region)
{
	uint64_t seed = 2;

	for (int i = 0; i < 3; i++, seed++) {
		CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;

		proof_fill(region->addr, REGION_BYTES, seed);
		wait_until_unshared(region);
		proof_ok(cow_snapshot_new(&snap, region));
		ck_assert_uint_eq(cost_of(snap).settled_bytes, 0);
		ck_assert_uint_eq(cost_of(snap).kept_bytes, REGION_BYTES);
		proof_fill(region->addr, REGION_BYTES, 0);
		proof_check_snapshot(snap, seed);
	}
}

/* Ends of two pipes: one that is closed to have somebody go on, one to say that he has begun. */
struct waiter {
	int go[2];
	int begun[2];
};

static void waiter_init(struct waiter *waiter)
{
	ck_assert(!pipe2(waiter->go, O_CLOEXEC));
	ck_assert(!pipe2(waiter->begun, O_CLOEXEC));
}

/* In another process, or in a thread of which another process has the memory. */
static int begin_and_wait(const struct waiter *waiter, char what)
{
	char byte;

	(void)close(waiter->go[1]);
	return write(waiter->begun[1], &what, 1) != 1 || read(waiter->go[0], &byte, 1) != 0;
}

static char waiter_begun(const struct waiter *waiter)
{
	char what;

	ck_assert_int_eq(read(waiter->begun[0], &what, 1), 1);
	return what;
}

/* Its child borrows the thread. */
static void *wait_as_vfork_parent(void *arg)
{
	const struct waiter *waiter = arg;
	int status = -1;
	pid_t pid = vfork();

	if (!pid)
		_exit(begin_and_wait(waiter, 'v'));
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	return NULL;
}

/* A thread that does not stop, until it is ended. */
static void vfork_parent_start(struct waiter *waiter, pthread_t *thread)
{
	waiter_init(waiter);
	ck_assert(!pthread_create(thread, NULL, wait_as_vfork_parent, waiter));
	(void)waiter_begun(waiter);
}

static void vfork_parent_end(struct waiter *waiter, pthread_t thread)
{
	close(waiter->go[1]);
	ck_assert(!pthread_join(thread, NULL));
}

/*
 * Seen to fail, by the time limit: without is_late() in await_stops() (backends/stop.c). With a
 * stop_begin() that says yes all the same it settles.
 */
START_TEST(who_does_not_stop_is_not_waited_for)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = region_without_uffd();
	struct waiter waiter;
	pthread_t thread;

	vfork_parent_start(&waiter, &thread);
	proof_fill(region->addr, REGION_BYTES, 1);
	(void)take(region);
	check_as_without_flag(region);
	vfork_parent_end(&waiter, thread);
}
END_TEST

/*
 * Seen to fail: without a pause after a failure the second take tries again; with one that nothing
 * ends the last one does not.
 */
START_TEST(what_failed_is_not_tried_each_time)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = region_without_uffd();
	struct cowi_stopper *stopper = &region->scoot_glue->stopper;
	uint64_t retry_at_nsec, pause_nsec;
	struct waiter waiter;
	struct busy busy;
	pthread_t thread;

	vfork_parent_start(&waiter, &thread);
	proof_fill(region->addr, REGION_BYTES, 1);
	(void)take(region);
	check_as_without_flag(region);
	ck_assert_uint_gt(stopper->pause_nsec, 0);
	for (int i = 0; i < 2; i++) {
		/* Long enough for all of this to be over, however slow the machine is. */
		stopper->retry_at_nsec = retry_at_nsec = UINT64_MAX - (uint64_t)i;
		pause_nsec = stopper->pause_nsec;
		check_as_without_flag(region);
		ck_assert_uint_eq(stopper->retry_at_nsec, retry_at_nsec);
		ck_assert_uint_eq(stopper->pause_nsec, pause_nsec);
		proof_fill(region->addr, REGION_BYTES, 1);
		(void)take(region);
		ck_assert_uint_gt(stopper->pause_nsec, pause_nsec);
	}
	vfork_parent_end(&waiter, thread);
	busy_start(&busy, NULL, 1, allocate);
	busy_wait(&busy);
	/* Until the time limit of the test: whoever is late once may be in time then. */
	do
		proof_fill(region->addr, REGION_BYTES, 2);
	while (!take(region).settled_bytes);
	busy_end(&busy);
	ck_assert_uint_eq(stopper->pause_nsec, 0);
}
END_TEST

/* Of one of them: the last that is listed. */
static pid_t busy_id(void)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	pid_t id = 0;

	ck_assert_ptr_nonnull(dir);
	while ((entry = readdir(dir)))
		id = (pid_t)strtol(entry->d_name, NULL, 10);
	(void)closedir(dir);
	return id;
}

/* Seen to fail: with a seize() (backends/stop.c) that leaves out whom it may not seize. */
START_TEST(a_debugger_is_not_disturbed)
{
	struct cow_region *region;
	struct waiter waiter;
	struct busy busy;
	pid_t thread, debugger;
	char what;

	waiter_init(&waiter);
	busy_start(&busy, NULL, 1, allocate);
	busy_wait(&busy);
	thread = busy_id();
	debugger = fork();
	if (!debugger) {
		long r = ptrace(PTRACE_SEIZE, thread, NULL, NULL);

		_exit(begin_and_wait(&waiter, r ? '-' : '+'));
	}
	what = waiter_begun(&waiter);
	region = region_without_uffd();
	proof_fill(region->addr, REGION_BYTES, 1);
	(void)take(region);
	if (what == '+') /* Yama would want to know the debugger's name */
		check_as_without_flag(region);
	close(waiter.go[1]);
	proof_reap(debugger, 0);
	(void)take(region);
	busy_end(&busy);
	cow_region_unref(region);
}
END_TEST

/* Of the calling thread, and of processes that it starts. */
static void forbid_ptrace(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ptrace, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = {.len = ARRAY_SIZE(filter), .filter = filter};

	ck_assert(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	ck_assert(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

/* Seen to fail: as the one before. */
START_TEST(without_ptrace_a_take_copies)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = region_without_uffd();
	struct busy busy;

	busy_start(&busy, region, 2, allocate);
	forbid_ptrace();
	proof_fill(region->addr, REGION_BYTES, 1);
	(void)take(region);
	check_as_without_flag(region);
	busy_end(&busy);
}
END_TEST

/* Leaks are looked for with ptrace(2), when the test ends. */
#ifdef __SANITIZE_ADDRESS__
#define CAN_FORBID false
#else
#define CAN_FORBID true
#endif

void add_refusal_tests(TCase *tcase)
{
	tcase_add_test(tcase, who_does_not_stop_is_not_waited_for);
	tcase_add_test(tcase, what_failed_is_not_tried_each_time);
	tcase_add_test(tcase, a_debugger_is_not_disturbed);
	if (CAN_FORBID)
		tcase_add_test(tcase, without_ptrace_a_take_copies); /* a filter stays */
	else
		tests_left_out("a program without ptrace(2): the sanitizer looks for leaks by it");
}
