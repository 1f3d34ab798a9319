// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Before a region's first snapshot: now and then have its mode make ready what that take needs.
 *
 * What a program writes before its first snapshot is looked for a second after the region was made,
 * and then in four times as long each time, up to a minute: most programs have loaded what they
 * hold by then, and one that takes no snapshot is left alone after that.
 *
 * client->warm_task, in the client's thread. client->lock guards client->warm_msec.
 */
#include "config.h"

#include "common/clock.h"
#include "libclient/conn/conn.h"
#include "libclient/modes.h"

#define WARM_FIRST_MSEC 1000
#define WARM_LAST_MSEC  64000

void cowi_warm_soon(struct cow_client *client)
{
	struct cowi_task *task = &client->warm_task;

	pthread_mutex_lock(&client->lock);
	client->warm_msec = WARM_FIRST_MSEC;
	/* For an earlier region it may be far off. */
	if (task->is_queued)
		task->due_msec = min_u64(task->due_msec, now_msec() + WARM_FIRST_MSEC);
	pthread_mutex_unlock(&client->lock);
	cowi_post_later(client, task, WARM_FIRST_MSEC);
}

/* Return: in how many milliseconds to look again; 0: not any more. */
static unsigned int next_warm_msec(struct cow_client *client, bool again)
{
	unsigned int msec = 0;

	pthread_mutex_lock(&client->lock);
	client->warm_msec *= 4;
	if (again && client->conn->thread_state == COWI_THREAD_RUNS &&
	    client->warm_msec <= WARM_LAST_MSEC)
		msec = client->warm_msec;
	pthread_mutex_unlock(&client->lock);
	return msec;
}

void cowi_warm(struct cowi_task *task)
{
	struct cow_client *client = container_of(task, struct cow_client, warm_task);
	struct cow_region **regions = NULL;
	size_t n_regions = 0;
	bool again = false;
	unsigned int msec;

	if (cowi_registry_list(&regions, &n_regions))
		return;
	for (size_t i = 0; i < n_regions; i++) {
		if (regions[i]->client == client)
			again |= cowi_mode_warm(regions[i]);
		cow_region_unref(regions[i]);
	}
	free((void *)regions);
	msec = next_warm_msec(client, again);
	if (msec)
		cowi_post_later(client, task, msec);
}
