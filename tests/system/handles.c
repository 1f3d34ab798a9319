// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Several handles of one snapshot, in one client and in others: each of them hears that it is lost;
 * and what another process is given to read by cannot be made to write; nor can anybody change the
 * size of a region's memory.
 *
 * Seen to fail: with cowi_snapshot_lost_event() that stops at the first handle, and without
 * fchmod() in make_memfd() (daemon/region/backing.c); with a client thread that notes only by
 * reading the socket again that nothing is left in it; without F_SEAL_SHRINK in BACKING_SEALS.
 */
#include "config.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "libclient/scoot/mode.h"
#include "system/proof.h"
#include "tests/skip.h"

enum {
	REGION_BYTES = 4 << 20,
	N_TAKES = 1000,
	NOBODY = 65534,
};

/* Nothing is asked of cowd: the event alone tells. */
static void wait_until_lost(struct cow_snapshot *snap)
{
	struct cow_client *client = snap->client;

	(void)cowi_entry_begin();
	pthread_mutex_lock(&client->lock);
	while (snap->state != COWI_SNAPSHOT_LOST)
		(void)cowi_event_wait(&client->changed, &client->lock, NULL);
	pthread_mutex_unlock(&client->lock);
	cowi_entry_end();
	ck_assert_uint_eq(cow_snapshot_id(snap), 0);
	ck_assert_ptr_nonnull(strstr(cow_last_error(), "budget"));
}

START_TEST(every_handle_hears_of_the_loss)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_UFFD, REGION_BYTES);
	CLEANUP(cow_client_unrefp) struct cow_client *other = proof_client();
	const struct cow_snapshot_params params = {.budget_bytes = 1 << 20};
	struct cow_snapshot *handles[5] = {NULL};
	uint64_t id;

	proof_fill(cow_region_address(region), REGION_BYTES, 1);
	proof_ok(cow_snapshot_new_with(&handles[0], region, &params));
	id = cow_snapshot_id(handles[0]);
	proof_ok(cow_snapshot_open(&handles[1], region->client, id));
	proof_ok(cow_snapshot_open(&handles[2], region->client, id));
	proof_ok(cow_snapshot_open(&handles[3], other, id));
	proof_ok(cow_snapshot_open(&handles[4], other, id));
	proof_fill(cow_region_address(region), REGION_BYTES, 2);
	for (size_t i = 0; i < ARRAY_SIZE(handles); i++) {
		wait_until_lost(handles[i]);
		cow_snapshot_unref(handles[i]);
	}
}
END_TEST

struct reading {
	struct cow_snapshot *snap;
	atomic_bool is_over;
	_Atomic uint64_t n_reads;
	_Atomic int error;
};

static void *read_until_over(void *arg)
{
	struct reading *reading = arg;
	char byte;

	while (!atomic_load(&reading->is_over) && !reading->error) {
		reading->error = cow_snapshot_read(reading->snap, &byte, 1, 0);
		reading->n_reads++;
	}
	return NULL;
}

/*
 * A reader of an opened snapshot waits until all that cowd has said is known. Meanwhile the
 * client's thread makes calls of its own, whose answers it reads out of turn.
 */
START_TEST(readers_do_not_wait_for_what_was_received)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_SCOOT, REGION_BYTES);
	struct cow_snapshot *first, *snap = NULL, *older = NULL;
	struct reading reading = {.error = 0};
	pthread_t thread;

	proof_fill(cow_region_address(region), REGION_BYTES, 1);
	proof_ok(cow_snapshot_new(&first, region));
	proof_ok(cow_snapshot_open(&reading.snap, region->client, cow_snapshot_id(first)));
	ck_assert(!pthread_create(&thread, NULL, read_until_over, &reading));
	for (int i = 0; i < N_TAKES; i++) {
		proof_fill(cow_region_address(region), 1 << 16, (uint8_t)i);
		cow_snapshot_unref(older);
		older = snap;
		proof_ok(cow_snapshot_new(&snap, region));
		/* Nothing but its own calls makes cowd send anything now. */
		for (uint64_t n = reading.n_reads; reading.n_reads < n + 3 && !reading.error;)
			sched_yield();
	}
	atomic_store(&reading.is_over, true);
	pthread_join(thread, NULL);
	proof_ok(reading.error);
	ck_assert_uint_gt(reading.n_reads, 0);
	cow_snapshot_unref(reading.snap);
	cow_snapshot_unref(first);
	cow_snapshot_unref(snap);
	cow_snapshot_unref(older);
}
END_TEST

