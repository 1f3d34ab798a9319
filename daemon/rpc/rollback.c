// SPDX-License-Identifier: GPL-2.0-or-later
/* The call that rolls a region back. Loop thread. */
#include "config.h"

#include "daemon/uffd/rollback.h"

#include "common/err.h"
#include "daemon/region/region.h"
#include "daemon/rpc/rpc.h"
#include "daemon/snapshot/snapshot.h"

static void on_done(void *arg, int error)
{
	rpc_finish(arg, error);
}

int rpc_snapshot_rollback(struct rpc_call *call)
{
	const Cow__V1__SnapshotRollback *request = call->request->snapshot_rollback;
	struct snapshot *snap;
	struct region *region;
	int r;

	region = region_find(call->session, request->region_id);
	snap = region ? snapshot_find(call->session, request->snapshot_id) : NULL;
	if (!snap)
		return -ENOENT;
	if (snap->region != region || snap->mode != COW__V1__MODE__MODE_UFFD)
		return err_raise(-EINVAL, "snapshot %llu is not one of region %llu in mode uffd",
				 (unsigned long long)snap->id, (unsigned long long)region->id);
	r = rpc_charge(call, rollback_memory_bytes());
	if (!r)
		r = rollback_begin(snap, on_done, call);
	return r ? r : RPC_E_DEFERRED;
}
