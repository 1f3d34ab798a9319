// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The way of a region in mode uffd through its states, seen from inside: this process is the client
 * and cowd at once, and turns the loop itself.
 *
 * Seen to fail: without loop_post() in tracker_gone(), with attach_done() that has a region served
 * whatever state it is in, and with region_disown() that orphans a freed region.
 */
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <semaphore.h>
#include <sys/mman.h>

#include "daemon/region/backing.h"
#include "daemon/uffd/chain.h"
#include "tests/skip.h"
#include "tests/unit/scoot-fixture.h"
#include "unit/frame.h"

#define N_PAGES   ((uint64_t)4)
#define TURNS_MAX 100000

static int sock;
static uint64_t next_id, size_bytes;
static char *memory;

/* The reply to a request, whose first descriptor goes to @fd; events are passed over. */
static Cow__V1__Reply *receive(int from, uint64_t id, int *fd)
{
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	Cow__V1__Reply *reply;

	while ((reply = frame_receive(from, &fds)) && !reply->id)
		cow__v1__reply__free_unpacked(reply, NULL);
	ck_assert_ptr_nonnull(reply);
	ck_assert_uint_eq(reply->id, id);
	ck_assert_msg(!reply->error, "error %u: %s", reply->error, reply->sentence);
	if (fd)
		*fd = fdset_take(&fds, 0);
	return reply;
}

/* Return: the id of the region that the reply is about; its memfd goes to @memfd. */
static uint64_t receive_region(int from, int *memfd)
{
	Cow__V1__Reply *reply = receive(from, next_id, memfd);
	uint64_t id = reply->region->region_id;

	cow__v1__reply__free_unpacked(reply, NULL);
	return id;
}

static uint64_t create(int to, int *memfd)
{
	Cow__V1__RegionCreate call = COW__V1__REGION_CREATE__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;

	call.mode = COW__V1__MODE__MODE_UFFD;
	call.size_bytes = size_bytes;
	request.id = ++next_id;
	request.call_case = COW__V1__REQUEST__CALL_REGION_CREATE;
	request.region_create = &call;
	frame_send(to, &request, NULL, 0);
	return receive_region(to, memfd);
}

static uint64_t restore(int to, int memfd)
{
	Cow__V1__RegionRestore call = COW__V1__REGION_RESTORE__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;

	call.mode = COW__V1__MODE__MODE_UFFD;
	call.size_bytes = size_bytes;
	request.id = ++next_id;
	request.n_fds = 1;
	request.call_case = COW__V1__REQUEST__CALL_REGION_RESTORE;
	request.region_restore = &call;
	frame_send(to, &request, &memfd, 1);
	return receive_region(to, NULL);
}

static void send_attach(int to, uint64_t region_id)
{
	Cow__V1__RegionAttach call = COW__V1__REGION_ATTACH__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	AUTO_FD int uffd = make_uffd();

	ck_assert_int_ge(uffd, 0);
	call.region_id = region_id;
	call.addr = (uint64_t)(uintptr_t)memory;
	request.id = ++next_id;
	request.n_fds = 1;
	request.call_case = COW__V1__REQUEST__CALL_REGION_ATTACH;
	request.region_attach = &call;
	frame_send(to, &request, &uffd, 1);
}

static void attach(int to, uint64_t region_id)
{
	send_attach(to, region_id);
	frame_expect(to, next_id, 0);
}

static void send_free(int to, uint64_t region_id)
{
	Cow__V1__RegionFree call = COW__V1__REGION_FREE__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;

	call.region_id = region_id;
	request.id = ++next_id;
	request.call_case = COW__V1__REQUEST__CALL_REGION_FREE;
	request.region_free = &call;
	frame_send(to, &request, NULL, 0);
}

/* By somebody else than the owner. */
static void take_region(int to, uint64_t region_id)
{
	Cow__V1__SnapshotTake call = COW__V1__SNAPSHOT_TAKE__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;

	call.region_id = region_id;
	request.id = ++next_id;
	request.call_case = COW__V1__REQUEST__CALL_SNAPSHOT_TAKE;
	request.snapshot_take = &call;
	frame_send(to, &request, NULL, 0);
	cow__v1__reply__free_unpacked(receive(to, next_id, NULL), NULL);
}

static void setup(void)
{
	frame_start();
	frame.uffd_device_fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	frame.options.lend = LEND_YES;
	probe_kernel(&frame.probe, &frame.options, frame.uffd_device_fd);
	size_bytes = N_PAGES * page_size_bytes();
	next_id = 1;
	sock = frame_greet();
}

static void teardown(void)
{
	sock = fd_close(sock);
	frame_stop();
	frame.uffd_device_fd = fd_close(frame.uffd_device_fd);
	if (memory)
		(void)munmap(memory, size_bytes);
	memory = NULL;
}

static bool has_mode(void)
{
	return frame.uffd_device_fd >= 0 && frame.probe.has_uffd;
}

/* Mapped, and not attached. */
static uint64_t create_and_map(int *memfd)
{
	uint64_t id = create(sock, memfd);

	memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *memfd, 0);
	ck_assert(memory != MAP_FAILED);
	return id;
}

