// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * COW_REGION_STOP_THREADS: without a userfaultfd, beside other threads, a take stops them and
 * settles. Nothing is torn, no write and no signal lost, nobody waits for ever for what a stopped
 * thread has, and where they cannot be stopped snapshots are as right as without the flag.
 */
#include "config.h"

#include "system/scoot-stop.h"

#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "backends/stop.h"

struct cow_region *region_of(struct cow_client *client)
{
	struct cow_region_params params = {
		.size_bytes = REGION_BYTES,
		.mode = COW_MODE_SCOOT,
		.flags = COW_REGION_STOP_THREADS,
	};
	struct cow_region *region = NULL;

	proof_ok(cow_region_new(&region, client, &params));
	ck_assert_int_lt(region->scoot->uffd, 0);
	return region;
}

struct cow_region *region_without_uffd(void)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = NULL;

	proof_cowd_kill();
	proof_cowd_start("[daemon]\nlend = no\n");
	client = proof_client();
	return region_of(client);
}

void wait_until_unshared(struct cow_region *region)
{
	const struct scoot_region *scoot = region->scoot;
	bool is_shared = true;

	while (is_shared) {
		const struct extent *run = scoot->map.runs;

		pthread_mutex_lock(&region->take_lock);
		is_shared =
			extents_is_shared(run->backing, run->backing_off, run->len, &scoot->map);
		pthread_mutex_unlock(&region->take_lock);
		(void)sched_yield();
	}
}

struct cow_snapshot_cost cost_of(const struct cow_snapshot *snap)
{
	struct cow_snapshot_cost cost;

	proof_ok(cow_snapshot_cost(snap, &cost));
	return cost;
}

struct cow_snapshot_cost take(struct cow_region *region)
{
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;

	wait_until_unshared(region);
	/* On a busy machine a thread may be late once; it is to be tried again, not in a second. */
	region->scoot_glue->stopper.retry_at_nsec = 0;
	proof_ok(cow_snapshot_new(&snap, region));
	return cost_of(snap);
}

void busy_start(struct busy *busy, struct cow_region *region, size_t n, void *(*work)(void *))
{
	*busy = (struct busy){.region = region};
	for (; busy->n_threads < n; busy->n_threads++)
		ck_assert(!pthread_create(&busy->threads[busy->n_threads], NULL, work, busy));
}

void busy_end(struct busy *busy)
{
	atomic_store(&busy->is_over, true);
	for (size_t i = 0; i < busy->n_threads; i++)
		ck_assert(!pthread_join(busy->threads[i], NULL));
}

void busy_wait(struct busy *busy)
{
	uint64_t until = atomic_load(&busy->n_done) + 100;

	while (atomic_load(&busy->n_done) < until)
		(void)sched_yield();
}

/* --- one instant ------------------------------------------------------------------------------ */

/*
 * More threads than CPUs write all the time. Tfork_child writes come to the memfd with the next
 * take, and when they have ended the last take leaves no private page.
 *
 * Seen to fail: with a library that does not know of the flag.
 */
START_TEST(beside_other_threads_a_take_settles)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = region_without_uffd();
	CLEANUP(freep) char *copy = proof_alloc(REGION_BYTES);
	const unsigned int n_cpus = (unsigned int)sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t before[PAIRS_THREADS_MAX], after[PAIRS_THREADS_MAX];
	struct pairs pairs;

	pairs_start(&pairs, region->addr, REGION_BYTES,
		    (unsigned int)min_u64(2 * n_cpus + 2, PAIRS_THREADS_MAX));
	for (int i = 0; i < N_TAKES; i++) {
		struct cow_snapshot *snap = NULL;

		pairs_wait(&pairs, 1);
		wait_until_unshared(region);
		pairs_rounds(&pairs, before);
		proof_ok(cow_snapshot_new(&snap, region));
		pairs_rounds(&pairs, after);
		pairs_wait(&pairs, 1);
		proof_ok(cow_snapshot_read(snap, copy, REGION_BYTES, 0));
		pairs_check(&pairs, copy, before, after, "with threads stopped");
		ck_assert_uint_eq(cost_of(snap).kept_bytes, 0);
		ck_assert_uint_eq(cost_of(snap).settled_bytes, i ? REGION_BYTES : 0);
		cow_snapshot_unref(snap);
	}
	pairs_stop(&pairs);
	pairs_check_final(&pairs);
}
END_TEST

/* Each has a word in each page, and knows what it has to be. */
static _Atomic size_t n_counting;
static _Atomic uint64_t n_lost;

