// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What cow-scoot(7) says is to be minded, as it is: what becomes of attributes that hang on a
 * mapping when a snapshot replaces it, of futexes, and of a process that may have no more mappings.
 * In none of these cases is a byte of the region or of a snapshot wrong.
 */
#include "config.h"

#include <inttypes.h>
#include <linux/futex.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backends/mmapcopy/mmapcopy.h"
#include "libclient/scoot/mode.h"
#include "system/proof.h"
#include "tests/skip.h"

#define MIB          ((uint64_t)1 << 20)
#define REGION_BYTES (8 * MIB)

/* --- attributes of a part --------------------------------------------------------------------- */

/* A line of /proc/self/smaps: of the mapping that @addr lies in, the one that begins with @key. */
static void smaps_line(const void *addr, const char *key, char line[static 512])
{
	const uint64_t at = (uint64_t)(uintptr_t)addr;
	FILE *file = fopen("/proc/self/smaps", "re");
	uint64_t start, end;
	bool is_inside = false, is_found = false;

	ck_assert_ptr_nonnull(file);
	while (!is_found && fgets(line, 512, file)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
			is_inside = start <= at && at < end;
		is_found = is_inside && (!*key || !strncmp(line, key, strlen(key)));
	}
	(void)fclose(file);
	ck_assert_msg(is_found, "no \"%s\" of %p", key, addr);
}

static bool is_locked(const void *addr)
{
	char line[512];

	smaps_line(addr, "VmFlags:", line);
	return strstr(line, " lo") != NULL;
}

static bool is_writable(const void *addr)
{
	char line[512];

	smaps_line(addr, "", line);
	return strstr(line, " rw") != NULL;
}

static int policy_of(void *addr)
{
	int policy = -1;

	if (syscall(SYS_get_mempolicy, &policy, NULL, 0UL, addr, (unsigned long)MPOL_F_ADDR))
		return -1;
	return policy;
}

/* A region of pattern 1 and a page in the middle of it, where a snapshot finds three mappings. */
static char *odd_page(struct cow_region *region)
{
	proof_fill(region->addr, REGION_BYTES, 1);
	return region->addr + 3 * MIB + 5 * page_size_bytes();
}

/*
 * Whatever there was set: two snapshots, one beside the other, and a settled region.
 *
 * Seen to fail: with hold_take() (backends/hold.c) that does not try the halves, a snapshot of
 * three mappings is refused.
 */
static void check_snapshots(struct cow_region *region)
{
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *first = NULL, *second = NULL;

	proof_ok(cow_snapshot_new(&first, region));
	proof_fill(region->addr, REGION_BYTES, 2);
	proof_ok(cow_snapshot_new(&second, region));
	proof_fill(region->addr, REGION_BYTES, 3);
	proof_check_snapshot(first, 1);
	proof_check_snapshot(second, 2);
	first = cow_snapshot_unref(first);
	second = cow_snapshot_unref(second);
	proof_wait_until_settled(region);
	ck_assert(proof_is_filled(region->addr, REGION_BYTES, 3, 0));
}

START_TEST(a_lock_of_a_part_ends_with_the_first_snapshot)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_SCOOT, REGION_BYTES);
	char *page = odd_page(region);

	/* The bare call: sanitizers make mlock() do nothing. */
	if (syscall(SYS_mlock, page, page_size_bytes()))
		test_skip("no page may be locked here: mlock: %s", strerror(errno));
	ck_assert(is_locked(page));
	ck_assert(!is_locked(page - page_size_bytes()));
	check_snapshots(region);
	ck_assert(!is_locked(page));
}
END_TEST

/*
 * Seen to fail: with protect_map() and protect_move() (backends/protect.c) that take everything for
 * readable and writable.
 */
