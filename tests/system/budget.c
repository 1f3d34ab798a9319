/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bounded memory, mode uffd: a snapshot whose budget is used up becomes lost, at once and alone, or
 * its writers wait; and a save lets what it has passed go, so that a region can be rewritten as a
 * whole while it is saved, inside a small budget.
 *
 * Seen to fail: with is_over_budget() always false (daemon/uffd/fault.c), with chain_lose_one()
 * losing the whole chain, without region_wake_waiters() in chain_drain(), and with drained
 * pages still needed.
 *
 * COW_BUDGET_MIB=4098 has the region that is rewritten while it is saved be so large, a multiple of
 * 3 MiB, with a budget of 64 MiB, and nothing else done; it says how long that took, and how much
 * was kept at most.
 */
#include "config.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "system/proof.h"
#include "system/raw.h"

#define N_WRITERS 3

static size_t region_bytes = (size_t)24 << 20;
static size_t budget_bytes = (size_t)1 << 20;

static size_t n_pages(void)
{
	return region_bytes / page_size_bytes();
}

struct writer {
	pthread_t thread;
	char *memory;
	size_t first;
	_Atomic size_t n_done;
};

/* Every page of its share, in an order that is no order: the multiplier is odd and no page is
 * twice. */
static void *rewrite(void *arg)
{
	struct writer *writer = arg;
	size_t n = n_pages() / N_WRITERS;

	for (size_t i = 0; i < n; i++) {
		size_t page = writer->first + (i * 1027 + 5) % n;

		memset(writer->memory + page * page_size_bytes(), 0xaa, page_size_bytes());
		atomic_fetch_add(&writer->n_done, 1);
	}
	return NULL;
}

static void writers_start(struct writer *writers, char *memory, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		writers[i] =
			(struct writer){.memory = memory, .first = i * (n_pages() / N_WRITERS)};
		ck_assert_int_eq(pthread_create(&writers[i].thread, NULL, rewrite, &writers[i]), 0);
	}
}

static void writers_join(struct writer *writers, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		pthread_join(writers[i].thread, NULL);
		ck_assert_uint_eq(writers[i].n_done, n_pages() / N_WRITERS);
	}
}

static struct cow_region *filled_region(uint64_t seed)
{
	struct cow_region *region = proof_region(COW_MODE_UFFD, region_bytes);

	proof_fill(cow_region_address(region), region_bytes, seed);
	return region;
}

static struct cow_snapshot *bounded(struct cow_region *region, uint32_t flags)
{
	struct cow_snapshot_params params = {.budget_bytes = budget_bytes, .flags = flags};
	struct cow_snapshot *snap = NULL;

	proof_ok(cow_snapshot_new_with(&snap, region, &params));
	return snap;
}

START_TEST(a_spent_budget_loses_that_snapshot_alone)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = filled_region(1);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *older = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *newer = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *bound = NULL;
	struct writer writers[N_WRITERS];
	char byte;

	proof_ok(cow_snapshot_new(&older, region));
	bound = bounded(region, 0);
	proof_ok(cow_snapshot_read(bound, &byte, 1, 0));
	writers_start(writers, cow_region_address(region), N_WRITERS);
	writers_join(writers, N_WRITERS);
	ck_assert_int_eq(cow_snapshot_read(bound, &byte, 1, region_bytes - 1), -ESTALE);
	ck_assert_ptr_nonnull(strstr(cow_last_error(), "budget"));
	ck_assert_uint_eq(cow_snapshot_id(bound), 0);
	proof_check_snapshot(older, 1);
	proof_ok(cow_snapshot_new(&newer, region));
	proof_ok(cow_snapshot_read(newer, &byte, 1, 0));
	ck_assert_int_eq((unsigned char)byte, 0xaa);
}
END_TEST

START_TEST(writers_wait_until_the_snapshot_is_released)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = filled_region(2);
	struct cow_snapshot *snap = bounded(region, COW_SNAPSHOT_WAIT);
	struct proof_holdings holdings = {0};
	struct writer writer;

	writers_start(&writer, cow_region_address(region), 1);
	while (holdings.kept_bytes < budget_bytes)
		proof_holdings(&holdings);
	proof_check_snapshot(snap, 2);
	ck_assert_uint_le(writer.n_done, budget_bytes / page_size_bytes());
	cow_snapshot_unref(snap);
	writers_join(&writer, 1);
}
END_TEST

/* Until a region has writers that wait, as `cowctl regions` would say. */
static void await_waiting(void)
{
	Cow__V1__ListRegions list = COW__V1__LIST_REGIONS__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	AUTO_FD int sock = raw_greet();
	bool is_waiting = false;

	request.call_case = COW__V1__REQUEST__CALL_LIST_REGIONS;
	request.list_regions = &list;
	for (request.id = 2; !is_waiting; request.id++) {
		Cow__V1__Reply *reply = raw_ask(sock, &request);

		ck_assert_msg(!reply->error, "%s", reply->sentence);
		for (size_t i = 0; i < reply->regions->n_regions; i++)
			is_waiting |= reply->regions->regions[i]->is_waiting;
		cow__v1__reply__free_unpacked(reply, NULL);
	}
}

/*
 * Not the budget of the snapshot is used up, but what the uid may keep, by another region: they go
 * on when that gives memory back, even if it is frozen still and would rather have kept some ready.
 * Both seen to hang: with a refund that wakes nobody, and with n_to_keep() as if nobody waited.
 */
