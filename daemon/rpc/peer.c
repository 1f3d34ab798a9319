// SPDX-License-Identifier: GPL-2.0-or-later
/* Who is at the other end; the argument is in peer.h. */
#include "config.h"

#include "daemon/rpc/peer.h"

#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>

#include "common/err.h"

#ifndef SO_PEERPIDFD /* since 6.5; include/uapi/asm-generic/socket.h */
#define SO_PEERPIDFD 77
#endif

#define GROUPS_MAX 1024

static int open_pidfd(int sock, pid_t pid)
{
	socklen_t len = sizeof(int);
	int pidfd = -1;

	if (!getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len))
		return pidfd;
	/* An old kernel says ENOPROTOOPT; any other answer is about a process that has gone. */
	if (errno != ENOPROTOOPT || pid <= 0)
		return -1;
	return pidfd_open(pid, 0); /* always CLOEXEC */
}

int peer_init(struct peer *peer, int sock)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return err_raise_errno("cannot ask who is at the other end of a socket");
	*peer = (struct peer){.pid = cred.pid,
			      .uid = cred.uid,
			      .gid = cred.gid,
			      .pidfd = open_pidfd(sock, cred.pid)};
	return 0;
}

void peer_deinit(struct peer *peer)
{
	peer->pidfd = fd_close(peer->pidfd);
}

bool peer_in_group(const struct peer *peer, int sock, gid_t gid)
{
	gid_t groups[GROUPS_MAX];
	socklen_t len = sizeof(groups);

	if (peer->gid == gid)
		return true;
	/* More groups than fit (ERANGE): deny. */
	if (getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0)
		return false;
	for (size_t i = 0; i < len / sizeof(groups[0]); i++) {
		if (groups[i] == gid)
			return true;
	}
	return false;
}
