// SPDX-License-Identifier: GPL-2.0-or-later
/* Life of a region; contracts, locks and what a region is are in region.h. */
#include "config.h"

#include "daemon/region/region.h"

#include <stdio.h>
#include <utlist.h>

#include "backends/uffdio.h"
#include "common/err.h"
#include "daemon/daemon.h"
#include "daemon/region/backing.h"
#include "daemon/rpc/session.h"
#include "daemon/uffd/chain.h"

static int charge(struct region *region, Cow__V1__Mode mode)
{
	int r;

	r = quota_charge(&region->charge, region->user, QUOTA_REGIONS, 1);
	if (!r && mode == COW__V1__MODE__MODE_UFFD)
		r = quota_charge(&region->fds_charge, region->user, QUOTA_FDS, 1);
	return r > 0 ? -EDQUOT : r;
}

static int init_locks(struct region *region)
{
	pthread_rwlockattr_t attr;
	int r;

	pthread_rwlockattr_init(&attr);
	/* Else a stream of readers would keep a snapshot from being taken. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	r = pthread_rwlock_init(&region->chain_lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	return r ? err_raise(-r, "cannot make a lock") : 0;
}

static void region_free(struct region *region)
{
	charge_deinit(&region->charge);
	charge_deinit(&region->fds_charge);
	backing_unref(region->backing);
	quota_user_unref(region->user);
	free(region);
}

int region_new(struct region **out, struct session *session, struct backing *backing,
	       Cow__V1__Mode mode, const char *name)
{
	struct daemon *daemon = session->daemon;
	struct region *region;
	int r;

	region = malloc(sizeof(*region));
	if (!region)
		return err_oom(sizeof(*region), "a region");
	*region = (struct region){.n_refs = 1, .daemon = daemon, .uffd = -1, .mode = mode};
	region->user = quota_user_ref(session->user);
	region->backing = backing_ref(backing);
	region->size_bytes = backing->size_bytes;
	region->n_pages = backing->size_bytes / page_size_bytes();
	region->client_id = session->id;
	region->pid = session->pid;
	region->uid = session->uid;
	region->ops_tail = &region->ops;
	region->lost_task.run = chain_lost_task;
	region->moved_task.run = sweep_moved_task;
	stock_init(&region->stock);
	room_init(&region->room);
	(void)snprintf(region->name, sizeof(region->name), "%s", name ? name : "");

	r = charge(region, mode);
	if (!r)
		r = init_locks(region);
	if (r) {
		region_free(region);
		return r;
	}
	region->id = daemon_new_id(daemon);
	HASH_ADD(hh, daemon->regions, id, sizeof(region->id), region);
	region->session = session;
	DL_PREPEND(session->regions, region);
	if (mode == COW__V1__MODE__MODE_UFFD)
		priority_await(daemon, 1);
	*out = region;
	return 0;
}

struct region *region_ref(struct region *region)
{
	region->n_refs++;
	return region;
}

/*
 * Closing a userfaultfd takes the client's mmap lock and walks its page tables, and so may a turn
 * of the worker that is under way: a job waits for both.
 */
static void end_run(struct job *job)
{
	struct region *region = container_of(job, struct region, end_job);

	if (region->served.is_ready)
		worker_remove(&region->served);
	room_deinit(&region->room);
	if (region->uffd >= 0 && !region->is_gone)
		(void)!uffdio_wake(region->uffd, region->addr, region->size_bytes);
	region->uffd = fd_close(region->uffd);
	region->pool = store_pool_free(region->pool);
}

static void end_done(struct job *job)
{
	struct region *region = container_of(job, struct region, end_job);

	if (region->mode == COW__V1__MODE__MODE_UFFD)
		priority_await(region->daemon, -1);
	served_deinit(&region->served);
	pthread_rwlock_destroy(&region->chain_lock);
	region_free(region);
}

struct region *region_unref(struct region *region)
{
	if (!region || --region->n_refs)
		return NULL;
	HASH_DEL(region->daemon->regions, region);
	region->end_job.run = end_run;
	region->end_job.done = end_done;
	region->end_job.client_id = region->client_id;
	job_submit(region->daemon->jobs, &region->end_job);
	return NULL;
}

struct region *region_find(struct session *session, uint64_t id)
{
	struct region *region;

	HASH_FIND(hh, session->daemon->regions, &id, sizeof(id), region);
	if (region && region->session == session)
		return region;
	(void)err_raise(-ENOENT, "there is no region %llu of this client", (unsigned long long)id);
	return NULL;
}

/* --- mode uffd -------------------------------------------------------------------------------- */

int region_register(struct region *region)
{
	const struct probe *probe = &region->daemon->probe;
	const uint64_t to_move =
		UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_EVENT_REMAP;
	uint64_t features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_THREAD_ID |
			    UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_EVENT_REMOVE;
	int r;

	region->can_move = probe->has_lazy && probe->has_dontunmap &&
			   (probe->uffd_features & to_move) == to_move;
	if (region->can_move)
		features |= to_move;
	r = uffdio_set_nonblock(region->uffd);
	if (!r)
		r = uffdio_api(region->uffd, features & probe->uffd_features, NULL);
	/* To see now that it can be: until there is a snapshot it need not be. */
	if (!r)
		r = uffdio_register(region->uffd, region->addr, region->size_bytes,
				    UFFDIO_REGISTER_MODE_WP);
	if (!r)
		r = uffdio_unregister(region->uffd, region->addr, region->size_bytes);
	if (r == UFFDIO_E_GONE)
		return err_raise(-ESRCH, "the client's process has ended");
	if (r > 0)
		return err_raise(-EFAULT, "the region is not mapped at %#llx",
				 (unsigned long long)region->addr);
	return r;
}

int region_serve(struct region *region)
{
	int r;

	if (!region->served.is_ready) {
		r = served_init(&region->served, region->uffd, fault_serve_region);
		if (r)
			return r;
	}
	r = worker_add(region->daemon->workers, &region->served);
	if (!r)
		region->is_attached = true;
	return r;
}

/*
 * A userfaultfd that nobody reads would keep the client's next mremap() waiting, so it is closed,
 * once nobody else uses it: operations wait for it to be gone by served.lock, a sweep is waited for
 * here.
 */
static void close_run(struct job *job)
{
	struct region *region = container_of(job, struct region, close_job);

	worker_remove(&region->served);
	served_lock(&region->served);
	region->uffd = fd_close(region->uffd);
	served_unlock(&region->served);
}

static void close_done(struct job *job)
{
	struct region *region = container_of(job, struct region, close_job);

	region_unref(region);
}

void region_wake_waiters(struct region *region)
{
	if (!atomic_exchange(&region->has_waiters, false))
		return;
	served_lock(&region->served);
	if (region->uffd >= 0)
		(void)!uffdio_wake(region->uffd, region->addr, region->size_bytes);
	served_unlock(&region->served);
}

void region_gone(struct region *region)
{
	if (region->is_closing || region->is_sweeping || !region->is_attached)
		return;
	region->is_closing = true;
	region->close_job =
		(struct job){.run = close_run, .done = close_done, .client_id = region->client_id};
	region_ref(region);
	job_submit(region->daemon->jobs, &region->close_job);
}

/* --- operations on the chain ------------------------------------------------------------------ */

static void op_run(struct job *job)
{
	struct region_op *op = container_of(job, struct region_op, job);

	op->run(op);
}

static void op_done(struct job *job)
{
	struct region_op *op = container_of(job, struct region_op, job);
	struct region *region = op->region;

	if (op->goes_on) {
		op->goes_on = false;
		job_submit(region->daemon->jobs, &op->job);
		return;
	}
	region->ops = op->next;
	if (!region->ops)
		region->ops_tail = &region->ops;
	else
		job_submit(region->daemon->jobs, &region->ops->job);
	op->region = NULL;
	op->next = NULL;
	if (!op->is_background)
		atomic_fetch_sub(&region->n_urgent, 1);
	op->done(op); /* last use of @op */
	region_unref(region);
}

/* Snapshots leaving at once, beyond which takes wait for them: a client that takes and releases
 * without end does not outrun its own leftovers. */
#define N_LEAVING_MAX 8

bool region_is_frozen(const struct region *region)
{
	return atomic_load(&region->n_chained);
}

bool region_should_yield(const struct region *region)
{
	return atomic_load(&region->n_urgent) && atomic_load(&region->n_leaving) <= N_LEAVING_MAX;
}

/*
 * Where @op goes into the queue, whose first operation is running: behind the last one that
 * somebody waits for, so that those keep their order.
 */
static struct region_op **find_place(struct region *region, const struct region_op *op)
{
	struct region_op **link = region->ops ? &region->ops->next : &region->ops;

	if (op->is_background || atomic_load(&region->n_leaving) > N_LEAVING_MAX)
		return region->ops_tail;
	for (struct region_op **at = link; *at; at = &(*at)->next)
		if (!(*at)->is_background)
			link = &(*at)->next;
	return link;
}

void region_submit(struct region *region, struct region_op *op)
{
	struct region_op **link = find_place(region, op);

	op->region = region_ref(region);
	if (!op->is_background)
		atomic_fetch_add(&region->n_urgent, 1);
	op->job = (struct job){.run = op_run, .done = op_done, .client_id = region->client_id};
	op->next = *link;
	*link = op;
	if (!op->next)
		region->ops_tail = &op->next;
	if (region->ops == op)
		job_submit(region->daemon->jobs, &op->job);
}

/* --- ends ------------------------------------------------------------------------------------- */

void region_disown(struct region *region)
{
	struct session *session = region->session;

	DL_DELETE(session->regions, region);
	region->session = NULL;
	atomic_store(&region->is_disowned, true);
	region_unref(region);
}

void region_drop_all(struct session *session)
{
	while (session->regions)
		region_disown(session->regions);
	backing_drop_all(session);
}
