// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Modes scoot and mmapcopy as the rest of the library sees them: backends/scoot does the mapping,
 * this file tells cowd; see mode.h.
 *
 * A take is over before cowd knows of it: SnapshotTake with the extents is sent soon, and its
 * answer comes to the client's thread. Only a take that needs an overlay while no spare one is
 * there waits for a round trip, before it freezes anything.
 */
#include "config.h"

#include "libclient/scoot/mode.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "backends/hold.h"
#include "backends/space.h"
#include "common/clock.h"
#include "common/own-fd.h"
#include "libclient/conn/conn.h"
#include "libclient/requests.h"

/* So that SnapshotTake fits a packet. */
#define EXTENTS_MAX 2000

static struct cowi_scoot *glue_free(struct cowi_scoot *glue)
{
	if (glue)
		memfile_unref(glue->spare);
	free(glue);
	return NULL;
}

int cowi_scoot_attach_tell(struct cow_region *region)
{
	return cowi_ask_region_attach(region, -1);
}

/*
 * A descriptor that makes threads wait, or -1: only one that serves kernel-mode faults will do, and
 * not everywhere is one lent. A region goes without it, but not for want of room for a descriptor.
 */
static int holding_uffd(struct cow_client *client, int *uffd)
{
	bool is_lent;
	int r = -EPERM;

	pthread_mutex_lock(&client->lock);
	is_lent = client->lend == 1;
	pthread_mutex_unlock(&client->lock);
	if (is_lent)
		r = cowi_uffd_new(client);
	*uffd = r < 0 ? -1 : r;
	return r == -EMFILE || r == -ENFILE || r == -ENOMEM ? r : 0;
}

/* Fresh memory of its own. */
static int map_fresh(struct cow_region *region, char **addr)
{
	int r = space_reserve(addr, region->size_bytes);

	if (r)
		return r;
	if (mmap(*addr, region->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 region->backing->fd, 0) != MAP_FAILED)
		return 0;
	r = err_raise_errno("cannot map the %llu bytes of region \"%s\"",
			    (unsigned long long)region->size_bytes, region->name);
	(void)munmap(*addr, region->size_bytes);
	return r;
}

static int scoot_attach(struct cow_region *region, const struct cow_region_params *params)
{
	AUTO_FD int uffd = -1;
	struct cowi_scoot *glue = calloc(1, sizeof(*glue));
	char *addr = region->adopted;
	int r;

	(void)params;
	r = glue ? holding_uffd(region->client, &uffd) : err_oom(sizeof(*glue), "a region");
	if (!r)
		r = addr ? cowi_adopt_check(region, uffd) : map_fresh(region, &addr);
	if (r) {
		glue_free(glue);
		return r;
	}
	region->addr = addr;
	r = scoot_region_new(&region->scoot, addr, region->backing, &uffd);
	if (!r)
		r = region->adopted ? cowi_adopt(region) : cowi_scoot_attach_tell(region);
	if (r) {
		if (!region->adopted)
			(void)munmap(addr, region->size_bytes);
		else if (!region->scoot)
			(void)madvise(addr, region->size_bytes, MADV_DOFORK);
		region->scoot = scoot_region_free(region->scoot);
		region->addr = NULL;
		glue_free(glue);
		return r;
	}
	scoot_shadow_prepare(region->scoot);
	if (region->mode == COW_MODE_MMAPCOPY)
		(void)cowi_mmapcopy_min_bytes(); /* now, and not in the first copy's time */
	glue->region = region;
	glue->task.run = cowi_scoot_run;
	region->scoot_glue = glue;
	return 0;
}

static void scoot_forget(struct cow_region *region)
{
	atomic_store(&region->scoot->home->id, 0);
	/* A cowd that refuses the region must not hear of it in another one's snapshot either. */
	if (region->scoot->second)
		atomic_store(&region->scoot->second->id, 0);
}

