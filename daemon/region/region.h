/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A region: a range of a client's memory that can be frozen, and for mode uffd everything that has
 * to do with serving its faults.
 *
 * Snapshots of a uffd region form a chain, oldest first. Each has a store with the pages that
 * changed between it and the next one; page i of a snapshot is in the first store from its own
 * onward that has it, else it is what the memory M holds still.
 *
 * cowd reads M with pread(2), never through a mapping, so that a hole reads as zeroes and stays a
 * hole. A reader copies from M first and looks at the stores afterwards: a page that no store has
 * by then had not changed when it was copied, because a page is put into a store before its
 * protection is lifted.
 *
 * Locks, in this order:
 *   1. served.lock  One thread at a time resolves faults of the region. A thread that holds it
 *                   without serving *gates* the region: no thread of the client that waits for a
 *                   page goes on. Taking a snapshot holds it from before the first page is
 *                   protected until the snapshot is in the chain.
 *   2. chain_lock   Shared to read pages and to keep them, exclusively to change which stores
 *                   there are or to move entries between them. Held exclusively for short pieces
 *                   only.
 *   3. the pool's   See slots.h.
 * Everything else in the structure belongs to the loop thread. HACKING.md has the order of all
 * locks of cowd.
 *
 * Operations that change the chain (take, release) are *region operations*: they run in the job
 * pool, one at a time for each region, in order of submission. Those that nobody waits for
 * (snapshots leaving, memory given back) come after the others and yield to them.
 *
 * Between snapshots a region is not registered with its userfaultfd at all and costs nothing. There
 * are two ways to freeze it:
 *
 *   Eagerly  Register it for write-protect faults and protect every page, with served.lock held.
 *            This walks every page table entry.
 *
 *   Lazily   Register it for missing, minor and write-protect faults, then have the client move
 *            its page tables aside, which takes the same short time for any size. The move is the
 *            cut: it leaves an empty mapping, so that every touch from then on is a fault. The
 *            kernel reports the move in the userfaultfd's queue and refuses to resolve any fault
 *            (EAGAIN) until the report was read; the worker that reads it puts the snapshot into
 *            the chain before it resolves anything. So no fault that came after the cut is ever
 *            resolved as if it came before. Pages are then mapped again, write-protected, as they
 *            are touched and by a sweep in the background (sweep.c).
 *
 * Once its owner has freed it, though, nothing is registered, protected or swept any more: another
 * region may be at its addresses, and the kernel does not always look whose userfaultfd asks.
 *
 * A region lives, and its faults are served, as long as its session or any snapshot needs it. cowd
 * does not rely on its owner's word that it was unmapped. When its process has gone (ESRCH) there
 * is nothing more to serve and M stays as it was.
 */
#ifndef COWD_REGION_H
#define COWD_REGION_H

#include <pthread.h>
#include <stdatomic.h>
#include <uthash.h>

#include "daemon/base/job.h"
#include "daemon/base/quota.h"
#include "daemon/region/ops.h"
#include "daemon/region/state.h"
#include "daemon/uffd/follow.h"
#include "daemon/uffd/prealloc.h"
#include "daemon/uffd/quota-wait.h"
#include "daemon/uffd/slots.h"
#include "daemon/uffd/worker.h"
#include "proto/cow.pb-c.h"

struct backing;
struct daemon;
struct session;
struct snapshot;

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

/* Whether the faults of a region in mode uffd are served. */
enum tracker_state {
	TRACKER_NEW, /* not yet: it is not attached */
	TRACKER_SERVED,
	TRACKER_GONE,    /* nothing more can be served; its descriptor is still open */
	TRACKER_CLOSING, /* that is being closed, or is closed */
	TRACKER_N_STATES
};

/* What a region is registered for. */
enum region_registered {
	REGION_PLAIN, /* not, or not everywhere */
	REGION_WP,
	REGION_ALL, /* missing, minor, write-protect: pages may be absent */
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

	/* mode uffd */
	struct charge fds_charge;
	int uffd;                                 /* -1: not attached, or the process has gone */
	_Atomic enum tracker_state tracker_state; /* tracker_set_state() */
	struct served served;
	pthread_rwlock_t chain_lock;
	struct snapshot *oldest; /* chain_lock */
	struct snapshot *newest;
	/* Written with chain_lock held; the loop reads it without. */
	_Atomic unsigned int n_chained;
	struct store_pool *pool; /* set once, before the first snapshot is in the chain; or NULL */
	_Atomic uint64_t n_faults;
	struct stock stock;       /* of slots made ready ahead */
	struct room room;         /* for more pages of its user */
	struct follow follow;     /* served.lock: where its writers run */
	uint64_t last_end_idx;    /* served.lock: where the last fault's pages ended, and … */
	uint32_t run_pages;       /* … how many to keep at once if the next one is there */
	uint32_t n_idle_turns;    /* served.lock, as the next one */
	uint32_t n_tries;         /* turns in a row */
	_Atomic bool has_waiters; /* a write waits for room in a store; set with chain_lock held */
	bool can_move;            /* its userfaultfd reports moves and serves all kinds of faults */
	enum region_registered registered; /* served.lock */
	struct snapshot *pending; /* served.lock: in the chain once the client has made its move */
	_Atomic uint32_t n_looks; /* odd: messages are being read; see event.h */
	uint32_t n_removals;      /* served.lock, as the next one: reported so far */
	uint64_t
		again_since_nsec; /* since when no turn could serve its faults; 0: the last could */
	_Atomic unsigned int n_urgent; /* operations submitted, not done, that are not background */
	_Atomic unsigned int n_leaving; /* snapshots that nobody has, still in the chain */
	struct region_op calm_op;       /* unregistering it when no snapshot is left */
	struct region_op trim_op;       /* giving memory of the pool back; prealloc.c */
	bool is_trimmed;                /* all of it; trim_op's, as the next one */
	size_t n_trim_keep;             /* but so many slots */
	_Atomic uint64_t sweep_off;     /* below it, pages are mapped and protected */
	bool wants_sweep;               /* served.lock: from its first fault on */
	bool is_sweeping;               /* loop thread */
	struct job sweep_job;
	struct job close_job;
	struct job chain_job; /* waits for chain_lock, as the loop does not */
	bool is_awaiting_chain;
	struct task moved_task; /* starts a sweep */
	_Atomic bool is_moved_posted;
	struct task lost_task; /* tells the loop thread that snapshots were lost */
	_Atomic bool is_lost_posted;

	struct region_op *queue; /* of operations; the first one is running */
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
 * A take does not wait for what earlier snapshots left behind: an operation that is not a background
 * one goes before those that are. Leaves that pile up are an end of that.
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
