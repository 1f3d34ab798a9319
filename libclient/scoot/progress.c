// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * How far the background is with a region, for those who measure it. Any thread calls; the locks
 * that guard each part are taken one after the other, never two at once.
 */
#include "config.h"

#include "backends/scoot/scoot.h"
#include "libclient/conn/conn.h"
#include "libclient/internal.h"

static void scoot_progress(struct cow_region *region, struct cowi_progress *progress)
{
	struct scoot_region *scoot = region->scoot;

	progress->settles = scoot->uffd >= 0;
	pthread_mutex_lock(&region->take_lock);
	progress->is_settled = extents_is_owned(&scoot->map);
	progress->is_populated = !scoot->shadow || scoot->populate_at >= scoot->size_bytes;
	progress->n_settled = scoot->settle.n_pages;
	pthread_mutex_unlock(&region->take_lock);
	pthread_mutex_lock(&scoot->asides_lock);
	progress->is_tidy = !scoot->asides;
	pthread_mutex_unlock(&scoot->asides_lock);
}

void cowi_region_progress(struct cow_region *region, struct cowi_progress *progress)
{
	struct cow_client *client = region->client;

	*progress =
		(struct cowi_progress){.is_settled = true, .is_populated = true, .is_tidy = true};
	if (region->scoot)
		scoot_progress(region, progress);
	pthread_mutex_lock(&client->lock);
	progress->is_idle = !client->conn->tasks;
	pthread_mutex_unlock(&client->lock);
}