static void turn_until_ended(void)
{
	for (int i = 0; frame.regions; i++) {
		ck_assert_int_lt(i, TURNS_MAX);
		frame_turn();
		(void)sched_yield();
	}
}

/* --- jobs that wait --------------------------------------------------------------------------- */

static struct wait {
	struct job job;
	sem_t may_end;
} waits[2]; /* one for each thread of frame.jobs */

static void wait_run(struct job *job)
{
	(void)sem_wait(&container_of(job, struct wait, job)->may_end);
}

static void wait_done(struct job *job)
{
	(void)job;
}

static void hold_jobs(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(waits); i++) {
		ck_assert_int_eq(sem_init(&waits[i].may_end, 0, 0), 0);
		waits[i].job = (struct job){.run = wait_run, .done = wait_done, .client_id = i};
		job_submit(frame.jobs, &waits[i].job);
	}
}

static void let_jobs_run(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(waits); i++)
		ck_assert_int_eq(sem_post(&waits[i].may_end), 0);
}

/* ---------------------------------------------------------------------------------------------- */

START_TEST(a_descriptor_that_is_of_no_more_use_is_closed)
{
	AUTO_FD int memfd = -1;
	struct tracker *tracker;
	uint64_t id;

	if (!has_mode())
		test_skip("cowd could not serve mode uffd here");
	id = create_and_map(&memfd);
	ck_assert_int_eq(frame.regions->state, REGION_NEW);
	attach(sock, id);
	tracker = tracker_of(frame.regions);
	ck_assert_int_eq(tracker->region.state, REGION_ATTACHED);
	ck_assert_int_eq(tracker->state, TRACKER_SERVED);

	served_lock(&tracker->served);
	tracker_gone(tracker);
	served_unlock(&tracker->served);
	ck_assert_int_eq(tracker->state, TRACKER_GONE);
	for (int i = 0, uffd = 0; uffd >= 0; i++) {
		ck_assert_int_lt(i, TURNS_MAX);
		frame_turn();
		(void)sched_yield();
		served_lock(&tracker->served);
		uffd = tracker->uffd;
		served_unlock(&tracker->served);
	}
	ck_assert_int_eq(tracker->state, TRACKER_CLOSING);
	ck_assert_int_eq(tracker->region.state, REGION_ATTACHED);
}
END_TEST

START_TEST(a_region_freed_while_it_is_attached_is_not_served)
{
	AUTO_FD int memfd = -1;
	struct tracker *tracker;
	uint64_t id;
	int n_fds;

	if (!has_mode())
		test_skip("cowd could not serve mode uffd here");
	id = create_and_map(&memfd);
	tracker = tracker_of(region_ref(frame.regions));
	n_fds = frame_count_fds();
	hold_jobs();
	send_attach(sock, id);
	while (tracker->region.state == REGION_NEW)
		frame_turn();
	ck_assert_int_eq(tracker->region.state, REGION_ATTACHING);
	send_free(sock, id);
	while (tracker->region.session)
		frame_turn();
	ck_assert_int_eq(tracker->region.state, REGION_FREED);

	let_jobs_run();
	frame_expect(sock, next_id - 1, 0);
	frame_expect(sock, next_id, 0);
	ck_assert_int_eq(tracker->region.state, REGION_FREED);
	ck_assert_int_eq(tracker->state, TRACKER_NEW);
	region_unref(&tracker->region);
	turn_until_ended();
	for (int i = 0; frame_count_fds() > n_fds; i++) { /* closer threads close some */
		ck_assert_int_lt(i, TURNS_MAX);
		frame_turn();
		(void)sched_yield();
	}
}
END_TEST

START_TEST(a_region_whose_owner_comes_back_is_resumed)
{
	AUTO_FD int memfd = -1;
	struct region *region;
	int other;
	uint64_t id;

	if (!has_mode())
		test_skip("cowd could not serve mode uffd here");
	id = create_and_map(&memfd);
	attach(sock, id);
	region = frame.regions;
	other = frame_greet();
	next_id++; /* not that of a Hello */
	take_region(other, id);
	sock = fd_close(sock);
	while (region->session)
		frame_turn();
	ck_assert_int_eq(region->state, REGION_ORPHANED);
	ck_assert(!region_has_owner(region));

	sock = frame_greet();
	ck_assert_uint_eq(restore(sock, memfd), id);
	ck_assert_int_eq(region->state, REGION_RESUMED);
	ck_assert(region_has_owner(region));
	attach(sock, id);
	ck_assert_int_eq(region->state, REGION_ATTACHED);
	ck_assert_int_eq(tracker_of(region)->state, TRACKER_SERVED);
	ck_assert_int_eq(tracker_of(region)->newest->snap.state, SNAPSHOT_FROZEN);

	other = fd_close(other);
	while (region->n_snapshots)
		frame_turn();
	send_free(sock, id);
	frame_expect(sock, next_id, 0);
	turn_until_ended();
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("tracker");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, a_descriptor_that_is_of_no_more_use_is_closed);
	tcase_add_test(tcase, a_region_freed_while_it_is_attached_is_not_served);
	tcase_add_test(tcase, a_region_whose_owner_comes_back_is_resumed);
	return run_with_uffd(tcase);
}
