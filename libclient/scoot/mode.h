/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Between backends/scoot, which knows memory, and cowd: what mode.c and background.c share.
 *
 * Who may change frozen bytes again, and when: the region's memory stays frozen for a snapshot as
 * long as its lease is held, because another process may have opened it: lease.c.
 */
#ifndef COWI_SCOOT_MODE_H
#define COWI_SCOOT_MODE_H

#include "backends/scoot/scoot.h"
#include "libclient/internal.h"

/**
 * struct cowi_stopper - of a region with COW_REGION_STOP_THREADS; take_lock
 * @stop:          while they are stopped
 * @pause_nsec:    how long it is not tried after the latest failure; 0: the latest try succeeded
 * @retry_at_nsec: until when it is not tried
 */
struct cowi_stopper {
	struct scoot_stopper stopper;
	struct stop *stop;
	uint64_t pause_nsec;
	uint64_t retry_at_nsec;
};

/**
 * struct cowi_scoot - a region's part in it
 * @region:       whose it is; it outlives this
 * @task:         background work; while @is_posted a reference on @region is held for it
 * @spare:        an overlay made ahead; take_lock
 * @wants_spare:  a take has needed an overlay; take_lock
 * @stopper:      for takes; take_lock
 * @second_generation: of the connection that the region's second memory was made on; take_lock
 */
struct cowi_scoot {
	struct cow_region *region;
	struct cowi_task task;
	atomic_bool is_posted;
	struct memfile *spare;
	uint64_t spare_generation;
	uint64_t second_generation;
	bool wants_spare;
	struct cowi_stopper stopper;
};

/** cowi_scoot_post() - have the background look for work in @region; its caller has a reference */
void cowi_scoot_post(struct cow_region *region);
/** cowi_scoot_post_unwoken() - the same, but something else wakes
 * the thread: cowi_call_soon_in() */
void cowi_scoot_post_unwoken(struct cow_region *region);
/** cowi_scoot_post_soon() - the same, but it takes some milliseconds until the thread wakes */
void cowi_scoot_post_soon(struct cow_region *region);
/** cowi_scoot_run() - the task itself; client's thread */
void cowi_scoot_run(struct cowi_task *task);
/** cowi_scoot_warm() - have the background fill page tables for @region's first take. Return:
 * whether that is still to come */
bool cowi_scoot_warm(struct cow_region *region);
/** cowi_scoot_opened() - see struct cowi_mode_ops */
int cowi_scoot_opened(struct cow_snapshot *snap, const Cow__V1__SnapshotReply *reply,
		      struct fdset *fds);

/** cowi_scoot_attach_tell() - tell cowd where @region is. 0 or -errno */
int cowi_scoot_attach_tell(struct cow_region *region);

/* --- adopt.c ---------------------------------------------------------------------------- */

/** cowi_adopt_check() - can the memory be adopted, with @uffd? 0 or -errno; nothing is done yet */
int cowi_adopt_check(const struct cow_region *region, int uffd);
/** cowi_adopt() - make it memory of @region's. 0 or -errno, and the memory is what it was */
int cowi_adopt(struct cow_region *region);
/** cowi_adopt_end() - give it back: as it is, or if @region never came to be one, as it was */
void cowi_adopt_end(struct cow_region *region);

/* --- lease.c ---------------------------------------------------------------------------------- */

/** cowi_lease_alloc() - what cowi_lease_await() takes; free() it otherwise. 0 or -ENOMEM */
int cowi_lease_alloc(struct cowi_lease **lease);
/**
 * cowi_lease_await() - keep @frozen as it is until nobody else holds the lease
 * @lease:    taken
 * @lease_fd: its read end; taken, as @frozen is
 */
void cowi_lease_await(struct cow_client *client, struct cowi_lease **lease, int *lease_fd,
		      struct scoot_snapshot **frozen);
/** cowi_leases_forget() - @client has no region any more: nobody can change what was frozen */
void cowi_leases_forget(struct cow_client *client);
/** cowi_leases_look() - client->conn->leases_fd has news: thaw what no lease is held for any more;
 * client's thread */
void cowi_leases_look(struct cow_client *client);
/* For the fork handlers: the list's lock over the fork; _child() before _done(). */
void cowi_leases_fork_prepare(void);
void cowi_leases_fork_child(void);
void cowi_leases_fork_done(void);

/* --- background.c, blocks.c ------------------------------------------------------------------- */

/* For the fork handlers: the lock of blocks.c over the fork. */
void cowi_scoot_blocks_fork_prepare(void);
void cowi_scoot_blocks_fork_child(void); /* before _done(): duplicates stay with the parent */
void cowi_scoot_blocks_fork_done(void);

/**
 * cowi_overlay_new() - a backing for changed pages, and behind them their record, made by cowd
 * @out: NULL, guarded by take_lock as @made_in is; whoever was first sets both
 * @made_in: of which connection it is
 *
 * With take_lock held, which is let go while cowd is asked: a fork(), which takes it, does not wait
 * for cowd. Not for the client's own thread, which waits for no holder of that lock.
 * Return: 0, and *@out is of @generation; -errno.
 */
int cowi_overlay_new(struct memfile **out, uint64_t *made_in, struct cow_region *region,
		     uint64_t generation);
/** cowi_overlay_release() - this client needs no further snapshots of it; cowd's id is forgotten */
void cowi_overlay_release(struct cow_client *client, uint64_t generation, struct memfile *overlay);

/* --- alone.c ---------------------------------------------------------------------------- */

/** cowi_is_single_threaded() - whether the program has no other thread now, nor a handler that
 * could start one; in an entry */
bool cowi_is_single_threaded(void);

/* --- stop.c ----------------------------------------------------------------------------- */

/*
 * All takes of the library: snapshots, duplicates and, as guards, forks. With the region's lock
 * held. Return: as scoot_take() and scoot_guard() do.
 */
int cowi_scoot_take(struct cow_region *region, struct memfile *overlay,
		    struct scoot_snapshot **out);
int cowi_scoot_guard(struct cow_region *region, struct scoot_snapshot **out);

/* --- break-even.c ----------------------------------------------------------------------------- */

/* What cowi_mmapcopy_min_bytes() measures is taken to be in these bounds. */
#define COWI_MMAPCOPY_LEAST_BYTES ((size_t)64 << 10)
#define COWI_MMAPCOPY_MOST_BYTES  ((size_t)1 << 20)

/** cowi_mmapcopy_min_bytes() - smaller copies are made with memcpy(); measured by the first call */
size_t cowi_mmapcopy_min_bytes(void);

/* --- fork/guard.c ----------------------------------------------------------------------------- */

struct cowi_guard;

/** cowi_guard_new() - what keeps memory frozen for a fork child that is to come. 0 or -errno */
int cowi_guard_new(struct cowi_guard **out);
/** cowi_guard_add() - takes @frozen, a region's memory */
int cowi_guard_add(struct cowi_guard *guard, struct scoot_snapshot **frozen);
/** cowi_guard_watch() - in the parent: takes it, and frees it when
 * the last of that family has gone */
void cowi_guard_watch(struct cowi_guard *guard);
/** cowi_guard_child() - in the child: tell the parent; takes it.
 * 0, or -errno: it does not know us */
int cowi_guard_child(struct cowi_guard *guard);
/** cowi_guards_inherited() - in a child's child: tell those whose memory the parent had. 0 or
 * -errno */
int cowi_guards_inherited(void);
/* For the fork handlers: the list's lock over the fork; in the child the list is empty then. */
void cowi_guards_fork_prepare(void);
void cowi_guards_fork_parent(void);
void cowi_guards_fork_child(void);

#endif
