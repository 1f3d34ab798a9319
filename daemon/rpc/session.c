// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Connections; contracts are in session.h.
 *
 * Here is where the errors that a client causes stop: session_on_ready() and session_send() end
 * that connection, write one line and go on. Nothing below them needs to know how bad an error is
 * for others. session_send() only marks the session and shuts its socket down: it is called from
 * loops over holds and saves, and session_end() frees both. The loop, told of the hang-up, ends it.
 *
 * References: daemon->sessions holds one until session_end(); every call under way holds one, so a
 * job that finishes after the end finds has_ended and its reply goes nowhere.
 */
#include "config.h"

#include "daemon/rpc/session.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/err.h"
#include "common/wire.h"
#include "daemon/base/closer.h"
#include "daemon/daemon.h"
#include "daemon/process/log.h"
#include "daemon/process/service.h"
#include "daemon/region/region.h"
#include "daemon/rpc/peer.h"
#include "daemon/rpc/rpc.h"
#include "daemon/rpc/send-queue.h"
#include "daemon/snapshot/save.h"
#include "daemon/snapshot/snapshot.h"
#include "daemon/snapshot/view.h"

/* Requests of one client that are served before others have their turn. */
#define REQUESTS_PER_TURN 16

struct session *session_ref(struct session *session)
{
	session->n_refs++;
	return session;
}

struct session *session_unref(struct session *session)
{
	if (!session || --session->n_refs)
		return NULL;
	session->queue = session_queue_free(session->queue);
	session->pidfd = fd_close(session->pidfd);
	session->sock = fd_close(session->sock);
	charge_deinit(&session->fds_charge);
	charge_deinit(&session->charge);
	session->user = quota_user_unref(session->user);
	free(session);
	return NULL;
}

static void unlink_session(struct session *session)
{
	if (!session->link)
		return;
	*session->link = session->next;
	if (session->next)
		session->next->link = session->link;
	else
		session->daemon->sessions_last = session->link;
	session->link = NULL;
	HASH_DEL(session->daemon->sessions_by_id, session);
	session->daemon->n_sessions--;
	status_line_refresh(session->daemon->status_line);
	session_unref(session);
}

/* Of one that can be found by its id. */
static void link_session(struct session *session)
{
	struct daemon *daemon = session->daemon;

	session->link = daemon->sessions ? daemon->sessions_last : &daemon->sessions;
	*session->link = session_ref(session);
	daemon->sessions_last = &session->next;
	daemon->n_sessions++;
	status_line_refresh(daemon->status_line);
}

void session_end(struct session *session, const char *why)
{
	struct daemon *daemon = session->daemon;

	if (session->has_ended)
		return;
	session->has_ended = true;
	session_ref(session);
	log_session(LOG_DEBUG, session, "%s", why);
	/* First what reads snapshots, then snapshots, then what they are made of. */
	save_drop_all(session);
	view_drop_all(session);
	snapshot_drop_holds(session);
	region_drop_all(session);
	loop_unwatch(&session->pidfd_watch);
	loop_unwatch(&session->watch);
	session->pidfd = fd_close(session->pidfd);
	/* The client sees the end at once. What is unread may have
	 * descriptors that do not close. */
	(void)shutdown(session->sock, SHUT_RDWR);
	closer_give(daemon->closer, session->user, &session->sock, 1, &session->fds_charge, 1);
	session->queue = session_queue_free(session->queue);
	charge_deinit(&session->charge);
	unlink_session(session);
	session_unref(session);
	if (daemon->options.client_fd >= 0 && !daemon->sessions)
		loop_stop(daemon->loop);
}

/*
 * The client did what no correct client does, or what it sent is lost for want of descriptors or
 * memory. It is told why, if its socket has room, in an event with an error; a library can pass
 * that on, and whoever writes one learns what is wrong with it.
 */
static void break_off(struct session *session, int error, const char *because)
{
	Cow__V1__Reply reply;
	char sentence[512];

	if (session->has_ended)
		return;
	(void)snprintf(sentence, sizeof(sentence), "%s", because);
	log_session(LOG_WARNING, session, "connection ended: %s", sentence);
	if (error == EPROTO)
		stats_add(&session->daemon->stats, protocol_errors, 1);
	cow__v1__reply__init(&reply);
	reply.error = (uint32_t)error;
	reply.sentence = sentence;
	session_send(session, &reply, NULL, 0);
	session_end(session, error == EPROTO ? "broke the protocol" : "cowd ran out of something");
}

static void flush_queue(struct session *session)
{
	if (session_queue_flush(session->queue, session->sock)) {
		session_end(session, err_sentence());
		return;
	}
	if (session_queue_is_empty(session->queue) && loop_rewatch(&session->watch, EPOLLIN))
		session_end(session, err_sentence());
}

/* One packet. False: nothing more to do now. */
static bool serve_packet(struct session *session)
{
	/* Only the loop thread receives, one packet at a time. */
	static unsigned char packet[WIRE_PACKET_MAX_BYTES];
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	size_t n_bytes;
	bool has_fds;
	int r;

	r = wire_recv(session->sock, packet, sizeof(packet), &n_bytes, &fds, MSG_DONTWAIT);
	if (r == -EAGAIN)
		return false;
	if (r == -EPROTO || r == -EMFILE || r == -ENFILE) {
		break_off(session, -r, err_sentence());
		return false;
	}
	if (r) {
		session_end(session, err_sentence());
		return false;
	}
	has_fds = fds.n_fds;
	r = rpc_dispatch(session, packet, n_bytes, &fds);
	if (r) {
		break_off(session, r == -ENOMEM ? ENOMEM : EPROTO, err_sentence());
		return false;
	}
	if (has_fds && closer_check(session->daemon->closer, session->user)) {
		break_off(session, EMFILE, err_sentence());
		return false;
	}
	return true;
}

