/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * /dev/userfaultfd, which cowd lends to its clients.
 *
 * Opened at start and, as long as it could not be, at every reload: whoever mends its mode does not
 * have to restart cowd, and lose snapshots, for it. Loop thread.
 */
#ifndef COWD_DEVICE_H
#define COWD_DEVICE_H

#include <stdbool.h>

#include "daemon/base/options.h"

#define DEVICE_PATH "/dev/userfaultfd"

struct daemon;

/** device_open() - if it is not open yet. Return: whether it is now; if not,
 * daemon->uffd_device_errno says why */
bool device_open(struct daemon *daemon);

/** device_lend() - what a client is lent: the policy of the settings, LEND_NO without the device */
enum lend_policy device_lend(const struct daemon *daemon);

/** device_has_mode_uffd() - whether regions of mode uffd can be
 * served: kernel, device and policy */
bool device_has_mode_uffd(const struct daemon *daemon);

#define DEVICE_HINT_MAX 320

/**
 * device_hint() - why nothing is lent although the settings say so, and the way out
 *
 * Return: @buf, of at least DEVICE_HINT_MAX bytes; empty if all is as the settings say.
 */
const char *device_hint(const struct daemon *daemon, char *buf, size_t size);

#endif
