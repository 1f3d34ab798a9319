/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What regions and snapshots of each mode do in their own way: a table for each, and the wrappers
 * by which all others call it.
 *
 *   region_ops_uffd     daemon/uffd/tracker.c     cowd keeps the old bytes of pages
 *   region_ops_frozen   daemon/snapshot/frozen.c  the program makes the cut itself and says which
 *                                                 memory its snapshot is; scoot and mmapcopy
 *
 * Nobody else asks for a region's mode but to tell it to people. A wrapper asserts what its
 * function may rely on (which thread calls, which state the object is in) and what that promised
 * to return; an assertion that fails is a fault of cowd, never of a client.
 *
 * A function that is NULL has nothing to do in that mode; its wrapper returns 0 then, or false.
 */
#ifndef COWD_REGION_OPS_H
#define COWD_REGION_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/util.h"
#include "proto/cow.pb-c.h"

struct daemon;
struct fdset;
struct region;
struct session;
struct snapshot;

/* Named outcome: the client broke the protocol; with a sentence. */
#define REGION_E_PROTOCOL 1
/* Named outcome of a take: the client changes its address space, and cowd has not read of it yet.
 * Nothing is frozen; a later try may freeze it. */
#define TAKE_E_AGAIN      2

/**
 * struct region_ops - of a mode
 * @region_bytes: of a region's struct, which begins with struct region
 * @snapshot_bytes: of a snapshot's, which begins with struct snapshot
 * @is_inherited: whether fork children may have regions, see children.h
 * @hands_over: whether who opens a snapshot is handed the memory that it is made of, and a lease
 *
 * Regions. In the loop thread, but where it says otherwise:
 * @check:        whether regions can be made now
 * @init:         of a new one; charges what the mode needs
 * @check_attach: a RegionAttach with these descriptors, of a region that is not attached
 * @attach:       in a job thread: make it ready for snapshots; takes @fd on success
 * @serve:        after it: have it served from now on
 * @attached:     after its reply
 * @can_resume:   whether it goes on to be served if its owner hands it over again
 * @resumed:      its owner has done so
 * @kept_bytes:   memory that its snapshots have of cowd
 * @list:         adds to the entry of a list the fields of its mode
 * @end:          in a job thread: nothing is done in its memory after that
 * @deinit:       after @end
 *
 * Snapshots. In the loop thread, but where it says otherwise:
 * @init_snapshot: of zeroed memory: what @drop relies on
 * @check_take:   a SnapshotTake of a region that @session may see, with these descriptors
 * @prepare:      of a new one: what the take needs; takes what it wants of @fds
 * @take:         in a job thread, as a region operation
 * @taken:        the end of the take, with or without success
 * @read:         any thread; @snap is not lost, and the bytes are inside
 * @drain:        in a saver's thread: of a snapshot for one save: all before @off is saved
 * @leave:        of one that was taken and that nobody has: calls snapshot_left(), now or later.
 *                NULL: it leaves nothing behind
 * @snapshot_kept_bytes: memory that it has of cowd
 * @drop:         the end of it
 */
struct region_ops {
	size_t region_bytes;
	size_t snapshot_bytes;
	bool is_inherited;
	bool hands_over;

	int (*check)(const struct daemon *daemon);
	int (*init)(struct region *region);
	int (*check_attach)(const struct region *region, const struct fdset *fds);
	int (*attach)(struct region *region, int *fd);
	int (*serve)(struct region *region);
	void (*attached)(struct region *region);
	bool (*can_resume)(const struct region *region);
	void (*resumed)(struct region *region);
	uint64_t (*kept_bytes)(const struct region *region);
	void (*list)(const struct region *region, Cow__V1__RegionInfo *row);
	void (*end)(struct region *region);
	void (*deinit)(struct region *region);

	void (*init_snapshot)(struct snapshot *snap);
	int (*check_take)(const struct region *region, const struct session *session,
			  const Cow__V1__SnapshotTake *take, const struct fdset *fds);
	int (*prepare)(struct snapshot *snap, struct session *session,
		       const Cow__V1__SnapshotTake *take, struct fdset *fds);
	int (*take)(struct snapshot *snap);
	void (*taken)(struct snapshot *snap);
	int (*read)(struct snapshot *snap, void *buf, size_t len, uint64_t off);
	void (*drain)(struct snapshot *snap, uint64_t off);
	void (*leave)(struct snapshot *snap);
	uint64_t (*snapshot_kept_bytes)(const struct snapshot *snap);
	void (*drop)(struct snapshot *snap);
};

extern const struct region_ops region_ops_uffd;
extern const struct region_ops region_ops_frozen;

/* --- wrappers of region.c; those of snapshots are in snapshot.h ------------------------------- */

/** region_check_mode() - 0; -ENODEV, -ENOSYS, -EPERM */
int region_check_mode(const struct region_ops *ops, const struct daemon *daemon) MUST_CHECK;
/** region_check_attach() - 0; REGION_E_PROTOCOL */
int region_check_attach(const struct region *region, const struct fdset *fds) MUST_CHECK;
/** region_has_to_attach() - whether region_attach() and region_serve() have to be called */
bool region_has_to_attach(const struct region *region);
/** region_attach() - in a job thread; takes @fd on success. 0 or -errno */
int region_attach(struct region *region, int *fd) MUST_CHECK;
/** region_serve() - after region_attach(). 0 or -errno */
int region_serve(struct region *region) MUST_CHECK;
/** region_attached() - after the reply */
void region_attached(struct region *region);
bool region_can_resume(const struct region *region);
void region_resumed(struct region *region);
uint64_t region_kept_bytes(const struct region *region);
void region_list(const struct region *region, Cow__V1__RegionInfo *row);

#endif
