/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A snapshot: what a region held at one instant.
 *
 * Mode uffd: a store in its region's chain (daemon/uffd/tracker.h). Other modes: a list of extents
 * of backings that nobody writes any more, and the lease that its client looks at: the client thaws
 * its memory when all who were given the lease, cowd first, have closed it (PROTOCOL.md).
 *
 * It is referenced by every session that took or opened it (struct hold), by views, and by reads
 * and saves under way. With the last reference it leaves its region's chain, in a job, and is
 * freed.
 *
 * Frozen or lost: is_lost is set before any page it needed is let go, and is looked at after bytes
 * were copied and before they are used, so no bytes of a lost snapshot ever leave cowd.
 */
#ifndef COWD_SNAPSHOT_H
#define COWD_SNAPSHOT_H

#include <stdatomic.h>

#include "daemon/base/hash.h"
#include "daemon/base/outcome.h"
#include "daemon/base/quota.h"
#include "daemon/region/region.h"
#include "daemon/session.h"

struct daemon;
struct rpc_call;

/*
 * Life of a snapshot. One of modes scoot and mmapcopy is frozen to its end; one of mode uffd leaves
 * its region's chain when nobody has it any more, or when it is lost. A take that fails, and a
 * move that does not come, end it as well.
 *
 * Any thread reads it; snapshot_set_state() changes it:
 *
 *   to TAKING    the loop thread, before it submits the take
 *   after that   in modes scoot and mmapcopy the take alone, which is a region operation; in mode
 *                uffd region operations, and the worker that finds the client's move, with
 *                served.lock of the region held; to FROZEN with chain_lock held exclusively too
 *   to LEFT      from LEAVING: with chain_lock held exclusively, and without served.lock
 */
enum snapshot_state {
	SNAPSHOT_NEW,
	SNAPSHOT_TAKING,
	SNAPSHOT_AWAITING_MOVE, /* frozen once its client has moved its page tables aside */
	SNAPSHOT_FROZEN,        /* the cut was made; mode uffd: it is in the chain */
	SNAPSHOT_LEAVING,       /* in the chain yet; its pages are being handed down */
	SNAPSHOT_LEFT,
	SNAPSHOT_N_STATES
};

extern const struct state_table snapshot_states;

/**
 * struct snapshot - the beginning of the struct of each mode: struct link, struct frozen
 * @is_lost:      set once, by any thread, in snapshot_mark_lost()
 * @lost_because: written before that, and not after it
 *
 * What does not change after the take was submitted, any thread may read; all else belongs to the
 * loop thread, and @op to the region operation while that is under way.
 */
struct snapshot {
	unsigned int n_refs;
	_Atomic enum snapshot_state state;
	struct daemon *daemon;
	struct region *region; /* a reference */
	uint64_t id;
	uint64_t region_id;
	char region_name[64];
	char name[64];
	Cow__V1__Mode mode;
	pid_t pid;
	uid_t uid;
	uint64_t size_bytes;
	uint64_t taken_usec;
	struct charge charge;
	unsigned int n_holders; /* sessions with a hold */
	struct hold *holds;     /* all sessions' */
	_Atomic bool is_lost;
	char lost_because[160];
	bool is_lost_told;    /* its holders know */
	bool is_saving;       /* is_once: that save has begun */
	unsigned int n_saves; /* under way */
	uint64_t saved_bytes; /* by the one that has moved last */

	/* the take */
	uint64_t budget_pages;     /* mode uffd: slots of its own; 0: what the uid may keep */
	bool can_wait;             /* writers that would pass it wait, rather than it be lost */
	bool is_once;              /* for one save; what that has written is kept no longer */
	bool by_move;              /* mode uffd: how it is taken */
	uint64_t again_until_usec; /* since TAKE_E_AGAIN: when its take gives up; 0: none yet */
	struct region_op op;       /* take, then leave; op.region is set while one is under way */
	struct outcome outcome;    /* of the take */
	struct rpc_call *call;     /* that asked for the take */

	UT_hash_handle hh; /* in daemon->snapshots */
};

