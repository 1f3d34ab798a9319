/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replies that did not fit into a client's socket buffer yet, with descriptors of their own.
 *
 * Bounded in bytes and in packets, and charged to the client's uid. A duplicate may be the last
 * descriptor of what takes long to close, the memory of a region or a client's pipe: the closer
 * closes it.
 */
#ifndef COWD_SEND_QUEUE_H
#define COWD_SEND_QUEUE_H

#include <stddef.h>
#include <stdint.h>

#include "common/util.h"

/* The largest reply to every call that may be under way, and some events. */
#define SESSION_QUEUE_MAX_BYTES   ((size_t)6 * 1024 * 1024)
#define SESSION_QUEUE_MAX_PACKETS 512

/* Named outcome: over a limit, nothing was queued; the sentence says which. */
#define SESSION_QUEUE_E_FULL 1

struct closer;
struct quota_user;
struct session_queue;

/**
 * session_queue_new()
 * @closer: closes descriptors of packets; may be NULL
 * @user:   to whom packets are charged; both are borrowed until session_queue_free()
 */
int session_queue_new(struct session_queue **out, struct closer *closer, struct quota_user *user);
struct session_queue *session_queue_free(struct session_queue *queue);

bool session_queue_is_empty(const struct session_queue *queue);

/**
 * session_queue_push() - keep a packet for later
 * @packet: copied
 * @fds:    lent; duplicated
 *
 * Return: 0; SESSION_QUEUE_E_FULL; -errno.
 */
int session_queue_push(struct session_queue *queue, const void *packet, size_t n_bytes,
		       const int *fds, size_t n_fds);

/** session_queue_flush() - send what @sock takes without blocking. 0, also when not all went;
 * -errno */
int session_queue_flush(struct session_queue *queue, int sock);

#endif
