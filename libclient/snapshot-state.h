/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The states of a snapshot and of its view. Each is changed by its enter function alone, with
 * client->lock held. That ends the process at a transition that its table does not have: a bug of
 * this library, which could show wrong bytes as a snapshot.
 *
 *     new <----> pending ----> live ----> lost <---- (new, pending)
 *
 *     none <----> making ----> ready ----> broken
 */
#ifndef COWI_SNAPSHOT_STATE_H
#define COWI_SNAPSHOT_STATE_H

#include "common/state.h"

/**
 * enum cowi_snapshot_state
 * @COWI_SNAPSHOT_NEW:     cowd has not been asked, or a thread waits for its answer
 * @COWI_SNAPSHOT_PENDING: SnapshotTake has no reply yet, and no thread need wait for it
 * @COWI_SNAPSHOT_LIVE:    it has an id
 * @COWI_SNAPSHOT_LOST:    final; it has no id
 */
enum cowi_snapshot_state {
	COWI_SNAPSHOT_NEW,
	COWI_SNAPSHOT_PENDING,
	COWI_SNAPSHOT_LIVE,
	COWI_SNAPSHOT_LOST,
	COWI_SNAPSHOT_N_STATES,
};

/**
 * enum cowi_view_state
 * @COWI_VIEW_MAKING: one thread makes it; until it is there nothing replaces it
 * @COWI_VIEW_BROKEN: final; the snapshot is lost, and the view raises SIGBUS
 */
enum cowi_view_state {
	COWI_VIEW_NONE,
	COWI_VIEW_MAKING,
	COWI_VIEW_READY,
	COWI_VIEW_BROKEN,
	COWI_VIEW_N_STATES,
};

void cowi_snapshot_enter(enum cowi_snapshot_state *state, enum cowi_snapshot_state to);
void cowi_view_enter(enum cowi_view_state *state, enum cowi_view_state to);

extern const struct state_table cowi_snapshot_states;
extern const struct state_table cowi_view_states;

#endif
