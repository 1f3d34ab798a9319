/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A session is one connection. Who is at its other end is what the kernel says (SO_PEERCRED, a
 * pidfd), never what a packet says. It ends when the socket closes, when the process ends (pidfd: a
 * forked child may hold a copy of the socket), or when the client breaks the protocol; then
 * everything that only it holds goes with it.
 */
#ifndef COWD_SESSION_H
#define COWD_SESSION_H

#include <stdint.h>
#include <sys/types.h>

#include "daemon/base/hash.h"
#include "daemon/base/loop.h"
#include "daemon/base/quota.h"
#include "proto/cow.pb-c.h"

struct daemon;
struct backing;
struct region;
struct snapshot;
struct view;
struct save;

/* One session's hold on a snapshot, taken or opened. */
struct hold {
	struct snapshot *snapshot; /* a reference */
	struct session *session;
	struct charge charge; /* of QUOTA_QUEUED_BYTES, to the session's user */
	uint64_t id;          /* of the snapshot */
	uint64_t count;       /* Take and Open add one, Release takes one away */
	UT_hash_handle hh;    /* in session->holds */
	struct hold *prev;    /* in snapshot->holds, a list of utlist.h */
	struct hold *next;
};

/**
 * struct session
 * @regions: owned by region.c
 * @holds:   owned by snapshot.c
 * @views:   owned by view.c
 * @saves:   owned by save.c
 *
 * session_end() drops all of them, readers first: saves, views, holds, and then regions. A client
 * may have thousands of each: those that are found by an id are in a hash table, the others in
 * lists of utlist.h.
 *
 * Loop thread only.
 */
struct session {
	unsigned int n_refs;
	struct daemon *daemon;
	uint64_t id;
	int sock;
	int pidfd; /* -1 where the kernel gave none */
	struct watch watch;
	struct watch pidfd_watch;
	pid_t pid;
	uid_t uid;
	gid_t gid;
	bool is_admin; /* may see and open what other uids hold */
	bool has_hello;
	bool has_ended;
	bool is_broken; /* nothing more can be sent: ends when the loop comes to it */
	char program[64];
	uint64_t connected_usec; /* CLOCK_MONOTONIC */
	struct quota_user *user;
	struct charge charge;     /* one of QUOTA_SESSIONS */
	struct charge fds_charge; /* socket and pidfd */
	struct region *regions;
	struct backing *backings;
	struct hold *holds;
	struct view *views;
	struct save *saves;
	struct session_queue *queue; /* replies that did not fit the socket buffer yet */
	struct rpc_call *calls;      /* without a reply yet, newest first; rpc.c */
	unsigned int n_calls;
	UT_hash_handle hh;     /* in daemon->sessions_by_id */
	struct session *next;  /* in daemon->sessions */
	struct session **link; /* what points to it there; NULL when it is not in the list */
};

/**
 * session_new() - for a connected SOCK_SEQPACKET socket
 * @out:  gets a reference beside that of daemon->sessions; may be NULL
 * @sock: taken on success
 *
 * Return: 0; -EDQUOT or another -errno with a sentence.
 */
int session_new(struct session **out, struct daemon *daemon, int *sock);
struct session *session_ref(struct session *session);
struct session *session_unref(struct session *session);
DEFINE_CLEANUP(session_unref, struct session *)

/** session_end() - drop everything it holds and close the socket;
 * idempotent; @why goes to the log */
void session_end(struct session *session, const char *why);

/**
 * session_send() - send a reply or event, queueing it when the socket buffer is full
 *
 * A client that does not read its replies has its connection ended once the queue is over a limit;
 * the daemon never waits for it. Descriptors are duplicated when queued. Whatever happens, nothing
 * of the session goes during the call: the caller may be walking its objects.
 */
void session_send(struct session *session, const Cow__V1__Reply *reply, const int *fds,
		  size_t n_fds);

/** session_may_see() - whether @session may list and open what belongs to @uid */
bool session_may_see(const struct session *session, uid_t uid);

#endif
