/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One packet, with the descriptors that belong to it, over an AF_UNIX SOCK_SEQPACKET socket.
 *
 * This is one of the few places where foreign descriptors enter the process: they land at once in a
 * struct fdset, whose cleanup closes all that nobody took. If a packet or control message arrives
 * truncated (MSG_TRUNC, MSG_CTRUNC), descriptors may be lost and the others cannot be matched to
 * names, so it is -EPROTO and the caller ends the connection.
 */
#ifndef COW_COMMON_WIRE_H
#define COW_COMMON_WIRE_H

#include <sys/socket.h>
#include <sys/types.h>

#include "common/util.h"

/* A packet fits the default socket buffer (net.core.wmem_default, 208 KiB) with its overhead. */
#define WIRE_PACKET_MAX_BYTES ((size_t)96 * 1024)
/* The most bytes of snapshot data carried in one reply. */
#define WIRE_DATA_MAX_BYTES   ((size_t)64 * 1024)
#define WIRE_FDS_MAX          16

struct fdset {
	int fds[WIRE_FDS_MAX];
	size_t n_fds;
};

/** fdset_deinit() - close what was not taken; idempotent */
void fdset_deinit(struct fdset *set);

/** fdset_take() - move descriptor @idx out of @set; -1 when there is none */
int fdset_take(struct fdset *set, size_t idx);

/**
 * wire_send() - send one packet
 * @sock:  lent
 * @buf:   packet, at most WIRE_PACKET_MAX_BYTES
 * @len:   its bytes
 * @fds:   descriptors lent to the kernel for the call, or NULL
 * @n_fds: at most WIRE_FDS_MAX
 * @flags: added to MSG_NOSIGNAL, for instance MSG_DONTWAIT
 *
 * Return: 0; -EAGAIN when the socket buffer is full (MSG_DONTWAIT or O_NONBLOCK); -ECONNRESET when
 * the peer is gone; -EMSGSIZE; another -errno. No sentence is set for -EAGAIN.
 */
int wire_send(int sock, const void *buf, size_t len, const int *fds, size_t n_fds, int flags);

/**
 * wire_recv() - receive one packet
 * @sock:  lent
 * @buf:   where to
 * @size:  its size; a longer packet is -EPROTO
 * @len:   bytes received
 * @fds:   gets the descriptors, all CLOEXEC; emptied first
 * @flags: added to MSG_CMSG_CLOEXEC
 *
 * Return: 0; -EAGAIN; -ECONNRESET on end of file; -EPROTO on truncation or stray control data;
 * -EMFILE, -ENFILE when there was no room for descriptors: the packet is there, those that came
 * with it are closed; another -errno.
 */
int wire_recv(int sock, void *buf, size_t size, size_t *len, struct fdset *fds, int flags);

#endif
