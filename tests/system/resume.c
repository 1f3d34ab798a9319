// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Regions of mode uffd that the next connection cannot simply register: others have snapshots of
 * them, or somebody's userfaultfd is registered there. See reconnect.c for all else.
 */
#include "config.h"

#include <sched.h>
#include <string.h>
#include <sys/socket.h>

#include "backends/uffdio.h"
#include "libclient/conn/conn.h"
#include "system/proof.h"

enum {
	REGION_BYTES = 4 << 20,
	SEED = 3,
	OTHER_SEED = 5,
};

static bool is_of_a_restart(int r)
{
	return r == -ENOTCONN || r == -ESTALE || r == -EAGAIN || r == -ECONNREFUSED;
}

static void await_taken(struct cow_snapshot **snap, struct cow_region *region)
{
	int r;

	do {
		(void)sched_yield();
		r = cow_snapshot_new(snap, region);
	} while (is_of_a_restart(r));
	proof_ok(r);
}

/*
 * Others have a snapshot of a uffd region whose owner connects again: the snapshot lives on, and
 * the region is frozen again. Broken by making a new region of the memory (it cannot be
 * registered), and by one that nobody may arm (is_disowned).
 */
START_TEST(a_uffd_region_is_resumed_while_others_have_its_snapshots)
{
	const uint64_t n_bytes = _i ? 16 << 20 : REGION_BYTES; /* armed by a move, or eagerly */
	CLEANUP(cow_region_unrefp) struct cow_region *region = proof_region(COW_MODE_UFFD, n_bytes);
	CLEANUP(cow_client_unrefp) struct cow_client *other = proof_client();
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *opened = NULL, *next = NULL;
	struct cow_snapshot *snap = NULL;
	struct proof_holdings held;

	proof_fill(cow_region_address(region), n_bytes, SEED);
	proof_ok(cow_snapshot_new(&snap, region));
	proof_ok(cow_snapshot_open(&opened, other, cow_snapshot_id(snap)));
	for (int i = 0; i < 3; i++) {
		proof_fill(cow_region_address(region), n_bytes / 2, OTHER_SEED + i);
		pthread_mutex_lock(&region->client->lock);
		ck_assert(!shutdown(region->client->conn->sock, SHUT_RDWR));
		pthread_mutex_unlock(&region->client->lock);
		proof_await_lost(snap);
		snap = cow_snapshot_unref(snap);
		await_taken(&snap, region);
		proof_fill(cow_region_address(region), n_bytes, OTHER_SEED + i);
		proof_check_snapshot(opened, SEED);
		proof_holdings(&held);
		ck_assert_uint_eq(held.n_regions, 1);
	}
	opened = cow_snapshot_unref(opened);
	snap = cow_snapshot_unref(snap);
	/* Left alone, it is written to as ever, and frozen. */
	proof_fill(cow_region_address(region), n_bytes, SEED);
	proof_ok(cow_snapshot_new(&next, region));
	proof_fill(cow_region_address(region), n_bytes, OTHER_SEED);
	proof_check_snapshot(next, SEED);
}
END_TEST

/*
 * Somebody else's userfaultfd, an earlier cowd's that takes its time, has the region when the next
 * cowd is there: it is handed over once that has let go. Broken by trying for a second only.
 */
START_TEST(a_region_that_was_refused_is_handed_over_again)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_UFFD, REGION_BYTES);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	const uint64_t addr = (uintptr_t)cow_region_address(region);
	AUTO_FD int uffd = cowi_uffd_new(region->client);
	int r;

	proof_fill(cow_region_address(region), REGION_BYTES, SEED);
	ck_assert_int_ge(uffd, 0);
	proof_ok(uffdio_api(uffd, UFFD_FEATURE_WP_HUGETLBFS_SHMEM, NULL));
	proof_cowd_kill();
	do
		r = uffdio_register(uffd, addr, REGION_BYTES, UFFDIO_REGISTER_MODE_WP);
	while (r == -EBUSY);
	proof_ok(r);
	proof_cowd_start(NULL);
	do {
		(void)sched_yield();
		r = cow_snapshot_new(&snap, region);
		ck_assert_int_ne(r, 0);
	} while (!strstr(cow_last_error(), "did not take region"));
	uffd = fd_close(uffd);
	await_taken(&snap, region);
	proof_fill(cow_region_address(region), REGION_BYTES, OTHER_SEED);
	proof_check_snapshot(snap, SEED);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("resume", 60);

	proof_need_uffd();
	tcase_add_loop_test(tcase, a_uffd_region_is_resumed_while_others_have_its_snapshots, 0, 2);
	tcase_add_test(tcase, a_region_that_was_refused_is_handed_over_again);
	return proof_run(tcase);
}
