// SPDX-License-Identifier: GPL-2.0-or-later
// Connections: what they may hold, how they end, and that a client's silence costs nobody else.
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "common/err.h"
#include "daemon/rpc/listener.h"
#include "daemon/rpc/send-queue.h"
#include "daemon/rpc/session.h"
#include "unit/frame.h"

static char dir[64];
static char path[80];

static void setup(void)
{
	(void)snprintf(dir, sizeof(dir), "/tmp/cowd-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/sock", dir);
	frame_start();
}

static void teardown(void)
{
	frame_stop();
	(void)unlink(path);
	(void)rmdir(dir);
}

static int connect_to(const char *where)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	ck_assert_int_ge(sock, 0);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", where);
	ck_assert_int_eq(connect(sock, (struct sockaddr *)&address, sizeof(address)), 0);
	return sock;
}

START_TEST(a_refused_connection_leaves_its_socket_with_the_caller)
{
	AUTO_FD int ours = -1;
	AUTO_FD int theirs = -1;
	AUTO_FD int first = frame_connect();
	int socks[2];

	quota_set_limit(frame.quota, QUOTA_SESSIONS, 1);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks), 0);
	ours = socks[0];
	theirs = socks[1];
	ck_assert_int_eq(session_new(NULL, &frame, &theirs), -EDQUOT);
	ck_assert_int_ge(theirs, 0);
	ck_assert_int_ge(fcntl(theirs, F_GETFD), 0);
	ck_assert_ptr_nonnull(strstr(err_sentence(), "of 1 connections"));
	ck_assert_uint_eq(frame.n_sessions, 1);
}
END_TEST

START_TEST(who_is_over_the_limit_is_told_why)
{
	CLEANUP(listener_freep) struct listener *listener = NULL;
	AUTO_FD int a = -1;
	AUTO_FD int b = -1;
	Cow__V1__Reply *reply;

	quota_set_limit(frame.quota, QUOTA_SESSIONS, 1);
	ck_assert_int_eq(listener_new_at(&listener, &frame, path, 0600), 0);
	ck_assert_int_eq(listener_start(listener), 0);
	a = connect_to(path);
	b = connect_to(path);
	reply = frame_receive(b, NULL);
	ck_assert_ptr_nonnull(reply);
	ck_assert_uint_eq(reply->error, EDQUOT);
	ck_assert_ptr_nonnull(strstr(reply->sentence, "sessions"));
	cow__v1__reply__free_unpacked(reply, NULL);
	frame_expect_end(b);
	ck_assert_uint_eq(frame.stats.connections_refused, 1);
}
END_TEST

/*
 * Who sends may be walking the session's holds or saves. Broken by a session_send() that ends the
 * session itself: under the address sanitizer, tests that lose snapshots of dead clients fell.
 */
START_TEST(a_reply_that_cannot_be_sent_ends_the_session_in_the_loop)
{
	int sock = frame_greet();
	struct session *session = frame.sessions;
	Cow__V1__Reply event;

	cow__v1__reply__init(&event);
	event.error = EPROTO;
	fd_close(sock);
	session_send(session, &event, NULL, 0);
	ck_assert(!session->has_ended);
	session_send(session, &event, NULL, 0);
	while (frame.n_sessions)
		frame_turn();
}
END_TEST

/* Broken by a queue without a bound. */
START_TEST(a_client_that_never_reads_is_ended)
{
	AUTO_FD int deaf = frame_greet();
	AUTO_FD int other = frame_greet();
	uint64_t n_sent = 0;

	while (frame.n_sessions == 2) {
		struct pollfd ready = {.fd = deaf, .events = POLLOUT};

		ck_assert_uint_lt(n_sent, 10 * SESSION_QUEUE_MAX_PACKETS);
		if (poll(&ready, 1, 0) > 0 && (ready.revents & POLLOUT))
			frame_send_status(deaf, 2 + n_sent++, 0, NULL, 0);
		frame_turn();
		ck_assert_uint_le(quota_total(frame.quota, QUOTA_QUEUED_BYTES),
				  SESSION_QUEUE_MAX_BYTES);
	}
	ck_assert_uint_gt(n_sent, SESSION_QUEUE_MAX_PACKETS);
	frame_send_status(other, 2, 0, NULL, 0);
	frame_expect(other, 2, 0);
}
END_TEST

