/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What cowd does for a region of mode uffd: it has the region's userfaultfd, serves its faults and
 * keeps its old pages. region.h says how. tracker.c is its life, and the table of the mode; what
 * the other files of this folder do to a region is declared here too.
 */
#ifndef COWD_TRACKER_H
#define COWD_TRACKER_H

#include "daemon/region/ops.h"
#include "daemon/region/region.h"

extern const struct state_table tracker_states;

/**
 * tracker_set_state() - the change is one of tracker_states
 *
 * TRACKER_GONE by the thread that serves, with served.lock; all others by the loop thread.
 */
void tracker_set_state(struct region *region, enum tracker_state state);
/** tracker_is_gone() - nothing can be served any more; any thread */
static inline bool tracker_is_gone(const struct region *region)
{
	return region->tracker_state >= TRACKER_GONE;
}

/** tracker_is_frozen() - whether a snapshot needs what the region's memory has; any thread */
bool tracker_is_frozen(const struct region *region);
/** tracker_wake_waiters() - there may be room again, or no need of it; no lock held; not the loop */
void tracker_wake_waiters(struct region *region);
/** tracker_close() - if it is gone, close its userfaultfd; loop thread */
void tracker_close(struct region *region);

/* --- arm.c: with served.lock held, in a region operation's run() ------------------------------ */

/** arm_eagerly() - protect every page now. 0; TAKE_E_AGAIN; -errno */
int arm_eagerly(struct region *region);
/** arm_prepare() - have every touch after the client's move be a fault. 0; TAKE_E_AGAIN; -errno */
int arm_prepare(struct region *region);
/** arm_calm() - loop thread: if no snapshot is left, have the region unregistered */
void arm_calm(struct region *region);

/* --- sweep.c ---------------------------------------------------------------------------------- */

/** sweep_moved_task() - region->moved_task: sweep from the start */
void sweep_moved_task(struct task *task);

/* --- fault.c ---------------------------------------------------------------------------------- */

/**
 * fault_keep() - page @idx of memory is about to be changed by cowd itself
 *
 * With served.lock, and chain_lock held shared. Return: 0, no live snapshot needs it from memory
 * any more; STORE_E_QUOTA, -errno: with a sentence, and nothing is lost.
 */
int fault_keep(struct region *region, uint64_t idx);

/** fault_serve_region() - one turn of a region's faults; a served.serve function */
enum served_verdict fault_serve_region(struct served *served, void *buf);

#endif
