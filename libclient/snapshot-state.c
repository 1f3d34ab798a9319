// SPDX-License-Identifier: LGPL-2.1-or-later
/* The tables of the states of snapshot-state.h. */
#include "config.h"

#include "libclient/snapshot-state.h"

#undef NDEBUG /* a broken contract ends the process in every build */
#include <assert.h>

static const char *const snapshot_names[COWI_SNAPSHOT_N_STATES] = {
	[COWI_SNAPSHOT_NEW] = "new",
	[COWI_SNAPSHOT_PENDING] = "pending",
	[COWI_SNAPSHOT_LIVE] = "live",
	[COWI_SNAPSHOT_LOST] = "lost",
};

static const uint32_t snapshot_next[COWI_SNAPSHOT_N_STATES] = {
	[COWI_SNAPSHOT_NEW] = STATE_BIT(COWI_SNAPSHOT_PENDING) | STATE_BIT(COWI_SNAPSHOT_LIVE) |
			      STATE_BIT(COWI_SNAPSHOT_LOST),
	/* new again: the request could not be sent */
	[COWI_SNAPSHOT_PENDING] = STATE_BIT(COWI_SNAPSHOT_NEW) | STATE_BIT(COWI_SNAPSHOT_LIVE) |
				  STATE_BIT(COWI_SNAPSHOT_LOST),
	[COWI_SNAPSHOT_LIVE] = STATE_BIT(COWI_SNAPSHOT_LOST),
};

const struct state_table cowi_snapshot_states = {.what = "snapshot",
						 .names = snapshot_names,
						 .next = snapshot_next,
						 .n = COWI_SNAPSHOT_N_STATES};

static const char *const view_names[COWI_VIEW_N_STATES] = {
	[COWI_VIEW_NONE] = "none",
	[COWI_VIEW_MAKING] = "making",
	[COWI_VIEW_READY] = "ready",
	[COWI_VIEW_BROKEN] = "broken",
};

static const uint32_t view_next[COWI_VIEW_N_STATES] = {
	[COWI_VIEW_NONE] = STATE_BIT(COWI_VIEW_MAKING),
	[COWI_VIEW_MAKING] = STATE_BIT(COWI_VIEW_NONE) | STATE_BIT(COWI_VIEW_READY),
	[COWI_VIEW_READY] = STATE_BIT(COWI_VIEW_BROKEN),
};

const struct state_table cowi_view_states = {
	.what = "view", .names = view_names, .next = view_next, .n = COWI_VIEW_N_STATES};

void cowi_snapshot_enter(enum cowi_snapshot_state *state, enum cowi_snapshot_state to)
{
	assert(state_may_follow(&cowi_snapshot_states, *state, to));
	*state = to;
}

void cowi_view_enter(enum cowi_view_state *state, enum cowi_view_state to)
{
	assert(state_may_follow(&cowi_view_states, *state, to));
	*state = to;
}
