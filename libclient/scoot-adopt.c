// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A region of memory that the program had before: how it gets there, and what becomes of the memory
 * when the region ends or never comes to be. backends/scoot moves the pages.
 */
#include "config.h"

#include "libclient/mode-scoot.h"

int cowi_adopt_check(const struct cow_region *region, int uffd)
{
	if (uffd < 0)
		return err_raise(
			-EPERM,
			"cowd at %s lends no userfaultfd for faults of the kernel too: see "
			"lend= in cowd.conf(5)",
			region->client->address);
	return scoot_adopt_check(region->adopted, region->size_bytes);
}

/*
 * Without a connection cowd is told when there is one again, as of any region: what took long is
 * not undone for that.
 */
int cowi_adopt(struct cow_region *region)
{
	int r = scoot_adopt(region->scoot);

	if (r)
		return r;
	r = cowi_scoot_attach_tell(region);
	return r && r != -ENOTCONN ? scoot_unadopt(region->scoot, r) : 0;
}

void cowi_adopt_end(struct cow_region *region)
{
	if (cowi_check_process(region->client))
		return;
	if (region->is_set_up)
		scoot_region_leave(region->scoot);
	else
		(void)scoot_unadopt(region->scoot, -ECANCELED);
}
