// SPDX-License-Identifier: GPL-2.0-or-later
// Which packets end a connection, which get an error, and that neither leaves anything behind.
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "daemon/rpc/rpc.h"
#include "daemon/rpc/session.h"
#include "daemon/snapshot/frozen.h"
#include "unit/frame.h"

#define REGION_BYTES (1 << 20)

static int n_fds_before;

static void setup(void)
{
	frame_start();
	n_fds_before = frame_count_fds();
}

static void teardown(void)
{
	frame_stop();
}

static void send_hello(int sock, uint64_t id, uint32_t version)
{
	Cow__V1__Request request;
	Cow__V1__Hello hello;

	cow__v1__request__init(&request);
	cow__v1__hello__init(&hello);
	hello.version = version;
	hello.program = (char *)(uintptr_t) "a\nname";
	request.id = id;
	request.call_case = COW__V1__REQUEST__CALL_HELLO;
	request.hello = &hello;
	frame_send(sock, &request, NULL, 0);
}

START_TEST(hello_agrees_on_the_lower_version)
{
	AUTO_FD int sock = frame_connect();
	Cow__V1__Reply *reply;

	send_hello(sock, 7, 99);
	reply = frame_receive(sock, NULL);
	ck_assert(reply && !reply->error && reply->id == 7);
	ck_assert_uint_eq(reply->hello->version, 1);
	ck_assert_uint_eq(reply->hello->lend, LEND_NO); /* there is nothing to lend here */
	cow__v1__reply__free_unpacked(reply, NULL);
	ck_assert_str_eq(frame.sessions->program, "a?name");
}
END_TEST

START_TEST(a_version_too_old_is_told_so)
{
	AUTO_FD int sock = frame_connect();

	send_hello(sock, 1, 0);
	frame_expect(sock, 1, EPROTONOSUPPORT);
	send_hello(sock, 2, 1);
	frame_expect(sock, 2, 0);
}
END_TEST

START_TEST(hello_comes_first_and_once)
{
	AUTO_FD int early = frame_connect();
	AUTO_FD int twice = frame_greet();

	frame_send_status(early, 1, 0, NULL, 0);
	frame_expect_end(early);
	send_hello(twice, 2, 1);
	frame_expect_end(twice);
}
END_TEST

START_TEST(hello_lends_the_device_as_the_policy_says)
{
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	AUTO_FD int sock = frame_connect();
	AUTO_FD int device_fd = eventfd(0, EFD_CLOEXEC);
	Cow__V1__Reply *reply;

	frame.uffd_device_fd = device_fd;
	frame.options.lend = LEND_USER_MODE_ONLY;
	send_hello(sock, 1, 1);
	reply = frame_receive(sock, &fds);
	ck_assert_uint_eq(reply->hello->lend, LEND_USER_MODE_ONLY);
	ck_assert_uint_eq(fds.n_fds, 1);
	cow__v1__reply__free_unpacked(reply, NULL);
	ck_assert_int_ge(fcntl(device_fd, F_GETFD), 0); /* lent, not given */
	frame.uffd_device_fd = -1;
}
END_TEST

START_TEST(a_call_of_a_newer_version_gets_an_error)
{
	/* id 5; field 1000, a message of no bytes */
	static const unsigned char packet[] = {0x08, 0x05, 0xc2, 0x3e, 0x00};
	AUTO_FD int sock = frame_greet();

	ck_assert_int_eq(wire_send(sock, packet, sizeof(packet), NULL, 0, 0), 0);
	frame_expect(sock, 5, ENOSYS);
	frame_send_status(sock, 6, 0, NULL, 0);
	frame_expect(sock, 6, 0);
}
END_TEST

