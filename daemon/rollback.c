// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Rolling a uffd region back to one of its snapshots.
 *
 * The pages that changed since are those that a store from the snapshot's own onward has; they are
 * written to the region's memory by cowd. Such a write is not trapped, so what newer snapshots need
 * of the page is kept first. This is done in pieces, with the region's faults held off during each;
 * the client knows not to write meanwhile.
 */
#include "config.h"

#include <string.h>

#include "common/err.h"
#include "daemon/backing.h"
#include "daemon/daemon.h"
#include "daemon/outcome.h"
#include "daemon/rpc.h"
#include "daemon/session.h"
#include "daemon/snapshot.h"

struct rollback {
	struct region_op op;
	struct rpc_call *call;
	struct snapshot *snap; /* a reference */
	void *zeroes;          /* a page of them */
	struct outcome outcome;
};

static int write_page(const struct rollback *rollback, uint64_t idx, uint32_t slot)
{
	struct region *region = rollback->snap->region;
	size_t size = page_size_bytes();
	const void *page = rollback->zeroes;

	if (slot != STORE_ZERO)
		page = store_pool_page(region->pool, slot);
	if (pwrite(region->backing->fd, page, size, (off_t)(idx * size)) != (ssize_t)size)
		return err_raise(-ENOMEM, "no memory for a region that is rolled back");
	return 0;
}

/* With served.lock, and chain_lock held shared. */
static int roll_page(const struct rollback *rollback, uint64_t idx)
{
	struct snapshot *snap = rollback->snap;
	uint32_t slot = snapshot_find_slot(snap, idx);
	int r;

	if (slot == STORE_EMPTY)
		return 0;
	r = fault_keep(snap->region, idx);
	if (r)
		return r > 0 ? -EDQUOT : r;
	return write_page(rollback, idx, slot);
}

static bool is_touched(const struct snapshot *snap, uint64_t idx)
{
	for (; snap; snap = snap->newer)
		if (store_is_touched(&snap->store, idx))
			return true;
	return false;
}

static int roll_piece(const struct rollback *rollback, uint64_t first)
{
	struct snapshot *snap = rollback->snap;
	struct region *region = snap->region;
	uint64_t end = min_u64(first + STORE_TOUCH_PAGES, region->n_pages);
	int r = 0;

	served_lock(&region->served);
	pthread_rwlock_rdlock(&region->chain_lock);
	if (snap->is_lost)
		r = snapshot_stale(snap);
	else if (!snap->is_chained || snap->drained_pages)
		r = err_raise(-ESTALE, "snapshot %llu has no whole past to go back to",
			      (unsigned long long)snap->id);
	else if (is_touched(snap, first))
		for (uint64_t idx = first; idx < end && !r; idx++)
			r = roll_page(rollback, idx);
	pthread_rwlock_unlock(&region->chain_lock);
	served_unlock(&region->served);
	return r;
}

static void rollback_run(struct region_op *op)
{
	struct rollback *rollback = container_of(op, struct rollback, op);
	uint64_t n_pages = rollback->snap->region->n_pages;
	int r = 0;

	for (uint64_t first = 0; first < n_pages && !r; first += STORE_TOUCH_PAGES)
		r = roll_piece(rollback, first);
	outcome_set(&rollback->outcome, r);
}

static void rollback_free(struct rollback *rollback)
{
	snapshot_unref(rollback->snap);
	free(rollback->zeroes);
	free(rollback);
}

static void rollback_done(struct region_op *op)
{
	struct rollback *rollback = container_of(op, struct rollback, op);

	rpc_finish(rollback->call, outcome_raise(&rollback->outcome));
	rollback_free(rollback);
}

int rpc_snapshot_rollback(struct rpc_call *call)
{
	const Cow__V1__SnapshotRollback *request = call->request->snapshot_rollback;
	struct rollback *rollback;
	struct snapshot *snap;
	struct region *region;

	region = region_find(call->session, request->region_id);
	snap = region ? snapshot_find(call->session, request->snapshot_id) : NULL;
	if (!snap)
		return -ENOENT;
	if (snap->region != region || snap->mode != COW__V1__MODE__MODE_UFFD)
		return err_raise(-EINVAL, "snapshot %llu is not one of region %llu in mode uffd",
				 (unsigned long long)snap->id, (unsigned long long)region->id);
	rollback = calloc(1, sizeof(*rollback));
	if (!rollback)
		return err_oom(sizeof(*rollback), "rolling back");
	rollback->snap = snapshot_ref(snap);
	rollback->call = call;
	rollback->zeroes = calloc(1, page_size_bytes());
	if (!rollback->zeroes) {
		rollback_free(rollback);
		return err_oom(page_size_bytes(), "rolling back");
	}
	rollback->op.run = rollback_run;
	rollback->op.done = rollback_done;
	region_submit(region, &rollback->op);
	return RPC_E_DEFERRED;
}
