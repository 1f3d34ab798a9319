// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls that save snapshots. Loop thread. */
#include "config.h"

#include "daemon/snapshot/save.h"

#include "common/err.h"
#include "daemon/rpc/rpc.h"
#include "daemon/rpc/session.h"
#include "daemon/snapshot/snapshot.h"

static void on_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
	struct rpc_call *call = arg;
	Cow__V1__SaveProgress progress = COW__V1__SAVE_PROGRESS__INIT;
	Cow__V1__Reply event = COW__V1__REPLY__INIT;

	progress.request_id = call->id;
	progress.done_bytes = done_bytes;
	progress.total_bytes = total_bytes;
	event.result_case = COW__V1__REPLY__RESULT_SAVE_PROGRESS;
	event.save_progress = &progress;
	session_send(call->session, &event, NULL, 0);
}

static int reply_save(struct rpc_call *call, uint64_t written_bytes)
{
	Cow__V1__SaveReply *reply = rpc_alloc(call, sizeof(*reply));

	if (!reply)
		return -ENOMEM;
	cow__v1__save_reply__init(reply);
	reply->written_bytes = written_bytes;
	call->reply.result_case = COW__V1__REPLY__RESULT_SAVE;
	call->reply.save = reply;
	return 0;
}

static void on_done(void *arg, int error, uint64_t written_bytes)
{
	struct rpc_call *call = arg;

	rpc_finish(call, error ? error : reply_save(call, written_bytes));
}

int rpc_snapshot_save(struct rpc_call *call)
{
	static const struct save_events events = {.progress = on_progress, .done = on_done};
	struct snapshot *snap;
	int r;

	snap = snapshot_find(call->session, call->request->snapshot_save->snapshot_id);
	if (!snap)
		return -ENOENT;
	r = save_check(snap, call->fds.fds[0]);
	if (!r) /* for as long as nobody reads what it writes */
		r = rpc_charge(call, sizeof(*call) + save_memory_bytes());
	if (!r)
		r = save_begin(call->session, call->id, snap, &call->fds.fds[0], &events, call);
	return r ? r : RPC_E_DEFERRED;
}

int rpc_save_cancel(struct rpc_call *call)
{
	return save_cancel(call->session, call->request->save_cancel->request_id);
}
