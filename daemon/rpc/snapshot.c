// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls about snapshots: take, open, release, read, list; proto/cow.proto says what they mean. */
#include "config.h"

#include "daemon/snapshot/snapshot.h"

#include <poll.h>

#include "common/clock.h"
#include "common/err.h"
#include "common/format.h"
#include "daemon/daemon.h"
#include "daemon/region/backing.h"
#include "daemon/region/region.h"
#include "daemon/rpc/rpc.h"
#include "daemon/rpc/session.h"
#include "daemon/snapshot/frozen.h"
#include "daemon/snapshot/view.h"

/* --- what a client is told about a snapshot --------------------------------------------------- */

/* Descriptors that a snapshot can be handed over with, besides its lease. */
#define BACKINGS_MAX (WIRE_FDS_MAX - 1)

static int fill_extents(struct rpc_call *call, Cow__V1__SnapshotReply *reply,
			const struct frozen *frozen)
{
	reply->extents = rpc_alloc(call, frozen->n_extents * sizeof(void *));
	reply->backing_ids = rpc_alloc(call, BACKINGS_MAX * sizeof(*reply->backing_ids));
	if (!reply->extents || !reply->backing_ids)
		return -ENOMEM;
	for (size_t i = 0; i < frozen->n_extents; i++) {
		const struct snapshot_extent *extent = &frozen->extents[i];
		Cow__V1__Extent *row = rpc_alloc(call, sizeof(*row));
		size_t j = 0;

		if (!row)
			return -ENOMEM;
		cow__v1__extent__init(row);
		row->off = extent->off;
		row->size_bytes = extent->size_bytes;
		row->backing_id = extent->backing->id;
		row->backing_off = extent->backing_off;
		row->sparse = extent->is_sparse;
		row->record_off = extent->record_off;
		reply->extents[reply->n_extents++] = row;

		while (j < reply->n_backing_ids && reply->backing_ids[j] != extent->backing->id)
			j++;
		if (j < reply->n_backing_ids)
			continue;
		if (j == BACKINGS_MAX)
			return err_raise(-EMFILE,
					 "snapshot %llu is spread over more than %d memfds, too "
					 "many to hand over: release older snapshots of its region",
					 (unsigned long long)frozen->snap.id, BACKINGS_MAX);
		reply->backing_ids[reply->n_backing_ids++] = extent->backing->id;
		call->reply_fds[call->n_reply_fds++] = extent->backing->ro_fd;
	}
	call->reply_fds[call->n_reply_fds++] = frozen->lease_fd;
	return 0;
}

static int reply_snapshot(struct rpc_call *call, struct snapshot *snap, bool with_extents)
{
	Cow__V1__SnapshotReply *reply = rpc_alloc(call, sizeof(*reply));
	int r;

	if (!reply)
		return -ENOMEM;
	cow__v1__snapshot_reply__init(reply);
	reply->snapshot_id = snap->id;
	reply->size_bytes = snap->size_bytes;
	reply->mode = snap->mode;
	reply->region_id = snap->region_id;
	if (with_extents) {
		r = fill_extents(call, reply, frozen_of(snap));
		if (r)
			return r;
	}
	call->reply.result_case = COW__V1__REPLY__RESULT_SNAPSHOT;
	call->reply.snapshot = reply;
	return 0;
}

/* --- take ------------------------------------------------------------------------------------- */

/* How long a take is tried again while its client changes its address space, and how often. */
#define AGAIN_USEC ((uint64_t)2 * 1000 * 1000)
#define AGAIN_MSEC 1

/* Whether to try once more; if not, *@r is the error. */
static bool tries_again(struct snapshot *snap, int *r)
{
	uint64_t now = now_usec();

	if (!snap->again_until_usec)
		snap->again_until_usec = now + AGAIN_USEC;
	if (now < snap->again_until_usec) {
		(void)poll(NULL, 0, AGAIN_MSEC);
		return true;
	}
	*r = err_raise(
		-EAGAIN,
		"the program of region %llu went on changing its memory map (mremap, munmap, "
		"snapshots of its own) for %llu s, so that no instant could be frozen; take "
		"the snapshot again",
		(unsigned long long)snap->region_id, (unsigned long long)(AGAIN_USEC / 1000000));
	return false;
}

static void take_run(struct region_op *op)
{
	struct snapshot *snap = container_of(op, struct snapshot, op);
	int r;

	r = snapshot_take(snap);
	if (r == TAKE_E_AGAIN && tries_again(snap, &r)) {
		op->goes_on = true;
		return;
	}
	outcome_set(&snap->outcome, r);
}