/* As a user who is neither root nor cowd. Return: exit status. */
static int try_to_write(void)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_client_unrefp) struct cow_client *reader = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *opened = NULL;
	char path[64];
	int ro_fd;

	/* A change of user hides /proc/self, which the library looks at. */
	if (setgid(NOBODY) || setuid(NOBODY) || prctl(PR_SET_DUMPABLE, 1))
		return 2;
	region = proof_region(COW_MODE_SCOOT, REGION_BYTES);
	reader = proof_client();
	proof_ok(cow_snapshot_new(&snap, region));
	proof_ok(cow_snapshot_open(&opened, reader, cow_snapshot_id(snap)));
	ro_fd = opened->scoot->map.runs[0].backing->ro_fd;
	if (ro_fd < 0 || opened->scoot->map.runs[0].backing->fd >= 0)
		return 3;
	if (write(ro_fd, "x", 1) >= 0 ||
	    mmap(NULL, page_size_bytes(), PROT_WRITE, MAP_SHARED, ro_fd, 0) != MAP_FAILED)
		return 4;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", ro_fd);
	if (open(path, O_RDWR | O_CLOEXEC) >= 0 || open(path, O_WRONLY | O_CLOEXEC) >= 0)
		return 5;
	return fchmod(ro_fd, 0777) ? 0 : 6;
}

static void await_snapshots(uint64_t n)
{
	struct proof_holdings now;

	do
		proof_holdings(&now);
	while (now.n_snapshots != n);
}

/*
 * cowd hears of a take that it was not needed for, whatever the program does next: nothing, ask for
 * the snapshot's id, or release it. Seen to fail: without start_timer() in conn/send.c the first
 * waits for ever; without cowi_hurry() in cowi_snapshot_await_id(), and with a timer of an hour,
 * the second.
 */
START_TEST(cowd_hears_of_each_snapshot)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_SCOOT, REGION_BYTES);
	struct proof_holdings before;
	struct cow_snapshot *snap = NULL;

	proof_holdings(&before);
	proof_ok(cow_snapshot_new(&snap, region));
	await_snapshots(before.n_snapshots + 1);
	cow_snapshot_unref(snap);
	await_snapshots(before.n_snapshots);
	proof_ok(cow_snapshot_new(&snap, region));
	ck_assert_uint_ne(cow_snapshot_id(snap), 0);
	cow_snapshot_unref(snap);
	for (int i = 0; i < 100; i++) {
		proof_ok(cow_snapshot_new(&snap, region));
		cow_snapshot_unref(snap);
	}
	await_snapshots(before.n_snapshots);
}
END_TEST

START_TEST(what_is_for_reading_cannot_be_opened_for_writing)
{
	pid_t pid;

	if (getuid() != 0)
		test_skip("another user than cowd's can only be had by root");
	ck_assert(!chmod(proof_address(), 0666));
	pid = fork();
	if (!pid)
		_exit(try_to_write());
	proof_reap(pid, 0);
}
END_TEST

/* cowd reads a region through a mapping of its own, where a memfd cut short would raise SIGBUS. */
START_TEST(the_size_of_a_regions_memory_is_sealed)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_SCOOT, REGION_BYTES);
	int fd = region->scoot->map.runs[0].backing->fd;

	ck_assert_int_eq(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	ck_assert_int_eq(ftruncate(fd, REGION_BYTES / 2), -1);
	ck_assert_int_eq(errno, EPERM);
	ck_assert_int_eq(ftruncate(fd, 2 * REGION_BYTES), -1);
	ck_assert_int_eq(errno, EPERM);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("handles", 60);

	if (proof_has_uffd())
		tcase_add_test(tcase, every_handle_hears_of_the_loss);
	tcase_add_test(tcase, readers_do_not_wait_for_what_was_received);
	tcase_add_test(tcase, cowd_hears_of_each_snapshot);
	tcase_add_test(tcase, what_is_for_reading_cannot_be_opened_for_writing);
	tcase_add_test(tcase, the_size_of_a_regions_memory_is_sealed);
	return proof_run(tcase);
}
