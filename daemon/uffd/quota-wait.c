// SPDX-License-Identifier: GPL-2.0-or-later
/* Waiting for what others of the same uid give back; quota-wait.h says how. */
#include "config.h"

#include "daemon/uffd/quota-wait.h"

#include "daemon/daemon.h"
#include "daemon/region/region.h"
#include "daemon/uffd/prealloc.h"
#include "daemon/uffd/tracker.h"

static void post(struct quota_waiters *waiters)
{
	struct tracker *tracker = container_of(waiters, struct tracker, quota_waiters);

	if (!atomic_exchange(&waiters->is_posted, true))
		loop_post(tracker->region.daemon->loop, &waiters->task);
}

static void on_refund(struct quota_waiter *waiter)
{
	struct quota_waiters *waiters = container_of(waiter, struct quota_waiters, waiter);

	atomic_store(&waiters->is_there, true);
	post(waiters);
}

static void wake_run(struct job *job)
{
	struct quota_waiters *waiters = container_of(job, struct quota_waiters, job);

	tracker_wake_waiters(container_of(waiters, struct tracker, quota_waiters));
}

static void wake(struct quota_waiters *waiters);

static void wake_done(struct job *job)
{
	struct quota_waiters *waiters = container_of(job, struct quota_waiters, job);
	struct tracker *tracker = container_of(waiters, struct tracker, quota_waiters);

	waiters->is_waking = false;
	if (waiters->wants_another)
		wake(waiters);
	region_unref(&tracker->region);
}

static void wake(struct quota_waiters *waiters)
{
	struct tracker *tracker = container_of(waiters, struct tracker, quota_waiters);

	waiters->wants_another = waiters->is_waking;
	if (waiters->is_waking)
		return;
	waiters->is_waking = true;
	waiters->job = (struct job){
		.run = wake_run, .done = wake_done, .client_id = tracker->region.client_id};
	region_ref(&tracker->region);
	job_submit(tracker->region.daemon->jobs, &waiters->job);
}

static void quota_waiters_task(struct task *task)
{
	struct quota_waiters *waiters = container_of(task, struct quota_waiters, task);
	struct tracker *tracker = container_of(waiters, struct tracker, quota_waiters);

	atomic_store(&waiters->is_posted, false);
	/* Its end is on its way, which wakes everybody. */
	if (tracker->region.state == REGION_ENDING)
		return;
	if (atomic_exchange(&waiters->is_there, false))
		wake(waiters);
	if (!atomic_exchange(&waiters->is_short, false))
		return;
	for (struct region *other = tracker->region.daemon->regions; other;
	     other = other->hh.next) {
		if (other->user == tracker->region.user && other->ops == &region_ops_uffd)
			prealloc_trim(tracker_of(other));
	}
}

void quota_waiters_init(struct quota_waiters *waiters)
{
	*waiters = (struct quota_waiters){.waiter.wake = on_refund, .task.run = quota_waiters_task};
}

void quota_waiters_deinit(struct quota_waiters *waiters)
{
	quota_unwait(&waiters->waiter);
}

void quota_waiters_wait(struct tracker *tracker)
{
	if (!quota_wait(&tracker->quota_waiters.waiter, tracker->region.user))
		return;
	atomic_store(&tracker->quota_waiters.is_short, true);
	post(&tracker->quota_waiters);
}
