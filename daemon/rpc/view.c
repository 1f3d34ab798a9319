// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls that map and unmap snapshots. Loop thread. */
#include "config.h"

#include "daemon/snapshot/view.h"

#include "backends/uffdio.h"
#include "common/err.h"
#include "daemon/daemon.h"
#include "daemon/rpc/rpc.h"
#include "daemon/rpc/session.h"
#include "daemon/snapshot/snapshot.h"

static int reply_view(struct rpc_call *call, const struct view *view)
{
	Cow__V1__ViewReply *reply = rpc_alloc(call, sizeof(*reply));

	if (!reply)
		return -ENOMEM;
	cow__v1__view_reply__init(reply);
	reply->view_id = view->id;
	call->reply.result_case = COW__V1__REPLY__RESULT_VIEW;
	call->reply.view = reply;
	return 0;
}

static int on_mapped(void *arg, const struct view *view, int error)
{
	struct rpc_call *call = arg;
	int r = error ? error : reply_view(call, view);

	rpc_finish(call, r);
	return r;
}

int rpc_snapshot_map(struct rpc_call *call)
{
	const Cow__V1__SnapshotMap *request = call->request->snapshot_map;
	int *uffd = &call->fds.fds[0];
	struct view *view = NULL;
	struct snapshot *snap;
	int r;

	if (!uffdio_is_uffd(call->session->daemon->proc_self_fd_fd, *uffd))
		return err_raise(RPC_E_FATAL, "the descriptor of a view is no userfaultfd");
	snap = snapshot_find(call->session, request->snapshot_id);
	if (!snap)
		return -ENOENT;
	if (snap->is_lost)
		return snapshot_stale(snap);
	if (!request->addr || request->addr % page_size_bytes() ||
	    request->addr + snap->size_bytes < request->addr)
		return err_raise(-EINVAL, "%#llx is no address for a view",
				 (unsigned long long)request->addr);
	r = view_new(&view, call->session, snap, request->addr, uffd);
	if (r)
		return r;
	view_map(view, on_mapped, call);
	return RPC_E_DEFERRED;
}

int rpc_snapshot_unmap(struct rpc_call *call)
{
	struct view *view = view_find(call->session, call->request->snapshot_unmap->view_id);

	if (!view)
		return -ENOENT;
	view_free(view);
	return 0;
}
