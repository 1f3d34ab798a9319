/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What passes between cowd and whoever started it: sockets in, notifications out. No-ops without
 * systemd. */
#ifndef COWD_SERVICE_H
#define COWD_SERVICE_H

#include "daemon/loop.h"

struct daemon;
struct watchdog;

/**
 * service_take_socket() - the listening socket passed by systemd
 * @fd: gets it, or -1 when none was passed
 *
 * Goes by name ("listen" or "cowd.socket"), since the order of passed descriptors means nothing;
 * what has another name is closed with a line in the log. Return: 0; -EINVAL when it is not a
 * listening AF_UNIX SOCK_SEQPACKET socket.
 */
int service_take_socket(int *fd);

/** service_check_client() - whether @fd is a connected AF_UNIX SOCK_SEQPACKET socket; makes it
 * CLOEXEC */
int service_check_client(int fd);

void service_ready(const struct daemon *daemon);
void service_reloading(void);
void service_stopping(void);

/** watchdog_new() - tell systemd in time that the loop turns; *@out stays NULL if it does not ask
 */
int watchdog_new(struct watchdog **out, struct daemon *daemon);
struct watchdog *watchdog_free(struct watchdog *watchdog);

#endif
