// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Snapshots of modes scoot and mmapcopy: checking what a client says its snapshot is made of, the
 * way back from memory to snapshots, reading, and the table of these modes. Contracts are in
 * frozen.h and ops.h.
 */
#include "config.h"

#include "daemon/snapshot/frozen.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "backends/pagebits.h"
#include "common/err.h"
#include "common/wire.h"
#include "daemon/base/closer.h"
#include "daemon/daemon.h"
#include "daemon/region/backing.h"

static bool is_inside(uint64_t off, uint64_t n_bytes, uint64_t size_bytes)
{
	return off <= size_bytes && n_bytes <= size_bytes - off;
}

/* How long the record of a sparse extent is. */
static uint64_t record_bytes(uint64_t size_bytes)
{
	return pagebits_bytes(size_bytes / page_size_bytes());
}

static int parse_one(struct snapshot_extent *extent, const struct frozen *frozen,
		     struct session *session, const Cow__V1__Extent *row)
{
	uint64_t mask = page_size_bytes() - 1;
	struct backing *backing;

	if (!row->size_bytes || (row->off | row->size_bytes | row->backing_off) & mask)
		return err_raise(-EINVAL, "an extent of a snapshot is not made of whole pages");
	if (!is_inside(row->off, row->size_bytes, frozen->snap.size_bytes))
		return err_raise(-EINVAL, "an extent passes the end of its snapshot");
	backing = backing_find(session, row->backing_id);
	if (!backing)
		return -ENOENT;
	if (!is_inside(row->backing_off, row->size_bytes, backing->size_bytes))
		return err_raise(-EINVAL, "an extent passes the end of backing %llu",
				 (unsigned long long)backing->id);
	if (row->sparse &&
	    !is_inside(row->record_off, record_bytes(row->size_bytes), backing->size_bytes))
		return err_raise(-EINVAL, "the record of an extent passes the end of backing %llu",
				 (unsigned long long)backing->id);
	*extent = (struct snapshot_extent){
		.off = row->off,
		.size_bytes = row->size_bytes,
		.backing_off = row->backing_off,
		.backing = backing_ref(backing),
		.record_off = row->sparse ? row->record_off : 0,
		.is_sparse = row->sparse,
	};
	return 0;
}

static int compare_off(const void *a, const void *b)
{
	const struct snapshot_extent *const *ea = a;
	const struct snapshot_extent *const *eb = b;

	return ((*ea)->off > (*eb)->off) - ((*ea)->off < (*eb)->off);
}

/* Whether every page of the snapshot is in some extent that has all of its pages. */
static int check_cover(const struct frozen *frozen)
{
	CLEANUP(freep) const struct snapshot_extent **by_off = NULL;
	uint64_t end = 0;

	by_off = calloc(frozen->n_extents + 1, sizeof(*by_off));
	if (!by_off)
		return err_oom(frozen->n_extents * sizeof(*by_off), "extents");
	for (size_t i = 0; i < frozen->n_extents; i++)
		by_off[i] = &frozen->extents[i];
	qsort(by_off, frozen->n_extents, sizeof(*by_off), compare_off);
	for (size_t i = 0; i < frozen->n_extents && by_off[i]->off <= end; i++)
		if (!by_off[i]->is_sparse)
			end = max_u64(end, by_off[i]->off + by_off[i]->size_bytes);
	if (end != frozen->snap.size_bytes)
		return err_raise(-EINVAL, "the extents of a snapshot do not cover it");
	return 0;
}

/* What extents of a snapshot take, before anything is made of them. */
static int charge(struct frozen *frozen, Cow__V1__Extent *const *list, size_t n)
{
	uint64_t n_bytes = n * sizeof(*frozen->extents);
	int r;

	for (size_t i = 0; i < n; i++)
		if (list[i]->sparse) /* a size that makes no sense is refused below */
			n_bytes +=
				record_bytes(min_u64(list[i]->size_bytes, frozen->snap.size_bytes));
	r = quota_charge(&frozen->extents_charge, frozen->snap.region->user, QUOTA_KEPT_BYTES,
			 n_bytes);
	return quota_error(r);
}