static void *count(void *arg)
{
	struct busy *busy = arg;
	const size_t page = page_size_bytes(), n_pages = REGION_BYTES / page;
	CLEANUP(freep) uint64_t *counts = calloc(n_pages, sizeof(*counts));
	char *mine = busy->region->addr + 64 * atomic_fetch_add(&n_counting, 1);

	ck_assert_ptr_nonnull(counts);
	for (size_t i = 0; !atomic_load(&busy->is_over); i = (i + 7) % n_pages) {
		_Atomic uint64_t *word = (_Atomic uint64_t *)(void *)(mine + i * page);

		atomic_fetch_add(&n_lost, atomic_load(word) != counts[i]);
		atomic_store(word, ++counts[i]);
		atomic_fetch_add(&busy->n_done, 1);
	}
	for (size_t i = 0; i < n_pages; i++)
		atomic_fetch_add(&n_lost, *(uint64_t *)(void *)(mine + i * page) != counts[i]);
	return NULL;
}

/*
 * Seen to fail: with a helper (backends/stop.c) that says they have stopped and stops nobody.
 */
START_TEST(no_write_is_lost)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = region_without_uffd();
	uint64_t n_settled = 0;
	struct busy busy;

	busy_start(&busy, region, N_BUSY, count);
	for (int i = 0; i < 4 * N_TAKES; i++) {
		busy_wait(&busy);
		n_settled += take(region).settled_bytes;
	}
	busy_end(&busy);
	ck_assert_uint_gt(n_settled, REGION_BYTES);
	ck_assert_uint_eq(atomic_load(&n_lost), 0);
}
END_TEST

static uint64_t private_bytes(const struct cow_region *region)
{
	uint64_t at = (uint64_t)(uintptr_t)region->addr, end = at + region->size_bytes, n_bytes = 0;
	struct page_run runs[64];
	size_t n_runs;

	while (at < end) {
		ck_assert(!pagemap_private(&region->scoot->pagemap, &at, end, runs,
					   ARRAY_SIZE(runs), &n_runs));
		for (size_t i = 0; i < n_runs; i++)
			n_bytes += runs[i].len;
	}
	return n_bytes;
}

/* Every @step-th page. Return: bytes of these pages */
static uint64_t write_pages(char *memory, size_t step, char value)
{
	const size_t page = page_size_bytes();
	uint64_t n_bytes = 0;

	for (size_t off = 0; off < REGION_BYTES; off += step * page) {
		memory[off] = value;
		n_bytes += page;
	}
	return n_bytes;
}

static void *wait_until_closed(void *arg)
{
	const int *fd = arg;
	char byte;

	ck_assert_int_eq(read(*fd, &byte, 1), 0);
	return NULL;
}

/*
 * Each take pays for what was written since the one before, whatever was written before that.
 *
 * Seen to fail: with a library that does not know of the flag each keeps what all have written.
 */
START_TEST(each_take_pays_for_its_own_pages)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = region_without_uffd();
	struct cow_snapshot_cost cost;
	pthread_t thread;
	int fds[2];

	ck_assert(!pipe2(fds, O_CLOEXEC));
	ck_assert(!pthread_create(&thread, NULL, wait_until_closed, &fds[0]));
	proof_fill(region->addr, REGION_BYTES, 1);
	cost = take(region);
	ck_assert_uint_eq(cost.settled_bytes + cost.kept_bytes, 0);
	for (size_t step = 1; step < 9; step++) {
		uint64_t n_bytes = write_pages(region->addr, step, (char)step);

		ck_assert_uint_eq(private_bytes(region), n_bytes);
		cost = take(region);
		ck_assert_uint_eq(cost.settled_bytes, n_bytes);
		ck_assert_uint_eq(cost.kept_bytes, 0);
		ck_assert_uint_eq(private_bytes(region), 0);
	}
	close(fds[1]);
	pthread_join(thread, NULL);
	close(fds[0]);
}
END_TEST

/* --- what stopped threads have ---------------------------------------------------------------- */

void *allocate(void *arg)
{
	struct busy *busy = arg;
	size_t n = 1;

	while (!atomic_load(&busy->is_over)) {
		CLEANUP(freep) char *small = malloc(n % 3000 + 1);
		CLEANUP(freep) char *large = malloc(n % 300 * 1000 + 1);

		ck_assert(small && large);
		small[0] = large[0] = 1;
		n = n * 5 + 1;
		atomic_fetch_add(&busy->n_done, 1);
	}
	return NULL;
}

