/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The listening socket: made or passed by systemd, and the accepting of connections. */
#ifndef COWD_LISTENER_H
#define COWD_LISTENER_H

#include "daemon/loop.h"

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

/** listener_start() - accept from now on. 0 or -errno */
int listener_start(struct listener *listener);

/** listener_free() - close; the socket file goes if we made it */
struct listener *listener_free(struct listener *listener);
DEFINE_CLEANUP(listener_free, struct listener *)

#endif