START_TEST(a_slow_reader_gets_everything_in_order)
{
	enum {
		N = 450,
	};
	AUTO_FD int slow = frame_greet();

	for (uint64_t i = 0; i < N; i++) {
		frame_send_status(slow, 10 + i, 0, NULL, 0);
		frame_turn();
	}
	ck_assert_uint_gt(quota_total(frame.quota, QUOTA_QUEUED_BYTES), 0);
	for (uint64_t i = 0; i < N; i++)
		frame_expect(slow, 10 + i, 0);
	ck_assert_uint_eq(quota_total(frame.quota, QUOTA_QUEUED_BYTES), 0);
}
END_TEST

START_TEST(one_flood_leaves_others_their_turn)
{
	AUTO_FD int flood = frame_greet();
	AUTO_FD int other = frame_greet();
	uint64_t n_before;

	for (uint64_t i = 0; i < 100; i++)
		frame_send_status(flood, 10 + i, 0, NULL, 0);
	frame_send_status(other, 2, 0, NULL, 0);
	n_before = frame.stats.requests;
	while (recv(other, &(char){0}, 1, MSG_PEEK | MSG_DONTWAIT) < 0)
		frame_turn();
	/* Two turns of the flood at most. */
	ck_assert_uint_le(frame.stats.requests - n_before, 2 * 16 + 1);
}
END_TEST

/*
 * A child of the client inherits its socket and lives on. Broken by leaving out the pidfd: the
 * session then stays for as long as the grandchild does.
 */
START_TEST(a_session_ends_with_its_process_not_with_its_socket)
{
	CLEANUP(listener_freep) struct listener *listener = NULL;
	AUTO_FD int alive_fd = -1;
	int pipe_fds[2];
	pid_t child;

	ck_assert_int_eq(listener_new_at(&listener, &frame, path, 0600), 0);
	ck_assert_int_eq(listener_start(listener), 0);
	ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
	child = fork();
	if (!child) {
		(void)connect_to(path);
		if (fork() == 0) { /* holds the socket until the test closes its pipe */
			close(pipe_fds[1]);
			(void)!read(pipe_fds[0], &(char){0}, 1);
			_exit(0);
		}
		(void)raise(SIGSTOP);
		_exit(0);
	}
	close(pipe_fds[0]);
	alive_fd = pipe_fds[1];
	ck_assert_int_eq(waitpid(child, NULL, WUNTRACED), child);
	while (!frame.n_sessions)
		frame_turn();
	ck_assert_int_eq(frame.sessions->pid, child);
	ck_assert_int_eq(kill(child, SIGKILL), 0);
	ck_assert_int_eq(waitpid(child, NULL, 0), child);
	for (int i = 0; i < 100 && frame.n_sessions; i++)
		frame_turn();
	ck_assert_uint_eq(frame.n_sessions, 0);
}
END_TEST

/* As of a daemon that died: the file is there and nobody listens. */
static void leave_stale_socket(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	AUTO_FD int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	ck_assert_int_eq(bind(sock, (struct sockaddr *)&address, sizeof(address)), 0);
}

START_TEST(a_stale_socket_is_replaced_and_a_live_one_is_not)
{
	struct listener *listener = NULL;
	struct listener *second = NULL;
	struct stat st;
	mode_t mask = umask(022);

	ck_assert_int_eq(listener_new_at(&listener, &frame, path, 0666), 0);
	umask(mask);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0666);
	ck_assert_int_eq(listener_new_at(&second, &frame, path, 0666), -EADDRINUSE);
	ck_assert_ptr_nonnull(strstr(err_sentence(), path));
	ck_assert_int_eq(access(path, F_OK), 0);
	listener_free(listener);
	ck_assert_int_ne(access(path, F_OK), 0); /* it was ours to remove */

	leave_stale_socket();
	ck_assert_int_eq(listener_new_at(&listener, &frame, path, 0666), 0);
	listener_free(listener);
}
END_TEST