/* To read a record takes time: all together they may have as many pages as the snapshot. */
static int check_sparse(const struct frozen *frozen)
{
	uint64_t left_bytes = frozen->snap.size_bytes;

	for (size_t i = 0; i < frozen->n_extents; i++) {
		if (!frozen->extents[i].is_sparse)
			continue;
		if (frozen->extents[i].size_bytes > left_bytes)
			return err_raise(
				-EINVAL,
				"the sparse extents of a snapshot have more bytes than it");
		left_bytes -= frozen->extents[i].size_bytes;
	}
	return 0;
}

/* Extents of one snapshot come one after the other, before any other's. */
static void use_memory(struct frozen *frozen, struct snapshot_extent *extent)
{
	struct memory *memory = extent->backing->memory;
	struct snapshot_extent *last = memory->uses ? memory->uses->prev_use : NULL;

	if (last && last->user == &frozen->snap)
		return;
	extent->user = &frozen->snap;
	DL_APPEND2(memory->uses, extent, prev_use, next_use);
}

static int parse(struct frozen *frozen, struct session *session, Cow__V1__Extent *const *list,
		 size_t n)
{
	int r;

	if (!n || n > EXTENTS_MAX)
		return err_raise(-EINVAL, "a snapshot of %zu extents", n);
	r = charge(frozen, list, n);
	if (r)
		return r;
	frozen->extents = calloc(n, sizeof(*frozen->extents));
	if (!frozen->extents)
		return err_oom(n * sizeof(*frozen->extents), "extents");
	for (size_t i = 0; i < n; i++) {
		r = parse_one(&frozen->extents[i], frozen, session, list[i]);
		if (r)
			return r;
		use_memory(frozen, &frozen->extents[i]);
		frozen->n_extents++;
	}
	r = check_sparse(frozen);
	return r ? r : check_cover(frozen);
}

static int read_record(struct snapshot_extent *extent)
{
	const uint64_t n_bytes = record_bytes(extent->size_bytes);

	extent->record = malloc(n_bytes);
	if (!extent->record)
		return err_oom(n_bytes, "a record of pages");
	return backing_read(extent->backing, extent->record, n_bytes, extent->record_off);
}

/*
 * Once, when the snapshot is taken: a client that changes the records afterwards changes no snapshot.
 * SEEK_DATA would not do in their place: huge pages make its answer wrong, and it waits for a lock that
 * a client may hold. In a job thread: memory may have to come back from swap.
 */
static int read_records(struct frozen *frozen)
{
	int r = 0;

	for (size_t i = 0; i < frozen->n_extents && !r; i++)
		if (frozen->extents[i].is_sparse)
			r = read_record(&frozen->extents[i]);
	return r;
}

/* --- reading: the extents in their order, each over those before it --------------------------- */

static bool is_present(const struct snapshot_extent *extent, uint64_t idx)
{
	return !extent->record || pagebits_get(extent->record, idx);
}

/* From @off on, inside the extent, up to @limit: as long as pages are like the first one. */
static uint64_t presence_end(const struct snapshot_extent *extent, uint64_t off, uint64_t limit)
{
	size_t size = page_size_bytes();
	uint64_t idx = (off - extent->off) / size;
	uint64_t end_idx = align_up(limit - extent->off, size) / size;

	if (!extent->record)
		return limit;
	idx = pagebits_next(extent->record, idx, end_idx, !is_present(extent, idx));
	return min_u64(extent->off + idx * size, limit);
}

static int read_extent(const struct snapshot_extent *extent, char *buf, uint64_t off, uint64_t end)
{
	uint64_t pos = max_u64(off, extent->off);
	int r = 0;

	end = min_u64(end, extent->off + extent->size_bytes);
	while (pos < end && !r) {
		uint64_t run_end = presence_end(extent, pos, end);

		if (is_present(extent, (pos - extent->off) / page_size_bytes()))
			r = backing_read(extent->backing, buf + (pos - off), run_end - pos,
					 extent->backing_off + (pos - extent->off));
		pos = run_end;
	}
	return r;
}

static int read_extents(struct snapshot *snap, void *buf, size_t len, uint64_t off)
{
	struct frozen *frozen = frozen_of(snap);
	int r = 0;

	for (size_t i = 0; i < frozen->n_extents && !r; i++)
		r = read_extent(&frozen->extents[i], buf, off, off + len);
	/* Its owner waits with changes until this is set. */
	atomic_thread_fence(memory_order_acquire);
	if (!r && frozen->snap.is_lost)
		r = snapshot_stale(&frozen->snap);
	return r;
}

