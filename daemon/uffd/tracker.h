/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A tracker: a region of mode uffd, with all that has to do with serving its faults and keeping its
 * old pages. tracker.c is its life, and the table of the mode; what the other files of this folder
 * do to it is declared here too.
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
 * HACKING.md has the order of all locks of cowd. Snapshots come into the chain and leave it by
 * region operations (region.h).
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
 * A region's faults are served as long as its session or any snapshot needs it. cowd does not rely
 * on its owner's word that it was unmapped. When its process has gone (ESRCH) there is nothing more
 * to serve and M stays as it was.
 */
#ifndef COWD_TRACKER_H
#define COWD_TRACKER_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>

#include "daemon/base/worker.h"
#include "daemon/region/region.h"
#include "daemon/uffd/follow.h"
#include "daemon/uffd/prealloc.h"
#include "daemon/uffd/quota-wait.h"
#include "daemon/uffd/slots.h"

struct link;

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

struct tracker {
	struct region region; /* first: region_new() makes both */
	struct charge fds_charge;
	bool can_move; /* its userfaultfd reports moves and serves all kinds of faults */

	/*
	 * By tracker_set_state(): TRACKER_GONE by the thread that serves, with served.lock, all
	 * others by the loop thread. Any thread reads it.
	 */
	_Atomic enum tracker_state state;

	/* served.lock; the job that attaches sets uffd before anybody serves */
	struct served served;
	int uffd; /* -1: not attached, or closed */
	enum region_registered registered;
	struct link *pending;  /* in the chain once the client has made its move */
	struct follow follow;  /* where its writers run */
	uint64_t last_end_idx; /* where the last fault's pages ended, and … */
	uint32_t run_pages;    /* … how many to keep at once if the next one is there */
	uint32_t n_idle_turns;
	uint32_t n_tries;          /* turns in a row */
	uint32_t n_removals;       /* reported so far */
	uint64_t again_since_nsec; /* since when no turn could serve; 0: the last could */
	bool wants_sweep;          /* from its first fault on */

	/* chain_lock */
	pthread_rwlock_t chain_lock;
	struct link *oldest;
	struct link *newest;
	_Atomic unsigned int n_chained; /* the loop reads it without the lock */
	_Atomic bool has_waiters;       /* a write waits for room in a store; set with the lock */
	struct store_pool *pool; /* set once, before the first snapshot is in the chain; or NULL */

	/* any thread */
	_Atomic uint64_t n_faults;
	_Atomic uint32_t n_looks;           /* odd: messages are being read; see event.h */
	_Atomic uint64_t sweep_off;         /* below it, pages are mapped and protected */
	struct prealloc prealloc;           /* of slots made ready ahead */
	struct quota_waiters quota_waiters; /* for more pages of its user */
	struct task moved_task; /* the client has moved its page tables: starts a sweep */
	_Atomic bool is_moved_posted;
	struct task lost_task; /* snapshots were lost: has their holders told */
	_Atomic bool is_lost_posted;
	struct task gone_task; /* nothing more can be served: closes the userfaultfd */

	/* loop thread, and the jobs and operations themselves */
	struct region_op disarm_op; /* unregistering it when no snapshot is left */
	struct region_op trim_op;   /* giving memory of the pool back; prealloc.c */
	bool is_trimmed;            /* all of it; trim_op's, as the next one */
	size_t n_trim_keep;         /* but so many slots */
	struct job sweep_job;
	bool is_sweeping;
	struct job lost_job; /* after lost_task: waits for chain_lock, as the loop does not */
	bool is_lost_job;
	struct job close_job;
};

static_assert(offsetof(struct tracker, region) == 0, "a tracker begins with its region");

/** tracker_of() - of a region of mode uffd */
static inline struct tracker *tracker_of(struct region *region)
{
	assert(region->ops == &region_ops_uffd);
	return container_of(region, struct tracker, region);
}

static inline const struct tracker *tracker_of_const(const struct region *region)
{
	assert(region->ops == &region_ops_uffd);
	return (const struct tracker *)(const void *)region;
}

extern const struct state_table tracker_states;

/** tracker_set_state() - the change is one of tracker_states */
void tracker_set_state(struct tracker *tracker, enum tracker_state state);
/** tracker_is_gone() - nothing can be served any more; any thread */
static inline bool tracker_is_gone(const struct tracker *tracker)
{
	return tracker->state >= TRACKER_GONE;
}

/** tracker_is_frozen() - whether a snapshot needs what the region's memory has; any thread */
bool tracker_is_frozen(const struct tracker *tracker);
/** tracker_wake_waiters() - there may be room, or no need of it; no lock held; not the loop */
void tracker_wake_waiters(struct tracker *tracker);
/** tracker_gone() - by the one that serves: nothing more can be served; the loop closes its uffd */
void tracker_gone(struct tracker *tracker);
/** tracker_close() - if it is gone, close its userfaultfd, once it is swept no more; loop thread */
void tracker_close(struct tracker *tracker);

/* --- arm.c: with served.lock held, in a region operation's run() ------------------------------ */

/** arm_eagerly() - protect every page now. 0; TAKE_E_AGAIN; -errno */
int arm_eagerly(struct tracker *tracker);
/** arm_prepare() - have every touch after the client's move be a fault. 0; TAKE_E_AGAIN; -errno */
int arm_prepare(struct tracker *tracker);
/** disarm_unused() - loop thread: if no snapshot is left, have the region unregistered */
void disarm_unused(struct tracker *tracker);

/* --- sweep.c ---------------------------------------------------------------------------------- */

/** sweep_moved_task() - tracker->moved_task: sweep from the start */
void sweep_moved_task(struct task *task);

/* --- fault.c ---------------------------------------------------------------------------------- */

/**
 * fault_keep() - page @idx of memory is about to be changed by cowd itself
 *
 * With served.lock, and chain_lock held shared. Return: 0, no live snapshot needs it from memory
 * any more; STORE_E_QUOTA, -errno: with a sentence, and nothing is lost.
 */
int fault_keep(struct tracker *tracker, uint64_t idx);

/** fault_serve_region() - one turn of a region's faults; a served.serve function */
enum served_verdict fault_serve_region(struct served *served, void *buf);

#endif
