// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Checking what a client says its snapshot is made of, and the way back, from memory to snapshots.
 * Contracts are in frozen.h and snapshot.h.
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

static int parse_one(struct snapshot_extent *extent, const struct snapshot *snap,
		     struct session *session, const Cow__V1__Extent *row)
{
	uint64_t mask = page_size_bytes() - 1;
	struct backing *backing;

	if (!row->size_bytes || (row->off | row->size_bytes | row->backing_off) & mask)
		return err_raise(-EINVAL, "an extent of a snapshot is not made of whole pages");
	if (!is_inside(row->off, row->size_bytes, snap->size_bytes))
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
static int check_cover(const struct snapshot *snap)
{
	CLEANUP(freep) const struct snapshot_extent **by_off = NULL;
	uint64_t end = 0;

	by_off = calloc(snap->n_extents + 1, sizeof(*by_off));
	if (!by_off)
		return err_oom(snap->n_extents * sizeof(*by_off), "extents");
	for (size_t i = 0; i < snap->n_extents; i++)
		by_off[i] = &snap->extents[i];
	qsort(by_off, snap->n_extents, sizeof(*by_off), compare_off);
	for (size_t i = 0; i < snap->n_extents && by_off[i]->off <= end; i++)
		if (!by_off[i]->is_sparse)
			end = max_u64(end, by_off[i]->off + by_off[i]->size_bytes);
	if (end != snap->size_bytes)
		return err_raise(-EINVAL, "the extents of a snapshot do not cover it");
	return 0;
}

/* What extents of a snapshot take, before anything is made of them. */
static int charge(struct snapshot *snap, Cow__V1__Extent *const *list, size_t n)
{
	uint64_t n_bytes = n * sizeof(*snap->extents);
	int r;

	for (size_t i = 0; i < n; i++)
		if (list[i]->sparse) /* a size that makes no sense is refused below */
			n_bytes += record_bytes(min_u64(list[i]->size_bytes, snap->size_bytes));
	r = quota_charge(&snap->extents_charge, snap->region->user, QUOTA_KEPT_BYTES, n_bytes);
	return r > 0 ? -EDQUOT : r;
}

/* To read a record takes time: all together they may have as many pages as the snapshot. */
static int check_sparse(const struct snapshot *snap)
{
	uint64_t left_bytes = snap->size_bytes;

	for (size_t i = 0; i < snap->n_extents; i++) {
		if (!snap->extents[i].is_sparse)
			continue;
		if (snap->extents[i].size_bytes > left_bytes)
			return err_raise(
				-EINVAL,
				"the sparse extents of a snapshot have more bytes than it");
		left_bytes -= snap->extents[i].size_bytes;
	}
	return 0;
}

void snapshot_use_memory(struct snapshot *snap, struct snapshot_extent *extent)
{
	struct memory *memory = extent->backing->memory;
	struct snapshot_extent *last = memory->uses ? memory->uses->prev_use : NULL;

	if (last && last->user == snap)
		return;
	extent->user = snap;
	DL_APPEND2(memory->uses, extent, prev_use, next_use);
}

int extent_parse(struct snapshot *snap, struct session *session, Cow__V1__Extent *const *list,
		 size_t n)
{
	int r;

	if (!n || n > EXTENTS_MAX)
		return err_raise(-EINVAL, "a snapshot of %zu extents", n);
	r = charge(snap, list, n);
	if (r)
		return r;
	snap->extents = calloc(n, sizeof(*snap->extents));
	if (!snap->extents)
		return err_oom(n * sizeof(*snap->extents), "extents");
	for (size_t i = 0; i < n; i++) {
		r = parse_one(&snap->extents[i], snap, session, list[i]);
		if (r)
			return r;
		snapshot_use_memory(snap, &snap->extents[i]);
		snap->n_extents++;
	}
	r = check_sparse(snap);
	return r ? r : check_cover(snap);
}

static int read_record(struct snapshot_extent *extent)
{
	const uint64_t n_bytes = record_bytes(extent->size_bytes);

	extent->record = malloc(n_bytes);
	if (!extent->record)
		return err_oom(n_bytes, "a record of pages");
	return backing_read(extent->backing, extent->record, n_bytes, extent->record_off);
}

int extent_read_records(struct snapshot *snap)
{
	int r = 0;

	for (size_t i = 0; i < snap->n_extents && !r; i++)
		if (snap->extents[i].is_sparse)
			r = read_record(&snap->extents[i]);
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

int extent_read(struct snapshot *snap, void *buf, size_t len, uint64_t off)
{
	int r = 0;

	for (size_t i = 0; i < snap->n_extents && !r; i++)
		r = read_extent(&snap->extents[i], buf, off, off + len);
	/* Its owner waits with changes until this is set. */
	atomic_thread_fence(memory_order_acquire);
	if (!r && snap->is_lost)
		r = snapshot_stale(snap);
	return r;
}

/* --- the mode: contracts are in daemon/region/ops.h ------------------------------------------- */

static void free_extents(struct snapshot *snap)
{
	for (size_t i = 0; i < snap->n_extents; i++) {
		struct snapshot_extent *extent = &snap->extents[i];

		if (extent->user)
			DL_DELETE2(extent->backing->memory->uses, extent, prev_use, next_use);
		free(extent->record);
		backing_unref(extent->backing);
	}
	free(snap->extents);
	charge_deinit(&snap->extents_charge);
	snap->extents = NULL;
	snap->n_extents = 0;
}

/* By a thread that may wait: a client that writes to the pipe, or reads it, can hold its lock. */
void extent_end_lease(struct snapshot *snap)
{
	if (snap->lease_fd >= 0)
		closer_give(snap->daemon->closer, snap->region->user, &snap->lease_fd, 1,
			    &snap->lease_charge, 1);
}

static int set_lease(struct snapshot *snap, int *fd)
{
	int r = quota_charge(&snap->lease_charge, snap->region->user, QUOTA_FDS, 1);

	if (r)
		return r > 0 ? -EDQUOT : r;
	snap->lease_fd = fd_steal(fd);
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
	int r = set_lease(snap, &fds->fds[0]);

	return r ? r : extent_parse(snap, session, take->extents, take->n_extents);
}

static int take(struct snapshot *snap)
{
	int r = extent_read_records(snap);

	if (!r)
		snapshot_set_state(snap, SNAPSHOT_FROZEN);
	return r;
}

static void drop(struct snapshot *snap)
{
	free_extents(snap);
	extent_end_lease(snap);
}

const struct region_ops region_ops_frozen = {
	.region_bytes = sizeof(struct region),
	.is_inherited = true,
	.check_attach = check_attach,
	.check_take = check_take,
	.prepare = prepare,
	.take = take,
	.read = extent_read,
	.drop = drop,
};
