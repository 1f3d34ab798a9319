// SPDX-License-Identifier: GPL-2.0-or-later
/* Life of a region in mode uffd, and the table of the mode; contracts are in tracker.h, ops.h. */
#include "config.h"

#include "daemon/uffd/tracker.h"

#include <string.h>

#include "backends/uffdio.h"
#include "common/err.h"
#include "common/wire.h"
#include "daemon/base/priority.h"
#include "daemon/daemon.h"
#include "daemon/uffd/chain.h"

static const char *const state_names[TRACKER_N_STATES] = {
	[TRACKER_NEW] = "not served yet",
	[TRACKER_SERVED] = "served",
	[TRACKER_GONE] = "gone",
	[TRACKER_CLOSING] = "closing",
};

/* Back to new: when no worker takes it. */
static const uint32_t next_states[TRACKER_N_STATES] = {
	[TRACKER_NEW] = STATE_BIT(TRACKER_SERVED),
	[TRACKER_SERVED] = STATE_BIT(TRACKER_NEW) | STATE_BIT(TRACKER_GONE),
	[TRACKER_GONE] = STATE_BIT(TRACKER_CLOSING),
};

const struct state_table tracker_states = {.what = "the service of region",
					   .names = state_names,
					   .next = next_states,
					   .n = TRACKER_N_STATES};

void tracker_set_state(struct tracker *tracker, enum tracker_state state)
{
	state_check(&tracker_states, tracker->region.id, atomic_exchange(&tracker->state, state),
		    state);
}

static int check(const struct daemon *daemon)
{
	if (daemon->uffd_device_fd < 0)
		return err_raise(-ENODEV,
				 "cowd cannot use /dev/userfaultfd (%s), which mode uffd "
				 "needs: cowd(8) says how to give it one; modes scoot and "
				 "mmapcopy work without",
				 strerrordesc_np(daemon->uffd_device_errno));
	if (!daemon->probe.has_uffd)
		return err_raise(-ENOSYS,
				 "this kernel (%s) serves no write-protect faults "
				 "on shared memory: mode uffd needs Linux 5.19",
				 daemon->probe.release);
	if (daemon->options.lend == LEND_NO)
		return err_raise(-EPERM, "cowd lends no userfaultfd: see lend= in "
					 "cowd.conf(5), or use mode scoot");
	return 0;
}

/* --- beginning -------------------------------------------------------------------------------- */

