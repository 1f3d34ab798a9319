/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The chain of a uffd region: its snapshots, oldest first, each with a store. tracker.h says which
 * store has which page, and which locks there are.
 *
 * chain.c puts snapshots into the chain, makes them lost and takes them out; chain-read.c reads
 * their bytes.
 */
#ifndef COWD_CHAIN_H
#define COWD_CHAIN_H

#include "daemon/snapshot/snapshot.h"
#include "daemon/uffd/tracker.h"

/**
 * struct link - a snapshot of mode uffd
 * @older: with chain_lock, as @newer: its neighbours in the chain
 * @trimmed_pages: is_once: those below are saved; changed with chain_lock held exclusively
 * @doubt_first:   pages that memory may lose, up to @doubt_end; see event.h
 */
struct link {
	struct snapshot snap; /* first: snapshot_new() makes both */
	struct link *older;
	struct link *newer;
	struct store store;
	_Atomic uint64_t trimmed_pages;
	_Atomic uint64_t doubt_first;
	_Atomic uint64_t doubt_end;
};

static_assert(offsetof(struct link, snap) == 0, "a link begins with its snapshot");

/** link_of() - of a snapshot of mode uffd */
static inline struct link *link_of(struct snapshot *snap)
{
	assert(snap->region->ops == &region_ops_uffd);
	return container_of(snap, struct link, snap);
}

/** chain_init_store() - @link is a new one. Loop thread. 0; -EDQUOT, -ENOMEM */
int chain_init_store(struct link *link);
/**
 * chain_new_ahead() - have what the next snapshot needs of the kernel
 *
 * While nobody waits for it: making it takes longer than freezing. Once the region is attached, and
 * while the sweep goes on that follows a take by a move. Best effort. Loop thread.
 */
void chain_new_ahead(struct tracker *tracker);

/**
 * chain_take() - freeze now, or, if @link is taken by_move, be ready for the client's move
 *
 * Context: a region operation's run(). Return: 0; TAKE_E_AGAIN, nothing is frozen: a later run()
 * may; -errno with a sentence.
 */
int chain_take(struct snapshot *snap);
/**
 * chain_moved() - the client has made its move
 *
 * By the one that serves, before it resolves faults that came after the move.
 */
void chain_moved(struct tracker *tracker);

/**
 * chain_leave() - have @link leave the chain in the background, and then call snapshot_left()
 *
 * Nobody has it any more, or it is lost. Nothing happens while another operation of @link is under
 * way. Loop thread.
 */
void chain_leave(struct snapshot *snap);
/**
 * chain_drain() - is_once: all before byte @off is saved and need not be kept
 *
 * Context: the saver's thread, without a lock. Writers that wait go on.
 */
void chain_drain(struct snapshot *snap, uint64_t off);

/**
 * chain_lose() - make lost whoever needs page @idx from M; see fault.c
 *
 * Context: tracker->chain_lock held shared, by one that serves. The loop thread tells the holders.
 */
void chain_lose(struct tracker *tracker, uint64_t idx, const char *because);
/** chain_lose_one() - the same, for @link alone; any thread */
void chain_lose_one(struct link *link, const char *because);
/** chain_lose_all() - the same for every snapshot of @region, without the lock */
void chain_lose_all(struct tracker *tracker, const char *because);
/**
 * chain_tell_lost() - tell the holders of those that were lost, and have them leave the chain
 *
 * Loop thread; later, if others have chain_lock.
 */
void chain_tell_lost(struct tracker *tracker);
/** chain_lost_task() - tracker->lost_task: chain_tell_lost() */
void chain_lost_task(struct task *task);

/* --- chain-read.c ----------------------------------------------------------------------------- */

/** chain_read() - snapshot_read() of mode uffd */
int chain_read(struct snapshot *snap, void *buf, size_t len, uint64_t off);

/**
 * chain_find_slot() - what the first store from @link's own onward says about a page
 *
 * With tracker->chain_lock held. Return: STORE_EMPTY: it has not changed since; STORE_ZERO; a slot.
 */
uint32_t chain_find_slot(const struct link *link, uint64_t idx);

/**
 * chain_read_slot() - as store_pool_read(), but @link becomes lost by -EIO
 *
 * With tracker->chain_lock held. Return: 0; -ESTALE; -errno with a sentence.
 */
int chain_read_slot(struct link *link, uint32_t slot, size_t in_page, void *buf, size_t n_bytes);

#endif