START_TEST(a_protection_of_a_part_stays)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_SCOOT, REGION_BYTES);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *first = NULL, *second = NULL;
	char *page = odd_page(region);

	ck_assert(!mprotect(page, page_size_bytes(), PROT_READ));
	proof_ok(cow_snapshot_new(&first, region));
	ck_assert(!is_writable(page));
	region->addr[0]++;
	proof_ok(cow_snapshot_new(&second, region));
	ck_assert(!is_writable(page));
	proof_ok(cow_region_rollback(region, first));
	ck_assert(!is_writable(page));
	ck_assert(is_writable(page - page_size_bytes()));
	first = cow_snapshot_unref(first);
	second = cow_snapshot_unref(second);
	proof_wait_until_settled(region);
	ck_assert(!is_writable(page));
	ck_assert(proof_is_filled(region->addr, REGION_BYTES, 1, 0));
}
END_TEST

/* It hangs on the memfd, not on the mapping. */
START_TEST(a_memory_policy_of_a_part_stays)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_SCOOT, REGION_BYTES);
	char *page = odd_page(region);
	unsigned long node = 1;

	if (syscall(SYS_mbind, page, page_size_bytes(), MPOL_BIND, &node, 8 * sizeof(node), 0U))
		test_skip("no memory policy can be set here: mbind: %s", strerror(errno));
	ck_assert_int_eq(policy_of(page), MPOL_BIND);
	ck_assert_int_eq(policy_of(page - page_size_bytes()), MPOL_DEFAULT);
	check_snapshots(region);
	ck_assert_int_eq(policy_of(page), MPOL_BIND);
	ck_assert_int_eq(policy_of(page - page_size_bytes()), MPOL_DEFAULT);
}
END_TEST

/* --- futexes ---------------------------------------------------------------------------------- */

struct sleeper {
	uint32_t *word;
	int wait_op;
	_Atomic pid_t tid;
	pthread_t thread;
};

static void *sleep_on(void *arg)
{
	struct sleeper *sleeper = arg;

	atomic_store(&sleeper->tid, (pid_t)syscall(SYS_gettid));
	while (syscall(SYS_futex, sleeper->word, sleeper->wait_op, 0, NULL, NULL, 0))
		;
	return NULL;
}

/* Until the kernel says that the thread waits on the word. */
static void await_asleep(struct sleeper *sleeper)
{
	unsigned long nr = 0, addr = 0;
	char path[64], state = 0;

	while (state != 'S' || nr != SYS_futex || addr != (unsigned long)(uintptr_t)sleeper->word) {
		FILE *file;

		(void)sched_yield();
		if (!atomic_load(&sleeper->tid))
			continue;
		(void)snprintf(path, sizeof(path), "/proc/self/task/%d/syscall",
			       (int)atomic_load(&sleeper->tid));
		file = fopen(path, "re");
		ck_assert_ptr_nonnull(file);
		if (fscanf(file, "%lu 0x%lx", &nr, &addr) != 2)
			nr = 0; /* it runs */
		(void)fclose(file);
		(void)snprintf(path, sizeof(path), "/proc/self/task/%d/stat",
			       (int)atomic_load(&sleeper->tid));
		file = fopen(path, "re");
		ck_assert_ptr_nonnull(file);
		if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
			state = 0;
		(void)fclose(file);
	}
}

static void sleeper_start(struct sleeper *sleeper, char *addr, int wait_op)
{
	*sleeper = (struct sleeper){.word = (uint32_t *)(void *)addr, .wait_op = wait_op};
	ck_assert(!pthread_create(&sleeper->thread, NULL, sleep_on, sleeper));
	await_asleep(sleeper);
}

static long wake(const struct sleeper *sleeper, int wake_op)
{
	return syscall(SYS_futex, sleeper->word, wake_op, 1, NULL, NULL, 0);
}

/*
 * One thread sleeps on a private futex, one on a shared one, each in a page of its own. After a
 * snapshot the first can be woken, and the second not: it waits on the memfd, and who wakes it
 * addresses the private page. Once the region is settled both are the memfd again.
 */
