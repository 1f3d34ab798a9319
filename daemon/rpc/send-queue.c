// SPDX-License-Identifier: GPL-2.0-or-later
/* Replies waiting for room in a socket; see send-queue.h. */
#include "config.h"

#include "daemon/rpc/send-queue.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "common/err.h"
#include "common/wire.h"
#include "daemon/base/closer.h"
#include "daemon/base/quota.h"

struct packet {
	struct packet *next;
	struct fdset fds;
	struct charge fds_charge;
	struct charge bytes_charge;
	size_t n_bytes;
	unsigned char bytes[];
};

struct session_queue {
	struct closer *closer;
	struct quota_user *user;
	struct packet *first;
	struct packet **last;
	size_t n_bytes;
	size_t n_packets;
};

static struct packet *packet_free(struct packet *packet)
{
	fdset_deinit(&packet->fds);
	charge_deinit(&packet->fds_charge);
	charge_deinit(&packet->bytes_charge);
	free(packet);
	return NULL;
}
DEFINE_CLEANUP(packet_free, struct packet *)

/* The end of one that was queued. */
static void packet_end(struct session_queue *queue, struct packet *packet)
{
	if (packet->fds.n_fds)
		closer_give(queue->closer, queue->user, packet->fds.fds, packet->fds.n_fds,
			    &packet->fds_charge, 1);
	packet->fds.n_fds = 0;
	packet_free(packet);
}

int session_queue_new(struct session_queue **out, struct closer *closer, struct quota_user *user)
{
	struct session_queue *queue = calloc(1, sizeof(*queue));

	if (!queue)
		return err_oom(sizeof(*queue), "a queue of replies");
	queue->last = &queue->first;
	queue->closer = closer;
	queue->user = user;
	*out = queue;
	return 0;
}

struct session_queue *session_queue_free(struct session_queue *queue)
{
	if (!queue)
		return NULL;
	while (queue->first) {
		struct packet *packet = queue->first;

		queue->first = packet->next;
		packet_end(queue, packet);
	}
	free(queue);
	return NULL;
}

bool session_queue_is_empty(const struct session_queue *queue)
{
	return !queue->first;
}

static int copy_fds(struct packet *packet, struct quota_user *user, const int *fds, size_t n_fds)
{
	int r;

	if (!n_fds)
		return 0;
	r = quota_charge(&packet->fds_charge, user, QUOTA_FDS, n_fds);
	if (r)
		return r == QUOTA_E_EXCEEDED ? SESSION_QUEUE_E_FULL : r;
	for (size_t i = 0; i < n_fds; i++) {
		int copy = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);

		if (copy < 0)
			return err_raise_errno("cannot duplicate a descriptor for a reply");
		packet->fds.fds[packet->fds.n_fds++] = copy;
	}
	return 0;
}

int session_queue_push(struct session_queue *queue, const void *bytes, size_t n_bytes,
		       const int *fds, size_t n_fds)
{
	struct quota_user *user = queue->user;
	CLEANUP(packet_freep) struct packet *packet = NULL;
	int r;

	if (queue->n_packets >= SESSION_QUEUE_MAX_PACKETS ||
	    queue->n_bytes + n_bytes > SESSION_QUEUE_MAX_BYTES)
		return err_raise(SESSION_QUEUE_E_FULL,
				 "it does not read: %zu replies of %zu bytes wait for it",
				 queue->n_packets, queue->n_bytes);
	packet = malloc(sizeof(*packet) + n_bytes);
	if (!packet)
		return err_oom(sizeof(*packet) + n_bytes, "a reply");
	*packet = (struct packet){.n_bytes = n_bytes};
	memcpy(packet->bytes, bytes, n_bytes);
	r = quota_charge(&packet->bytes_charge, user, QUOTA_QUEUED_BYTES, n_bytes);
	if (r)
		return r == QUOTA_E_EXCEEDED ? SESSION_QUEUE_E_FULL : r;
	r = copy_fds(packet, user, fds, n_fds);
	if (r)
		return r;
	queue->n_packets++;
	queue->n_bytes += n_bytes;
	*queue->last = packet;
	queue->last = &packet->next;
	packet = NULL;
	return 0;
}

int session_queue_flush(struct session_queue *queue, int sock)
{
	while (queue->first) {
		struct packet *packet = queue->first;
		int r;

		r = wire_send(sock, packet->bytes, packet->n_bytes, packet->fds.fds,
			      packet->fds.n_fds, MSG_DONTWAIT);
		if (r)
			return r == -EAGAIN ? 0 : r;
		queue->first = packet->next;
		if (!queue->first)
			queue->last = &queue->first;
		queue->n_packets--;
		queue->n_bytes -= packet->n_bytes;
		packet_end(queue, packet);
	}
	return 0;
}
