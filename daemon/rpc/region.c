// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls about regions and backings; what they mean is in proto/cow.proto. */
#include "config.h"

#include "daemon/region/region.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <utlist.h>

#include "common/err.h"
#include "common/format.h"
#include "daemon/base/outcome.h"
#include "daemon/daemon.h"
#include "daemon/region/backing.h"
#include "daemon/region/children.h"
#include "daemon/rpc/rpc.h"
#include "daemon/rpc/session.h"
#include "daemon/snapshot/snapshot.h"

/* The modes that there are. */
static const struct region_ops *const modes[] = {
	[COW__V1__MODE__MODE_UFFD] = &region_ops_uffd,
	[COW__V1__MODE__MODE_SCOOT] = &region_ops_frozen,
	[COW__V1__MODE__MODE_MMAPCOPY] = &region_ops_frozen,
};

static int find_mode(const struct region_ops **ops, const struct daemon *daemon, Cow__V1__Mode mode)
{
	*ops = (size_t)mode < ARRAY_SIZE(modes) ? modes[mode] : NULL;
	if (!*ops)
		return err_raise(-EINVAL, "there is no mode %d", (int)mode);
	return region_check_mode(*ops, daemon);
}

static int reply_region(struct rpc_call *call, const struct region *region)
{
	Cow__V1__RegionReply *reply = rpc_alloc(call, sizeof(*reply));

	if (!reply)
		return -ENOMEM;
	cow__v1__region_reply__init(reply);
	reply->region_id = region->id;
	reply->backing_id = region->backing->id;
	call->reply.result_case = COW__V1__REPLY__RESULT_REGION;
	call->reply.region = reply;
	call->reply_fds[call->n_reply_fds++] = region->backing->fd;
	call->reply_fds[call->n_reply_fds++] = region->backing->ro_fd;
	return 0;
}

static int make_region(struct rpc_call *call, struct backing *backing, const struct region_ops *ops,
		       Cow__V1__Mode mode, const char *name)
{
	struct region *region = NULL;
	char clean[sizeof(region->name)];
	int r;

	format_clean(clean, sizeof(clean), name);
	r = region_new(&region, call->session, backing, ops, mode, clean);
	if (r)
		return r;
	r = reply_region(call, region);
	if (r)
		region_disown(region);
	return r;
}

int rpc_region_create(struct rpc_call *call)
{
	const Cow__V1__RegionCreate *create = call->request->region_create;
	CLEANUP(backing_unrefp) struct backing *backing = NULL;
	const struct region_ops *ops;
	int r;

	r = find_mode(&ops, call->session->daemon, create->mode);
	if (!r)
		r = backing_new(&backing, call->session, create->size_bytes);
	return r ? r : make_region(call, backing, ops, create->mode, create->name);
}

/* Only memory has seals; fstat() of another file could wait for whoever serves that. */
static bool is_writable_memory(int memfd, struct stat *st)
{
	return (fcntl(memfd, F_GETFL) & (O_ACCMODE | O_PATH)) == O_RDWR &&
	       fcntl(memfd, F_GET_SEALS) >= 0 && !fstat(memfd, st);
}

/*
 * Who has snapshots of memory that is handed over on a new connection is told that they are lost,
 * and lets go of them, so that the client has its memory back. cowd may not even have seen the end
 * of the old connection. Who cannot write to the memory has nothing to hand over.
 */
static void lose_earlier(struct daemon *daemon, int memfd)
{
	struct stat st;

	if (!is_writable_memory(memfd, &st))
		return;
	snapshot_lose_memory(daemon, st.st_dev, st.st_ino);
	inherit_forget(daemon, st.st_dev, st.st_ino);
}

/* Whether the region is that of the memory that @session hands over, and goes on to be served. */
static bool is_resumable(const struct region *region, const struct session *session,
			 const struct stat *st)
{
	return region->pid == session->pid && region->uid == session->uid &&
	       region->backing->memory->key.dev == st->st_dev &&
	       region->backing->memory->key.ino == st->st_ino && region_can_resume(region);
}

/*
 * Mode uffd: others have snapshots of the region, so that it was not ended with its owner's earlier
 * connection. Only one userfaultfd at a time can be registered for its addresses, and those
 * snapshots need the one that is: so the region goes on, as its owner's again.
 *
 * Return: lent; NULL when there is none.
 */
static struct region *resume(struct session *session, const struct region_ops *ops, int memfd)
{
	struct region *region;
	struct stat st;