START_TEST(writers_wait_until_another_region_gives_back)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_region_unrefp) struct cow_region *other = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *newer = NULL;
	struct cow_snapshot_params params = {.flags = COW_SNAPSHOT_WAIT};
	struct cow_snapshot *older = NULL;
	struct writer writer;

	proof_cowd_kill();
	proof_cowd_start("[limits]\nkept-bytes = 11M\n");
	other = filled_region(6);
	proof_ok(cow_snapshot_new(&older, other));
	memset(cow_region_address(other), 1, 9 << 20);
	if (_i)
		proof_ok(cow_snapshot_new(&newer, other));
	region = filled_region(7);
	proof_ok(cow_snapshot_new_with(&snap, region, &params));
	writers_start(&writer, cow_region_address(region), 1);
	await_waiting();
	proof_check_snapshot(snap, 7);
	cow_snapshot_unref(older);
	writers_join(&writer, 1);
	proof_check_snapshot(snap, 7);
}
END_TEST

struct reader {
	pthread_t thread;
	int fd;
	uint64_t most_kept_bytes;
};

/* Reads what is saved and compares; asks now and then how much is kept. */
static void *compare(void *arg)
{
	CLEANUP(freep) char *buf = proof_alloc(1 << 16);
	struct reader *reader = arg;
	uint64_t off = 0;

	while (off < region_bytes) {
		ssize_t n = read(reader->fd, buf, 1 << 16);
		struct proof_holdings holdings;

		ck_assert_int_gt(n, 0);
		ck_assert(proof_is_filled(buf, (size_t)n, 3, off));
		if (off / (1 << 19) != (off + (uint64_t)n) / (1 << 19)) {
			proof_holdings(&holdings);
			reader->most_kept_bytes =
				max_u64(reader->most_kept_bytes, holdings.kept_bytes);
		}
		off += (uint64_t)n;
	}
	return NULL;
}

START_TEST(a_region_rewritten_while_saved_fits_a_small_budget)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = filled_region(3);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	struct writer writers[N_WRITERS];
	struct reader reader = {0};
	time_t begin = time(NULL);
	char byte;
	int fds[2];

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	reader.fd = fds[0];
	snap = bounded(region, COW_SNAPSHOT_WAIT | COW_SNAPSHOT_ONCE);
	writers_start(writers, cow_region_address(region), N_WRITERS);
	ck_assert_int_eq(pthread_create(&reader.thread, NULL, compare, &reader), 0);
	proof_ok(cow_snapshot_save(snap, fds[1], NULL, NULL));
	pthread_join(reader.thread, NULL);
	writers_join(writers, N_WRITERS);
	printf("%zu MiB saved and rewritten in %lld s, at most %.1f MiB kept\n", region_bytes >> 20,
	       (long long)(time(NULL) - begin), (double)reader.most_kept_bytes / (1 << 20));
	/* Memory is charged some slots at a time, and freed slots stay warm for the next pages. */
	ck_assert_uint_ge(reader.most_kept_bytes, budget_bytes / 2);
	ck_assert_uint_le(reader.most_kept_bytes, budget_bytes + 64 * page_size_bytes());
	ck_assert_int_eq(cow_snapshot_save(snap, fds[1], NULL, NULL), -EBUSY);
	ck_assert_int_eq(cow_snapshot_read(snap, &byte, 1, 0), -ESTALE);
	fd_close(fds[0]);
	fd_close(fds[1]);
}
END_TEST

START_TEST(budgets_that_make_no_sense_are_refused)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = filled_region(4);
	CLEANUP(cow_region_unrefp) struct cow_region *scoot = NULL;
	struct cow_snapshot_params params = {.budget_bytes = 1};
	struct cow_snapshot *snap = NULL;

	ck_assert_int_eq(cow_snapshot_new_with(&snap, region, &params), -EINVAL);
	params = (struct cow_snapshot_params){.flags = 1u << 31};
	ck_assert_int_eq(cow_snapshot_new_with(&snap, region, &params), -EINVAL);
	params = (struct cow_snapshot_params){.reserved[3] = 1};
	ck_assert_int_eq(cow_snapshot_new_with(&snap, region, &params), -EINVAL);
	scoot = proof_region(COW_MODE_SCOOT, 1 << 20);
	params = (struct cow_snapshot_params){.budget_bytes = budget_bytes};
	ck_assert_int_eq(cow_snapshot_new_with(&snap, scoot, &params), -EINVAL);
	ck_assert_ptr_null(snap);
}
END_TEST

int main(void)
{
	const char *mib = getenv("COW_BUDGET_MIB");
	TCase *tcase = proof_tcase("budget", mib ? 3600 : 60);

	proof_need_uffd();
	if (mib) {
		region_bytes = strtoull(mib, NULL, 0) / N_WRITERS * N_WRITERS << 20;
		budget_bytes = (size_t)64 << 20;
		tcase_add_test(tcase, a_region_rewritten_while_saved_fits_a_small_budget);
		return proof_run(tcase);
	}
	tcase_add_test(tcase, a_spent_budget_loses_that_snapshot_alone);
	tcase_add_test(tcase, writers_wait_until_the_snapshot_is_released);
	tcase_add_loop_test(tcase, writers_wait_until_another_region_gives_back, 0, 2);
	tcase_add_test(tcase, a_region_rewritten_while_saved_fits_a_small_budget);
	tcase_add_test(tcase, budgets_that_make_no_sense_are_refused);
	return proof_run(tcase);
}