static void take_done(struct region_op *op)
{
	struct snapshot *snap = container_of(op, struct snapshot, op);
	struct rpc_call *call = snap->call;
	struct session *session = call->session;
	bool is_held = false;
	int r;

	r = outcome_raise(&snap->outcome);
	if (!r && !session->has_ended) {
		r = snapshot_hold(snap, session);
		is_held = !r;
	}
	if (!r)
		r = reply_snapshot(call, snap, false);
	/* Who is told that there is no snapshot will never release it. */
	if (r && is_held)
		(void)snapshot_release(session, snap->id);
	if (!r)
		call->reply.snapshot->move = snap->by_move;
	if (!r)
		stats_add(&snap->daemon->stats, snapshots_taken, 1);
	snap->call = NULL;
	rpc_finish(call, r);
	snapshot_take_done(snap);
}

/*
 * The region of a take: the client's own, or any of mode uffd that it may see. One that it may not
 * see is answered like one that is not there.
 */
static struct region *find_region(struct session *session, uint64_t id)
{
	struct region *region;

	HASH_FIND(hh, session->daemon->regions, &id, sizeof(id), region);
	if (region && (region->session == session || session_may_see(session, region->uid)))
		return region;
	(void)err_raise(-ENOENT, "there is no region %llu that uid %u may freeze",
			(unsigned long long)id, (unsigned int)session->uid);
	return NULL;
}

int rpc_snapshot_take(struct rpc_call *call)
{
	const Cow__V1__SnapshotTake *take = call->request->snapshot_take;
	CLEANUP(snapshot_unrefp) struct snapshot *snap = NULL;
	struct region *region;
	char clean[sizeof(snap->name)];
	int r;

	region = find_region(call->session, take->region_id);
	if (!region)
		return -ENOENT;
	r = snapshot_check_take(region, call->session, take, &call->fds);
	if (r)
		return r == REGION_E_PROTOCOL ? RPC_E_FATAL : r;
	format_clean(clean, sizeof(clean), take->name);
	r = snapshot_new(&snap, region, clean);
	if (r)
		return r;
	r = snapshot_prepare(snap, call->session, take, &call->fds);
	if (r)
		return r;
	snap->budget_pages = take->budget_bytes / page_size_bytes();
	snap->can_wait = take->wait;
	snap->call = call;
	snapshot_submit_take(snap, take_run, take_done);
	return RPC_E_DEFERRED;
}

/* --- open, release ---------------------------------------------------------------------------- */

/* What a reply has besides its result: id, number of descriptors. */
#define REPLY_HEAD_BYTES 64

/*
 * Whether the opener reads the memory itself. An administrator, who may open what other users
 * froze, reads through cowd: it is handed nothing that its owner can change under its eyes, nor a
 * lease, to close which may take as long as its owner likes.
 */
static bool gets_memory(const struct session *session, const struct snapshot *snap)
{
	return snap->region->ops->hands_over && session->uid == snap->uid;
}

int rpc_snapshot_open(struct rpc_call *call)
{
	uint64_t id = call->request->snapshot_open->snapshot_id;
	struct session *session = call->session;
	struct snapshot *snap;
	int r;

	HASH_FIND(hh, session->daemon->snapshots, &id, sizeof(id), snap);
	/* One that is not theirs is answered like one that is not there. */
	if (!snap || snap->call || !session_may_see(session, snap->uid))
		return err_raise(-ENOENT, "there is no snapshot %llu that uid %u may open",
				 (unsigned long long)id, (unsigned int)session->uid);
	if (snap->is_lost)
		return snapshot_stale(snap);
	r = reply_snapshot(call, snap, gets_memory(session, snap));
	if (r)
		return r;
	/* Refused here: a hold that no reply tells of would last as long as the connection. */
	if (cow__v1__reply__get_packed_size(&call->reply) >
	    WIRE_PACKET_MAX_BYTES - REPLY_HEAD_BYTES)
		return err_raise(-EMSGSIZE,
				 "snapshot %llu is in %zu pieces, too many for a packet: release "
				 "older snapshots of its region",
				 (unsigned long long)id, call->reply.snapshot->n_extents);
	return snapshot_hold(snap, session);
}

int rpc_snapshot_release(struct rpc_call *call)
{
	return snapshot_release(call->session, call->request->snapshot_release->snapshot_id);
}

/* --- read: memory may have to come back from swap, so a job does it --------------------------- */

/* The bytes have memory from when they are read until their reply is sent, and not before. */

struct snapshot_reader {
	struct job job;
	struct rpc_call *call;
	struct snapshot *snap; /* a reference */
	uint64_t off;
	size_t n_bytes;
	Cow__V1__ReadReply reply;
	struct outcome outcome;
};

static int read_bytes(struct snapshot_reader *reader)
{
	ProtobufCBinaryData *data = &reader->reply.data;
	int r;

	r = rpc_charge(reader->call, reader->n_bytes);
	if (r)
		return r;
	data->data = rpc_alloc(reader->call, reader->n_bytes);
	if (!data->data)
		return -ENOMEM;
	data->len = reader->n_bytes;
	return snapshot_read(reader->snap, data->data, data->len, reader->off);
}