	if (!ops->can_resume || !is_writable_memory(memfd, &st))
		return NULL;
	for (region = session->daemon->regions; region; region = region->hh.next) {
		if (region->ops == ops && is_resumable(region, session, &st))
			break;
	}
	if (!region)
		return NULL;
	region_ref(region);
	if (region->session)
		region_disown(region);
	region->session = session;
	region->client_id = session->id;
	region->backing->owner_id = session->id;
	DL_PREPEND(session->regions, region);
	region_set_state(region, REGION_RESUMED);
	region_resumed(region);
	return region;
}

int rpc_region_restore(struct rpc_call *call)
{
	const Cow__V1__RegionRestore *restore = call->request->region_restore;
	CLEANUP(backing_unrefp) struct backing *backing = NULL;
	int *memfd = &call->fds.fds[0];
	const struct region_ops *ops;
	struct region *region = NULL;
	int r;

	lose_earlier(call->session->daemon, *memfd);
	r = find_mode(&ops, call->session->daemon, restore->mode);
	if (!r)
		region = resume(call->session, ops, *memfd);
	if (region) {
		r = reply_region(call, region);
		if (r)
			region_disown(region);
		return r;
	}
	if (!r)
		r = backing_new_from(&backing, call->session, restore->size_bytes, memfd);
	return r ? r : make_region(call, backing, ops, restore->mode, restore->name);
}

/* --- attaching: the client's mmap lock is needed, so a job does it ---------------------------- */

struct attach {
	struct job job;
	struct rpc_call *call;
	struct region *region; /* a reference */
	int fd;
	struct outcome outcome;
};

static void attach_run(struct job *job)
{
	struct attach *attach = container_of(job, struct attach, job);

	outcome_set(&attach->outcome, region_attach(attach->region, &attach->fd));
	attach->fd = fd_close(attach->fd);
}

/* One that is registered and cannot be served stays as it is: it can only be freed. */
static int end_attaching(struct region *region, int r)
{
	if (r) {
		region_set_state(region, REGION_NEW);
		return r;
	}
	r = region_serve(region);
	if (!r)
		region_set_state(region, REGION_ATTACHED);
	return r;
}

static void attach_done(struct job *job)
{
	struct attach *attach = container_of(job, struct attach, job);
	struct region *region = attach->region;
	int r;

	r = outcome_raise(&attach->outcome);
	if (region->state == REGION_ATTACHING) /* its owner may have gone meanwhile */
		r = end_attaching(region, r);
	rpc_finish(attach->call, r);
	if (region->state == REGION_ATTACHED)
		region_attached(region);
	region_unref(region);
	free(attach);
}

static int check_attach(const struct rpc_call *call, const struct region *region, uint64_t addr)
{
	int r;

	if (region->state == REGION_RESUMED ? addr != region->addr : region->state != REGION_NEW)
		return err_raise(-EBUSY, "region %llu is attached already",
				 (unsigned long long)region->id);
	if (!addr || addr % page_size_bytes() || addr + region->size_bytes < addr)
		return err_raise(-EINVAL, "%#llx is no address for a region",
				 (unsigned long long)addr);
	r = region_check_attach(region, &call->fds);
	return r == REGION_E_PROTOCOL ? RPC_E_FATAL : r;
}

int rpc_region_attach(struct rpc_call *call)
{
	const Cow__V1__RegionAttach *request = call->request->region_attach;
	struct region *region;
	struct attach *attach;
	int r;

	region = region_find(call->session, request->region_id);
	if (!region)
		return -ENOENT;
	r = check_attach(call, region, request->addr);
	if (r)
		return r;
	if (region->state == REGION_RESUMED) {
		region_set_state(region, REGION_ATTACHED);
		return 0;
	}
	region->addr = request->addr;
	if (!region_has_to_attach(region)) {
		region_set_state(region, REGION_ATTACHED);
		return 0;
	}
	attach = malloc(sizeof(*attach));
	if (!attach)
		return err_oom(sizeof(*attach), "a region");
	*attach = (struct attach){.call = call, .region = region_ref(region)};
	attach->job.run = attach_run;
	attach->job.done = attach_done;
	attach->job.client_id = region->client_id;
	attach->fd = fdset_take(&call->fds, 0);
	region_set_state(region, REGION_ATTACHING);
	job_submit(region->daemon->jobs, &attach->job);
	return RPC_E_DEFERRED;
}

/* --- freeing: the reply means that nothing is done at the region's addresses any more --------- */

struct freeing {
	struct region_op op;
	struct rpc_call *call;
};

