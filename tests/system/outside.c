/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Snapshots from outside, mode uffd: another process of the same user, or an administrator, freezes
 * a region that its owner goes on writing to; nobody else can.
 *
 * Seen to fail when find_region() (daemon/rpc/snapshot.c) does not ask session_may_see().
 */
#include "config.h"

#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "libclient/internal.h"
#include "system/proof.h"
#include "tests/skip.h"

#define REGION_BYTES ((size_t)16 << 20)

struct outsider {
	int id_fds[2]; /* from the owner: the region's id */
	uid_t uid;     /* to become; 0: stay */
	int expected;
};

static uint64_t receive_id(const struct outsider *outsider)
{
	uint64_t id = 0;

	ck_assert_int_eq(read(outsider->id_fds[0], &id, sizeof(id)), sizeof(id));
	return id;
}

/* In a process of its own: freeze the owner's region and look at it. */
static void freeze(void *user)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	CLEANUP(freep) char *bytes = NULL;
	const struct outsider *outsider = user;
	uint64_t id = receive_id(outsider);
	int r;

	if (outsider->uid && (setgid(outsider->uid) || setuid(outsider->uid)))
		ck_abort_msg("cannot become uid %u", (unsigned int)outsider->uid);
	client = proof_client();
	r = cow_snapshot_new_outside(&snap, client, id);
	ck_assert_msg(r == outsider->expected, "%d: %s", r, cow_last_error());
	if (r)
		return;
	/* The owner writes the same number to the first word of page after page, in order. */
	bytes = proof_alloc(REGION_BYTES);
	proof_ok(cow_snapshot_read(snap, bytes, REGION_BYTES, 0));
	for (size_t i = page_size_bytes(); i < REGION_BYTES; i += page_size_bytes()) {
		uint64_t before, after;

		memcpy(&before, bytes + i - page_size_bytes(), sizeof(before));
		memcpy(&after, bytes + i, sizeof(after));
		ck_assert_msg(after == before || after + 1 == before,
			      "page %zu has round %" PRIu64 ", the one before it %" PRIu64,
			      i / page_size_bytes(), after, before);
	}
}

static void outsider_start(struct outsider *outsider, pid_t *pid)
{
	ck_assert_int_eq(pipe2(outsider->id_fds, O_CLOEXEC), 0);
	*pid = proof_fork(freeze, outsider);
}

/* Write rounds until the outsider has ended. */
static void own(const struct outsider *outsider, pid_t pid)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	_Atomic uint64_t *words;
	siginfo_t info = {0};

	region = proof_region(COW_MODE_UFFD, REGION_BYTES);
	ck_assert_int_eq(write(outsider->id_fds[1], &region->id, sizeof(region->id)),
			 sizeof(region->id));
	for (uint64_t round = 1; !info.si_pid; round++) {
		words = cow_region_address(region);
		for (size_t i = 0; i < REGION_BYTES / sizeof(*words);
		     i += page_size_bytes() / sizeof(*words))
			words[i] = round;
		ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
	}
	proof_reap(pid, 0);
}

START_TEST(another_process_of_the_user_freezes_a_region_being_written)
{
	struct outsider outsider = {.expected = 0};
	pid_t pid;

	outsider_start(&outsider, &pid);
	own(&outsider, pid);
}
END_TEST

#define ROLLED_BYTES ((size_t)32 << 20)
#define N_FROZEN     8

/* In a process of its own: the owner writes to page after page, and rolls all back to zeroes. */
static void freeze_what_is_rolled_back(void *user)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(freep) char *bytes = proof_alloc(ROLLED_BYTES);
	uint64_t id = receive_id(user);

	for (int i = 0; i < N_FROZEN; i++) {
		CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
		uint64_t before = 1, now;

		proof_ok(cow_snapshot_new_outside(&snap, client, id));
		proof_ok(cow_snapshot_read(snap, bytes, ROLLED_BYTES, 0));
		for (size_t off = 0; off < ROLLED_BYTES; off += page_size_bytes(), before = now) {
			memcpy(&now, bytes + off, sizeof(now));
			ck_assert_msg(before || !now, "page %zu is not rolled back yet",
				      off / page_size_bytes());
		}
	}
}

/*
 * Seen to fail: with op_done() (daemon/region/region.c) that submits an operation that goes on by
 * region_submit(), behind a take that is waiting.
 */
