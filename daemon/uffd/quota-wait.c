// SPDX-License-Identifier: GPL-2.0-or-later
/* Waiting for what others of the same uid give back; quota-wait.h says how. */
#include "config.h"

#include "daemon/uffd/quota-wait.h"

#include "daemon/daemon.h"
#include "daemon/region/region.h"
#include "daemon/uffd/prealloc.h"
#include "daemon/uffd/tracker.h"

static void post(struct room *room)
{
	struct tracker *tracker = container_of(room, struct tracker, room);

	if (!atomic_exchange(&room->is_posted, true))
		loop_post(tracker->region.daemon->loop, &room->task);
}

static void on_room(struct quota_waiter *waiter)
{
	struct room *room = container_of(waiter, struct room, waiter);

	atomic_store(&room->is_there, true);
	post(room);
}

static void wake_run(struct job *job)
{
	struct room *room = container_of(job, struct room, job);

	tracker_wake_waiters(container_of(room, struct tracker, room));
}

static void wake(struct room *room);

static void wake_done(struct job *job)
{
	struct room *room = container_of(job, struct room, job);
	struct tracker *tracker = container_of(room, struct tracker, room);

	room->is_waking = false;
	if (room->wants_another)
		wake(room);
	region_unref(&tracker->region);
}

static void wake(struct room *room)
{
	struct tracker *tracker = container_of(room, struct tracker, room);

	room->wants_another = room->is_waking;
	if (room->is_waking)
		return;
	room->is_waking = true;
	room->job = (struct job){
		.run = wake_run, .done = wake_done, .client_id = tracker->region.client_id};
	region_ref(&tracker->region);
	job_submit(tracker->region.daemon->jobs, &room->job);
}

static void room_task(struct task *task)
{
	struct room *room = container_of(task, struct room, task);
	struct tracker *tracker = container_of(room, struct tracker, room);

	atomic_store(&room->is_posted, false);
	/* Its end is on its way, which wakes everybody. */
	if (tracker->region.state == REGION_ENDING)
		return;
	if (atomic_exchange(&room->is_there, false))
		wake(room);
	if (!atomic_exchange(&room->is_short, false))
		return;
	for (struct region *other = tracker->region.daemon->regions; other;
	     other = other->hh.next) {
		if (other->user == tracker->region.user && other->ops == &region_ops_uffd)
			stock_trim(tracker_of(other));
	}
}

void room_init(struct room *room)
{
	*room = (struct room){.waiter.wake = on_room, .task.run = room_task};
}

void room_deinit(struct room *room)
{
	quota_unwait(&room->waiter);
}

void room_wait(struct tracker *tracker)
{
	if (!quota_wait(&tracker->room.waiter, tracker->region.user))
		return;
	atomic_store(&tracker->room.is_short, true);
	post(&tracker->room);
}