static int scoot_restore(struct cow_region *region)
{
	int r;

	atomic_store(&region->scoot->home->id, region->backing_id);
	/* A number of the earlier cowd; what is there goes to overlays from now on. */
	if (region->scoot->second)
		atomic_store(&region->scoot->second->id, 0);
	r = cowi_scoot_attach_tell(region);
	if (!r)
		cowi_scoot_post(region);
	return r;
}

/* cowd has it until it is told, or the connection ends. */
static void release_spare(struct cowi_scoot *glue)
{
	if (glue->spare)
		cowi_overlay_release(glue->region->client, glue->spare_generation, glue->spare);
	glue->spare = memfile_unref(glue->spare);
}

static void release_second(struct cow_region *region)
{
	struct memfile *second = region->scoot->second;

	if (second)
		cowi_overlay_release(region->client, region->scoot_glue->second_generation, second);
}

static void forget_leases_of_no_region(struct cow_client *client)
{
	bool has_regions;

	pthread_mutex_lock(&client->lock);
	has_regions = client->regions;
	pthread_mutex_unlock(&client->lock);
	if (!has_regions)
		cowi_leases_forget(client);
}

static void scoot_detach(struct cow_region *region)
{
	struct cow_client *client = region->client;

	if (region->adopted)
		cowi_cancel(client, &region->scoot_glue->task);
	/* cowd forgets the memory with the region: whoever
	 * mmapcopied from it keeps it to himself. */
	atomic_store(&region->scoot->home->id, 0);
	release_second(region);
	release_spare(region->scoot_glue);
	if (region->adopted)
		cowi_adopt_end(region);
	else
		(void)munmap(region->addr, region->size_bytes);
	region->scoot = scoot_region_free(region->scoot);
	region->scoot_glue = glue_free(region->scoot_glue);
	forget_leases_of_no_region(client);
}

static void on_taken(void *user, int error, Cow__V1__Reply *reply)
{
	struct cow_snapshot *snap = user;

	cowi_snapshot_answered(snap, error, reply);
	cowi_snapshot_unasked(snap);
}

/* @extents has room for all runs and the overlay. */
static size_t describe(const struct scoot_snapshot *frozen, Cow__V1__Extent *extents,
		       Cow__V1__Extent **pointers)
{
	const struct extents *map = &frozen->map;
	size_t n = 0;

	/* What was unknown to cowd is in the overlay. What became so since it was frozen is not,
	 * and goes out as 0, which cowd refuses. */
	for (size_t i = 0; i < map->n_runs; i++) {
		uint64_t id = atomic_load(&map->runs[i].backing->id);

		cow__v1__extent__init(&extents[n]);
		extents[n].off = map->runs[i].off;
		extents[n].size_bytes = map->runs[i].len;
		extents[n].backing_id = id;
		extents[n].backing_off = map->runs[i].backing_off;
		if (!id && scoot_snapshot_is_kept(frozen, extents[n].off, extents[n].size_bytes)) {
			extents[n].backing_id = atomic_load(&frozen->overlay->id);
			extents[n].backing_off = map->runs[i].off;
		}
		n++;
	}
	if (frozen->n_kept) {
		cow__v1__extent__init(&extents[n]);
		extents[n].size_bytes = map->size_bytes;
		extents[n].backing_id = atomic_load(&frozen->overlay->id);
		extents[n].sparse = true;
		extents[n].record_off = map->size_bytes;
		n++;
	}
	for (size_t i = 0; i < n; i++)
		pointers[i] = &extents[i];
	return n;
}

