// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Mode uffd, the client's half: cowd does the work.
 *
 * A region is a shared mapping of its memfd; a userfaultfd on it is made here, by the device that
 * cowd lent, given to cowd, and not kept: when cowd goes, the last copy closes, protection
 * vanishes, and the program's writes go on.
 *
 * A view is the other way round: its missing pages would read as zeroes without a userfaultfd. So a
 * copy of the descriptor is kept, readers wait when cowd goes, and get SIGBUS once the snapshot is
 * known to be lost (snapshot.c maps over the view and wakes them).
 */
#include "config.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MREMAP_DONTUNMAP /* since Linux 5.7, for shared mappings 5.13 */
#define MREMAP_DONTUNMAP 4
#endif

#include "backends/extents.h"
#include "backends/space.h"
#include "backends/uffdio.h"
#include "common/own-fd.h"
#include "libclient/conn/conn.h"
#include "libclient/requests.h"

/* How long to wait for an earlier cowd, or an earlier session of
 * this one, to let go of a region. */
#define LET_GO_TRIES       100
#define LET_GO_PERIOD_MSEC 10

static int call_attach(struct cow_region *region)
{
	int r = cowi_attach_begin(region);

	if (r)
		return r;
	r = cowi_ask_region_attach(region, region->attach_fd);
	cowi_attach_end(region);
	return r;
}

static int uffd_attach(struct cow_region *region, const struct cow_region_params *params)
{
	char *addr = NULL;
	int r;

	(void)params;
	r = space_reserve(&addr, region->size_bytes);
	if (r)
		return r;
	if (mmap(addr, region->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 region->backing->fd, 0) == MAP_FAILED) {
		r = err_raise_errno("cannot map a region of %llu bytes",
				    (unsigned long long)region->size_bytes);
		(void)munmap(addr, region->size_bytes);
		return r;
	}
	region->addr = addr;
	/* A child would share every write, and has no protection: it does not get the region. */
	if (madvise(addr, region->size_bytes, MADV_DONTFORK) < 0)
		r = err_raise_errno("cannot keep a region from being inherited");
	if (!r)
		r = call_attach(region);
	if (r) {
		region->addr = NULL;
		(void)munmap(addr, region->size_bytes);
		return r;
	}
	cowi_asides_prepare(region->client, region->size_bytes); /* for the first take */
	return 0;
}

/*
 * The memory is registered with the userfaultfd of the earlier connection until the earlier cowd
 * has closed that, which nothing tells us of. If it takes long, this is tried again now and then.
 */
static int uffd_restore(struct cow_region *region)
{
	const int n_tries = region->restore_error ? 0 : LET_GO_TRIES;
	int r = call_attach(region);

	for (int i = 0; r == -EBUSY && i < n_tries; i++) {
		(void)poll(NULL, 0, LET_GO_PERIOD_MSEC);
		r = call_attach(region);
	}
	return r;
}

/*
 * cowd first: as long as it does not know, it may register or protect what is at these addresses,
 * which after munmap() could be the next region.
 */
static void uffd_detach(struct cow_region *region)
{
	struct cow_client *client = region->client;
	uint64_t id;

	pthread_mutex_lock(&client->lock);
	id = region->id;
	region->id = 0;
	pthread_mutex_unlock(&client->lock);
	if (id && !cowi_check_process(client))
		(void)cowi_ask_region_free(client, region->generation, id);
	(void)munmap(region->addr, region->size_bytes);
}

/*
 * The cut: in one step the region is empty, and all that is mapped of it is elsewhere. cowd, which
 * is told by the kernel, has the snapshot in its chain before any thread can touch the region
 * again.
 */
static int make_move(const struct cow_region *region, struct cowi_aside *aside)
{
	int r = 0;

	if (mremap(region->addr, region->size_bytes, region->size_bytes,
		   MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, aside->addr) == MAP_FAILED)
		r = err_raise_errno("cannot move page tables aside");
	if (r)
		cowi_aside_failed(aside);
	else
		cowi_aside_put(aside, true);
	return r;
}

static int call_take(struct cow_snapshot *snap, bool can_move, bool *move)
{
	Cow__V1__Reply *reply = NULL;
	uint64_t region_id;
	int r;

	pthread_mutex_lock(&snap->client->lock);
	region_id = snap->region->id;
	pthread_mutex_unlock(&snap->client->lock);
	r = cowi_ask_snapshot_take(snap, region_id, can_move, &reply, NULL);
	if (r)
		return r;
	*move = reply->snapshot->move;
	cow__v1__reply__free_unpacked(reply, NULL);
	return 0;
}

