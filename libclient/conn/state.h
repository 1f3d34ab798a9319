/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The states of a connection and of its client's thread. Each state is changed by its enter
 * function alone, with client->lock held. It knows all transitions that there are, and ends the
 * process at any other one. client->lock is also held to read the connection's state; the
 * thread's may be read by any thread at any time.
 *
 *                    +--------------------------------+
 *                    v                                |
 *     start ------> down ------> connecting ------> up
 *                    | ^             |   |            |
 *                    | +-------------+   |            |
 *                    v                   v            v
 *                  robbed <---------------------------+
 *                    |
 *                    v
 *                robbed-told            (any of these) ------> forked
 */
#ifndef COWI_STATE_H
#define COWI_STATE_H

#include "common/state.h"

/**
 * enum cowi_conn_state - of a connection
 * @COWI_CONN_DOWN:        there is no socket
 * @COWI_CONN_CONNECTING:  there is a socket. Hello, then regions are handed over: only the client's
 *                         thread may call, and reads the socket itself until its reply is there
 * @COWI_CONN_UP:          every thread may call
 * @COWI_CONN_ROBBED:      the program has closed the library's descriptors (common/own-fd.h). The
 *                         thread that notices enters this state, in cowi_conn_check(); calls fail
 *                         with -EBADF
 * @COWI_CONN_ROBBED_TOLD: and everybody who waited was told so. The client's thread goes on without
 *                         descriptors, to run what is left to be run
 * @COWI_CONN_FORKED:      this is a fork child, and the connection is the parent's
 */
enum cowi_conn_state {
	COWI_CONN_DOWN,
	COWI_CONN_CONNECTING,
	COWI_CONN_UP,
	COWI_CONN_ROBBED,
	COWI_CONN_ROBBED_TOLD,
	COWI_CONN_FORKED,
	COWI_CONN_N_STATES,
};

/**
 * enum cowi_thread_state - of a client's thread
 * @COWI_THREAD_NONE:     not started; in a fork child
 * @COWI_THREAD_RUNS:     until the last reference on the client goes
 * @COWI_THREAD_STOPPING: it runs the tasks that are left, and ends
 * @COWI_THREAD_ENDED:    it is about to: to join it takes no time
 */
enum cowi_thread_state {
	COWI_THREAD_NONE,
	COWI_THREAD_RUNS,
	COWI_THREAD_STOPPING,
	COWI_THREAD_ENDED,
	COWI_THREAD_N_STATES,
};

void cowi_conn_enter(enum cowi_conn_state *state, enum cowi_conn_state to);
void cowi_thread_enter(_Atomic enum cowi_thread_state *state, enum cowi_thread_state to);

extern const struct state_table cowi_conn_states;
extern const struct state_table cowi_thread_states;

#endif
