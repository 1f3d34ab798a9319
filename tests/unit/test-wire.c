// SPDX-License-Identifier: LGPL-2.1-or-later
/* Packets with descriptors: what arrives is owned once, and what arrives broken leaves nothing
 * open. */
#include "config.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "common/err.h"
#include "common/wire.h"

static int ours_fd, theirs_fd;

static void connect_pair(void)
{
	int fds[2];

	ck_assert(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
	ours_fd = fds[0];
	theirs_fd = fds[1];
}

static void close_pair(void)
{
	ours_fd = fd_close(ours_fd);
	theirs_fd = fd_close(theirs_fd);
}

static int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* The lowest number that is free; all others are below it, or few. */
static int next_fd(void)
{
	int fd = fcntl(ours_fd, F_DUPFD_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	fd_close(fd);
	return fd;
}

START_TEST(descriptors_arrive_in_order_and_closed_on_exec)
{
	AUTO_FD int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	AUTO_FD int zero_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	AUTO_FD int first_fd = -1;
	int sent[] = {null_fd, zero_fd};
	char buf[16], byte = 1;
	size_t len;

	ck_assert_int_eq(wire_send(ours_fd, "hello", 5, sent, 2, 0), 0);
	ck_assert_int_eq(wire_recv(theirs_fd, buf, sizeof(buf), &len, &fds, MSG_DONTWAIT), 0);
	ck_assert_uint_eq(len, 5);
	ck_assert_mem_eq(buf, "hello", 5);
	ck_assert_uint_eq(fds.n_fds, 2);
	ck_assert(fcntl(fds.fds[0], F_GETFD) & FD_CLOEXEC);
	ck_assert_int_eq(read(fds.fds[0], &byte, 1), 0);
	ck_assert_int_eq(read(fds.fds[1], &byte, 1), 1);
	first_fd = fdset_take(&fds, 0);
	ck_assert_int_ge(first_fd, 0);
	ck_assert_int_eq(fdset_take(&fds, 0), -1);
	ck_assert_int_eq(fdset_take(&fds, 2), -1);
	fdset_deinit(&fds);
	fdset_deinit(&fds);
	ck_assert_int_ge(fcntl(first_fd, F_GETFD), 0);
}
END_TEST

START_TEST(nothing_there_is_no_error)
{
	struct fdset fds;
	char buf[16];
	size_t len;

	ck_assert_int_eq(wire_recv(theirs_fd, buf, sizeof(buf), &len, &fds, MSG_DONTWAIT), -EAGAIN);
	ck_assert_uint_eq(fds.n_fds, 0);
}
END_TEST

START_TEST(a_full_buffer_is_no_error)
{
	int r;

	do {
		r = wire_send(ours_fd, "x", 1, NULL, 0, MSG_DONTWAIT);
	} while (!r);
	ck_assert_int_eq(r, -EAGAIN);
}
END_TEST

START_TEST(the_end_is_told_from_silence)
{
	struct fdset fds;
	char buf[16];
	size_t len;

	ours_fd = fd_close(ours_fd);
	ck_assert_int_eq(wire_recv(theirs_fd, buf, sizeof(buf), &len, &fds, 0), -ECONNRESET);
	ck_assert_int_eq(wire_send(theirs_fd, "x", 1, NULL, 0, 0), -ECONNRESET);
}
END_TEST

START_TEST(a_longer_packet_than_the_buffer_leaves_nothing_open)
{
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	int n_before = count_fds();
	char buf[4];
	size_t len;

	ck_assert_int_eq(wire_send(ours_fd, "hello", 5, &ours_fd, 1, 0), 0);
	ck_assert_int_eq(wire_recv(theirs_fd, buf, sizeof(buf), &len, &fds, 0), -EPROTO);
	ck_assert_uint_eq(fds.n_fds, 0);
	ck_assert_int_eq(count_fds(), n_before);
}
END_TEST

/* The kernel takes up to 253 descriptors; WIRE_FDS_MAX find room, and none of the rest may stay. */
START_TEST(too_many_descriptors_leave_nothing_open)
{
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	int n_before = count_fds(), many[WIRE_FDS_MAX + 1];
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(many))];
	} control = {.buf = {0}};
	char byte = 1;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.buf,
			     .msg_controllen = sizeof(control.buf)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	char buf[16];
	size_t len;

	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = ours_fd;
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(many));
	memcpy(CMSG_DATA(cmsg), many, sizeof(many));
	ck_assert_int_eq(sendmsg(ours_fd, &msg, 0), 1);
	ck_assert_int_eq(wire_recv(theirs_fd, buf, sizeof(buf), &len, &fds, 0), -EPROTO);
	ck_assert_uint_eq(fds.n_fds, 0);
	ck_assert_int_eq(count_fds(), n_before);
}
END_TEST

