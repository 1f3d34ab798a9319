// SPDX-License-Identifier: GPL-2.0-or-later
// Which threads interrupt others; see priority.h.
#include "config.h"

#include "daemon/priority.h"

#include <sched.h>

#include "daemon/daemon.h"

void priority_give_way(struct priority *priority)
{
	const struct sched_param param = {.sched_priority = 0};

	priority->is_ours = sched_getscheduler(0) == SCHED_OTHER;
	if (priority->is_ours)
		(void)sched_setscheduler(0, SCHED_BATCH, &param);
}

void priority_await(struct daemon *daemon, int n)
{
	const struct sched_param param = {.sched_priority = 0};
	struct priority *priority = &daemon->priority;
	bool was_awaited = priority->n_awaited;
	int policy;

	priority->n_awaited += (unsigned int)n;
	if (!priority->is_ours || was_awaited == (bool)priority->n_awaited)
		return;
	policy = priority->n_awaited ? SCHED_OTHER : SCHED_BATCH;
	(void)sched_setscheduler(0, policy, &param);
	job_pool_set_policy(daemon->jobs, policy);
}
