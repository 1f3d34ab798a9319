// SPDX-License-Identifier: LGPL-2.1-or-later
/* The requests to cowd, one function each; see requests.h. */
#include "config.h"

#include "libclient/requests.h"

#include <string.h>

#include "backends/extents.h"

static Cow__V1__Request request_of(Cow__V1__Request__CallCase call_case)
{
	Cow__V1__Request request = COW__V1__REQUEST__INIT;

	request.call_case = call_case;
	return request;
}

/* --- regions ---------------------------------------------------------------------------------- */

int cowi_ask_region_create(struct cow_region *region, struct fdset *fds)
{
	Cow__V1__RegionCreate create = COW__V1__REGION_CREATE__INIT;
	Cow__V1__Reply *reply = NULL;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_REGION_CREATE);
	int r;

	create.mode = (Cow__V1__Mode)region->mode;
	create.size_bytes = region->size_bytes;
	create.name = region->name;
	request.region_create = &create;
	r = cowi_call_in(region->client, region->generation, &request, NULL, 0, &reply, fds);
	if (r)
		return r;
	region->id = reply->region->region_id;
	region->backing_id = reply->region->backing_id;
	cow__v1__reply__free_unpacked(reply, NULL);
	return 0;
}

int cowi_ask_region_restore(struct cow_region *region, uint64_t generation)
{
	Cow__V1__RegionRestore restore = COW__V1__REGION_RESTORE__INIT;
	struct cow_client *client = region->client;
	Cow__V1__Reply *reply = NULL;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_REGION_RESTORE);
	int r;

	restore.mode = (Cow__V1__Mode)region->mode;
	restore.size_bytes = region->size_bytes;
	restore.name = region->name;
	request.region_restore = &restore;
	r = cowi_call_in(client, generation, &request, &region->backing->fd, 1, &reply, NULL);
	if (r)
		return r;
	pthread_mutex_lock(&client->lock);
	region->id = reply->region->region_id;
	region->is_restored = true;
	region->backing_id = reply->region->backing_id;
	region->generation = generation;
	pthread_mutex_unlock(&client->lock);
	cow__v1__reply__free_unpacked(reply, NULL);
	return 0;
}

int cowi_ask_region_attach(struct cow_region *region, int uffd)
{
	Cow__V1__RegionAttach attach = COW__V1__REGION_ATTACH__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_REGION_ATTACH);

	attach.region_id = region->id;
	attach.addr = (uintptr_t)region->addr;
	request.region_attach = &attach;
	return cowi_call_in(region->client, region->generation, &request, &uffd, uffd >= 0, NULL,
			    NULL);
}

int cowi_ask_region_free(struct cow_client *client, uint64_t generation, uint64_t region_id)
{
	Cow__V1__RegionFree region_free = COW__V1__REGION_FREE__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_REGION_FREE);

	region_free.region_id = region_id;
	request.region_free = &region_free;
	return cowi_call_in(client, generation, &request, NULL, 0, NULL, NULL);
}

void cowi_tell_region_free(struct cow_client *client, uint64_t generation, uint64_t region_id)
{
	Cow__V1__RegionFree region_free = COW__V1__REGION_FREE__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_REGION_FREE);

	if (!region_id || client->pid != getpid())
		return;
	region_free.region_id = region_id;
	request.region_free = &region_free;
	cowi_tell_in(client, generation, &request, NULL, 0);
}

void cowi_tell_region_child(struct cow_client *client, uint64_t generation, uint64_t region_id,
			    uint64_t key, int pidfd)
{
	Cow__V1__RegionChild child = COW__V1__REGION_CHILD__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_REGION_CHILD);

	child.region_id = region_id;
	child.key = key;
	request.region_child = &child;
	cowi_tell_in(client, generation, &request, &pidfd, 1);
}