static int init_lock(struct tracker *tracker)
{
	pthread_rwlockattr_t attr;
	int r;

	pthread_rwlockattr_init(&attr);
	/* Else a stream of readers would keep a snapshot from being taken. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	r = pthread_rwlock_init(&tracker->chain_lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	return r ? err_raise(-r, "cannot make a lock") : 0;
}

static void gone_task(struct task *task);

static int init(struct region *region)
{
	struct tracker *tracker = tracker_of(region);
	int r = quota_charge(&tracker->fds_charge, tracker->region.user, QUOTA_FDS, 1);

	if (r)
		return quota_error(r);
	r = init_lock(tracker);
	if (r) {
		charge_deinit(&tracker->fds_charge);
		return r;
	}
	tracker->uffd = -1;
	tracker->lost_task.run = chain_lost_task;
	tracker->moved_task.run = sweep_moved_task;
	tracker->gone_task.run = gone_task;
	prealloc_init(&tracker->prealloc);
	quota_waiters_init(&tracker->quota_waiters);
	priority_await(&region->daemon->priority, region->daemon->jobs, 1);
	return 0;
}

static int check_attach(const struct region *region, const struct fdset *fds)
{
	if (fds->n_fds != 1)
		return err_raise(REGION_E_PROTOCOL,
				 "attaching a region of mode uffd without a descriptor");
	if (!uffdio_is_uffd(region->daemon->proc_self_fd_fd, fds->fds[0]))
		return err_raise(REGION_E_PROTOCOL, "the descriptor of a region is no userfaultfd");
	return 0;
}

/* Waits for the client's mmap lock. */
static int attach(struct region *region, int *fd)
{
	struct tracker *tracker = tracker_of(region);
	const struct probe *probe = &tracker->region.daemon->probe;
	const uint64_t to_move =
		UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_EVENT_REMAP;
	uint64_t features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_THREAD_ID |
			    UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_EVENT_REMOVE;
	int r;

	tracker->can_move = probe->has_lazy && probe->has_dontunmap &&
			    (probe->uffd_features & to_move) == to_move;
	if (tracker->can_move)
		features |= to_move;
	r = uffdio_set_nonblock(*fd);
	if (!r)
		r = uffdio_api(*fd, features & probe->uffd_features, NULL);
	/* To see now that it can be: until there is a snapshot it need not be. */
	if (!r)
		r = uffdio_register(*fd, tracker->region.addr, tracker->region.size_bytes,
				    UFFDIO_REGISTER_MODE_WP);
	if (!r)
		r = uffdio_unregister(*fd, tracker->region.addr, tracker->region.size_bytes);
	if (r == UFFDIO_E_GONE)
		return err_raise(-ESRCH, "the client's process has ended");
	if (r > 0)
		return err_raise(-EFAULT, "the region is not mapped at %#llx",
				 (unsigned long long)tracker->region.addr);
	if (!r)
		tracker->uffd = fd_steal(fd);
	return r;
}

static int serve(struct region *region)
{
	struct tracker *tracker = tracker_of(region);
	int r = served_init(&tracker->served, tracker->uffd, fault_serve_region);

	if (r)
		return r;
	tracker_set_state(tracker, TRACKER_SERVED); /* before a worker can find it gone */
	r = worker_add(tracker->region.daemon->workers, &tracker->served);
	if (r)
		tracker_set_state(tracker, TRACKER_NEW);
	return r;
}

static void attached(struct region *region)
{
	chain_new_ahead(tracker_of(region));
}

static bool can_resume(const struct region *region)
{
	const struct tracker *tracker = tracker_of_const(region);

	return tracker->state == TRACKER_SERVED;
}

/* What was left undone without an owner: pages to be mapped, or all to be disarmed. */
static void resumed(struct region *region)
{
	struct tracker *tracker = tracker_of(region);

	if (!atomic_exchange(&tracker->is_moved_posted, true))
		loop_post(tracker->region.daemon->loop, &tracker->moved_task);
	disarm_unused(tracker);
}

/* --- while it is served ----------------------------------------------------------------------- */

bool tracker_is_frozen(const struct tracker *tracker)
{
	return atomic_load(&tracker->n_chained);
}

void tracker_wake_waiters(struct tracker *tracker)
{
	if (!atomic_exchange(&tracker->has_waiters, false))
		return;
	served_lock(&tracker->served);
	if (tracker->uffd >= 0)
		(void)!uffdio_wake(tracker->uffd, tracker->region.addr, tracker->region.size_bytes);
	served_unlock(&tracker->served);
}

static uint64_t kept_bytes(const struct region *region)
{
	const struct tracker *tracker = tracker_of_const(region);

	return tracker->pool ? store_pool_used(tracker->pool) * page_size_bytes() : 0;
}

static void list(const struct region *region, Cow__V1__RegionInfo *row)
{
	const struct tracker *tracker = tracker_of_const(region);
	int cpu = worker_cpu(&tracker->served);

	row->n_faults = atomic_load_explicit(&tracker->n_faults, memory_order_relaxed);
	row->cpu = cpu < 0 ? 0 : (uint32_t)cpu;
	row->is_served = cpu >= 0;
	row->is_waiting = atomic_load(&tracker->has_waiters);
	row->n_moves = atomic_load_explicit(&tracker->served.n_moves, memory_order_relaxed);
}

/* --- end -------------------------------------------------------------------------------------- */

/*
 * A userfaultfd that nobody reads would keep the client's next mremap() waiting, so it is closed,
 * once nobody else uses it: operations wait for it to be gone by served.lock, a sweep is waited for
 * here.
 */
static void close_run(struct job *job)
{
	struct tracker *tracker = container_of(job, struct tracker, close_job);

	worker_remove(&tracker->served);
	served_lock(&tracker->served);
	tracker->uffd = fd_close(tracker->uffd);
	served_unlock(&tracker->served);
}

static void close_done(struct job *job)
{
	struct tracker *tracker = container_of(job, struct tracker, close_job);

	region_unref(&tracker->region);
}

void tracker_gone(struct tracker *tracker)
{
	tracker_set_state(tracker, TRACKER_GONE);
	loop_post(tracker->region.daemon->loop, &tracker->gone_task);
}

/* Nobody else posts it, and the state is reached once. */
static void gone_task(struct task *task)
{
	struct tracker *tracker = container_of(task, struct tracker, gone_task);

	/* Its end is on its way, and closes what is open. */
	if (tracker->region.state != REGION_ENDING)
		tracker_close(tracker);
}

void tracker_close(struct tracker *tracker)
{
	if (tracker->state != TRACKER_GONE || tracker->is_sweeping)
		return;
	tracker_set_state(tracker, TRACKER_CLOSING);
	tracker->close_job = (struct job){
		.run = close_run, .done = close_done, .client_id = tracker->region.client_id};
	region_ref(&tracker->region);
	job_submit(tracker->region.daemon->jobs, &tracker->close_job);
}

/*
 * Closing a userfaultfd takes the client's mmap lock and walks its page tables, and so may a turn
 * of the worker that is under way: a job waits for both.
 */
static void end(struct region *region)
{
	struct tracker *tracker = tracker_of(region);

	if (tracker->served.is_ready)
		worker_remove(&tracker->served);
	quota_waiters_deinit(&tracker->quota_waiters);
	if (tracker->uffd >= 0 && !tracker_is_gone(tracker))
		(void)!uffdio_wake(tracker->uffd, tracker->region.addr, tracker->region.size_bytes);
	tracker->uffd = fd_close(tracker->uffd);
	tracker->pool = store_pool_free(tracker->pool);
}

static void deinit(struct region *region)
{
	struct tracker *tracker = tracker_of(region);

	priority_await(&region->daemon->priority, region->daemon->jobs, -1);
	served_deinit(&tracker->served);
	pthread_rwlock_destroy(&tracker->chain_lock);
	charge_deinit(&tracker->fds_charge);
}

/* --- snapshots: their lives are in chain.c ---------------------------------------------------- */

/* Smaller regions are protected faster than two processes can talk about a move. */
#define MOVE_MIN_BYTES ((uint64_t)8 << 20)

static void init_snapshot(struct snapshot *snap)
{
	link_of(snap)->doubt_first = UINT64_MAX;
}

static int check_take(const struct region *region, const struct session *session,
		      const Cow__V1__SnapshotTake *take, const struct fdset *fds)
{
	(void)session; /* cowd makes the cut, whoever asks */
	if (tracker_of_const(region)->state == TRACKER_NEW)
		return err_raise(-EINVAL, "region %llu is not attached",
				 (unsigned long long)region->id);
	if (take->budget_bytes && take->budget_bytes < page_size_bytes())
		return err_raise(-EINVAL, "a budget of %llu bytes holds no page",
				 (unsigned long long)take->budget_bytes);
	if (take->n_extents)
		return err_raise(-EINVAL, "a snapshot of mode uffd is not made of extents");
	if (fds->n_fds)
		return err_raise(REGION_E_PROTOCOL, "a snapshot of mode uffd with a descriptor");
	return 0;
}

static int prepare(struct snapshot *snap, struct session *session,
		   const Cow__V1__SnapshotTake *take, struct fdset *fds)
{
	const struct tracker *tracker = tracker_of(snap->region);

	(void)fds; /* there are none */
	snap->is_once = take->once;
	snap->by_move = take->can_move && tracker->region.session == session && tracker->can_move &&
			tracker->region.size_bytes >= MOVE_MIN_BYTES;
	return chain_init_store(link_of(snap));
}

/* Lost before anybody had it: its holders are told soon. */
static void taken(struct snapshot *snap)
{
	if (snap->is_lost)
		chain_tell_lost(tracker_of(snap->region));
}

static uint64_t snapshot_kept(const struct snapshot *snap)
{
	const struct link *link = (const struct link *)(const void *)snap;

	return atomic_load(&link->store.n_slots) * page_size_bytes();
}

static void drop(struct snapshot *snap)
{
	store_deinit(&link_of(snap)->store);
}

const struct region_ops region_ops_uffd = {
	.region_bytes = sizeof(struct tracker),
	.snapshot_bytes = sizeof(struct link),
	.check = check,
	.init = init,
	.check_attach = check_attach,
	.attach = attach,
	.serve = serve,
	.attached = attached,
	.can_resume = can_resume,
	.resumed = resumed,
	.kept_bytes = kept_bytes,
	.list = list,
	.end = end,
	.deinit = deinit,

	.init_snapshot = init_snapshot,
	.check_take = check_take,
	.prepare = prepare,
	.take = chain_take,
	.taken = taken,
	.read = chain_read,
	.drain = chain_drain,
	.leave = chain_leave,
	.snapshot_kept_bytes = snapshot_kept,
	.drop = drop,
};
