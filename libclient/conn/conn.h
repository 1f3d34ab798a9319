/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connection of a client, as the files of conn/ see it, and client.c, which makes it.
 *
 * States: state.h. Sending: send.h.
 */
#ifndef COWI_CONN_H
#define COWI_CONN_H

#include <poll.h>

#include "libclient/conn/send.h"
#include "libclient/conn/state.h"
#include "libclient/internal.h"

#define COWI_PROTOCOL_VERSION 1u

/* An answer that takes longer than this while the client's own thread waits
 * for it ends the connection: no work of cowd that is asked for there takes
 * long, and the thread has other duties. */
#define COWI_ANSWER_TIMEOUT_MSEC 10000

/*
 * Requests of callers that may be under way at once. The client's own thread, whose calls do not
 * take turns, always finds room for its own: it waits for an answer for a limited time only.
 */
#define COWI_TURNS_MAX 32u
static_assert(COWI_TURNS_MAX < COWI_UNDER_WAY_MAX, "the client's own thread needs room");

/* How often the user of a save that does not move is asked whether it is to go on. */
#define COWI_PROGRESS_NSEC 200000000L

#define COWI_BACKOFF_MIN_MSEC 50u
#define COWI_BACKOFF_MAX_MSEC 2000u

/*
 * One request without a reply yet. A synchronous one is its caller's, who waits for @answered and
 * frees it; an asynchronous one is freed after @on_reply. On the heap: a caller's stack may lie in
 * a region, where the client's thread would wait for cowd.
 */
struct cowi_pending {
	uint64_t id;
	int result_case; /* what a reply without an error must hold */
	struct cowi_pending *next;
	void (*on_reply)(void *user, int error, Cow__V1__Reply *reply); /* NULL: synchronous */
	void *user;
	int *lease_fd;             /* as of cowi_call_soon_in() */
	struct cow_snapshot *snap; /* as of cowi_call_snapshot(); or NULL */
	struct cowi_event answered;
	bool is_done;
	int error;
	char sentence[512];
	Cow__V1__Reply *reply;
	struct fdset fds;
	bool has_progress;
	uint64_t done_bytes;
	uint64_t total_bytes;
};

/**
 * struct cowi_conn_events - what the connection tells those above it; client.c fills it in
 *
 * Called by the client's thread, without a lock unless it says so. What is above conn/ is called
 * through this table alone.
 * @up:          there is a connection, for the client's own thread only until this returns: hand
 *               over to cowd what it has to know. Called again if cowi_conn_ask_up() asks for it
 * @down:        the connection has ended, @because
 * @event:       cowd has sent @event unasked. An unknown one is a later cowd's, which this library
 *               did not ask for: it may be ignored
 * @named:       the reply to cowi_call_snapshot() gives @snap its @id. With client->lock held, in
 *               the order of events
 * @unreceived:  there was no room for the descriptors of @reply, which are lost
 * @lease_ended: leases_fd has news
 * @orphaned:    the thread ends, and nobody else is left who would free the client
 */
struct cowi_conn_events {
	void (*up)(struct cow_client *client);
	void (*down)(struct cow_client *client, const char *because);
	void (*event)(struct cow_client *client, const Cow__V1__Reply *event);
	void (*named)(struct cow_snapshot *snap, uint64_t id);
	void (*unreceived)(struct cow_client *client, const Cow__V1__Reply *reply);
	void (*lease_ended)(struct cow_client *client);
	void (*orphaned)(struct cow_client *client);
};

struct cowi_conn {
	struct cow_client *client; /* whose it is */
	const struct cowi_conn_events *events;
	int sock; /* -1 unless connecting or up */
	struct cowi_sender sender;
	_Atomic int wake_fd;   /* eventfd: the client's thread has something to do */
	_Atomic int leases_fd; /* epoll: leases of snapshots that were released here; lease.c */
	enum cowi_conn_state state;
	_Atomic enum cowi_thread_state thread_state; /* written with lock, read without */
	bool was_up;                                 /* once */
	bool wants_up;                               /* cowi_conn_ask_up(); lock */
	bool is_orphan;                              /* the thread frees the client when it ends */
	bool is_private;                             /* exec: */
	pthread_t thread;
	pid_t daemon_pid;
	int farewell_error; /* with which cowd ended the connection, or 0; client's thread only */
	uint64_t next_request_id;
	unsigned int n_turns;
	struct cowi_pending *pending;
	struct cowi_task *tasks, **tasks_end;
	struct cowi_task *due;     /* out of @tasks, to be run now; lock */
	struct cowi_task *running; /* by the client's thread; not to be touched; lock */

	/* Callers that need a connection take a number; an attempt answers all up to one. */
	uint64_t n_wanted;
	uint64_t n_answered;
	int connect_error;
	char connect_sentence[512];

	/* The next attempt that nobody asked for; CLOCK_MONOTONIC, 0: none. client->lock. */
	uint64_t retry_at_msec;
	unsigned int backoff_msec;

