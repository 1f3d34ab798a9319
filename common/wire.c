// SPDX-License-Identifier: LGPL-2.1-or-later
/* Packets and descriptors over SOCK_SEQPACKET; the contract is in wire.h. */
#include "config.h"

#include "common/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/err.h"

union control {
	struct cmsghdr align;
	char buf[CMSG_SPACE(sizeof(int) * WIRE_FDS_MAX)];
};

void fdset_deinit(struct fdset *set)
{
	for (size_t i = 0; i < set->n_fds; i++)
		set->fds[i] = fd_close(set->fds[i]);
	set->n_fds = 0;
}

int fdset_take(struct fdset *set, size_t idx)
{
	return idx < set->n_fds ? fd_steal(&set->fds[idx]) : -1;
}

static int send_error(int error)
{
	switch (error) {
	case EAGAIN:
		return -EAGAIN;
	case EPIPE:
	case ECONNRESET:
	case ENOTCONN:
		return err_raise(-ECONNRESET, "the other end closed the connection");
	default:
		errno = error;
		return err_raise_errno("cannot send a packet");
	}
}

int wire_send(int sock, const void *buf, size_t len, const int *fds, size_t n_fds, int flags)
{
	union control control;
	struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (len > WIRE_PACKET_MAX_BYTES || n_fds > WIRE_FDS_MAX)
		return err_raise(-EMSGSIZE,
				 "packet of %zu bytes with %zu descriptors is over the limit", len,
				 n_fds);
	if (n_fds) {
		struct cmsghdr *cmsg;

		memset(&control, 0, sizeof(control));
		msg.msg_control = control.buf;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * n_fds);
	}
	do {
		n = sendmsg(sock, &msg, MSG_NOSIGNAL | flags);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? send_error(errno) : 0;
}

/* Every descriptor of every control message goes into @fds, or is closed: none is left behind. */
static bool collect_fds(struct msghdr *msg, struct fdset *fds)
{
	bool clean = true;

	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		size_t n;

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS) {
			clean = false;
			continue;
		}
		n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(fd));
			if (fds->n_fds < WIRE_FDS_MAX) {
				fds->fds[fds->n_fds++] = fd;
			} else {
				fd_close(fd);
				clean = false;
			}
		}
	}
	return clean;
}

/*
 * The kernel leaves descriptors out, and says so as it does of a buffer that is too small, when the
 * receiver's table is full: that is not what the sender did. There may be room again by now.
 */
static int raise_no_room(int sock)
{
	AUTO_FD int fd = fcntl(sock, F_DUPFD_CLOEXEC, 0);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE))
		return err_raise_errno("no room for the descriptors that came with a packet");
	return err_raise(-EMFILE, "there was no room for the descriptors that came with a packet");
}

int wire_recv(int sock, void *buf, size_t size, size_t *len, struct fdset *fds, int flags)
{
	union control control;
	struct iovec iov = {.iov_base = buf, .iov_len = size};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.buf,
			     .msg_controllen = sizeof(control.buf)};
	int n_resets = 0;
	ssize_t n;

	fds->n_fds = 0;
	/* A reset is told once, and before the packets that came ahead of it: why, perhaps. */
	do {
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | flags);
	} while (n < 0 && (errno == EINTR || (errno == ECONNRESET && !n_resets++)));
	if (n < 0) {
		if (errno == EAGAIN)
			return -EAGAIN;
		if (errno == ECONNRESET)
			return err_raise(-ECONNRESET, "the other end closed the connection");
		return err_raise_errno("cannot receive a packet");
	}
	if (!collect_fds(&msg, fds) || msg.msg_flags & MSG_TRUNC ||
	    (msg.msg_flags & MSG_CTRUNC && fds->n_fds == WIRE_FDS_MAX)) {
		fdset_deinit(fds);
		return err_raise(-EPROTO,
				 "a packet arrived truncated or with foreign control data");
	}
	*len = (size_t)n;
	if (msg.msg_flags & MSG_CTRUNC) {
		int r = raise_no_room(sock);

		fdset_deinit(fds);
		return r;
	}
	if (n == 0) {
		/* An empty packet and the end of file look alike; neither has a meaning here. */
		fdset_deinit(fds);
		return err_raise(-ECONNRESET, "the other end closed the connection");
	}
	return 0;
}