void cowi_tell_region_child_end(struct cow_client *client, uint64_t generation, uint64_t key)
{
	Cow__V1__RegionChildEnd end = COW__V1__REGION_CHILD_END__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_REGION_CHILD_END);

	end.key = key;
	request.region_child_end = &end;
	cowi_tell_in(client, generation, &request, NULL, 0);
}

/* --- backings --------------------------------------------------------------------------------- */

int cowi_ask_backing_create(struct cow_client *client, uint64_t generation, uint64_t size_bytes,
			    uint64_t *backing_id, struct fdset *fds)
{
	Cow__V1__BackingCreate create = COW__V1__BACKING_CREATE__INIT;
	Cow__V1__Reply *reply = NULL;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_BACKING_CREATE);
	int r;

	create.size_bytes = size_bytes;
	request.backing_create = &create;
	r = cowi_call_in(client, generation, &request, NULL, 0, &reply, fds);
	if (r)
		return r;
	*backing_id = reply->backing->backing_id;
	cow__v1__reply__free_unpacked(reply, NULL);
	return 0;
}

void cowi_tell_backing_release(struct cow_client *client, uint64_t generation, uint64_t backing_id)
{
	Cow__V1__BackingRelease release = COW__V1__BACKING_RELEASE__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_BACKING_RELEASE);

	release.backing_id = backing_id;
	request.backing_release = &release;
	cowi_tell_in(client, generation, &request, NULL, 0);
}

/* --- snapshots -------------------------------------------------------------------------------- */

int cowi_ask_snapshot_take(struct cow_snapshot *snap, uint64_t region_id, bool can_move,
			   Cow__V1__Reply **reply, struct fdset *fds)
{
	Cow__V1__SnapshotTake take = COW__V1__SNAPSHOT_TAKE__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_SNAPSHOT_TAKE);

	take.region_id = region_id;
	take.can_move = can_move;
	take.budget_bytes = snap->budget_bytes;
	take.wait = snap->flags & COW_SNAPSHOT_WAIT;
	take.once = snap->flags & COW_SNAPSHOT_ONCE;
	take.name = snap->name;
	request.snapshot_take = &take;
	return cowi_call_snapshot(snap, &request, reply, fds);
}

int cowi_send_snapshot_take(struct cow_snapshot *snap, uint64_t region_id,
			    Cow__V1__Extent **extents, size_t n_extents,
			    void (*on_reply)(void *user, int error, Cow__V1__Reply *reply))
{
	Cow__V1__SnapshotTake take = COW__V1__SNAPSHOT_TAKE__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_SNAPSHOT_TAKE);

	take.region_id = region_id;
	take.n_extents = n_extents;
	take.extents = extents;
	request.snapshot_take = &take;
	return cowi_call_soon_in(snap->client, snap->generation, &request, &snap->lease_fd,
				 on_reply, snap);
}

int cowi_ask_snapshot_open(struct cow_snapshot *snap, uint64_t id, Cow__V1__Reply **reply,
			   struct fdset *fds)
{
	Cow__V1__SnapshotOpen open = COW__V1__SNAPSHOT_OPEN__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_SNAPSHOT_OPEN);

	open.snapshot_id = id;
	request.snapshot_open = &open;
	return cowi_call_snapshot(snap, &request, reply, fds);
}

int cowi_ask_snapshot_read(struct cow_snapshot *snap, uint64_t id, void *buf, size_t len,
			   uint64_t off, size_t *n_done)
{
	Cow__V1__SnapshotRead read_call = COW__V1__SNAPSHOT_READ__INIT;
	Cow__V1__Reply *reply = NULL;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_SNAPSHOT_READ);
	int r;

	read_call.snapshot_id = id;
	read_call.off = off;
	read_call.size_bytes = min_u64(len, WIRE_DATA_MAX_BYTES);
	request.snapshot_read = &read_call;
	r = cowi_call_in(snap->client, snap->generation, &request, NULL, 0, &reply, NULL);
	if (r)
		return r;
	*n_done = reply->read->data.len;
	if (!*n_done || *n_done > len)
		r = err_raise(-EPROTO, "cowd answered %zu bytes of a snapshot, asked for %zu",
			      *n_done, len);
	else
		memcpy(buf, reply->read->data.data, *n_done);
	cow__v1__reply__free_unpacked(reply, NULL);
	return r;
}

