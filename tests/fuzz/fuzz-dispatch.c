// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Anything at all from a client: decoded, dispatched, answered or its connection ended; and
 * whatever it was, nothing stays open and nothing stays charged.
 *
 * An input is a conversation, packets one after the other:
 *
 * - Byte 0: how many descriptors go with the packet (low 2 bits), and of which kind (the rest).
 *
 * - Bytes 1 and 2: length of the packet, little-endian; what is longer than the rest is cut.
 *
 * - The packet.
 *
 * Built with clang and -fsanitize=fuzzer this is the fuzzer's target (make fuzz). Otherwise it is a
 * test that replays conversations that make sense, each cut off at every byte and with bits turned
 * over, and files that are named on its command line.
 */
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "daemon/rpc/session.h"
#include "unit/frame.h"

enum {
	PACKETS_MAX = 24,
	TURNS_MAX = 10000,
	TURNS_PER_PACKET = 30,
	REGION_BYTES = 1 << 16,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int sealed_memfd(void)
{
	AUTO_FD int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	ck_assert(fd >= 0 && !ftruncate(fd, REGION_BYTES));
	ck_assert(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	return fd_steal(&fd);
}

static int make_fd(unsigned int kind)
{
	int fds[2] = {-1, -1};

	switch (kind % 6) {
	case 0:
		return sealed_memfd();
	case 1:
		return memfd_create("fuzz", MFD_CLOEXEC);
	case 2:
		ck_assert(!pipe2(fds, O_CLOEXEC));
		break;
	case 3:
		ck_assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
		break;
	case 4:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	default:
		return open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	}
	(void)fd_close(fds[0]);
	return fds[1];
}

static void drain(int sock)
{
	static uint8_t packet[WIRE_PACKET_MAX_BYTES];
	struct fdset fds;
	size_t n_bytes;

	while (!wire_recv(sock, packet, sizeof(packet), &n_bytes, &fds, MSG_DONTWAIT)) {
		Cow__V1__Reply *reply = cow__v1__reply__unpack(NULL, n_bytes, packet);

		ck_assert(reply && reply->n_fds == fds.n_fds);
		ck_assert(!reply->error || *reply->sentence);
		if (getenv("FUZZ_VERBOSE"))
			(void)printf("%llu: error %u, %s\n", (unsigned long long)reply->id,
				     reply->error, reply->sentence);
		cow__v1__reply__free_unpacked(reply, NULL);
		fdset_deinit(&fds);
	}
}

/* Return: whether the connection is still there. */
static bool send_packet(int sock, const uint8_t *packet, size_t n_bytes, unsigned int head)
{
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	int r;

	for (unsigned int i = 0; i < (head & 3); i++) {
		fds.fds[i] = make_fd((head >> 2) + i);
		ck_assert(fds.fds[i] >= 0);
		fds.n_fds++;
	}
	r = wire_send(sock, packet, n_bytes, fds.fds, fds.n_fds, MSG_DONTWAIT);
	frame_turn();
	/* What threads work on is answered soon, or never: a save to a pipe that nobody reads. */
	for (int i = 0; i < TURNS_PER_PACKET && frame.sessions && frame.sessions->n_calls; i++) {
		(void)sched_yield();
		frame_turn();
	}
	drain(sock);
	return !r;
}

static bool is_anything_charged(void)
{
	for (int i = 0; i < QUOTA_N; i++) {
		if (quota_total(frame.quota, (enum quota_kind)i))
			return true;
	}
	return false;
}

/* The client hangs up: everything goes, some of it once the
 * threads that work on it have noticed. */
static void hang_up(int *sock, int n_fds_idle)
{
	*sock = fd_close(*sock);
	for (int i = 0;
	     frame.n_sessions || is_anything_charged() || frame_count_fds() != n_fds_idle; i++) {
		ck_assert(i < TURNS_MAX);
		frame_turn();
		if (i > 100)
			(void)poll(NULL, 0, 1);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool is_started;
	int sock, n_fds_idle;

	if (!is_started) {
		is_started = true;
		frame_start();
		/* as if the kernel could: no region of this test is written to */
		frame.probe.has_uffd = true;
		frame.probe.has_dontunmap = true;
	}
	n_fds_idle = frame_count_fds();
	sock = frame_connect();
	for (int i = 0; i < PACKETS_MAX && size >= 3; i++) {
		unsigned int head = data[0];
		size_t n_bytes = (size_t)data[1] | (size_t)data[2] << 8;

		data += 3;
		size -= 3;
		n_bytes = n_bytes < size ? n_bytes : size;
		if (!send_packet(sock, data, n_bytes, head))
			break;
		data += n_bytes;
		size -= n_bytes;
	}
	hang_up(&sock, n_fds_idle);
	frame.next_id = 0; /* the same conversation has the same numbers again */
	return 0;
}
