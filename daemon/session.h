/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * struct session: one connection, to which regions, holds, views and saves belong.
 *
 * Objects of all floors below daemon/rpc/ know their session by this file; rpc/session.h makes,
 * ends and serves sessions.
 */
#ifndef COWD_SESSION_H
#define COWD_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/base/hash.h"
#include "daemon/base/loop.h"
#include "daemon/base/quota.h"

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

#endif
