// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Calls of modes: the contract of struct cowi_mode_ops is asserted round each of them.
 *
 * No state and no lock of its own. A mode's functions may be in the middle of a wait for cowd when
 * a signal handler forks: in the child they return -ECHILD, and there the caller still is the
 * owner that cowi_region_is_mine() knows, so the assertions hold in the child too.
 */
#include "config.h"

#include "libclient/modes.h"

#undef NDEBUG /* a broken contract ends the process in every build */
#include <assert.h>

/* Set before there is a client, to the same each time. */
static const struct cowi_plugs *_Atomic plugged;

void cowi_plug(const struct cowi_plugs *plugs)
{
	atomic_store(&plugged, plugs);
}

const struct cowi_mode_ops *cowi_mode_ops(uint32_t mode)
{
	const struct cowi_plugs *plugs = atomic_load(&plugged);

	switch (mode) {
	case COW_MODE_UFFD:
		return plugs->uffd;
	case COW_MODE_SCOOT:
	case COW_MODE_MMAPCOPY:
		return plugs->scoot;
	default:
		return NULL;
	}
}

const struct cowi_mode_ops *cowi_mode_ops_opened(uint32_t mode, bool is_shared)
{
	const struct cowi_mode_ops *ops = cowi_mode_ops(mode);

	return ops && !is_shared ? atomic_load(&plugged)->uffd : ops;
}

/* --- what is asserted ------------------------------------------------------------------------- */

/* All but fork children: they have no connection, and what they have is not theirs to change. */
static bool is_own_process(const struct cow_client *client)
{
	return client->pid == getpid();
}

/* A mutex that somebody has is all that can be seen of it. */
static bool is_locked(struct cow_client *client)
{
	return pthread_mutex_trylock(&client->lock) == EBUSY;
}

/* Sentence or not, a mode's outcomes such as SCOOT_E_OVERLAY stay inside it. */
static int checked(int r)
{
	assert(r <= 0);
	return r;
}

/* A snapshot that was taken has an id, waits for one, or is lost by now. */
static bool is_named(struct cow_snapshot *snap)
{
	bool is_named;

	pthread_mutex_lock(&snap->client->lock);
	is_named = snap->id || snap->state != COWI_SNAPSHOT_NEW;
	pthread_mutex_unlock(&snap->client->lock);
	return is_named;
}

/* --- regions ---------------------------------------------------------------------------------- */

int cowi_mode_attach(struct cow_region *region, const struct cow_region_params *params)
{
	int r;

	assert(is_own_process(region->client));
	assert(region->backing && region->generation && !region->addr && !region->is_attached);
	r = checked(region->ops->attach(region, params));
	assert(!r == !!region->addr);
	return r;
}

int cowi_mode_restore(struct cow_region *region)
{
	int r;

	assert(cowi_in_client_thread(region->client));
	assert(region->is_attached && region->is_restored);
	r = checked(region->ops->restore(region));
	if (!r && region->scoot)
		atomic_load(&plugged)->restored(region);
	return r;
}

void cowi_mode_detach(struct cow_region *region)
{
	assert(is_own_process(region->client));
	assert(region->is_attached && !region->is_listed && !atomic_load(&region->n_refs));
	region->ops->detach(region);
	assert(!region->scoot && !region->scoot_glue);
}

void cowi_mode_forget(struct cow_region *region)
{
	assert(is_locked(region->client));
	assert(region->is_listed && region->is_attached && !region->id);
	if (region->ops->forget)
		region->ops->forget(region);
}

bool cowi_mode_warms(const struct cow_region *region)
{
	return region->ops->warm;
}

bool cowi_mode_warm(struct cow_region *region)
{
	assert(cowi_in_client_thread(region->client));
	assert(!cowi_region_is_mine(region));
	return region->ops->warm && region->ops->warm(region);
}

bool cowi_mode_can_discard(const struct cow_region *region)
{
	return region->ops->discard;
}

int cowi_mode_discard(struct cow_region *region, uint64_t off, uint64_t len)
{
	int r;

	assert(cowi_region_is_mine(region));
	assert(len && off < region->size_bytes && len <= region->size_bytes - off);
	r = checked(region->ops->discard(region, off, len));
	assert(cowi_region_is_mine(region));
	return r;
}

/* --- snapshots -------------------------------------------------------------------------------- */

int cowi_mode_take(struct cow_snapshot *snap)
{
	int r;

	assert(cowi_region_is_mine(snap->region));
	assert(snap->is_owner && snap->is_listed && snap->generation && !snap->is_taken);
	r = checked(snap->region->ops->take(snap));
	assert(cowi_region_is_mine(snap->region));
	assert(r || is_named(snap));
	return r;
}

int cowi_mode_opened(const struct cowi_mode_ops *ops, struct cow_snapshot *snap,
		     const Cow__V1__SnapshotReply *reply, struct fdset *fds)
{
	assert(!snap->is_owner && snap->is_listed && !snap->ops && !snap->is_taken);
	assert(snap->size_bytes == reply->size_bytes);
	return ops->opened ? checked(ops->opened(snap, reply, fds)) : 0;
}

bool cowi_mode_is_leased(const struct cow_snapshot *snap)
{
	return !snap->is_owner && snap->ops && snap->ops->opened;
}

int cowi_mode_read(struct cow_snapshot *snap, void *buf, size_t len, uint64_t off)
{
	assert(snap->is_taken);
	assert(off <= snap->size_bytes && len <= snap->size_bytes - off);
	return checked(snap->ops->read(snap, buf, len, off));
}

/* @view_state is the caller's while it is COWI_VIEW_MAKING. */
int cowi_mode_map(struct cow_snapshot *snap)
{
	int r;

	assert(snap->is_taken && snap->view_state == COWI_VIEW_MAKING && !snap->view);
	r = checked(snap->ops->map(snap));
	assert(!r == !!snap->view);
	return r;
}

void cowi_mode_unmap(struct cow_snapshot *snap)
{
	assert(is_own_process(snap->client));
	assert(snap->view_state == COWI_VIEW_READY || snap->view_state == COWI_VIEW_BROKEN);
	snap->ops->unmap(snap);
}

void cowi_mode_release(struct cow_snapshot *snap)
{
	assert(is_own_process(snap->client));
	assert(snap->is_taken && !snap->is_listed && !atomic_load(&snap->n_refs));
	snap->ops->release(snap);
	assert(!snap->scoot);
}

bool cowi_mode_can_roll_back(const struct cow_region *region)
{
	return region->ops->rollback;
}

int cowi_mode_rollback(struct cow_snapshot *snap)
{
	int r;

	assert(cowi_region_is_mine(snap->region));
	assert(snap->is_owner && snap->is_taken);
	r = checked(snap->ops->rollback(snap));
	assert(cowi_region_is_mine(snap->region));
	return r;
}

/* --- all of them ------------------------------------------------------------------------------ */

void cowi_modes_gone(struct cow_client *client)
{
	const struct cowi_plugs *plugs = atomic_load(&plugged);

	assert(cowi_in_client_thread(client));
	if (plugs->uffd->gone)
		plugs->uffd->gone(client);
	if (plugs->scoot->gone)
		plugs->scoot->gone(client);
}

void cowi_modes_end_client(struct cow_client *client)
{
	const struct cowi_plugs *plugs = atomic_load(&plugged);

	assert(!client->regions && !client->snapshots);
	if (plugs->uffd->end_client)
		plugs->uffd->end_client(client);
	if (plugs->scoot->end_client)
		plugs->scoot->end_client(client);
}