int cowi_ask_snapshot_save(struct cow_snapshot *snap, uint64_t id, int fd, cow_progress_fn progress,
			   void *user)
{
	Cow__V1__SnapshotSave save = COW__V1__SNAPSHOT_SAVE__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_SNAPSHOT_SAVE);

	save.snapshot_id = id;
	request.snapshot_save = &save;
	return cowi_call_progress(snap->client, snap->generation, &request, &fd, 1, NULL, progress,
				  user);
}

int cowi_ask_snapshot_rollback(struct cow_snapshot *snap, uint64_t id, uint64_t region_id)
{
	Cow__V1__SnapshotRollback rollback = COW__V1__SNAPSHOT_ROLLBACK__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_SNAPSHOT_ROLLBACK);

	rollback.snapshot_id = id;
	rollback.region_id = region_id;
	request.snapshot_rollback = &rollback;
	return cowi_call_in(snap->client, snap->generation, &request, NULL, 0, NULL, NULL);
}

int cowi_ask_snapshot_map(struct cow_snapshot *snap, uint64_t id, const void *addr, int uffd,
			  uint64_t *view_id)
{
	Cow__V1__SnapshotMap map = COW__V1__SNAPSHOT_MAP__INIT;
	Cow__V1__Reply *reply = NULL;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_SNAPSHOT_MAP);
	int r;

	map.snapshot_id = id;
	map.addr = (uintptr_t)addr;
	request.snapshot_map = &map;
	r = cowi_call_in(snap->client, snap->generation, &request, &uffd, 1, &reply, NULL);
	if (r)
		return r;
	*view_id = reply->view->view_id;
	cow__v1__reply__free_unpacked(reply, NULL);
	return 0;
}

void cowi_tell_snapshot_unmap(struct cow_snapshot *snap, uint64_t view_id)
{
	Cow__V1__SnapshotUnmap unmap = COW__V1__SNAPSHOT_UNMAP__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_SNAPSHOT_UNMAP);

	unmap.view_id = view_id;
	request.snapshot_unmap = &unmap;
	cowi_tell_in(snap->client, snap->generation, &request, NULL, 0);
}

int cowi_ask_snapshot_release(struct cow_client *client, uint64_t generation, uint64_t id)
{
	Cow__V1__SnapshotRelease release = COW__V1__SNAPSHOT_RELEASE__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_SNAPSHOT_RELEASE);

	release.snapshot_id = id;
	request.snapshot_release = &release;
	return cowi_call_in(client, generation, &request, NULL, 0, NULL, NULL);
}

void cowi_tell_snapshot_release(struct cow_client *client, uint64_t generation, uint64_t id)
{
	Cow__V1__SnapshotRelease release = COW__V1__SNAPSHOT_RELEASE__INIT;
	Cow__V1__Request request = request_of(COW__V1__REQUEST__CALL_SNAPSHOT_RELEASE);

	release.snapshot_id = id;
	request.snapshot_release = &release;
	cowi_tell_in(client, generation, &request, NULL, 0);
}

/* --- what did not arrive ---------------------------------------------------------------------- */

void cowi_give_back(struct cow_client *client, const Cow__V1__Reply *reply)
{
	switch (reply->result_case) {
	case COW__V1__REPLY__RESULT_REGION:
		cowi_tell_region_free(client, 0, reply->region->region_id);
		break;
	case COW__V1__REPLY__RESULT_BACKING:
		cowi_tell_backing_release(client, 0, reply->backing->backing_id);
		break;
	case COW__V1__REPLY__RESULT_SNAPSHOT:
		cowi_tell_snapshot_release(client, 0, reply->snapshot->snapshot_id);
		break;
	default:
		break;
	}
}