static void reader_run(struct job *job)
{
	struct snapshot_reader *reader = container_of(job, struct snapshot_reader, job);

	outcome_set(&reader->outcome, read_bytes(reader));
}

static void reader_done(struct job *job)
{
	struct snapshot_reader *reader = container_of(job, struct snapshot_reader, job);
	struct rpc_call *call = reader->call;
	struct snapshot *snap = reader->snap;
	int r;

	r = outcome_raise(&reader->outcome);
	if (!r) {
		call->reply.result_case = COW__V1__REPLY__RESULT_READ;
		call->reply.read = &reader->reply;
		stats_add(&snap->daemon->stats, read_bytes, reader->n_bytes);
	}
	rpc_finish(call, r); /* last use of @reader, which is of the call's memory */
	snapshot_unref(snap);
}

int rpc_snapshot_read(struct rpc_call *call)
{
	const Cow__V1__SnapshotRead *request = call->request->snapshot_read;
	struct snapshot_reader *reader;
	struct snapshot *snap;

	snap = snapshot_find(call->session, request->snapshot_id);
	if (!snap)
		return -ENOENT;
	if (request->off > snap->size_bytes ||
	    request->size_bytes > snap->size_bytes - request->off)
		return err_raise(-EINVAL, "%llu bytes at %llu are outside of snapshot %llu",
				 (unsigned long long)request->size_bytes,
				 (unsigned long long)request->off, (unsigned long long)snap->id);
	reader = rpc_alloc(call, sizeof(*reader));
	if (!reader)
		return -ENOMEM;
	cow__v1__read_reply__init(&reader->reply);
	reader->n_bytes = (size_t)min_u64(request->size_bytes, WIRE_DATA_MAX_BYTES);
	reader->call = call;
	reader->snap = snapshot_ref(snap);
	reader->off = request->off;
	reader->job.run = reader_run;
	reader->job.done = reader_done;
	reader->job.client_id = call->session->id;
	job_submit(snap->daemon->jobs, &reader->job);
	return RPC_E_DEFERRED;
}

/* --- list ------------------------------------------------------------------------------------- */

static int add_snapshot(struct rpc_call *call, Cow__V1__SnapshotList *list,
			const struct snapshot *snap, uint64_t now)
{
	Cow__V1__SnapshotInfo *row = rpc_alloc(call, sizeof(*row));
	bool is_lost = snap->is_lost;

	if (!row)
		return -ENOMEM;
	cow__v1__snapshot_info__init(row);
	row->region_name = rpc_strdup(call, snap->region_name);
	row->name = rpc_strdup(call, snap->name);
	row->lost_because = rpc_strdup(call, is_lost ? snap->lost_because : "");
	if (!row->region_name || !row->name || !row->lost_because)
		return -ENOMEM;
	row->snapshot_id = snap->id;
	row->region_id = snap->region_id;
	row->pid = (uint32_t)snap->pid;
	row->uid = snap->uid;
	row->mode = snap->mode;
	row->state = is_lost ? COW__V1__SNAPSHOT_STATE__SNAPSHOT_LOST
			     : COW__V1__SNAPSHOT_STATE__SNAPSHOT_LIVE;
	row->size_bytes = snap->size_bytes;
	row->kept_bytes = snapshot_kept_bytes(snap);
	row->age_usec = now - snap->taken_usec;
	row->n_holders = snap->n_holders;
	row->budget_bytes = snap->budget_pages * page_size_bytes();
	row->wait = snap->can_wait;
	row->once = snap->is_once;
	row->n_saves = snap->n_saves;
	row->saved_bytes = snap->saved_bytes;
	list->snapshots[list->n_snapshots++] = row;
	return 0;
}

int rpc_list_snapshots(struct rpc_call *call)
{
	uint64_t after_id = call->request->list_snapshots->after_id;
	struct session *asker = call->session;
	struct snapshot *snap = NULL;
	Cow__V1__SnapshotList *list;
	int r;

	list = rpc_alloc(call, sizeof(*list));
	if (!list)
		return -ENOMEM;
	cow__v1__snapshot_list__init(list);
	list->snapshots = rpc_alloc(call, RPC_LIST_MAX * sizeof(void *));
	if (!list->snapshots)
		return -ENOMEM;
	/* From the one that was last, as long as it is there; uthash keeps the order of ids. */
	HASH_FIND(hh, asker->daemon->snapshots, &after_id, sizeof(after_id), snap);
	for (snap = snap ? snap : asker->daemon->snapshots; snap; snap = snap->hh.next) {
		if (snap->id <= after_id || snap->call || !session_may_see(asker, snap->uid))
			continue;
		if (list->n_snapshots == RPC_LIST_MAX) {
			list->has_more = true;
			break;
		}
		r = add_snapshot(call, list, snap, call->received_nsec / 1000);
		if (r)
			return r;
	}
	call->reply.result_case = COW__V1__REPLY__RESULT_SNAPSHOTS;
	call->reply.snapshots = list;
	return 0;
}