START_TEST(what_is_no_request_ends_the_connection)
{
	static const unsigned char rubbish[] = {0xff, 0xff, 0xff, 0xff, 0xff};
	static unsigned char huge[WIRE_PACKET_MAX_BYTES];
	AUTO_FD int other = frame_greet();
	AUTO_FD int a = frame_greet();
	AUTO_FD int b = frame_greet();

	ck_assert_int_eq(wire_send(a, rubbish, sizeof(rubbish), NULL, 0, 0), 0);
	frame_expect_end(a);
	ck_assert_int_eq(wire_send(b, huge, sizeof(huge), NULL, 0, 0), 0);
	frame_expect_end(b);
	frame_send_status(other, 9, 0, NULL, 0);
	frame_expect(other, 9, 0);
}
END_TEST

START_TEST(a_packet_over_the_limit_ends_the_connection)
{
	static unsigned char huge[WIRE_PACKET_MAX_BYTES + 1];
	AUTO_FD int sock = frame_greet();

	ck_assert_int_eq(send(sock, huge, sizeof(huge), MSG_NOSIGNAL), (ssize_t)sizeof(huge));
	frame_expect_end(sock);
}
END_TEST

START_TEST(id_zero_ends_the_connection)
{
	AUTO_FD int sock = frame_greet();

	frame_send_status(sock, 0, 0, NULL, 0);
	frame_expect_end(sock);
}
END_TEST

/* Broken by a dispatch that returns without emptying the set: the count at the end differs. */
START_TEST(descriptors_must_be_those_that_are_named)
{
	static const struct {
		uint32_t said;
		size_t sent;
	} rows[] = {{0, 1}, {1, 0}, {2, 1}, {1, 1}, {WIRE_FDS_MAX, WIRE_FDS_MAX}, {UINT32_MAX, 0}};
	AUTO_FD int fd = eventfd(0, EFD_CLOEXEC);
	int fds[WIRE_FDS_MAX];

	for (size_t i = 0; i < WIRE_FDS_MAX; i++)
		fds[i] = fd;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		AUTO_FD int sock = frame_greet();

		frame_send_status(sock, 2, rows[i].said, fds, rows[i].sent);
		frame_expect_end(sock);
	}
	ck_assert_int_eq(frame_count_fds(), n_fds_before + 1);
}
END_TEST

START_TEST(an_unknown_call_leaves_no_descriptors_behind)
{
	/* id 5, n_fds 1, field 1000 */
	static const unsigned char packet[] = {0x08, 0x05, 0x10, 0x01, 0xc2, 0x3e, 0x00};
	AUTO_FD int fd = eventfd(0, EFD_CLOEXEC);
	AUTO_FD int sock = frame_greet();
	int n_before = frame_count_fds();

	ck_assert_int_eq(wire_send(sock, packet, sizeof(packet), &fd, 1, 0), 0);
	frame_expect(sock, 5, ENOSYS);
	ck_assert_int_eq(frame_count_fds(), n_before);
}
END_TEST

/* --- calls that stay under way: saves to a pipe that nobody reads ----------------------------- */

/* Past events, such as the progress of a save, which come when they come. */
static Cow__V1__Reply *receive_reply(int sock)
{
	Cow__V1__Reply *reply = frame_receive(sock, NULL);

	while (reply && !reply->id) {
		cow__v1__reply__free_unpacked(reply, NULL);
		reply = frame_receive(sock, NULL);
	}
	return reply;
}

