// SPDX-License-Identifier: GPL-2.0-or-later
// A daemon inside of a test; see frame.h.
#include "config.h"

#include "unit/frame.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include "daemon/base/worker.h"
#include "daemon/process/log.h"
#include "daemon/rpc/events.h"
#include "daemon/rpc/session.h"

#define TURNS_MAX 20000

struct daemon frame;

void frame_start(void)
{
	frame = (struct daemon){
		.snapshot_events = &events_of_snapshots, .uffd_device_fd = -1, .statm_fd = -1};
	frame.options.client_fd = -1;
	frame.proc_self_fd_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(frame.proc_self_fd_fd, 0);
	log_init(false);
	ck_assert_int_eq(loop_new(&frame.loop), 0);
	ck_assert_int_eq(quota_new(&frame.quota), 0);
	ck_assert_int_eq(job_pool_new(&frame.jobs, frame.loop, 2, "test-job"), 0);
	ck_assert_int_eq(job_pool_new(&frame.savers, frame.loop, 1, "test-saver"), 0);
	ck_assert_int_eq(worker_pool_new(&frame.workers, 1), 0);
}

void frame_stop(void)
{
	bool any = true;

	while (frame.sessions)
		session_end(frame.sessions, "end of the test");
	while (any) {
		any = loop_run_tasks(frame.loop);
		any |= job_pool_finish(frame.jobs);
		any |= job_pool_finish(frame.savers);
	}
	for (int i = 0; i < QUOTA_N; i++)
		ck_assert_uint_eq(quota_total(frame.quota, (enum quota_kind)i), 0);
	ck_assert_uint_eq(frame.n_sessions, 0);
	frame.workers = worker_pool_free(frame.workers);
	frame.savers = job_pool_free(frame.savers);
	frame.jobs = job_pool_free(frame.jobs);
	frame.quota = quota_free(frame.quota);
	frame.loop = loop_free(frame.loop);
	frame.proc_self_fd_fd = fd_close(frame.proc_self_fd_fd);
}

struct stop {
	struct task task;
	bool is_second;
};

/* Stopping leaves what is behind it in the batch uncalled, so the first round is run to its end. */
static void stop_loop(struct task *task)
{
	struct stop *stop = container_of(task, struct stop, task);

	if (stop->is_second)
		loop_stop(frame.loop);
	else
		loop_post(frame.loop, task);
	stop->is_second = true;
}

void frame_turn(void)
{
	struct stop stop = {.task = {.run = stop_loop}};

	loop_post(frame.loop, &stop.task);
	ck_assert_int_eq(loop_run(frame.loop), 0);
}

int frame_connect(void)
{
	int socks[2];

	ck_assert_int_eq(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, socks), 0);
	ck_assert_int_eq(session_new(NULL, &frame, &socks[1]), 0);
	ck_assert_int_eq(socks[1], -1);
	return socks[0];
}

int frame_greet(void)
{
	Cow__V1__Request request;
	Cow__V1__Hello hello;
	int sock = frame_connect();

	cow__v1__request__init(&request);
	cow__v1__hello__init(&hello);
	hello.version = 1;
	request.id = 1;
	request.call_case = COW__V1__REQUEST__CALL_HELLO;
	request.hello = &hello;
	frame_send(sock, &request, NULL, 0);
	frame_expect(sock, 1, 0);
	return sock;
}

void frame_send(int sock, const Cow__V1__Request *request, const int *fds, size_t n_fds)
{
	unsigned char packet[4096];

	ck_assert_uint_le(cow__v1__request__get_packed_size(request), sizeof(packet));
	ck_assert_int_eq(
		wire_send(sock, packet, cow__v1__request__pack(request, packet), fds, n_fds, 0), 0);
}

void frame_send_status(int sock, uint64_t id, uint32_t n_fds_said, const int *fds, size_t n_fds)
{
	Cow__V1__Request request;
	Cow__V1__Status status;

	cow__v1__request__init(&request);
	cow__v1__status__init(&status);
	request.id = id;
	request.n_fds = n_fds_said;
	request.call_case = COW__V1__REQUEST__CALL_STATUS;
	request.status = &status;
	frame_send(sock, &request, fds, n_fds);
}

Cow__V1__Reply *frame_receive(int sock, struct fdset *fds)
{
	static unsigned char packet[WIRE_PACKET_MAX_BYTES];
	CLEANUP(fdset_deinit) struct fdset own = {.n_fds = 0};
	Cow__V1__Reply *reply;
	size_t n_bytes;

	for (int i = 0;; i++) {
		struct pollfd ready = {.fd = sock, .events = POLLIN};

		ck_assert_int_lt(i, TURNS_MAX);
		if (poll(&ready, 1, 0) > 0)
			break;
		frame_turn();
	}
	if (wire_recv(sock, packet, sizeof(packet), &n_bytes, fds ? fds : &own, 0))
		return NULL;
	reply = cow__v1__reply__unpack(NULL, n_bytes, packet);
	ck_assert_ptr_nonnull(reply);
	ck_assert_uint_eq(reply->n_fds, (fds ? fds : &own)->n_fds);
	return reply;
}

void frame_expect(int sock, uint64_t id, int error)
{
	Cow__V1__Reply *reply = frame_receive(sock, NULL);

	ck_assert_ptr_nonnull(reply);
	ck_assert_uint_eq(reply->id, id);
	ck_assert_msg((int)reply->error == error, "error %u: %s", reply->error, reply->sentence);
	ck_assert(!error || *reply->sentence);
	cow__v1__reply__free_unpacked(reply, NULL);
}

void frame_expect_end(int sock)
{
	Cow__V1__Reply *reply;

	while ((reply = frame_receive(sock, NULL))) {
		ck_assert_uint_eq(reply->id, 0);
		ck_assert_uint_ne(reply->error, 0);
		cow__v1__reply__free_unpacked(reply, NULL);
	}
}

int frame_count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}
