/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A region: a range of a client's memory that can be frozen. What is done with it in its mode is
 * in ops.h; a mode may need more memory of its regions than struct region, which comes first in it
 * then (struct tracker of daemon/uffd/tracker.h).
 *
 * The loop thread owns all of it but what is atomic, and lends it to jobs and workers.
 *
 * What changes a region's snapshots (take, release, roll back) are *region operations*: they run
 * in the job pool, one at a time for each region, in order of submission. Those that nobody waits
 * for (snapshots leaving, memory given back) come after the others and yield to them.
 *
 * A region lives as long as its session or any snapshot needs it.
 */
#ifndef COWD_REGION_H
#define COWD_REGION_H

#include <stdatomic.h>

#include "daemon/base/hash.h"
#include "daemon/base/job.h"
#include "daemon/base/quota.h"
#include "daemon/region/ops.h"
#include "daemon/region/state.h"
#include "proto/cow.pb-c.h"

struct backing;
struct daemon;
struct session;

/**
 * struct region_op - something that changes a region's chain of snapshots; embedded in its owner
 * @run:  in a job thread
 * @done: in the loop thread, when all of it is done; may free the owner
 */
struct region_op {
	void (*run)(struct region_op *op);
	void (*done)(struct region_op *op);
	bool is_background;    /* those that are not go before it, and it makes room for them */
	bool goes_on;          /* set by run(): a piece is done; again, before any other */
	struct region *region; /* a reference, while submitted */
	struct job job;
	struct region_op *next;
};

/*
 * Life of a region. Changed by the loop thread, in region_set_state(), and read by any.
 *
 * Operations that are under way when its owner goes find out by region_has_owner(): another region
 * may be at its addresses from then on.
 */
enum region_state {
	REGION_NEW,       /* its owner has not said where it is */
	REGION_ATTACHING, /* a job makes it ready for snapshots there */
	REGION_ATTACHED,
	REGION_ORPHANED, /* its owner's connection has ended, and snapshots need it */
	REGION_RESUMED,  /* on its owner's next connection, which has not attached it yet */
	REGION_FREED,    /* its owner has nothing there any more, or never had */
	REGION_ENDING,   /* nobody has a reference; its end is on its way */
	REGION_N_STATES
};

extern const struct state_table region_states;

struct region {
	unsigned int n_refs;
	_Atomic enum region_state state;
	struct daemon *daemon;
	struct session *session; /* owner; NULL when it freed the region or has ended */
	struct quota_user *user;
	uint64_t id;
	uint64_t client_id;
	pid_t pid;
	uid_t uid;
	char name[64];
	const struct region_ops *ops; /* its mode's, ops.h */
	Cow__V1__Mode mode;
	uint64_t addr;
	uint64_t size_bytes;
	uint64_t n_pages;
	struct backing *backing; /* M; a reference */
	struct charge charge;
	unsigned int n_snapshots;
	unsigned int n_children; /* children.h: each holds a reference */

	/* operations */
	_Atomic unsigned int n_urgent;  /* submitted, not done, that are not background */
	_Atomic unsigned int n_leaving; /* snapshots that nobody has, still in the chain */
	struct region_op *queue;        /* the first one is running */
	struct region_op **queue_tail;
	struct job end_job; /* after the last reference */

	struct region *prev; /* in session->regions, a list of utlist.h */
	struct region *next;
	UT_hash_handle hh; /* in daemon->regions */
};

/**
 * region_new() - with @backing as its memory
 * @backing: the region takes a reference of its own
 *
 * Return: 0 with a reference for @session, in whose list it is; -EDQUOT, -ENOMEM.
 */
int region_new(struct region **out, struct session *session, struct backing *backing,
	       const struct region_ops *ops, Cow__V1__Mode mode, const char *name);
struct region *region_ref(struct region *region);
/** region_unref() - with the last one the region goes and nobody is kept waiting in its memory */
struct region *region_unref(struct region *region);
DEFINE_CLEANUP(region_unref, struct region *)

/** region_find() - one of @session's own, or NULL with a sentence; lent */
struct region *region_find(struct session *session, uint64_t id);

/**
 * region_submit() - run @op when those before it are done; loop thread
 *
 * A take does not wait for what earlier snapshots left behind: an operation that is not a
 * background one goes before those that are. Leaves that pile up are an end of that.
 */
void region_submit(struct region *region, struct region_op *op);
/** region_should_yield() - whether a background operation is to end soon, to be submitted again */
bool region_should_yield(const struct region *region);

/** region_set_state() - loop thread; the change is one of region_states */
void region_set_state(struct region *region, enum region_state state);

/** region_has_owner() - whether it is there yet: its addresses are no other region's; any thread */
static inline bool region_has_owner(const struct region *region)
{
	const enum region_state state = region->state;

	return state != REGION_ORPHANED && state != REGION_FREED && state != REGION_ENDING;
}

/**
 * region_disown() - its owner has it no longer; drops the owner's reference
 *
 * Orphaned if it was attached, unless its owner has freed it.
 */
void region_disown(struct region *region);
/** region_drop_all() - session_end(): disown all of its regions, and its backings */
void region_drop_all(struct session *session);

#endif