static void freeing_run(struct region_op *op)
{
	(void)op; /* operations before it have ended; those after it see that it is disowned */
}

static void freeing_done(struct region_op *op)
{
	struct freeing *freeing = container_of(op, struct freeing, op);

	rpc_finish(freeing->call, 0);
	free(freeing);
}

int rpc_region_free(struct rpc_call *call)
{
	struct freeing *freeing;
	struct region *region;

	region = region_find(call->session, call->request->region_free->region_id);
	if (!region)
		return -ENOENT;
	freeing = malloc(sizeof(*freeing));
	if (!freeing)
		return err_oom(sizeof(*freeing), "freeing a region");
	*freeing = (struct freeing){.call = call};
	freeing->op.run = freeing_run;
	freeing->op.done = freeing_done;
	region_submit(region, &freeing->op);
	region_set_state(region, REGION_FREED);
	region_disown(region);
	return RPC_E_DEFERRED;
}

/* --- backings --------------------------------------------------------------------------------- */

int rpc_backing_create(struct rpc_call *call)
{
	CLEANUP(backing_unrefp) struct backing *backing = NULL;
	struct session *session = call->session;
	Cow__V1__BackingReply *reply;
	int r;

	reply = rpc_alloc(call, sizeof(*reply));
	if (!reply)
		return -ENOMEM;
	cow__v1__backing_reply__init(reply);
	r = backing_new(&backing, session, call->request->backing_create->size_bytes);
	if (r)
		return r;
	reply->backing_id = backing->id;
	call->reply.result_case = COW__V1__REPLY__RESULT_BACKING;
	call->reply.backing = reply;
	call->reply_fds[call->n_reply_fds++] = backing->fd;
	call->reply_fds[call->n_reply_fds++] = backing->ro_fd;
	backing->session = session;
	DL_PREPEND(session->backings, backing);
	(void)steal_ptr(&backing);
	return 0;
}

int rpc_backing_release(struct rpc_call *call)
{
	struct session *session = call->session;
	struct backing *backing;

	backing = backing_find(session, call->request->backing_release->backing_id);
	if (!backing)
		return -ENOENT;
	if (backing->session != session)
		return err_raise(-EINVAL, "backing %llu is released already, or is a region's own",
				 (unsigned long long)backing->id);
	DL_DELETE(session->backings, backing);
	backing->session = NULL;
	backing_unref(backing);
	return 0;
}

/* --- list ------------------------------------------------------------------------------------- */

static int add_region(struct rpc_call *call, Cow__V1__RegionList *list, const struct region *region)
{
	Cow__V1__RegionInfo *row = rpc_alloc(call, sizeof(*row));

	if (!row)
		return -ENOMEM;
	cow__v1__region_info__init(row);
	row->name = rpc_strdup(call, region->name);
	if (!row->name)
		return -ENOMEM;
	row->region_id = region->id;
	row->client_id = region->client_id;
	row->pid = (uint32_t)region->pid;
	row->uid = region->uid;
	row->mode = region->mode;
	row->addr = region->addr;
	row->size_bytes = region->size_bytes;
	row->used_bytes = backing_used_bytes(region->backing);
	row->n_snapshots = region->n_snapshots;
	row->n_children = region->n_children;
	row->is_ownerless = !region->session;
	region_list(region, row);
	list->regions[list->n_regions++] = row;
	return 0;
}

int rpc_list_regions(struct rpc_call *call)
{
	uint64_t after_id = call->request->list_regions->after_id;
	struct session *asker = call->session;
	struct region *region = NULL;
	Cow__V1__RegionList *list;
	int r;

	list = rpc_alloc(call, sizeof(*list));
	if (!list)
		return -ENOMEM;
	cow__v1__region_list__init(list);
	list->regions = rpc_alloc(call, RPC_LIST_MAX * sizeof(void *));
	if (!list->regions)
		return -ENOMEM;
	/* From the one that was last, as long as it is there; uthash keeps the order of ids. */
	HASH_FIND(hh, asker->daemon->regions, &after_id, sizeof(after_id), region);
	for (region = region ? region : asker->daemon->regions; region; region = region->hh.next) {
		if (region->id <= after_id || !session_may_see(asker, region->uid))
			continue;
		if (list->n_regions == RPC_LIST_MAX) {
			list->has_more = true;
			break;
		}
		r = add_region(call, list, region);
		if (r)
			return r;
	}
	call->reply.result_case = COW__V1__REPLY__RESULT_REGIONS;
	call->reply.regions = list;
	return 0;
}
