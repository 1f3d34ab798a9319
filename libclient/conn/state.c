// SPDX-License-Identifier: LGPL-2.1-or-later
/* Which transitions there are, and how states are called; see state.h. */
#include "config.h"

#include "libclient/conn/state.h"

#undef NDEBUG /* a wrong transition ends the process in every build */
#include <assert.h>

#define BIT(state) (1u << (state))

/* A state, and the states that may follow it. */
struct row {
	const char *name;
	unsigned int next;
};

static const struct row conn_rows[COWI_CONN_N_STATES] = {
	[COWI_CONN_DOWN] = {"down", BIT(COWI_CONN_CONNECTING) | BIT(COWI_CONN_ROBBED) |
					    BIT(COWI_CONN_FORKED)},
	[COWI_CONN_CONNECTING] = {"connecting", BIT(COWI_CONN_UP) | BIT(COWI_CONN_DOWN) |
							BIT(COWI_CONN_ROBBED) |
							BIT(COWI_CONN_FORKED)},
	[COWI_CONN_UP] = {"up",
			  BIT(COWI_CONN_DOWN) | BIT(COWI_CONN_ROBBED) | BIT(COWI_CONN_FORKED)},
	[COWI_CONN_ROBBED] = {"robbed", BIT(COWI_CONN_ROBBED_TOLD) | BIT(COWI_CONN_FORKED)},
	[COWI_CONN_ROBBED_TOLD] = {"robbed-told", BIT(COWI_CONN_FORKED)},
	[COWI_CONN_FORKED] = {"forked", BIT(COWI_CONN_FORKED)}, /* a child's child */
};

static const struct row thread_rows[COWI_THREAD_N_STATES] = {
	[COWI_THREAD_NONE] = {"none", BIT(COWI_THREAD_RUNS) | BIT(COWI_THREAD_NONE)},
	[COWI_THREAD_RUNS] = {"runs", BIT(COWI_THREAD_STOPPING) | BIT(COWI_THREAD_NONE)},
	[COWI_THREAD_STOPPING] = {"stopping", BIT(COWI_THREAD_ENDED) | BIT(COWI_THREAD_NONE)},
	[COWI_THREAD_ENDED] = {"ended", BIT(COWI_THREAD_NONE)},
};

/* A bug of this library: to go on could show wrong bytes as a snapshot. */
static void check(const struct row *rows, unsigned int from, unsigned int to)
{
	assert(rows[from].next & BIT(to));
}

void cowi_conn_enter(enum cowi_conn_state *state, enum cowi_conn_state to)
{
	check(conn_rows, *state, to);
	*state = to;
}

void cowi_thread_enter(_Atomic enum cowi_thread_state *state, enum cowi_thread_state to)
{
	check(thread_rows, *state, to);
	*state = to;
}

const char *cowi_conn_state_name(enum cowi_conn_state state)
{
	return conn_rows[state].name;
}

const char *cowi_thread_state_name(enum cowi_thread_state state)
{
	return thread_rows[state].name;
}