/* Of a region of its own. Return: what cowd answers, 0 with @id of the snapshot. */
static uint32_t take_snapshot(int sock, uint64_t *id)
{
	Cow__V1__Request request;
	Cow__V1__RegionCreate create;
	Cow__V1__SnapshotTake take;
	Cow__V1__Extent extent, *extents = &extent;
	Cow__V1__Reply *reply;
	uint32_t error;
	int lease[2];

	cow__v1__request__init(&request);
	cow__v1__region_create__init(&create);
	create.mode = COW__V1__MODE__MODE_SCOOT;
	create.size_bytes = REGION_BYTES;
	request.id = 100;
	request.call_case = COW__V1__REQUEST__CALL_REGION_CREATE;
	request.region_create = &create;
	frame_send(sock, &request, NULL, 0);
	reply = receive_reply(sock);
	ck_assert_msg(reply && !reply->error, "%s", reply ? reply->sentence : "end");

	cow__v1__snapshot_take__init(&take);
	cow__v1__extent__init(&extent);
	take.region_id = reply->region->region_id;
	extent.size_bytes = REGION_BYTES;
	extent.backing_id = reply->region->backing_id;
	take.n_extents = 1;
	take.extents = &extents;
	request.id = 101;
	request.call_case = COW__V1__REQUEST__CALL_SNAPSHOT_TAKE;
	request.snapshot_take = &take;
	request.n_fds = 1;
	ck_assert_int_eq(pipe2(lease, O_CLOEXEC), 0);
	frame_send(sock, &request, &lease[1], 1);
	fd_close(lease[0]);
	fd_close(lease[1]);
	cow__v1__reply__free_unpacked(reply, NULL);
	reply = receive_reply(sock);
	ck_assert_ptr_nonnull(reply);
	error = reply->error;
	if (!error)
		*id = reply->snapshot->snapshot_id;
	cow__v1__reply__free_unpacked(reply, NULL);
	return error;
}

static uint64_t make_snapshot(int sock)
{
	uint64_t id = 0;
	uint32_t error = take_snapshot(sock, &id);

	ck_assert_uint_eq(error, 0);
	return id;
}

/* Broken by a charge() of daemon/snapshot/frozen.c that is for nothing. */
START_TEST(extents_are_charged)
{
	AUTO_FD int sock = frame_greet();
	uint64_t id = 0;
	uint32_t error;

	quota_set_limit(frame.quota, QUOTA_KEPT_BYTES, sizeof(struct snapshot_extent));
	(void)make_snapshot(sock);
	ck_assert_uint_eq(quota_total(frame.quota, QUOTA_KEPT_BYTES),
			  sizeof(struct snapshot_extent));
	error = take_snapshot(sock, &id);
	ck_assert_uint_eq(error, EDQUOT);
	ck_assert_uint_eq(quota_total(frame.quota, QUOTA_SNAPSHOTS), 1);
}
END_TEST

static void send_save(int sock, uint64_t id, uint64_t snapshot_id, int pipe_fd)
{
	Cow__V1__Request request;
	Cow__V1__SnapshotSave save;

	cow__v1__request__init(&request);
	cow__v1__snapshot_save__init(&save);
	save.snapshot_id = snapshot_id;
	request.id = id;
	request.n_fds = 1;
	request.call_case = COW__V1__REQUEST__CALL_SNAPSHOT_SAVE;
	request.snapshot_save = &save;
	frame_send(sock, &request, &pipe_fd, 1);
}

START_TEST(an_id_that_is_in_use_ends_the_connection)
{
	AUTO_FD int sock = frame_greet();
	AUTO_FD int read_fd = -1;
	AUTO_FD int write_fd = -1;
	uint64_t snapshot_id = make_snapshot(sock);
	int pipe_fds[2];

	ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
	read_fd = pipe_fds[0];
	write_fd = pipe_fds[1];
	send_save(sock, 200, snapshot_id, write_fd);
	frame_send_status(sock, 201, 0, NULL, 0);
	frame_expect(sock, 201, 0);
	frame_send_status(sock, 200, 0, NULL, 0);
	frame_expect_end(sock);
}
END_TEST

START_TEST(too_many_calls_at_once_are_busy)
{
	AUTO_FD int sock = frame_greet();
	AUTO_FD int read_fd = -1;
	AUTO_FD int write_fd = -1;
	uint64_t snapshot_id = make_snapshot(sock);
	int pipe_fds[2];

	ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
	read_fd = pipe_fds[0];
	write_fd = pipe_fds[1];
	for (uint64_t i = 0; i < RPC_CALLS_MAX; i++)
		send_save(sock, 200 + i, snapshot_id, write_fd);
	frame_send_status(sock, 500, 0, NULL, 0);
	for (;;) { /* progress of the first one may come before */
		Cow__V1__Reply *reply = frame_receive(sock, NULL);
		uint64_t id;

		ck_assert_ptr_nonnull(reply);
		id = reply->id;
		ck_assert(id != 500 || reply->error == EBUSY);
		cow__v1__reply__free_unpacked(reply, NULL);
		if (id == 500)
			break;
	}
}
END_TEST

