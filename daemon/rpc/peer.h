/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who is at the other end of a socket, by the kernel's word alone.
 *
 * SO_PEERCRED is fixed when the connection is made (for a socketpair: when that was made) and does
 * not change when the socket is passed on or inherited. The pidfd comes from SO_PEERPIDFD
 * (since 6.5), which names that very process. Before 6.5 it is opened by number: if the process
 * ended and its number was given to another one between connect and accept, the pidfd watches the
 * wrong process, and the session may end later than it should. It can never gain a right by that:
 * rights hang on the uid, which is the kernel's in both cases, and the end of the connection ends a
 * session anyway.
 */
#ifndef COWD_PEER_H
#define COWD_PEER_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/util.h"

struct peer {
	pid_t pid; /* 0: not visible from our pid namespace */
	uid_t uid;
	gid_t gid;
	int pidfd; /* owned, or -1 */
};

/** peer_init() - ask the kernel about @sock, lent. 0 or -errno with a sentence */
int peer_init(struct peer *peer, int sock);
void peer_deinit(struct peer *peer);

/** peer_in_group() - whether @gid was among the groups of the process when it connected */
bool peer_in_group(const struct peer *peer, int sock, gid_t gid);

#endif
