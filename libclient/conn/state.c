// SPDX-License-Identifier: LGPL-2.1-or-later
/* The tables of the states of state.h. */
#include "config.h"

#include "libclient/conn/state.h"

#undef NDEBUG /* a wrong transition ends the process in every build */
#include <assert.h>

static const char *const conn_names[COWI_CONN_N_STATES] = {
	[COWI_CONN_DOWN] = "down",
	[COWI_CONN_CONNECTING] = "connecting",
	[COWI_CONN_UP] = "up",
	[COWI_CONN_ROBBED] = "robbed",
	[COWI_CONN_ROBBED_TOLD] = "robbed-told",
	[COWI_CONN_FORKED] = "forked",
};

static const uint32_t conn_next[COWI_CONN_N_STATES] = {
	[COWI_CONN_DOWN] = STATE_BIT(COWI_CONN_CONNECTING) | STATE_BIT(COWI_CONN_ROBBED) |
			   STATE_BIT(COWI_CONN_FORKED),
	[COWI_CONN_CONNECTING] = STATE_BIT(COWI_CONN_UP) | STATE_BIT(COWI_CONN_DOWN) |
				 STATE_BIT(COWI_CONN_ROBBED) | STATE_BIT(COWI_CONN_FORKED),
	[COWI_CONN_UP] = STATE_BIT(COWI_CONN_DOWN) | STATE_BIT(COWI_CONN_ROBBED) |
			 STATE_BIT(COWI_CONN_FORKED),
	[COWI_CONN_ROBBED] = STATE_BIT(COWI_CONN_ROBBED_TOLD) | STATE_BIT(COWI_CONN_FORKED),
	[COWI_CONN_ROBBED_TOLD] = STATE_BIT(COWI_CONN_FORKED),
	[COWI_CONN_FORKED] = STATE_BIT(COWI_CONN_FORKED), /* a child's child */
};

const struct state_table cowi_conn_states = {
	.what = "connection", .names = conn_names, .next = conn_next, .n = COWI_CONN_N_STATES};

static const char *const thread_names[COWI_THREAD_N_STATES] = {
	[COWI_THREAD_NONE] = "none",
	[COWI_THREAD_RUNS] = "runs",
	[COWI_THREAD_STOPPING] = "stopping",
	[COWI_THREAD_ENDED] = "ended",
};

static const uint32_t thread_next[COWI_THREAD_N_STATES] = {
	[COWI_THREAD_NONE] = STATE_BIT(COWI_THREAD_RUNS) | STATE_BIT(COWI_THREAD_NONE),
	[COWI_THREAD_RUNS] = STATE_BIT(COWI_THREAD_STOPPING) | STATE_BIT(COWI_THREAD_NONE),
	[COWI_THREAD_STOPPING] = STATE_BIT(COWI_THREAD_ENDED) | STATE_BIT(COWI_THREAD_NONE),
	[COWI_THREAD_ENDED] = STATE_BIT(COWI_THREAD_NONE),
};

const struct state_table cowi_thread_states = {
	.what = "thread", .names = thread_names, .next = thread_next, .n = COWI_THREAD_N_STATES};

void cowi_conn_enter(enum cowi_conn_state *state, enum cowi_conn_state to)
{
	assert(state_may_follow(&cowi_conn_states, *state, to));
	*state = to;
}

void cowi_thread_enter(_Atomic enum cowi_thread_state *state, enum cowi_thread_state to)
{
	assert(state_may_follow(&cowi_thread_states, *state, to));
	*state = to;
}
