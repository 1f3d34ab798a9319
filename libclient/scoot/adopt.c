// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A region of memory that the program had before: how it gets there, and what becomes of the memory
 * when the region ends or never comes to be. backends/scoot moves the pages.
 */
#include "config.h"

#include <stdio.h>

#include "libclient/scoot/mode.h"

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

static int run_adopt(void *arg)
{
	struct cow_region *region = arg;

	return scoot_adopt(region->scoot);
}

struct unadopt {
	struct scoot_region *region;
	int error;
	char because[512];
};

/* The sentence of what made it fail is this thread's, wherever this is. */
static int run_unadopt(void *arg)
{
	struct unadopt *unadopt = arg;
	int error = err_raise(unadopt->error, "%s", unadopt->because);

	return scoot_unadopt(unadopt->region, error);
}

static int unadopt(const struct cow_region *region, int error)
{
	struct unadopt unadopt = {.region = region->scoot, .error = error};

	(void)snprintf(unadopt.because, sizeof(unadopt.because), "%s", err_sentence());
	return cowi_elsewhere(run_unadopt, &unadopt);
}

/*
 * Without a connection cowd is told when there is one again, as of any region: what took long is
 * not undone for that.
 */
int cowi_adopt(struct cow_region *region)
{
	int r = cowi_elsewhere(run_adopt, region);

	if (r)
		return r;
	r = cowi_scoot_attach_tell(region);
	return r && r != -ENOTCONN ? unadopt(region, r) : 0;
}

void cowi_adopt_end(struct cow_region *region)
{
	if (cowi_check_process(region->client))
		return;
	if (region->is_set_up)
		scoot_region_leave(region->scoot);
	else
		(void)unadopt(region, -ECANCELED);
}