static void send_read(int sock, uint64_t id, uint64_t snapshot_id)
{
	Cow__V1__SnapshotRead read = COW__V1__SNAPSHOT_READ__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;

	read.snapshot_id = snapshot_id;
	read.size_bytes = WIRE_DATA_MAX_BYTES;
	request.id = id;
	request.call_case = COW__V1__REQUEST__CALL_SNAPSHOT_READ;
	request.snapshot_read = &read;
	frame_send(sock, &request, NULL, 0);
}

static void expect_reply(int sock, uint64_t id, int error)
{
	Cow__V1__Reply *reply = receive_reply(sock);

	ck_assert_msg(reply && reply->id == id && reply->error == (uint32_t)error,
		      "not the reply to %llu", (unsigned long long)id);
	cow__v1__reply__free_unpacked(reply, NULL);
}

/*
 * What is under way is charged, and refused when it is too much; what needs nothing goes on. Broken
 * by rpc_charge() that charges nothing.
 */
START_TEST(requests_under_way_are_charged)
{
	AUTO_FD int sock = frame_greet();
	AUTO_FD int read_fd = -1;
	AUTO_FD int write_fd = -1;
	uint64_t snapshot_id = make_snapshot(sock);
	uint64_t idle_bytes = quota_total(frame.quota, QUOTA_QUEUED_BYTES);
	int pipe_fds[2];

	ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
	read_fd = pipe_fds[0];
	write_fd = pipe_fds[1];
	send_save(sock, 200, snapshot_id, write_fd);
	frame_send_status(sock, 201, 0, NULL, 0);
	expect_reply(sock, 201, 0);
	ck_assert_uint_ge(quota_total(frame.quota, QUOTA_QUEUED_BYTES),
			  idle_bytes + sizeof(struct rpc_call));

	quota_set_limit(frame.quota, QUOTA_QUEUED_BYTES, idle_bytes + 2 * sizeof(struct rpc_call));
	send_save(sock, 202, snapshot_id, write_fd);
	expect_reply(sock, 202, EDQUOT);
	send_read(sock, 203, snapshot_id);
	expect_reply(sock, 203, EDQUOT);
	frame_send_status(sock, 204, 0, NULL, 0);
	expect_reply(sock, 204, 0);
	quota_set_limit(frame.quota, QUOTA_QUEUED_BYTES, UINT64_MAX);
	send_read(sock, 205, snapshot_id);
	expect_reply(sock, 205, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("rpc");
	TCase *tcase = tcase_create("rpc");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 30);
	tcase_add_test(tcase, hello_agrees_on_the_lower_version);
	tcase_add_test(tcase, a_version_too_old_is_told_so);
	tcase_add_test(tcase, hello_comes_first_and_once);
	tcase_add_test(tcase, hello_lends_the_device_as_the_policy_says);
	tcase_add_test(tcase, a_call_of_a_newer_version_gets_an_error);
	tcase_add_test(tcase, what_is_no_request_ends_the_connection);
	tcase_add_test(tcase, a_packet_over_the_limit_ends_the_connection);
	tcase_add_test(tcase, id_zero_ends_the_connection);
	tcase_add_test(tcase, descriptors_must_be_those_that_are_named);
	tcase_add_test(tcase, an_unknown_call_leaves_no_descriptors_behind);
	tcase_add_test(tcase, an_id_that_is_in_use_ends_the_connection);
	tcase_add_test(tcase, requests_under_way_are_charged);
	tcase_add_test(tcase, extents_are_charged);
	tcase_add_test(tcase, too_many_calls_at_once_are_busy);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
