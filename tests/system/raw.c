/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Packets as a client of its own making would send them; contracts are in raw.h. */
#include "config.h"

#include "system/raw.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "system/proof.h"

int raw_connect(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	ck_assert_uint_lt(strlen(proof_address()), sizeof(addr.sun_path));
	strcpy(addr.sun_path, proof_address());
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

int raw_send(int sock, Cow__V1__Request *request, const int *fds, size_t n_fds)
{
	uint8_t buf[1024];
	size_t len = cow__v1__request__get_packed_size(request);

	ck_assert_uint_le(len, sizeof(buf));
	cow__v1__request__pack(request, buf);
	return wire_send(sock, buf, len, fds, n_fds, MSG_DONTWAIT);
}

int raw_hello(int sock)
{
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__Hello hello;

	cow__v1__hello__init(&hello);
	hello.version = 1;
	request.id = 1;
	request.call_case = COW__V1__REQUEST__CALL_HELLO;
	request.hello = &hello;
	return raw_send(sock, &request, NULL, 0);
}

Cow__V1__Reply *raw_receive(int sock)
{
	static uint8_t buf[WIRE_PACKET_MAX_BYTES];
	CLEANUP(fdset_deinit) struct fdset fds = {};
	Cow__V1__Reply *reply;
	size_t len;

	if (wire_recv(sock, buf, sizeof(buf), &len, &fds, 0))
		return NULL;
	reply = cow__v1__reply__unpack(NULL, len, buf);
	ck_assert_ptr_nonnull(reply);
	return reply;
}

Cow__V1__Reply *raw_ask(int sock, Cow__V1__Request *request)
{
	return raw_ask_with(sock, request, -1);
}

Cow__V1__Reply *raw_ask_with(int sock, Cow__V1__Request *request, int fd)
{
	Cow__V1__Reply *reply;

	request->n_fds = fd >= 0;
	ck_assert_int_eq(raw_send(sock, request, &fd, request->n_fds), 0);
	while ((reply = raw_receive(sock)) && !reply->id)
		cow__v1__reply__free_unpacked(reply, NULL);
	ck_assert_ptr_nonnull(reply);
	return reply;
}

int raw_greet(void)
{
	Cow__V1__Reply *reply;
	int sock = raw_connect();

	ck_assert_int_eq(raw_hello(sock), 0);
	reply = raw_receive(sock);
	ck_assert(reply && !reply->error);
	cow__v1__reply__free_unpacked(reply, NULL);
	return sock;
}
