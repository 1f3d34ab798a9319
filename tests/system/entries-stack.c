// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Callers whose stack lies in a region: of a thread, with its control block and thread-local
 * storage, of a coroutine, or the one that signal handlers run on. What the library does for them
 * it does in a thread of its own; what cannot be done is refused with a sentence.
 *
 * Seen to fail: without send_errand() (libclient/elsewhere.c), modes scoot and mmapcopy hang in
 * handle_userfault where cowd lends a userfaultfd.
 */
#include "config.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>

#include "libclient/internal.h"
#include "libclient/scoot.h"
#include "system/entries.h"

enum {
	REGION_BYTES = 8 << 20,
	STACK_BYTES = 1 << 20, /* of the region's first */
	N_ROUNDS = 12,
	N_SETUID = 100,
};

/* Sanitizers keep books of stacks, and have more in thread-local storage than fits. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define IS_SANITIZED true
#else
#define IS_SANITIZED false
#endif

struct caller {
	const struct way *way;
	struct cow_region *region; /* to be taken */
	struct cow_region *other;
};

struct thread {
	void *(*work)(void *arg);
	void *arg;
	_Atomic pid_t id;
};

static void *run_thread(void *arg)
{
	struct thread *thread = arg;

	atomic_store(&thread->id, (pid_t)syscall(SYS_gettid));
	return thread->work(thread->arg);
}

/*
 * pthread_join() waits on a shared futex in the control block, whose key changes with the mapping:
 * it is called when the kernel has no such thread any more, and then does not wait.
 */
static void run_on(char *stack, void *(*work)(void *arg), void *arg)
{
	struct thread thread = {.work = work, .arg = arg};
	pthread_attr_t attr;
	pthread_t id;

	ck_assert(!pthread_attr_init(&attr));
	ck_assert(!pthread_attr_setstack(&attr, stack, STACK_BYTES));
	ck_assert(!pthread_create(&id, &attr, run_thread, &thread));
	while (!atomic_load(&thread.id) ||
	       !syscall(SYS_tgkill, getpid(), atomic_load(&thread.id), 0))
		(void)usleep(1000);
	ck_assert(!pthread_join(id, NULL));
	ck_assert(!pthread_attr_destroy(&attr));
}

static void write_some(struct cow_region *region)
{
	char *memory = cow_region_address(region);

	for (size_t off = STACK_BYTES; off < REGION_BYTES; off += 16384)
		memory[off]++;
}

static void reap_fork(struct cow_region *region)
{
	char *memory = cow_region_address(region);
	char byte = memory[STACK_BYTES];
	pid_t pid = fork();

	if (!pid)
		_exit(memory[STACK_BYTES] == byte ? 0 : 1);
	ck_assert_int_gt(pid, 0);
	memory[STACK_BYTES]++;
	proof_reap(pid, 0);
}

/* Its own stack is in it. */
static void check_refusals(struct cow_region *region, struct cow_snapshot *snap)
{
	ck_assert_int_eq(cow_region_rollback(region, snap), -EDEADLK);
	ck_assert_ptr_nonnull(strstr(cow_last_error(), "stack"));
	if (region->mode == COW_MODE_UFFD)
		return;
	ck_assert_int_eq(cow_region_discard(region, 0, 2 * STACK_BYTES), -EDEADLK);
	ck_assert_ptr_nonnull(strstr(cow_last_error(), "stack"));
	proof_ok(cow_region_discard(region, 6 * STACK_BYTES, STACK_BYTES));
}

static void adopt_other(const struct caller *caller)
{
	struct cow_region_params params = {.mode = caller->way->mode};
	struct cow_region *adopted = NULL;
	char *memory =
		mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert(memory != MAP_FAILED);
	memory[0] = 1;
	proof_ok(cow_region_adopt(&adopted, caller->region->client, memory, STACK_BYTES, &params));
	cow_region_unref(adopted);
	ck_assert_int_eq(memory[0], 1);
	ck_assert(!munmap(memory, STACK_BYTES));
}