/* --- the mode: contracts are in daemon/region/ops.h ------------------------------------------- */

static void free_extents(struct frozen *frozen)
{
	for (size_t i = 0; i < frozen->n_extents; i++) {
		struct snapshot_extent *extent = &frozen->extents[i];

		if (extent->user)
			DL_DELETE2(extent->backing->memory->uses, extent, prev_use, next_use);
		free(extent->record);
		backing_unref(extent->backing);
	}
	free(frozen->extents);
	charge_deinit(&frozen->extents_charge);
	frozen->extents = NULL;
	frozen->n_extents = 0;
}

/* By a thread that may wait: a client that writes to the pipe, or reads it, can hold its lock. */
void frozen_end_lease(struct snapshot *snap)
{
	struct frozen *frozen = frozen_of(snap);

	if (frozen->lease_fd >= 0)
		closer_give(frozen->snap.daemon->closer, frozen->snap.region->user,
			    &frozen->lease_fd, 1, &frozen->lease_charge, 1);
}

static int set_lease(struct frozen *frozen, int *fd)
{
	int r = quota_charge(&frozen->lease_charge, frozen->snap.region->user, QUOTA_FDS, 1);

	if (r)
		return quota_error(r);
	frozen->lease_fd = fd_steal(fd);
	return 0;
}

/*
 * By its name, which only the kernel's own pipes have: asking a file of a client's for its type
 * could wait for whoever serves it, and asking a pipe for its size waits for whoever uses it.
 */
static bool is_lease(int proc_self_fd, int fd)
{
	static const char want[] = "pipe:[";
	char name[16], target[64];
	ssize_t n;

	(void)snprintf(name, sizeof(name), "%d", fd);
	n = readlinkat(proc_self_fd, name, target, sizeof(target));
	return n > (ssize_t)sizeof(want) && !memcmp(target, want, sizeof(want) - 1) &&
	       (fcntl(fd, F_GETFL) & (O_ACCMODE | O_PATH)) == O_WRONLY;
}

static int check_attach(const struct region *region, const struct fdset *fds)
{
	(void)region;
	if (fds->n_fds)
		return err_raise(REGION_E_PROTOCOL,
				 "attaching a region of mode scoot or mmapcopy with a descriptor");
	return 0;
}

static void init_snapshot(struct snapshot *snap)
{
	frozen_of(snap)->lease_fd = -1;
}

static int check_take(const struct region *region, const struct session *session,
		      const Cow__V1__SnapshotTake *take, const struct fdset *fds)
{
	(void)take; /* its extents are checked when they are parsed */
	if (region->session != session)
		return err_raise(-EOPNOTSUPP,
				 "region %llu is not of mode uffd: only its own process "
				 "can freeze it",
				 (unsigned long long)region->id);
	if (fds->n_fds != 1)
		return err_raise(REGION_E_PROTOCOL,
				 "a snapshot of mode scoot or mmapcopy without a lease");
	if (!is_lease(region->daemon->proc_self_fd_fd, fds->fds[0]))
		return err_raise(REGION_E_PROTOCOL,
				 "the lease of a snapshot is no pipe's write end");
	return 0;
}

static int prepare(struct snapshot *snap, struct session *session,
		   const Cow__V1__SnapshotTake *take, struct fdset *fds)
{
	struct frozen *frozen = frozen_of(snap);
	int r = set_lease(frozen, &fds->fds[0]);

	return r ? r : parse(frozen, session, take->extents, take->n_extents);
}

static int take(struct snapshot *snap)
{
	struct frozen *frozen = frozen_of(snap);
	int r = read_records(frozen);

	if (!r)
		snapshot_set_state(&frozen->snap, SNAPSHOT_FROZEN);
	return r;
}

static void drop(struct snapshot *snap)
{
	struct frozen *frozen = frozen_of(snap);

	free_extents(frozen);
	frozen_end_lease(&frozen->snap);
}

const struct region_ops region_ops_frozen = {
	.region_bytes = sizeof(struct region),
	.snapshot_bytes = sizeof(struct frozen),
	.hands_over = true,
	.is_inherited = true,
	.check_attach = check_attach,
	.init_snapshot = init_snapshot,
	.check_take = check_take,
	.prepare = prepare,
	.take = take,
	.read = read_extents,
	.drop = drop,
};
