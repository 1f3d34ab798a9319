/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The requests to cowd, one function each. Any thread calls these, without client->lock.
 *
 * cowi_ask_*() sends a request on the connection @generation, and waits for its reply. Return: 0;
 * the error of the reply with its sentence; -ENOTCONN: that connection is or goes down.
 *
 * cowi_tell_*() sends a request and does not wait, and nobody looks at the reply. If the connection
 * @generation is down there is no cowd that would have to be told.
 *
 * Hello and SaveCancel are not here: the connection sends them itself (conn/).
 */
#ifndef COWI_REQUESTS_H
#define COWI_REQUESTS_H

#include "libclient/internal.h"

/* --- regions ---------------------------------------------------------------------------------- */

/**
 * cowi_ask_region_create() - have cowd make the memory of @region, on region->generation
 * @fds: gets its descriptors
 *
 * Sets region->id and region->backing_id.
 */
int cowi_ask_region_create(struct cow_region *region, struct fdset *fds);
/**
 * cowi_ask_region_restore() - hand @region to a new cowd
 *
 * Sets region->id, region->backing_id, region->generation and region->is_restored.
 */
int cowi_ask_region_restore(struct cow_region *region, uint64_t generation);
/** cowi_ask_region_attach() - tell where @region is mapped. @uffd: lent, serves it; or -1 */
int cowi_ask_region_attach(struct cow_region *region, int uffd);
int cowi_ask_region_free(struct cow_client *client, uint64_t generation, uint64_t region_id);
/** cowi_tell_region_free() - no effect in a fork child, or if @region_id is 0 */
void cowi_tell_region_free(struct cow_client *client, uint64_t generation, uint64_t region_id);
/** cowi_tell_region_child() - a fork child (@pidfd, lent) has the region's memory, under @key */
void cowi_tell_region_child(struct cow_client *client, uint64_t generation, uint64_t region_id,
			    uint64_t key, int pidfd);
/** cowi_tell_region_child_end() - the fork child with @key has no memory of any region any more */
void cowi_tell_region_child_end(struct cow_client *client, uint64_t generation, uint64_t key);

/* --- backings --------------------------------------------------------------------------------- */

/** cowi_ask_backing_create() - a memfd of @size_bytes: its number, and both its descriptors */
int cowi_ask_backing_create(struct cow_client *client, uint64_t generation, uint64_t size_bytes,
			    uint64_t *backing_id, struct fdset *fds);
void cowi_tell_backing_release(struct cow_client *client, uint64_t generation, uint64_t backing_id);

/* --- snapshots: on snap->generation ----------------------------------------------------------- */

/**
 * cowi_ask_snapshot_take() - have cowd freeze region @region_id, with what @snap's parameters say
 * @can_move: this process could move page tables aside
 * @fds:      as cowi_call_in()
 *
 * As cowi_call_snapshot().
 */
int cowi_ask_snapshot_take(struct cow_snapshot *snap, uint64_t region_id, bool can_move,
			   Cow__V1__Reply **reply, struct fdset *fds);
/**
 * cowi_send_snapshot_take() - tell cowd of a snapshot that was taken here; as cowi_call_soon_in()
 * @extents:  of which it consists
 * @on_reply: with @snap as its @user
 *
 * Its lease goes with it. Return: 0; -errno: @on_reply is not going to be called.
 */
int cowi_send_snapshot_take(struct cow_snapshot *snap, uint64_t region_id,
			    Cow__V1__Extent **extents, size_t n_extents,
			    void (*on_reply)(void *user, int error, Cow__V1__Reply *reply));
/** cowi_ask_snapshot_open() - open snapshot @id as @snap; as cowi_call_snapshot() */
int cowi_ask_snapshot_open(struct cow_snapshot *snap, uint64_t id, Cow__V1__Reply **reply,
			   struct fdset *fds);
/** cowi_ask_snapshot_read() - copy to @buf. @n_done: gets at least 1, at most @len */
int cowi_ask_snapshot_read(struct cow_snapshot *snap, uint64_t id, void *buf, size_t len,
			   uint64_t off, size_t *n_done);
/** cowi_ask_snapshot_save() - to the file @fd, lent. @progress: as cowi_call_progress() */
int cowi_ask_snapshot_save(struct cow_snapshot *snap, uint64_t id, int fd, cow_progress_fn progress,
			   void *user);
/** cowi_ask_snapshot_rollback() - make region @region_id what snapshot @id was */
int cowi_ask_snapshot_rollback(struct cow_snapshot *snap, uint64_t id, uint64_t region_id);
/** cowi_ask_snapshot_map() - serve a view at @addr by @uffd, lent. @view_id: gets its number */
int cowi_ask_snapshot_map(struct cow_snapshot *snap, uint64_t id, const void *addr, int uffd,
			  uint64_t *view_id);
/** cowi_tell_snapshot_unmap() - view @view_id is not needed any more */
void cowi_tell_snapshot_unmap(struct cow_snapshot *snap, uint64_t view_id);
int cowi_ask_snapshot_release(struct cow_client *client, uint64_t generation, uint64_t id);
void cowi_tell_snapshot_release(struct cow_client *client, uint64_t generation, uint64_t id);

/* --- what did not arrive ---------------------------------------------------------------------- */

/**
 * cowi_give_back() - have cowd release what @reply is about, whose descriptors were lost
 *
 * A program whose table of descriptors is full for a moment loses that call, and nothing else: cowd
 * takes the descriptors to be here, and is told that they are not needed.
 */
void cowi_give_back(struct cow_client *client, const Cow__V1__Reply *reply);

#endif