static void *call_everything(void *arg)
{
	const struct caller *caller = arg;
	char *memory = cow_region_address(caller->region), byte = 0;
	struct cow_snapshot *snaps[2] = {NULL};
	const void *view;

	for (int i = 0; i < N_ROUNDS; i++) {
		struct cow_snapshot **snap = &snaps[i % 2]; /* lies in the region as well */

		write_some(caller->region);
		cow_snapshot_unref(*snap);
		proof_ok(cow_snapshot_new(snap, caller->region));
		ck_assert_uint_ne(cow_snapshot_id(*snap), 0);
		proof_ok(cow_snapshot_read(*snap, &byte, 1, STACK_BYTES));
		ck_assert_int_eq(byte, memory[STACK_BYTES]);
		proof_ok(cow_snapshot_map(*snap, &view));
		ck_assert_int_eq(((const char *)view)[STACK_BYTES], byte);
		check_refusals(caller->region, *snap);
		(void)cow_mmapcopy(memory + (size_t)4 * STACK_BYTES,
				   memory + (size_t)2 * STACK_BYTES, STACK_BYTES);
		if (caller->way->mode == COW_MODE_UFFD)
			continue; /* a child would be without a stack; nothing can be adopted */
		reap_fork(caller->region);
		if (caller->way->lends)
			adopt_other(caller);
	}
	return NULL;
}

static void stack_of_a_thread(const struct way *way)
{
	struct caller caller = {.way = way, .region = entries_region(way, REGION_BYTES)};

	run_on(cow_region_address(caller.region), call_everything, &caller);
}

START_TEST(a_thread_may_have_its_stack_in_a_region)
{
	struct way way = entries_way(_i);

	entries_run("a thread's stack in a region", stack_of_a_thread, &way);
}
END_TEST

/* --- a coroutine's ---------------------------------------------------------------------------- */

static ucontext_t from, to;
static struct caller *coroutine_caller;

static void coroutine(void)
{
	(void)call_everything(coroutine_caller);
}

static void stack_of_a_coroutine(const struct way *way)
{
	struct caller caller = {.way = way, .region = entries_region(way, REGION_BYTES)};

	coroutine_caller = &caller;
	ck_assert(!getcontext(&to));
	to.uc_stack.ss_sp = cow_region_address(caller.region);
	to.uc_stack.ss_size = STACK_BYTES;
	to.uc_link = &from;
	makecontext(&to, coroutine, 0);
	ck_assert(!swapcontext(&from, &to));
}

START_TEST(a_coroutine_may_have_its_stack_in_a_region)
{
	struct way way = entries_way(_i);

	entries_run("a coroutine's stack in a region", stack_of_a_coroutine, &way);
}
END_TEST

/* --- a handler's ------------------------------------------------------------------------------ */

static volatile sig_atomic_t n_signals;

static void count(int signal)
{
	volatile char frame[8192];

	(void)signal;
	frame[0] = frame[sizeof(frame) - 1] = 1;
	n_signals++;
}

static void stack_of_handlers(const struct way *way)
{
	struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART | SA_ONSTACK};
	struct itimerval often = {.it_interval.tv_usec = 1000, .it_value.tv_usec = 1000};
	struct itimerval never = {.it_value.tv_usec = 0};
	struct cow_region *region = entries_region(way, REGION_BYTES);
	struct cow_snapshot *snaps[2] = {NULL};
	stack_t stack = {.ss_sp = cow_region_address(region), .ss_size = STACK_BYTES};

	ck_assert(!sigaltstack(&stack, NULL));
	ck_assert(!sigaction(SIGALRM, &action, NULL));
	ck_assert(!setitimer(ITIMER_REAL, &often, NULL));
	for (int i = 0; i < N_ROUNDS || n_signals < 40; i++) {
		struct cow_snapshot **snap = &snaps[i % 2];

		write_some(region);
		cow_snapshot_unref(*snap);
		*snap = NULL;
		proof_ok(cow_snapshot_new(snap, region));
		if (way->mode != COW_MODE_UFFD)
			reap_fork(region);
	}
	ck_assert(!setitimer(ITIMER_REAL, &never, NULL));
}

/* On that stack a handler's frame is written by the kernel. */
START_TEST(handlers_may_have_their_stack_in_a_region)
{
	struct way way = entries_way(_i);

	entries_run("a handler's stack in a region", stack_of_handlers, &way);
}
END_TEST

