/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A session is one connection. Who is at its other end is what the kernel says (SO_PEERCRED, a
 * pidfd), never what a packet says. It ends when the socket closes, when the process ends (pidfd: a
 * forked child may hold a copy of the socket), or when the client breaks the protocol; then
 * everything that only it holds goes with it.
 */
#ifndef COWD_RPC_SESSION_H
#define COWD_RPC_SESSION_H

#include "daemon/session.h"
#include "proto/cow.pb-c.h"

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