static int tell_take(struct cow_snapshot *snap)
{
	const size_t n_max = snap->scoot->map.n_runs + 1;
	CLEANUP(freep) Cow__V1__Extent *extents = calloc(n_max, sizeof(*extents));
	CLEANUP(freep) Cow__V1__Extent **pointers = calloc(n_max, sizeof(Cow__V1__Extent *));
	struct cow_client *client = snap->client;
	uint64_t region_id;
	size_t n_extents;
	int r;

	if (!extents || !pointers)
		return err_oom(n_max * sizeof(*extents), "the extents of a snapshot");
	r = scoot_snapshot_record(snap->scoot, snap->scoot->map.size_bytes);
	if (r)
		return r;
	n_extents = describe(snap->scoot, extents, pointers);
	pthread_mutex_lock(&client->lock);
	region_id = snap->region->id;
	if (snap->state == COWI_SNAPSHOT_NEW) /* it may be lost by now */
		cowi_snapshot_enter(&snap->state, COWI_SNAPSHOT_PENDING);
	snap->has_asked = 1;
	pthread_mutex_unlock(&client->lock);
	cow_snapshot_ref(snap);
	r = cowi_send_snapshot_take(snap, region_id, pointers, n_extents, on_taken);
	if (r) {
		pthread_mutex_lock(&client->lock);
		if (snap->state == COWI_SNAPSHOT_PENDING)
			cowi_snapshot_enter(&snap->state, COWI_SNAPSHOT_NEW);
		snap->has_asked = 0;
		pthread_mutex_unlock(&client->lock);
		cow_snapshot_unref(snap);
	}
	return r;
}

/* Freeze; with an overlay if it takes one. */
static int freeze(struct cow_snapshot *snap)
{
	struct cow_region *region = snap->region;
	struct cowi_scoot *glue = region->scoot_glue;
	int r;

	if (glue->spare && glue->spare_generation != snap->generation)
		glue->spare = memfile_unref(glue->spare);
	r = cowi_scoot_take(region, glue->spare, &snap->scoot);
	if (r == SCOOT_E_OVERLAY) {
		glue->wants_spare = true;
		r = cowi_overlay_new(&glue->spare, &glue->spare_generation, region,
				     snap->generation);
		if (r)
			return r;
		r = cowi_scoot_take(region, glue->spare, &snap->scoot);
	}
	/* What a take that failed has written to the spare is in no record, so it is no page. */
	if (r || !snap->scoot->overlay)
		return r;
	if (!snap->scoot->n_kept) {
		snap->scoot->overlay = memfile_unref(snap->scoot->overlay);
		return 0;
	}
	glue->spare = memfile_unref(glue->spare); /* the snapshot has it */
	return 0;
}

static void drop_frozen(struct cow_snapshot *snap)
{
	struct memfile *overlay = snap->scoot->overlay;

	if (overlay)
		cowi_overlay_release(snap->client, snap->generation, overlay);
	snap->scoot = scoot_snapshot_free(snap->scoot);
}

static bool can_be_told(const struct scoot_snapshot *frozen)
{
	for (size_t i = 0; i < frozen->map.n_runs; i++) {
		const struct extent *run = &frozen->map.runs[i];

		if (!atomic_load(&run->backing->id) &&
		    !scoot_snapshot_is_kept(frozen, run->off, run->len))
			return false;
	}
	return true;
}

/* Again if a region goes meanwhile that this one was mmapcopied from: the next take keeps those
 * pages. */
static int freeze_for_cowd(struct cow_snapshot *snap)
{
	int r = freeze(snap);

	while (!r && !can_be_told(snap->scoot)) {
		drop_frozen(snap);
		r = freeze(snap);
	}
	return r;
}

static int scoot_op_take(struct cow_snapshot *snap)
{
	struct cow_region *region = snap->region;
	const uint64_t start_nsec = now_nsec();
	int r;

	if (region->scoot->map.n_runs > EXTENTS_MAX)
		return err_raise(-E2BIG, "region \"%s\" is in %zu parts, too many for one snapshot",
				 region->name, region->scoot->map.n_runs);
	r = cowi_lease_alloc(&snap->lease);
	if (!r)
		r = freeze_for_cowd(snap);
	if (!r) {
		struct memfile *overlay = snap->scoot->overlay;

		cowi_scoot_post_unwoken(region);
		r = tell_take(snap);
		if (overlay)
			cowi_overlay_release(snap->client, snap->generation, overlay);
		if (r)
			snap->scoot = scoot_snapshot_free(snap->scoot);
	}
	if (r) {
		cowi_scoot_post(region);
		cowi_thread_wake(region->client); /* if it was posted before, unwoken */
	}
	if (!r)
		snap->scoot->stall_nsec = now_nsec() - start_nsec;
	return r;
}