static void on_ready(struct watch *watch, uint32_t events)
{
	struct session *session = session_ref(container_of(watch, struct session, watch));

	if (session->is_broken)
		session_end(session, "a reply could not be sent or kept");
	if (events & EPOLLOUT && !session->has_ended)
		flush_queue(session);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		for (int i = 0; i < REQUESTS_PER_TURN && !session->has_ended; i++) {
			if (!serve_packet(session))
				break;
		}
	}
	session_unref(session);
}

/*
 * The process has ended, though a child that it forked may hold the socket open. What it sent
 * before is not served any more: a reply could reach nobody who asked.
 */
static void on_process_end(struct watch *watch, uint32_t events)
{
	(void)events;
	session_end(container_of(watch, struct session, pidfd_watch), "the process has ended");
}

/* Members of the admin group, root, and whoever runs cowd itself. */
static bool is_admin(const struct daemon *daemon, const struct peer *peer, int sock)
{
	if (peer->uid == 0 || peer->uid == geteuid())
		return true;
	return daemon->has_admin_gid && peer_in_group(peer, sock, daemon->admin_gid);
}

static int charge_session(struct session *session)
{
	int r;

	r = quota_user_get(&session->user, session->daemon->quota, session->uid);
	if (r)
		return r;
	r = quota_charge(&session->charge, session->user, QUOTA_SESSIONS, 1);
	if (!r)
		r = quota_charge(&session->fds_charge, session->user, QUOTA_FDS, 2);
	return quota_error(r);
}

static int watch_session(struct session *session)
{
	struct loop *loop = session->daemon->loop;
	int r;

	session->watch = (struct watch){.fd = session->sock, .on_ready = on_ready};
	r = loop_watch(loop, &session->watch, EPOLLIN);
	if (r || session->pidfd < 0)
		return r;
	session->pidfd_watch = (struct watch){.fd = session->pidfd, .on_ready = on_process_end};
	r = loop_watch(loop, &session->pidfd_watch, EPOLLIN);
	if (r)
		loop_unwatch(&session->watch);
	return r;
}

int session_new(struct session **out, struct daemon *daemon, int *sock)
{
	CLEANUP(session_unrefp) struct session *session = NULL;
	CLEANUP(peer_deinit) struct peer peer = {.pidfd = -1};
	int r;

	r = peer_init(&peer, *sock);
	if (r)
		return r;
	session = malloc(sizeof(*session));
	if (!session)
		return err_oom(sizeof(*session), "a connection");
	*session = (struct session){.n_refs = 1,
				    .daemon = daemon,
				    .sock = -1,
				    .pidfd = fd_steal(&peer.pidfd),
				    .pid = peer.pid,
				    .uid = peer.uid,
				    .gid = peer.gid,
				    .is_admin = is_admin(daemon, &peer, *sock),
				    .connected_usec = now_usec()};
	r = charge_session(session);
	if (r)
		return r;
	r = session_queue_new(&session->queue, daemon->closer, session->user);
	if (r)
		return r;
	session->id = daemon_new_id(daemon);
	HASH_ADD(hh, daemon->sessions_by_id, id, sizeof(session->id), session);
	r = hash_check(&session->hh, "a connection");
	if (r)
		return r;
	session->sock = *sock; /* still the caller's if what follows fails */
	r = watch_session(session);
	if (r) {
		HASH_DEL(daemon->sessions_by_id, session);
		session->sock = -1;
		return r;
	}
	*sock = -1;
	link_session(session);
	stats_add(&daemon->stats, connections, 1);
	log_session(LOG_DEBUG, session, "connected");
	if (out)
		*out = steal_ptr(&session);
	return 0;
}

static void break_later(struct session *session)
{
	session->is_broken = true;
	(void)shutdown(session->sock, SHUT_RDWR);
}

static void queue_packet(struct session *session, const void *packet, size_t n_bytes,
			 const int *fds, size_t n_fds)
{
	bool was_empty = session_queue_is_empty(session->queue);
	int r;

	r = session_queue_push(session->queue, packet, n_bytes, fds, n_fds);
	if (!r && was_empty)
		r = loop_rewatch(&session->watch, EPOLLIN | EPOLLOUT);
	if (!r)
		return;
	log_session(LOG_WARNING, session, "connection ended: %s", err_sentence());
	break_later(session);
}

void session_send(struct session *session, const Cow__V1__Reply *reply, const int *fds,
		  size_t n_fds)
{
	static unsigned char packet[WIRE_PACKET_MAX_BYTES];
	size_t n_bytes;
	int r;

	if (session->has_ended || session->is_broken)
		return;
	n_bytes = cow__v1__reply__get_packed_size(reply);
	if (n_bytes > sizeof(packet)) { /* rpc.c sees to it that no reply is that large */
		log_session(LOG_ERR, session, "an event of %zu bytes is over the limit", n_bytes);
		break_later(session);
		return;
	}
	cow__v1__reply__pack(reply, packet);
	if (!session_queue_is_empty(session->queue)) {
		queue_packet(session, packet, n_bytes, fds, n_fds);
		return;
	}
	r = wire_send(session->sock, packet, n_bytes, fds, n_fds, MSG_DONTWAIT);
	if (r == -EAGAIN)
		queue_packet(session, packet, n_bytes, fds, n_fds);
	else if (r)
		break_later(session);
}

bool session_may_see(const struct session *session, uid_t uid)
{
	return session->is_admin || session->uid == uid;
}
