// SPDX-License-Identifier: GPL-2.0-or-later
// Which threads interrupt others; see priority.h.
#include "config.h"

#include "daemon/base/priority.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/base/job.h"

/* As linux/sched/types.h has it, which cannot be included beside sched.h. */
struct attributes {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime;
	uint64_t deadline;
	uint64_t period;
};

void priority_ask_for_slice(uint64_t nsec)
{
	struct attributes attributes = {.size = sizeof(attributes)};

	/* Whoever started cowd in another class knows why. */
	if (syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) ||
	    attributes.policy != SCHED_OTHER)
		return;
	attributes.runtime = nsec;
	(void)syscall(SYS_sched_setattr, 0, &attributes, 0);
}

void priority_give_way(struct priority *priority)
{
	const struct sched_param param = {.sched_priority = 0};

	priority->is_ours = sched_getscheduler(0) == SCHED_OTHER;
	if (priority->is_ours)
		(void)sched_setscheduler(0, SCHED_BATCH, &param);
}

void priority_await(struct priority *priority, struct job_pool *jobs, int n)
{
	const struct sched_param param = {.sched_priority = 0};
	bool was_awaited = priority->n_awaited;
	int policy;

	priority->n_awaited += (unsigned int)n;
	if (!priority->is_ours || was_awaited == (bool)priority->n_awaited)
		return;
	policy = priority->n_awaited ? SCHED_OTHER : SCHED_BATCH;
	(void)sched_setscheduler(0, policy, &param);
	job_pool_set_policy(jobs, policy);
}