/* The lock of all extent maps, and that of the client. */
static void *look_at_maps(void *arg)
{
	struct busy *busy = arg;
	struct cow_region *region = busy->region;

	while (!atomic_load(&busy->is_over)) {
		(void)extents_is_shared(region->scoot->home, 0, 1, NULL);
		(void)cowi_generation(region->client);
		atomic_fetch_add(&busy->n_done, 1);
	}
	return NULL;
}

/*
 * A region whose lower half nobody else needs, in a memfd of its own, and whose upper half @early,
 * which is returned, does: the next take settles the one and keeps the other.
 */
static struct cow_snapshot *make_halves(struct cow_region *region)
{
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *between = NULL;
	struct cow_snapshot *early = NULL;

	proof_fill(region->addr, REGION_BYTES, 1);
	proof_ok(cow_snapshot_new(&early, region));
	proof_ok(cow_region_discard(region, 0, REGION_BYTES / 2));
	proof_ok(cow_snapshot_new(&between, region));
	ck_assert(cow_snapshot_id(between));
	return early;
}

/*
 * Threads that have malloc()'s locks, or the library's, at any moment, and takes that need room for
 * the list of many pages.
 *
 * Seen to fail, by the time limit: with let_go() (backends/scoot/take.c) after extents_set(), and
 * without reserve_kept().
 */
static void take_halves(struct cow_client *client, char value)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = region_of(client);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *early = make_halves(region);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	CLEANUP(freep) char *copy = proof_alloc(REGION_BYTES);
	uint64_t n_bytes = write_pages(region->addr, 2, value);

	wait_until_unshared(region);
	proof_ok(cow_snapshot_new(&snap, region));
	ck_assert_uint_eq(cost_of(snap).settled_bytes, n_bytes / 2);
	ck_assert_uint_eq(cost_of(snap).kept_bytes, n_bytes / 2);
	proof_ok(cow_snapshot_read(snap, copy, REGION_BYTES, 0));
	ck_assert(!memcmp(copy, region->addr, REGION_BYTES));
	proof_check_snapshot(early, 1);
}

static void take_beside(void *(*work)(void *))
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = region_without_uffd();
	struct busy busy;

	busy_start(&busy, region, N_BUSY, work);
	for (int i = 0; i < N_TAKES; i++) {
		busy_wait(&busy);
		take_halves(region->client, (char)i);
		(void)take(region);
	}
	busy_end(&busy);
}

/* With one arena for all: by default the caller would have one that the others do not use. */
START_TEST(stopped_threads_may_have_malloc_locked)
{
	(void)mallopt(M_ARENA_MAX, 1);
	take_beside(allocate);
}
END_TEST

START_TEST(stopped_threads_may_have_the_library_locked)
{
	take_beside(look_at_maps);
}
END_TEST

/* --- the program ------------------------------------------------------------------------------ */

static bool nobody(pid_t id)
{
	(void)id;
	return false;
}

static void *sleep_for_ever(void *arg)
{
	(void)pause();
	return arg;
}

/* Tried in a child, beside a thread. */
static int try_to_stop(void)
{
	struct stop *stop;
	pthread_t thread;
	sigset_t all;

	sigfillset(&all);
	(void)pthread_sigmask(SIG_BLOCK, &all, NULL);
	if (pthread_create(&thread, NULL, sleep_for_ever, NULL) || !stop_begin(&stop, nobody))
		return 1;
	stop_end(stop);
	return 0;
}

static bool can_stop(void)
{
	int status = -1;
	pid_t pid = fork();

	if (!pid)
		_exit(try_to_stop());
	return pid > 0 && waitpid(pid, &status, 0) == pid && !status;
}

#ifdef __SANITIZE_THREAD__
#define HAS_TSAN true
#else
#define HAS_TSAN false
#endif

int main(void)
{
	TCase *tcase = proof_tcase("threads stopped", 120);

	if (HAS_TSAN) {
		puts("a process that shares memory but no threads is not for the thread sanitizer");
		return 77;
	}
#ifndef COW_STOP_THREADS
	puts("this build has no COW_REGION_STOP_THREADS: configure --enable-stop-threads");
	return 77;
#endif
	if (!can_stop()) {
		puts("no thread can be stopped here: is ptrace(2) forbidden?");
		return 77;
	}
	tcase_add_test(tcase, beside_other_threads_a_take_settles);
	tcase_add_test(tcase, no_write_is_lost);
	tcase_add_test(tcase, each_take_pays_for_its_own_pages);
	tcase_add_test(tcase, stopped_threads_may_have_malloc_locked);
	tcase_add_test(tcase, stopped_threads_may_have_the_library_locked);
	add_thread_tests(tcase);
	add_refusal_tests(tcase);
	return proof_run(tcase);
}