/**
 * struct snapshot_events - what is to be told of snapshots, by functions of daemon/rpc/events.c
 * @lost: all holders are told, and the log is, that @snap is lost and why. Loop thread; no hold
 * goes
 *
 * daemon->snapshot_events points to them before there is a snapshot.
 */
struct snapshot_events {
	void (*lost)(const struct snapshot *snap);
};

/** snapshot_new() - of @region, charged to its user, not yet frozen. 0 or -errno */
int snapshot_new(struct snapshot **out, struct region *region, const char *name);
/** snapshot_set_state() - the change is one of snapshot_states */
void snapshot_set_state(struct snapshot *snap, enum snapshot_state state);
struct snapshot *snapshot_ref(struct snapshot *snap);
struct snapshot *snapshot_unref(struct snapshot *snap);
/** snapshot_left() - by its mode: nothing of it is left behind; frees it if nobody has it */
void snapshot_left(struct snapshot *snap);
DEFINE_CLEANUP(snapshot_unref, struct snapshot *)

/** snapshot_find() - one that @session holds, or NULL with a sentence; lent */
struct snapshot *snapshot_find(struct session *session, uint64_t id);
/** snapshot_hold() - one more hold for @session. 0; -EDQUOT, -ENOMEM */
int snapshot_hold(struct snapshot *snap, struct session *session);
/** snapshot_release() - one hold less. 0 or -ENOENT */
int snapshot_release(struct session *session, uint64_t id);
/** snapshot_drop_holds() - session_end(): all holds of @session */
void snapshot_drop_holds(struct session *session);

/**
 * snapshot_read() - bytes of the snapshot
 * @buf: where to
 *
 * Context: any thread that was lent a reference; does not wait for any client. [@off, @off + @len)
 * is inside. Return: 0; -ESTALE, @buf then holds nothing of use; -EIO.
 */
int snapshot_read(struct snapshot *snap, void *buf, size_t len, uint64_t off);

/**
 * snapshot_lose_memory() - lose those of other modes than uffd that are made of file @dev, @ino
 *
 * Its owner has connected again and wants to change it: who has them is asked to let go. Until then
 * their leases keep it as it is. Loop thread.
 */
void snapshot_lose_memory(struct daemon *daemon, dev_t dev, ino_t ino);

/**
 * snapshot_mark_lost() - @snap cannot be shown any more; nothing happens if it was lost before
 *
 * Before any page that it needs is let go. Any thread. Its mode has the holders told.
 */
void snapshot_mark_lost(struct snapshot *snap, const char *because);
/** snapshot_tell_lost() - tell the holders; loop thread */
void snapshot_tell_lost(struct snapshot *snap);

/* --- what the mode does: wrappers of ops.h ---------------------------------------------------- */

/** snapshot_check_take() - 0; REGION_E_PROTOCOL; -errno */
int snapshot_check_take(const struct region *region, const struct session *session,
			const Cow__V1__SnapshotTake *take, const struct fdset *fds) MUST_CHECK;
/** snapshot_prepare() - of a new one, before its take. 0 or -errno */
int snapshot_prepare(struct snapshot *snap, struct session *session,
		     const Cow__V1__SnapshotTake *take, struct fdset *fds) MUST_CHECK;
/** snapshot_take() - in the region operation of a take. 0; TAKE_E_AGAIN; -errno */
int snapshot_take(struct snapshot *snap) MUST_CHECK;
/**
 * snapshot_trim_saved() - is_once: all before byte @off is saved, and not needed; saver's
 * thread
 */
void snapshot_trim_saved(struct snapshot *snap, uint64_t off);
/** snapshot_kept_bytes() - memory that it has of cowd */
uint64_t snapshot_kept_bytes(const struct snapshot *snap);

/* ---------------------------------------------------------------------------------------------- */

/** snapshot_submit_take() - run @run as a region operation, then
 * @done; holds a reference meanwhile */
void snapshot_submit_take(struct snapshot *snap, void (*run)(struct region_op *op),
			  void (*done)(struct region_op *op));
/** snapshot_take_done() - last act of @done above; drops the reference */
void snapshot_take_done(struct snapshot *snap);

/** snapshot_stale() - raise -ESTALE with the reason */
int snapshot_stale(const struct snapshot *snap);

#endif