/* Seen to fail with the path removed at the end whatever is there. */
START_TEST(a_socket_that_took_the_place_is_left_alone)
{
	struct listener *listener = NULL;

	ck_assert_int_eq(listener_new_at(&listener, &frame, path, 0666), 0);
	ck_assert_int_eq(unlink(path), 0);
	leave_stale_socket();
	listener_free(listener);
	ck_assert_int_eq(access(path, F_OK), 0);
	ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(a_file_that_is_no_socket_is_left_alone)
{
	struct listener *listener = NULL;

	fd_close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	ck_assert_int_eq(listener_new_at(&listener, &frame, path, 0666), -EEXIST);
	ck_assert_int_eq(access(path, F_OK), 0);
	ck_assert_int_eq(listener_new_at(&listener, &frame, "/nonexistent/sock", 0666), -ENOENT);
}
END_TEST

/* Broken by retrying accept4() on EMFILE: the loop spins and the second client never hears
 * anything. */
START_TEST(out_of_descriptors_new_clients_are_turned_away_and_old_ones_go_on)
{
	CLEANUP(listener_freep) struct listener *listener = NULL;
	AUTO_FD int old = frame_greet();
	AUTO_FD int new = -1;
	struct rlimit before, tight;
	Cow__V1__Reply *reply;
	int lowest;

	ck_assert_int_eq(listener_new_at(&listener, &frame, path, 0600), 0);
	ck_assert_int_eq(listener_start(listener), 0);
	new = connect_to(path);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	lowest = fcntl(0, F_DUPFD_CLOEXEC, 0); /* all below are in use */
	close(lowest);
	tight = before;
	tight.rlim_cur = (rlim_t)lowest;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &tight), 0);
	reply = frame_receive(new, NULL);
	ck_assert_ptr_nonnull(reply);
	ck_assert_uint_eq(reply->error, EMFILE);
	cow__v1__reply__free_unpacked(reply, NULL);
	frame_send_status(old, 2, 0, NULL, 0);
	frame_expect(old, 2, 0);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
}
END_TEST

START_TEST(other_uids_are_seen_by_administrators_only)
{
	AUTO_FD int sock = frame_connect();
	struct session *session = frame.sessions;

	session->is_admin = false;
	ck_assert(session_may_see(session, session->uid));
	ck_assert(!session_may_see(session, session->uid + 1));
	session->is_admin = true;
	ck_assert(session_may_see(session, session->uid + 1));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("session");
	TCase *tcase = tcase_create("session");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 30);
	tcase_add_test(tcase, a_refused_connection_leaves_its_socket_with_the_caller);
	tcase_add_test(tcase, who_is_over_the_limit_is_told_why);
	tcase_add_test(tcase, a_reply_that_cannot_be_sent_ends_the_session_in_the_loop);
	tcase_add_test(tcase, a_client_that_never_reads_is_ended);
	tcase_add_test(tcase, a_slow_reader_gets_everything_in_order);
	tcase_add_test(tcase, one_flood_leaves_others_their_turn);
	tcase_add_test(tcase, a_session_ends_with_its_process_not_with_its_socket);
	tcase_add_test(tcase, a_stale_socket_is_replaced_and_a_live_one_is_not);
	tcase_add_test(tcase, a_socket_that_took_the_place_is_left_alone);
	tcase_add_test(tcase, a_file_that_is_no_socket_is_left_alone);
	tcase_add_test(tcase, out_of_descriptors_new_clients_are_turned_away_and_old_ones_go_on);
	tcase_add_test(tcase, other_uids_are_seen_by_administrators_only);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