int cow_snapshot_cost(const struct cow_snapshot *snap, struct cow_snapshot_cost *cost)
{
	if (!snap || !cost)
		return err_raise(-EINVAL, "cow_snapshot_cost() was given no %s",
				 snap ? "place for the cost" : "snapshot");
	if (!snap->scoot || !snap->is_owner)
		return err_raise(-EINVAL, "what a snapshot cost is known to who took it, in modes "
					  "scoot and mmapcopy");
	*cost = (struct cow_snapshot_cost){
		.stall_nsec = snap->scoot->stall_nsec,
		.settled_bytes = snap->scoot->settled_bytes,
	};
	for (size_t i = 0; i < snap->scoot->n_kept; i++)
		cost->kept_bytes += snap->scoot->kept[i].len;
	return 0;
}

static int scoot_read(struct cow_snapshot *snap, void *buf, size_t len, uint64_t off)
{
	return scoot_snapshot_read(snap->scoot, buf, len, off);
}

static int scoot_map(struct cow_snapshot *snap)
{
	char *addr;
	int r;

	r = space_reserve(&addr, snap->size_bytes);
	if (r)
		return r;
	r = scoot_snapshot_map(snap->scoot, addr, PROT_READ);
	/* In a fork child nothing would say when what is seen there may change. */
	if (!r && madvise(addr, snap->size_bytes, MADV_DONTFORK))
		r = err_raise_errno("cannot keep a view from fork children");
	if (r) {
		(void)munmap(addr, snap->size_bytes);
		return r;
	}
	pthread_mutex_lock(&snap->client->lock);
	snap->view = addr;
	pthread_mutex_unlock(&snap->client->lock);
	return 0;
}

static void scoot_unmap(struct cow_snapshot *snap)
{
	if (snap->view)
		(void)munmap((void *)(uintptr_t)snap->view, snap->size_bytes);
	snap->view = NULL;
}

static void scoot_release(struct cow_snapshot *snap)
{
	/* Of an opened one nothing here is frozen; what cowd was not told of nobody else has. */
	if (snap->is_owner && snap->lease_fd >= 0)
		cowi_lease_await(snap->client, &snap->lease, &snap->lease_fd, &snap->scoot);
	snap->scoot = scoot_snapshot_free(snap->scoot);
	if (snap->region)
		cowi_scoot_post(snap->region);
	else /* it was adopted, and may have left before the reply to the take */
		forget_leases_of_no_region(snap->client);
}

static int scoot_op_rollback(struct cow_snapshot *snap)
{
	int r = scoot_rollback(snap->region->scoot, snap->scoot);

	cowi_scoot_post(snap->region);
	return r;
}

static int scoot_op_discard(struct cow_region *region, uint64_t off, uint64_t len)
{
	uint64_t generation = cowi_generation(region->client);
	int r;

	r = scoot_discard(region->scoot, off, len, !generation);
	if (r == SCOOT_E_OVERLAY) {
		/* Refused, it is only that zeroes cost memory while the snapshot lives. */
		(void)cowi_overlay_new(&region->scoot->second,
				       &region->scoot_glue->second_generation, region, generation);
		r = scoot_discard(region->scoot, off, len, true);
	}
	cowi_scoot_post(region);
	return r;
}

const struct cowi_mode_ops cowi_mode_scoot = {
	.attach = scoot_attach,
	.restore = scoot_restore,
	.detach = scoot_detach,
	.take = scoot_op_take,
	.read = scoot_read,
	.map = scoot_map,
	.unmap = scoot_unmap,
	.release = scoot_release,
	.rollback = scoot_op_rollback,
	.discard = scoot_op_discard,
	.forget = scoot_forget,
	.opened = cowi_scoot_opened,
	.warm = cowi_scoot_warm,
	.gone = cowi_leases_look,
	.end_client = cowi_leases_forget,
};

/* --- opened by id ----------------------------------------------------------------------------- */

