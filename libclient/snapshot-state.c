// SPDX-License-Identifier: LGPL-2.1-or-later
/* Which transitions there are, and how states are called; see snapshot-state.h. */
#include "config.h"

#include "libclient/snapshot-state.h"

#undef NDEBUG /* a broken contract ends the process in every build */
#include <assert.h>

#define BIT(state) (1u << (state))

/* A state, and the states that may follow it. */
struct row {
	const char *name;
	unsigned int next;
};

static const struct row snapshot_rows[COWI_SNAPSHOT_N_STATES] = {
	[COWI_SNAPSHOT_NEW] = {"new", BIT(COWI_SNAPSHOT_PENDING) | BIT(COWI_SNAPSHOT_LIVE) |
					      BIT(COWI_SNAPSHOT_LOST)},
	/* new again: the request could not be sent */
	[COWI_SNAPSHOT_PENDING] = {"pending", BIT(COWI_SNAPSHOT_NEW) | BIT(COWI_SNAPSHOT_LIVE) |
						      BIT(COWI_SNAPSHOT_LOST)},
	[COWI_SNAPSHOT_LIVE] = {"live", BIT(COWI_SNAPSHOT_LOST)},
	[COWI_SNAPSHOT_LOST] = {"lost", 0},
};

static const struct row view_rows[COWI_VIEW_N_STATES] = {
	[COWI_VIEW_NONE] = {"none", BIT(COWI_VIEW_MAKING)},
	[COWI_VIEW_MAKING] = {"making", BIT(COWI_VIEW_NONE) | BIT(COWI_VIEW_READY)},
	[COWI_VIEW_READY] = {"ready", BIT(COWI_VIEW_BROKEN)},
	[COWI_VIEW_BROKEN] = {"broken", 0},
};

static void check(const struct row *rows, unsigned int from, unsigned int to)
{
	assert(rows[from].next & BIT(to));
}

void cowi_snapshot_enter(enum cowi_snapshot_state *state, enum cowi_snapshot_state to)
{
	check(snapshot_rows, *state, to);
	*state = to;
}

void cowi_view_enter(enum cowi_view_state *state, enum cowi_view_state to)
{
	check(view_rows, *state, to);
	*state = to;
}

const char *cowi_snapshot_state_name(enum cowi_snapshot_state state)
{
	return snapshot_rows[state].name;
}

const char *cowi_view_state_name(enum cowi_view_state state)
{
	return view_rows[state].name;
}