START_TEST(a_shared_futex_is_another_one_after_a_snapshot)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_SCOOT, REGION_BYTES);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	struct sleeper ordinary, shared;

	if (region->scoot->uffd < 0)
		test_skip("without a userfaultfd nothing settles by itself");
	sleeper_start(&ordinary, region->addr, FUTEX_WAIT_PRIVATE);
	sleeper_start(&shared, region->addr + MIB, FUTEX_WAIT);
	proof_ok(cow_snapshot_new(&snap, region));
	ck_assert_int_eq(wake(&ordinary, FUTEX_WAKE_PRIVATE), 1);
	ck_assert_int_eq(wake(&shared, FUTEX_WAKE), 0);
	snap = cow_snapshot_unref(snap);
	proof_wait_until_settled(region);
	ck_assert_int_eq(wake(&shared, FUTEX_WAKE), 1);
	ck_assert(!pthread_join(ordinary.thread, NULL));
	ck_assert(!pthread_join(shared.thread, NULL));
}
END_TEST

/* --- vm.max_map_count ------------------------------------------------------------------------- */

/* Of the region only: a sanitizer has a mapping of its own beside each. */
static uint64_t count_mappings(const struct cow_region *region)
{
	const uint64_t from = (uint64_t)(uintptr_t)region->addr, to = from + region->size_bytes;
	FILE *file = fopen("/proc/self/maps", "re");
	uint64_t n = 0, start, end;
	char line[512];

	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file)) {
		ck_assert_int_eq(sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end), 2);
		n += start < to && end > from;
	}
	(void)fclose(file);
	return n;
}

/* Until what was mapped before is not aside any more. */
static void wait_until_tidy(struct cow_region *region)
{
	bool is_tidy = false;

	while (!is_tidy) {
		cowi_scoot_post(region);
		(void)sched_yield();
		pthread_mutex_lock(&region->scoot->asides_lock);
		is_tidy = !region->scoot->asides;
		pthread_mutex_unlock(&region->scoot->asides_lock);
	}
}

/*
 * Every second page of half of a region is made a copy of a page of the other half, by mapping:
 * each is a mapping of its own, and splits another one.
 *
 * Seen to fail: without MMAPCOPY_RUNS_MAX in mmapcopy_pages(), four times as many mappings.
 */
START_TEST(copies_of_single_pages_end_in_copying)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	const uint64_t page = page_size_bytes(), half = 16 * MIB;
	struct cow_region_params params = {.size_bytes = 2 * half, .mode = COW_MODE_MMAPCOPY};
	uint64_t n_mapped = 0;

	proof_ok(cow_region_new(&region, client, &params));
	proof_fill(region->addr, 2 * half, 1);
	for (uint64_t off = 0; off < half; off += 2 * page) {
		uint64_t done;

		pthread_mutex_lock(&region->take_lock);
		done = mmapcopy_pages(region->scoot, half + off, region->scoot, off, page);
		pthread_mutex_unlock(&region->take_lock);
		n_mapped += done != 0;
		memcpy(region->addr + half + off + done, region->addr + off + done, page - done);
	}
	ck_assert_uint_gt(n_mapped, 0);
	ck_assert_uint_lt(n_mapped, half / page / 2);
	wait_until_tidy(region);
	ck_assert_uint_lt(count_mappings(region), MMAPCOPY_RUNS_MAX + 100);
	proof_ok(cow_snapshot_new(&snap, region));
	ck_assert_msg(cow_snapshot_id(snap) != 0, "%s", cow_last_error());
	for (uint64_t off = 0; off < half; off += 2 * page) {
		ck_assert(!memcmp(region->addr + half + off, region->addr + off, page));
		ck_assert(proof_is_filled(region->addr + half + off + page, page, 1,
					  half + off + page));
	}
	ck_assert(proof_is_filled(region->addr, half, 1, 0));
}
END_TEST

static uint64_t max_mappings(void)
{
	FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
	uint64_t n = 0;

	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(fscanf(file, "%" SCNu64, &n), 1);
	(void)fclose(file);
	return n;
}