/* The backings of @reply in the order of its backing_ids. */
static int opened_files(struct memfile **files, const Cow__V1__SnapshotReply *reply,
			struct fdset *fds)
{
	for (size_t i = 0; i < reply->n_backing_ids; i++) {
		int fd = -1, ro_fd = fdset_take(fds, i), r;

		if (ro_fd < 0)
			return err_raise(-EPROTO, "cowd passed too few descriptors for a snapshot");
		r = memfile_new(&files[i], &fd, &ro_fd, reply->size_bytes);
		if (r) {
			fd_close(ro_fd);
			return r;
		}
		atomic_store(&files[i]->id, reply->backing_ids[i]);
	}
	return 0;
}

static struct memfile *find_file(struct memfile **files, size_t n_files, uint64_t id)
{
	for (size_t i = 0; i < n_files; i++) {
		if (atomic_load(&files[i]->id) == id)
			return files[i];
	}
	(void)err_raise(-EPROTO, "cowd passed no descriptor for part of a snapshot");
	return NULL;
}

static bool is_inside(const Cow__V1__SnapshotReply *reply, const Cow__V1__Extent *extent)
{
	const uint64_t mask = page_size_bytes() - 1;

	return extent->size_bytes && extent->off < reply->size_bytes &&
	       extent->size_bytes <= reply->size_bytes - extent->off &&
	       !((extent->off | extent->size_bytes | extent->backing_off) & mask);
}

/* Its pages are at their own offsets. */
static bool is_overlay(const Cow__V1__SnapshotReply *reply, const Cow__V1__Extent *extent)
{
	return !extent->off && !extent->backing_off && extent->size_bytes == reply->size_bytes &&
	       extent->record_off <= INT64_MAX / 2;
}

/* The sparse extent that comes last is the overlay; what nothing but it describes is all in it. */
static int opened_map(struct scoot_snapshot **out, const Cow__V1__SnapshotReply *reply,
		      struct memfile **files)
{
	CLEANUP(memfile_unrefp) struct memfile *overlay = NULL;
	uint64_t record_off = 0;
	struct extents map;
	int r;

	if (!reply->n_backing_ids || !reply->n_extents)
		return err_raise(-EPROTO, "cowd described a snapshot without extents");
	r = extents_init(&map, files[0], reply->size_bytes, false);
	if (!r)
		r = extents_reserve(&map, reply->n_extents);
	for (size_t i = 0; !r && i < reply->n_extents; i++) {
		const Cow__V1__Extent *extent = reply->extents[i];
		struct memfile *file = find_file(files, reply->n_backing_ids, extent->backing_id);

		if (!file || !is_inside(reply, extent) || overlay ||
		    (extent->sparse && !is_overlay(reply, extent))) {
			r = err_raise(-EPROTO,
				      "cowd described a snapshot in a way that this "
				      "library, %s, does not know",
				      cow_version());
		} else if (extent->sparse) {
			overlay = memfile_ref(file);
			record_off = extent->record_off;
		} else {
			extents_set(&map, extent->off, extent->size_bytes, file,
				    extent->backing_off, false);
		}
	}
	if (!r)
		r = scoot_snapshot_opened(out, &map, &overlay, record_off);
	extents_deinit(&map);
	return r;
}

int cowi_scoot_opened(struct cow_snapshot *snap, const Cow__V1__SnapshotReply *reply,
		      struct fdset *fds)
{
	struct memfile *files[WIRE_FDS_MAX] = {0};
	bool is_leased;
	int r;

	if (reply->n_backing_ids >= ARRAY_SIZE(files))
		return err_raise(-EPROTO, "cowd described a snapshot of too many parts");
	pthread_mutex_lock(&snap->client->lock);
	snap->lease_fd = own_fd_note(fdset_take(fds, reply->n_backing_ids));
	is_leased = snap->lease_fd >= 0;
	pthread_mutex_unlock(&snap->client->lock);
	if (!is_leased)
		return err_raise(-EPROTO, "cowd passed no lease with a snapshot");
	r = opened_files(files, reply, fds);
	if (!r)
		r = opened_map(&snap->scoot, reply, files);
	for (size_t i = 0; i < reply->n_backing_ids; i++)
		memfile_unref(files[i]);
	return r;
}