/* Of the one that was not frozen; the next one is to take its place. */
static int call_release(struct cow_snapshot *snap)
{
	uint64_t id;

	pthread_mutex_lock(&snap->client->lock);
	id = snap->held_id;
	snap->held_id = 0;
	snap->id = 0;
	pthread_mutex_unlock(&snap->client->lock);
	return cowi_ask_snapshot_release(snap->client, snap->generation, id);
}

/* Frozen by a move if cowd says so and that can be done, else by cowd alone. */
static int take_by(struct cow_snapshot *snap, struct cowi_aside *aside)
{
	bool move = false;
	int r;

	r = call_take(snap, aside, &move);
	if (aside && (r || !move))
		cowi_aside_put(aside, false);
	if (r || !move || !make_move(snap->region, aside))
		return r;
	r = call_release(snap);
	return r ? r : call_take(snap, false, &move);
}

static int uffd_take(struct cow_snapshot *snap)
{
	struct cowi_aside *aside = NULL;

	(void)cowi_aside_get(&aside, snap->client, snap->region->size_bytes);
	return take_by(snap, aside);
}

static int uffd_rollback(struct cow_snapshot *snap)
{
	uint64_t id, region_id;
	int r;

	r = cowi_snapshot_await_id(snap, &id);
	if (r)
		return r;
	pthread_mutex_lock(&snap->client->lock);
	region_id = snap->region->id;
	pthread_mutex_unlock(&snap->client->lock);
	return cowi_ask_snapshot_rollback(snap, id, region_id);
}

static int uffd_read(struct cow_snapshot *snap, void *buf, size_t len, uint64_t off)
{
	char *pos = buf;

	while (len) {
		size_t n_done = 0;
		uint64_t id;
		int r = cowi_snapshot_await_id(snap, &id);

		if (!r)
			r = cowi_ask_snapshot_read(snap, id, pos, len, off, &n_done);
		if (r)
			return r;
		pos += n_done;
		off += n_done;
		len -= n_done;
	}
	return 0;
}

static int call_map(struct cow_snapshot *snap, void *addr, int uffd)
{
	uint64_t id;
	int r = cowi_snapshot_await_id(snap, &id);

	return r ? r : cowi_ask_snapshot_map(snap, id, addr, uffd, &snap->view_id);
}

static int uffd_map(struct cow_snapshot *snap)
{
	AUTO_FD int uffd = -1;
	void *addr;
	int r = 0;

	uffd = cowi_uffd_new(snap->client);
	if (uffd < 0)
		return uffd;
	addr = mmap(NULL, snap->size_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		    -1, 0);
	if (addr == MAP_FAILED)
		return err_raise_errno("cannot reserve %llu bytes for a view",
				       (unsigned long long)snap->size_bytes);
	/* What is missing would read as zeroes in a child. */
	if (madvise(addr, snap->size_bytes, MADV_DONTFORK) < 0)
		r = err_raise_errno("cannot keep a view from being inherited");
	if (!r)
		r = call_map(snap, addr, uffd);
	if (r) {
		(void)munmap(addr, snap->size_bytes);
		return r;
	}
	snap->view = addr;
	snap->view_uffd = own_fd_note(fd_steal(&uffd));
	return 0;
}

static void uffd_unmap(struct cow_snapshot *snap)
{
	if (!cowi_check_process(snap->client))
		cowi_tell_snapshot_unmap(snap, snap->view_id);
	(void)munmap((void *)(uintptr_t)snap->view, snap->size_bytes);
	snap->view_uffd = own_fd_close(snap->view_uffd);
}

static void uffd_release(struct cow_snapshot *snap)
{
	(void)snap; /* cowd has all of it */
}

const struct cowi_mode_ops cowi_mode_uffd = {
	.attach = uffd_attach,
	.restore = uffd_restore,
	.detach = uffd_detach,
	.take = uffd_take,
	.rollback = uffd_rollback,
	.read = uffd_read,
	.map = uffd_map,
	.unmap = uffd_unmap,
	.release = uffd_release,
	.end_client = cowi_asides_free,
};