/* --- two threads, each in the other's region -------------------------------------------------- */

static atomic_bool is_over;
static _Atomic int n_setuid;

static void *take_often(void *arg)
{
	const struct caller *caller = arg;
	struct cow_snapshot *snaps[2] = {NULL};

	for (int i = 0; i < 4 * N_ROUNDS || n_setuid < N_SETUID; i++) {
		struct cow_snapshot **snap = &snaps[i % 2];

		write_some(caller->region);
		cow_snapshot_unref(*snap);
		*snap = NULL;
		proof_ok(cow_snapshot_new(snap, caller->region));
	}
	cow_snapshot_unref(snaps[0]);
	cow_snapshot_unref(snaps[1]);
	return NULL;
}

static void *in_the_other(void *arg)
{
	const struct caller *caller = arg;

	run_on(cow_region_address(caller->other), take_often, arg);
	return NULL;
}

/* glibc's handler runs on each thread's stack. */
static void *set_ids(void *arg)
{
	(void)arg;
	while (!is_over) {
		ck_assert(!setresuid((uid_t)-1, (uid_t)-1, (uid_t)-1));
		n_setuid++;
	}
	return NULL;
}

static void stacks_crosswise(const struct way *way)
{
	struct cow_region *a = entries_region(way, REGION_BYTES);
	struct cow_region *b = entries_region(way, REGION_BYTES);
	struct caller callers[] = {{way, a, b}, {way, b, a}, {way, a, b}};
	pthread_t threads[2], setter;

	ck_assert(!pthread_create(&setter, NULL, set_ids, NULL));
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		ck_assert(!pthread_create(&threads[i], NULL, in_the_other, &callers[i]));
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		ck_assert(!pthread_join(threads[i], NULL));
	is_over = true;
	ck_assert(!pthread_join(setter, NULL));
}

START_TEST(threads_may_take_each_others_stacks)
{
	struct way way = entries_way(_i);

	entries_run("stacks crosswise", stacks_crosswise, &way);
}
END_TEST

/* --- the talk's interface --------------------------------------------------------------------- */

static void *duplicate(void *arg)
{
	char *memory = arg, *duplicates[3];

	for (size_t i = 0; i < ARRAY_SIZE(duplicates); i++) {
		memory[2UL * STACK_BYTES] = (char)i;
		duplicates[i] = scoot_duplicate(memory);
		ck_assert_msg(duplicates[i], "%s", cow_last_error());
	}
	for (size_t i = 0; i < ARRAY_SIZE(duplicates); i++) {
		ck_assert_int_eq(duplicates[i][2UL * STACK_BYTES], (char)i);
		scoot_free(duplicates[i]);
	}
	return NULL;
}

static void stack_in_an_origin(const struct way *way)
{
	char *memory;

	(void)way;
	ck_assert(!setenv("COWD_ADDRESS", proof_address(), 1));
	memory = scoot_alloc(REGION_BYTES);
	ck_assert_ptr_nonnull(memory);
	run_on(memory, duplicate, memory);
	scoot_free(memory);
}

START_TEST(a_stack_may_lie_in_what_is_duplicated)
{
	struct way way = entries_way(_i);

	if (way.mode == COW_MODE_SCOOT)
		entries_run("a stack in what is duplicated", stack_in_an_origin, &way);
}
END_TEST

int main(void)
{
	const int n_ways = entries_n_ways();
	TCase *tcase;

	if (IS_SANITIZED) {
		(void)puts("a sanitizer does not let a program choose its stacks");
		return 77;
	}
	tcase = proof_tcase("stacks", 100);
	tcase_add_loop_test(tcase, a_thread_may_have_its_stack_in_a_region, 0, n_ways);
	tcase_add_loop_test(tcase, a_coroutine_may_have_its_stack_in_a_region, 0, n_ways);
	tcase_add_loop_test(tcase, handlers_may_have_their_stack_in_a_region, 0, n_ways);
	tcase_add_loop_test(tcase, threads_may_take_each_others_stacks, 0, n_ways);
	tcase_add_loop_test(tcase, a_stack_may_lie_in_what_is_duplicated, 0, n_ways);
	return proof_run(tcase);
}