/* Credentials that the other end attaches are not what was asked for. */
/* Broken by calling a full table of descriptors a breach of the protocol. */
START_TEST(a_full_table_is_not_the_senders_fault)
{
	CLEANUP(fdset_deinit) struct fdset set = {.n_fds = 0};
	const int fds[] = {ours_fd, theirs_fd, ours_fd};
	struct rlimit limit, saved;
	char byte = 1;
	size_t len;
	int n_fds;

	n_fds = count_fds();
	ck_assert(!wire_send(theirs_fd, &byte, 1, fds, ARRAY_SIZE(fds), 0));
	ck_assert(!getrlimit(RLIMIT_NOFILE, &saved));
	/* Room for one more. */
	limit = (struct rlimit){.rlim_cur = (rlim_t)next_fd() + 1, .rlim_max = saved.rlim_max};
	ck_assert(!setrlimit(RLIMIT_NOFILE, &limit));
	ck_assert_int_eq(wire_recv(ours_fd, &byte, 1, &len, &set, 0), -EMFILE);
	ck_assert_uint_eq(set.n_fds, 0);
	ck_assert_ptr_nonnull(strstr(err_sentence(), "descriptors (ulimit -n"));
	ck_assert(!setrlimit(RLIMIT_NOFILE, &saved));
	ck_assert_int_eq(count_fds(), n_fds);
}
END_TEST

START_TEST(foreign_control_data_is_refused)
{
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	int n_before = count_fds(), one = 1;
	char buf[16];
	size_t len;

	ck_assert(!setsockopt(theirs_fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)));
	ck_assert_int_eq(wire_send(ours_fd, "x", 1, &ours_fd, 1, 0), 0);
	ck_assert_int_eq(wire_recv(theirs_fd, buf, sizeof(buf), &len, &fds, 0), -EPROTO);
	ck_assert_int_eq(count_fds(), n_before);
}
END_TEST

START_TEST(limits_are_kept_by_the_sender)
{
	static char packet[WIRE_PACKET_MAX_BYTES + 1];
	static char received[WIRE_PACKET_MAX_BYTES];
	int fds[WIRE_FDS_MAX + 1];
	struct fdset got;
	size_t len;

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = ours_fd;
	ck_assert_int_eq(wire_send(ours_fd, packet, sizeof(packet), NULL, 0, 0), -EMSGSIZE);
	ck_assert_int_eq(wire_send(ours_fd, packet, 1, fds, ARRAY_SIZE(fds), 0), -EMSGSIZE);
	/* The largest packet with the most descriptors fits the default buffer of a socket. */
	ck_assert_int_eq(
		wire_send(ours_fd, packet, WIRE_PACKET_MAX_BYTES, fds, WIRE_FDS_MAX, MSG_DONTWAIT),
		0);
	ck_assert_int_eq(wire_recv(theirs_fd, received, sizeof(received), &len, &got, 0), 0);
	ck_assert_uint_eq(len, WIRE_PACKET_MAX_BYTES);
	ck_assert_uint_eq(got.n_fds, WIRE_FDS_MAX);
	fdset_deinit(&got);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("wire");
	TCase *tcase = tcase_create("wire");
	SRunner *runner = srunner_create(suite);
	int n_failed;

	tcase_add_checked_fixture(tcase, connect_pair, close_pair);
	tcase_add_test(tcase, descriptors_arrive_in_order_and_closed_on_exec);
	tcase_add_test(tcase, nothing_there_is_no_error);
	tcase_add_test(tcase, a_full_buffer_is_no_error);
	tcase_add_test(tcase, the_end_is_told_from_silence);
	tcase_add_test(tcase, a_longer_packet_than_the_buffer_leaves_nothing_open);
	tcase_add_test(tcase, too_many_descriptors_leave_nothing_open);
	tcase_add_test(tcase, a_full_table_is_not_the_senders_fault);
	tcase_add_test(tcase, foreign_control_data_is_refused);
	tcase_add_test(tcase, limits_are_kept_by_the_sender);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
