/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The modes, as the rest of the library calls them: client.c, region.c, snapshot.c, change.c and
 * warm.c call modes by these functions alone.
 *
 * Each function asserts, before the call, the state and the lock that struct cowi_mode_ops
 * promises the mode, and after it the state that the mode promises in return: a fault on either
 * side of this border ends the program here, and not later where nobody knows why. An operation
 * that a mode leaves out does nothing, unless its comment says otherwise.
 */
#ifndef COWI_MODES_H
#define COWI_MODES_H

#include "libclient/internal.h"

/**
 * struct cowi_plugs - what floors above this one are called by
 * @scoot:    for mode mmapcopy too
 * @restored: cowd knows @region, of mode scoot or mmapcopy, after a new connection; client's thread
 */
struct cowi_plugs {
	const struct cowi_mode_ops *uffd;
	const struct cowi_mode_ops *scoot;
	void (*restored)(struct cow_region *region);
};

/** cowi_plug() - before there is a client; any number of times, with the same */
void cowi_plug(const struct cowi_plugs *plugs);

/** cowi_mode_ops() - those of an enum cow_mode, which the protocol numbers alike; NULL: unknown */
const struct cowi_mode_ops *cowi_mode_ops(uint32_t mode);
/**
 * cowi_mode_ops_opened() - those that read a snapshot which was opened by id; NULL: unknown mode
 * @is_shared: cowd passed the snapshot's files; without them cowd reads it for us, as in mode uffd
 */
const struct cowi_mode_ops *cowi_mode_ops_opened(uint32_t mode, bool is_shared);

/* Regions. */
int cowi_mode_attach(struct cow_region *region, const struct cow_region_params *params);
int cowi_mode_restore(struct cow_region *region);
void cowi_mode_detach(struct cow_region *region);
void cowi_mode_forget(struct cow_region *region);
/** cowi_mode_warms() - whether cowi_mode_warm() is of use for @region */
bool cowi_mode_warms(const struct cow_region *region);
bool cowi_mode_warm(struct cow_region *region);
bool cowi_mode_can_discard(const struct cow_region *region);
int cowi_mode_discard(struct cow_region *region, uint64_t off, uint64_t len);

/* Snapshots. */
int cowi_mode_take(struct cow_snapshot *snap);
/** cowi_mode_opened() - make @snap one of @ops, which cowi_mode_ops_opened() gave */
int cowi_mode_opened(const struct cowi_mode_ops *ops, struct cow_snapshot *snap,
		     const Cow__V1__SnapshotReply *reply, struct fdset *fds);
/**
 * cowi_mode_is_leased() - whether an opened @snap holds a lease of its taker's. client->lock
 * held
 */
bool cowi_mode_is_leased(const struct cow_snapshot *snap);
int cowi_mode_read(struct cow_snapshot *snap, void *buf, size_t len, uint64_t off);
int cowi_mode_map(struct cow_snapshot *snap);
void cowi_mode_unmap(struct cow_snapshot *snap);
void cowi_mode_release(struct cow_snapshot *snap);
bool cowi_mode_can_roll_back(const struct cow_region *region);
int cowi_mode_rollback(struct cow_snapshot *snap);

/* All modes, one after the other. */
void cowi_modes_gone(struct cow_client *client);
void cowi_modes_end_client(struct cow_client *client);

#endif