/* Mappings of single pages, as many as there may be. */
static char *take_all_mappings(uint64_t *n_bytes)
{
	const uint64_t page = page_size_bytes();
	char *base;

	*n_bytes = max_mappings() * page;
	base = mmap(NULL, *n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ck_assert_ptr_ne(base, MAP_FAILED);
	for (uint64_t off = page; off < *n_bytes; off += 2 * page) {
		if (mprotect(base + off, page, PROT_READ)) {
			ck_assert_int_eq(errno, ENOMEM);
			return base;
		}
	}
	ck_abort_msg("there is no end of mappings");
	return NULL;
}

/* Without asking for memory. */
static void check_read(struct cow_snapshot *snap, char *buf, uint64_t seed)
{
	proof_ok(cow_snapshot_read(snap, buf, REGION_BYTES, 0));
	ck_assert(proof_is_filled(buf, REGION_BYTES, seed, 0));
}

/* Two snapshots, one beside the other, each of which may fail: nothing else changes. */
static int try_snapshots(struct cow_region *region, char *buf)
{
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *first = NULL, *second = NULL;
	int r, r2;

	proof_fill(region->addr, REGION_BYTES, 1);
	r = cow_snapshot_new(&first, region);
	ck_assert_msg(!r || r == -ENOMEM, "%d: %s", r, cow_last_error());
	ck_assert(proof_is_filled(region->addr, REGION_BYTES, 1, 0));
	proof_fill(region->addr, REGION_BYTES, 2);
	r2 = cow_snapshot_new(&second, region);
	ck_assert_msg(!r2 || r2 == -ENOMEM, "%d: %s", r2, cow_last_error());
	ck_assert(proof_is_filled(region->addr, REGION_BYTES, 2, 0));
	proof_fill(region->addr, REGION_BYTES, 3);
	if (!r)
		check_read(first, buf, 1);
	if (!r2)
		check_read(second, buf, 2);
	return r ? r : r2;
}

/* From none on one mapping more each time, so that whichever step
 * lacks one is the one that fails. */
#define N_LEFT 24

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define CAN_DO_WITHOUT_MAPPINGS false
#else
#define CAN_DO_WITHOUT_MAPPINGS true
#endif

/*
 * Seen to fail: with hold_give_back() (backends/hold.c) that does nothing.
 */
START_TEST(few_mappings_left)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(proof_mode(_i), REGION_BYTES);
	const uint64_t page = page_size_bytes();
	CLEANUP(freep) char *buf = proof_alloc(REGION_BYTES);
	uint64_t n_bytes;
	char *taken;

	if (!CAN_DO_WITHOUT_MAPPINGS)
		test_skip("a sanitizer needs mappings of its own");
	if (max_mappings() > 1000000)
		test_skip("vm.max_map_count is too large to use all mappings up");
	taken = take_all_mappings(&n_bytes);
	for (uint64_t n = 0; n < N_LEFT; n++) {
		(void)try_snapshots(region, buf);
		/* Mapped or copied, it is a copy. */
		cow_mmapcopy(region->addr + 2 * MIB, region->addr, MIB);
		ck_assert(proof_is_filled(region->addr, MIB, 3, 0));
		ck_assert(!memcmp(region->addr + 2 * MIB, region->addr, MIB));
		ck_assert(!munmap(taken + (2 * n + 1) * page, page));
	}
	ck_assert(!munmap(taken, n_bytes));
	ck_assert_int_eq(try_snapshots(region, buf), 0);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("scoot traps", 60);

	tcase_add_test(tcase, a_lock_of_a_part_ends_with_the_first_snapshot);
	tcase_add_test(tcase, a_protection_of_a_part_stays);
	tcase_add_test(tcase, a_memory_policy_of_a_part_stays);
	tcase_add_test(tcase, a_shared_futex_is_another_one_after_a_snapshot);
	tcase_add_test(tcase, copies_of_single_pages_end_in_copying);
	tcase_add_loop_test(tcase, few_mappings_left, 0, PROOF_N_MODES);
	return proof_run(tcase);
}