	uint8_t packet[WIRE_PACKET_MAX_BYTES]; /* being received; client's thread only */
};

/* --- conn.c; what callers ask of it is in internal.h ------------------------------------------ */

/**
 * cowi_conn_is_there() - whether cowd is connected, be it for the client's own thread only;
 * lock
 */
static inline bool cowi_conn_is_there(const struct cowi_conn *conn)
{
	return conn->state == COWI_CONN_CONNECTING || conn->state == COWI_CONN_UP;
}

/** cowi_conn_is_robbed() - lock */
static inline bool cowi_conn_is_robbed(const struct cowi_conn *conn)
{
	return conn->state == COWI_CONN_ROBBED || conn->state == COWI_CONN_ROBBED_TOLD;
}

/** cowi_conn_raise_down() - -ENOTCONN with the sentence that there is no connection */
int cowi_conn_raise_down(const struct cow_client *client);
/** cowi_conn_new() - of @client, whose address is set; down. NULL: errno says why */
struct cowi_conn *cowi_conn_new(struct cow_client *client, const struct cowi_conn_events *events);
/** cowi_conn_free() - the thread has ended, or was never started; @conn may be NULL. NULL */
struct cowi_conn *cowi_conn_free(struct cowi_conn *conn);
/**
 * cowi_conn_fork_child() - in a fork child: close the copies of what is the parent's
 *
 * The thread is not there any more, nor are those who waited: nothing of theirs is touched. With
 * client->lock held.
 */
void cowi_conn_fork_child(struct cowi_conn *conn);
/**
 * cowi_conn_ask_up() - have @up called again, or be called soon on a new connection
 *
 * Any thread, with client->lock held.
 */
void cowi_conn_ask_up(struct cow_client *client);

/* --- thread.c --------------------------------------------------------------------------------- */

/** cowi_thread_start() - start the client's thread; 0 or -errno with a sentence */
int cowi_thread_start(struct cow_client *client);
/** cowi_thread_wake() - have it look at what there is to do; any
 * thread, client->lock held or not */
void cowi_thread_wake(struct cow_client *client);
/** cowi_receive() - one packet, if there is one. Return: whether
 * there may be more. Client's thread */
bool cowi_receive(struct cow_client *client);
/** cowi_flush() - send what is queued, as far as it goes. Client's thread */
void cowi_flush(struct cow_client *client);
/** cowi_disconnect() - the connection ends: fail what is under
 * way. Client's thread, no lock held */
void cowi_disconnect(struct cow_client *client, const char *because);

/* --- tasks.c; what posts and cancels is in internal.h ----------------------------------------- */

/**
 * cowi_tasks_run() - run what is due, each task once
 *
 * A task that posts itself again gets its next turn after a look at the socket. When the client
 * ends all tasks are due. Client's thread, no lock held.
 */
void cowi_tasks_run(struct cow_client *client);
/** cowi_tasks_due_msec() - when the first one is; UINT64_MAX: there is none. client->lock held */
uint64_t cowi_tasks_due_msec(const struct cowi_conn *conn);

/* --- robbed.c --------------------------------------------------------------------------------- */

/**
 * cowi_conn_check() - whether the program has left the connection its descriptors
 *
 * With client->lock held, before any of them is used: their numbers may be those of files of the
 * program by now. If not, the connection ends as robbed. Return: 0; -EBADF with a sentence.
 */
int cowi_conn_check(struct cow_client *client);
/**
 * cowi_conn_wait_robbed() - wait for cowi_thread_wake() in place of poll(), when that is robbed
 * @timeout_msec: below 0: for ever
 *
 * Client's thread, with client->lock held.
 */
void cowi_conn_wait_robbed(struct cow_client *client, int timeout_msec);

/**
 * cowi_conn_prepare() - before a client's thread is there: load what pthread_cancel() needs
 *
 * glibc loads the unwinder at the first call, with malloc(), and ends the program if it cannot: by
 * then the program may have no such file any more (chroot(2)), and here a lock is held.
 */
void cowi_conn_prepare(void);
/**
 * cowi_conn_poll() - poll() that cowi_conn_check() of another thread can end
 * @go_on: runs to the end of the calling thread, if the program has closed what is polled
 *
 * Client's thread.
 */
void cowi_conn_poll(struct pollfd *pollfds, size_t n_fds, int timeout_msec, void (*go_on)(void *),
		    void *user);

/* --- connect.c -------------------------------------------------------------------------------- */

/** cowi_reconnect() - make a connection. Client's thread. 0 or -errno with a sentence */
int cowi_reconnect(struct cow_client *client);

/* --- exec.c ----------------------------------------------------------------------------------- */

/** cowi_exec() - start a private cowd for an "exec:" @address; @sock gets our end. 0 or -errno */
int cowi_exec(int *sock, const char *address);

#endif
