/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a decoded request to its reply.
 *
 * rpc.c holds the table of methods: what the request is called, how many descriptors it carries,
 * whether it may come before Hello, and its handler. Handlers see well-formed requests only.
 *
 * A handler returns
 *   0              the reply in @call->reply is complete
 *   RPC_E_DEFERRED it kept @call, and rpc_finish() will be called later, by a task of the loop
 *   RPC_E_FATAL    the client broke the protocol: its connection ends, nobody else notices
 *   -errno         sent as the reply's error, with err_sentence()
 */
#ifndef COWD_RPC_H
#define COWD_RPC_H

#include "common/wire.h"
#include "daemon/base/quota.h"
#include "proto/cow.pb-c.h"

#define RPC_E_DEFERRED 1
#define RPC_E_FATAL    2

struct session;
struct rpc_chunk;

/**
 * struct rpc_call - one request on its way to a reply
 * @session:   who asks; a reference
 * @request:   decoded; until the handler returns, whatever it returns. Decoded it is up to fifty
 *             times as large as its packet, and a call may be under way as long as its client likes
 * @charge:    QUOTA_QUEUED_BYTES: what rpc_charge() was told of
 * @fds:       descriptors of the request; a handler takes those it keeps with fdset_take()
 * @reply:     to be filled in by the handler: result_case and its message, allocated by rpc_alloc()
 * @reply_fds: descriptors of the reply, lent until rpc_finish() or the handler's return
 */
struct rpc_call {
	struct session *session;
	uint64_t id;
	Cow__V1__Request *request;
	struct charge charge;
	struct fdset fds;
	Cow__V1__Reply reply;
	int reply_fds[WIRE_FDS_MAX];
	size_t n_reply_fds;
	struct rpc_chunk *chunks;
	uint64_t received_nsec; /* CLOCK_MONOTONIC */
	struct rpc_call *next;  /* in session->calls */
	struct rpc_call **link;
};

/* Calls of one session that may be without a reply at a time; more are answered with EBUSY. */
#define RPC_CALLS_MAX 64

/**
 * rpc_alloc() - zeroed memory that lives as long as @call; NULL with a sentence when out of memory
 *
 * Context: as rpc_charge().
 */
void *rpc_alloc(struct rpc_call *call, size_t n_bytes);
/**
 * rpc_charge() - @n_bytes are kept for @call until its reply is sent
 *
 * For what a deferred call needs and no other limit bounds. Context: the loop thread, or the one
 * that has @call meanwhile. Return: 0; -EDQUOT with a sentence, and the call is to end with it.
 */
int rpc_charge(struct rpc_call *call, size_t n_bytes) MUST_CHECK;
/* Entries of a list sent at a time: with the longest names they
 * stay below WIRE_PACKET_MAX_BYTES. */
#define RPC_LIST_MAX 200

/** rpc_strdup() - copy of @text (NULL reads as "") that lives as long as @call */
char *rpc_strdup(struct rpc_call *call, const char *text);

/**
 * rpc_finish() - send the reply of a deferred call and free it
 * @error: 0 or -errno, then with err_sentence() of the calling thread (set it again in done())
 *
 * Context: loop thread. A session that has gone meanwhile is no error.
 */
void rpc_finish(struct rpc_call *call, int error);

/**
 * rpc_dispatch() - one received packet
 * @fds: emptied
 *
 * Return: 0; RPC_E_FATAL, or -ENOMEM where nobody could be answered, with a sentence for the log.
 */
int rpc_dispatch(struct session *session, const void *packet, size_t n_bytes, struct fdset *fds);

/* Handlers, by the file that holds them. */

int rpc_hello(struct rpc_call *call); /* hello.c */

int rpc_region_create(struct rpc_call *call); /* region.c */
int rpc_region_attach(struct rpc_call *call);
int rpc_region_restore(struct rpc_call *call);
int rpc_region_free(struct rpc_call *call);
int rpc_backing_create(struct rpc_call *call);
int rpc_backing_release(struct rpc_call *call);
int rpc_list_regions(struct rpc_call *call);

int rpc_region_child(struct rpc_call *call); /* child.c */
int rpc_region_child_end(struct rpc_call *call);

int rpc_snapshot_take(struct rpc_call *call); /* snapshot.c */
int rpc_snapshot_open(struct rpc_call *call);
int rpc_snapshot_release(struct rpc_call *call);
int rpc_snapshot_read(struct rpc_call *call);
int rpc_list_snapshots(struct rpc_call *call);

int rpc_snapshot_map(struct rpc_call *call); /* view.c */
int rpc_snapshot_unmap(struct rpc_call *call);

int rpc_snapshot_rollback(struct rpc_call *call); /* rollback.c */

int rpc_snapshot_save(struct rpc_call *call); /* save.c */
int rpc_save_cancel(struct rpc_call *call);

int rpc_status(struct rpc_call *call); /* list.c */
int rpc_list_clients(struct rpc_call *call);

int rpc_stats(struct rpc_call *call); /* stats.c */

#endif
