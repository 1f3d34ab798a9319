/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writers of a region that wait until their uid may keep more.
 *
 * What they wait for may be another region's to give. The region is in its user's list of waiters
 * (quota.h) from before it finds once more that there is no room, so nothing that is given back
 * later is missed; then the writers are woken by a job, fault again, and wait again if others were
 * first. So that there is something to give, all regions of that uid give back what they have
 * ready and do not use, and make nothing more ready as long as anybody waits.
 */
#ifndef COWD_QUOTA_WAIT_H
#define COWD_QUOTA_WAIT_H

#include "daemon/base/job.h"
#include "daemon/base/quota.h"

struct tracker;

struct quota_waiters {
	struct quota_waiter waiter;
	struct task task;
	struct job job;
	_Atomic bool is_posted; /* the task */
	_Atomic bool is_short;  /* it is to have others give back */
	_Atomic bool is_there;  /* it is to wake those who wait */
	bool is_waking;         /* loop thread, as the next one: the job is under way … */
	bool wants_another;     /* … and too early for some */
};

/** quota_waiters_init() - of a region */
void quota_waiters_init(struct quota_waiters *waiters);
/**
 * quota_waiters_deinit() - nobody waits any more; not with a turn of its faults under way; any
 * thread
 */
void quota_waiters_deinit(struct quota_waiters *waiters);
/**
 * quota_waiters_wait() - have the region's writers woken when its uid may keep more
 *
 * By the one that serves, after tracker->has_waiters was set and before it tries once more. Any
 * lock may be held.
 */
void quota_waiters_wait(struct tracker *tracker);

#endif
