/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sockets from the service manager and notifications to it. No-ops without systemd. */
#ifndef COWD_SERVICE_H
#define COWD_SERVICE_H

#include "daemon/base/loop.h"

struct daemon;
struct status_line;
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

/**
 * status_line_new() - keep what `systemctl status` shows up to date
 *
 * *@out stays NULL if no service manager is there to be told, or cowd is a private one. 0 or
 * -errno.
 */
int status_line_new(struct status_line **out, struct daemon *daemon);
/** status_line_refresh() - the number of clients has changed; sent at once, but at most once a
 * second. @line may be NULL; loop thread */
void status_line_refresh(struct status_line *line);
struct status_line *status_line_free(struct status_line *line);
DEFINE_CLEANUP(status_line_free, struct status_line *)

/** watchdog_new() - tell systemd in time that the loop turns;
 * *@out stays NULL if it does not ask */
int watchdog_new(struct watchdog **out, struct daemon *daemon);
struct watchdog *watchdog_free(struct watchdog *watchdog);

#endif
