/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The listening socket: made or passed by systemd, and the accepting of connections. */
#ifndef COWD_LISTENER_H
#define COWD_LISTENER_H

#include <sys/types.h>

#include "daemon/base/loop.h"

struct daemon;
struct listener;

/**
 * listener_new() - take over a socket that listens already
 * @fd: taken on success
 */
int listener_new(struct listener **out, struct daemon *daemon, int *fd);

/**
 * listener_new_at() - make a socket at @path and listen
 * @mode: of the socket file, less nothing
 *
 * A file that is there already is replaced if it is a socket on which nobody answers.
 * Return: 0; -EADDRINUSE when a daemon answers there; another -errno with a sentence.
 */
int listener_new_at(struct listener **out, struct daemon *daemon, const char *path,
		    unsigned int mode);

/**
 * listener_hand_over() - the socket file, if we made it, to @uid
 *
 * For a root that is about to become @uid: the owner of a file may remove it from a directory like
 * /tmp. 0 or -errno.
 */
int listener_hand_over(struct listener *listener, uid_t uid);

/** listener_check_end() - whether the socket file can be removed at the end, as the user that cowd
 * is by now; else a warning. Before the list of system calls closes */
void listener_check_end(const struct listener *listener);

#define LISTENER_ADDRESS_MAX 128

/** listener_address() - where clients find it, into @buf. Return: @buf */
const char *listener_address(const struct listener *listener, char buf[LISTENER_ADDRESS_MAX]);

/** listener_start() - accept from now on. 0 or -errno */
int listener_start(struct listener *listener);

/** listener_free() - close; the socket file goes if we made it and may remove it */
struct listener *listener_free(struct listener *listener);
DEFINE_CLEANUP(listener_free, struct listener *)

#endif
