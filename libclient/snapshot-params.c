// SPDX-License-Identifier: LGPL-2.1-or-later
// What cow_snapshot_new_with() may be asked for.
#include "config.h"

#include <stdio.h>

#include "libclient/internal.h"

static int check_params(const struct cow_region *region, const struct cow_snapshot_params *params)
{
	if (params->flags & ~(COW_SNAPSHOT_WAIT | COW_SNAPSHOT_ONCE))
		return err_raise(
			-EINVAL, "%#x are no flags of a snapshot that this library, %s, knows",
			params->flags & ~(COW_SNAPSHOT_WAIT | COW_SNAPSHOT_ONCE), cow_version());
	if (region->mode != COW_MODE_UFFD && (params->flags || params->budget_bytes))
		return err_raise(-EINVAL,
				 "a budget is for snapshots of mode uffd: in the other modes "
				 "cowd keeps no old pages");
	for (size_t i = 0; i < ARRAY_SIZE(params->reserved); i++) {
		if (params->reserved[i] || params->reserved0)
			return err_raise(-EINVAL,
					 "a reserved member of the parameters is not 0: this "
					 "library, %s, does not know what it means",
					 cow_version());
	}
	return 0;
}

int cowi_snapshot_set_params(struct cow_snapshot *snap, const struct cow_snapshot_params *params)
{
	int r;

	if (!params)
		return 0;
	r = check_params(snap->region, params);
	if (r)
		return r;
	snap->budget_bytes = params->budget_bytes;
	snap->flags = params->flags;
	if (params->name)
		(void)snprintf(snap->name, sizeof(snap->name), "%s", params->name);
	return 0;
}