START_TEST(rolling_back_is_one_step_to_others)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *zeroes = NULL;
	struct outsider outsider = {.expected = 0};
	siginfo_t info = {0};
	pid_t pid;

	ck_assert_int_eq(pipe2(outsider.id_fds, O_CLOEXEC), 0);
	pid = proof_fork(freeze_what_is_rolled_back, &outsider);
	region = proof_region(COW_MODE_UFFD, ROLLED_BYTES);
	memset(region->addr, 0, ROLLED_BYTES);
	proof_ok(cow_snapshot_new(&zeroes, region));
	ck_assert_int_eq(write(outsider.id_fds[1], &region->id, sizeof(region->id)),
			 sizeof(region->id));
	while (!info.si_pid) {
		for (size_t off = 0; off < ROLLED_BYTES; off += page_size_bytes())
			*(_Atomic uint64_t *)(void *)(region->addr + off) = 1;
		proof_ok(cow_region_rollback(region, zeroes));
		for (size_t off = 0; off < ROLLED_BYTES; off += page_size_bytes())
			ck_assert_uint_eq(*(_Atomic uint64_t *)(void *)(region->addr + off), 0);
		ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
	}
	proof_reap(pid, 0);
}
END_TEST

#define N_BETWEEN   400
#define N_OPERATORS 3

/* In a process of its own. */
static void freeze_often(void *user)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	uint64_t id = receive_id(user);

	for (int i = 0; i < N_BETWEEN; i++) {
		CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
		int r = cow_snapshot_new_outside(&snap, client, id);

		ck_assert_msg(!r, "take %d: %d: %s", i, r, cow_last_error());
	}
}

/*
 * While the owner moves its memory for a snapshot of its own, nothing in it can be protected until
 * cowd has read of that.
 *
 * Seen to fail: with a take that gives up then, in each of four runs.
 */
START_TEST(operators_do_not_meet_the_owners_own_snapshots)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	struct outsider outsider = {.expected = 0};
	pid_t pids[N_OPERATORS];
	int n_left = N_OPERATORS;

	ck_assert_int_eq(pipe2(outsider.id_fds, O_CLOEXEC), 0);
	for (int i = 0; i < N_OPERATORS; i++)
		pids[i] = proof_fork(freeze_often, &outsider);
	region = proof_region(COW_MODE_UFFD, REGION_BYTES);
	for (int i = 0; i < N_OPERATORS; i++)
		ck_assert_int_eq(write(outsider.id_fds[1], &region->id, sizeof(region->id)),
				 sizeof(region->id));
	while (n_left) {
		CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
		siginfo_t info = {0};

		proof_ok(cow_snapshot_new(&snap, region));
		*(_Atomic uint64_t *)(void *)region->addr = 1;
		ck_assert_int_eq(
			waitid(P_PID, (id_t)pids[n_left - 1], &info, WEXITED | WNOHANG | WNOWAIT),
			0);
		if (info.si_pid)
			proof_reap(pids[--n_left], 0);
	}
}
END_TEST

START_TEST(another_user_is_told_that_there_is_none)
{
	struct outsider outsider = {.uid = 65534, .expected = -ENOENT};
	CLEANUP(freep) char *path = strdup(proof_address());
	pid_t pid;

	if (geteuid() != 0)
		test_skip("another user than cowd's can only be had by root");
	/* So that it may at least talk to cowd. */
	ck_assert_int_eq(chmod(proof_address(), 0666), 0);
	ck_assert_int_eq(chmod(dirname(path), 0755), 0);
	outsider_start(&outsider, &pid);
	own(&outsider, pid);
}
END_TEST

START_TEST(only_uffd_regions_can_be_frozen_from_outside)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_SCOOT, 1 << 20);
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	struct cow_snapshot *snap = NULL;

	ck_assert_int_eq(cow_snapshot_new_outside(&snap, client, region->id), -EOPNOTSUPP);
	ck_assert_int_eq(cow_snapshot_new_outside(&snap, client, 0), -ENOENT);
	ck_assert_int_eq(cow_snapshot_new_outside(&snap, client, UINT64_MAX), -ENOENT);
	ck_assert_ptr_null(snap);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("outside", 60);

	proof_need_uffd();
	tcase_add_test(tcase, another_process_of_the_user_freezes_a_region_being_written);
	tcase_add_test(tcase, rolling_back_is_one_step_to_others);
	tcase_add_test(tcase, operators_do_not_meet_the_owners_own_snapshots);
	tcase_add_test(tcase, another_user_is_told_that_there_is_none);
	tcase_add_test(tcase, only_uffd_regions_can_be_frozen_from_outside);
	return proof_run(tcase);
}
