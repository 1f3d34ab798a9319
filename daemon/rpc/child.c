// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls about fork children that have a region's memory. Loop thread. */
#include "config.h"

#include "common/err.h"
#include "daemon/region/children.h"
#include "daemon/region/region.h"
#include "daemon/rpc/rpc.h"
#include "daemon/rpc/session.h"

int rpc_region_child(struct rpc_call *call)
{
	const Cow__V1__RegionChild *child = call->request->region_child;
	int *pidfd = &call->fds.fds[0];
	struct region *region;

	if (!inherit_is_pidfd(call->session->daemon, *pidfd))
		return err_raise(RPC_E_FATAL, "the descriptor of a fork child is no pidfd");
	region = region_find(call->session, child->region_id);
	if (!region)
		return -ENOENT;
	if (!region->ops->is_inherited)
		return err_raise(-EINVAL, "regions of mode uffd are not inherited");
	return inherit_new(region, pidfd, child->key);
}

int rpc_region_child_end(struct rpc_call *call)
{
	inherit_end(call->session->daemon, call->session->id, call->request->region_child_end->key);
	return 0;
}
