// SPDX-License-Identifier: LGPL-2.1-or-later
// Calls that change a region as a whole: rolling it back, discarding part of it.
#include "config.h"

#include "libclient/modes.h"

static int check_rollback(const struct cow_region *region, struct cow_snapshot *snap)
{
	int r;

	if (!region || !snap)
		return err_raise(-EINVAL, "cow_region_rollback() was given no %s",
				 region ? "snapshot" : "region");
	if (snap->region != region)
		return err_raise(-EINVAL, "the snapshot was not taken of region \"%s\" here",
				 region->name);
	if (!cowi_mode_can_roll_back(region))
		return err_raise(-ENOSYS, "a region of this mode cannot be rolled back");
	if (cowi_stands_in(region->addr, region->size_bytes))
		return err_raise(-EDEADLK,
				 "the calling thread's stack lies in region \"%s\", and would be "
				 "rolled back under the call: call it from another thread",
				 region->name);
	r = cowi_check_process(region->client);
	if (r)
		return r;
	pthread_mutex_lock(&region->client->lock);
	if (snap->state == COWI_SNAPSHOT_LOST)
		r = err_raise(-ESTALE, "the snapshot is lost: %s", snap->lost_because);
	pthread_mutex_unlock(&region->client->lock);
	return r;
}

int cow_region_rollback(struct cow_region *region, struct cow_snapshot *snap)
{
	COWI_ENTRY();
	int r = check_rollback(region, snap);

	if (r)
		return r;
	cowi_region_lock(region);
	r = cowi_mode_rollback(snap);
	cowi_region_unlock(region);
	return r;
}

int cow_region_discard(struct cow_region *region, uint64_t off, uint64_t len)
{
	COWI_ENTRY();
	int r;

	if (!region)
		return err_raise(-EINVAL, "cow_region_discard() was given no region");
	if ((off | len) & (page_size_bytes() - 1))
		return err_raise(-EINVAL, "%llu bytes at %llu are not whole pages of %zu bytes",
				 (unsigned long long)len, (unsigned long long)off,
				 page_size_bytes());
	if (off > region->size_bytes || len > region->size_bytes - off)
		return err_raise(-EINVAL, "%llu bytes at %llu pass the end of region \"%s\"",
				 (unsigned long long)len, (unsigned long long)off, region->name);
	if (!cowi_mode_can_discard(region))
		return err_raise(-ENOSYS, "part of a region of this mode cannot be discarded");
	if (cowi_stands_in(region->addr + off, len))
		return err_raise(-EDEADLK,
				 "the calling thread's stack lies in the %llu bytes at %llu of "
				 "region \"%s\": what it runs on cannot be discarded",
				 (unsigned long long)len, (unsigned long long)off, region->name);
	r = cowi_check_process(region->client);
	if (r || !len)
		return r;
	cowi_region_lock(region);
	r = cowi_mode_discard(region, off, len);
	cowi_region_unlock(region);
	return r;
}
