// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What cowd made for this client and its descriptors did not arrive for: a program whose table of
 * descriptors is full for a moment loses that call, and nothing else. cowd, which takes them to be
 * here, is told that they are not needed.
 */
#include "config.h"

#include "libclient/conn/conn.h"

static void ignore_reply(void *user, int error, Cow__V1__Reply *reply)
{
	(void)user;
	(void)error;
	(void)reply;
}

void cowi_give_back(struct cow_client *client, const Cow__V1__Reply *reply)
{
	Cow__V1__SnapshotRelease snapshot = COW__V1__SNAPSHOT_RELEASE__INIT;
	Cow__V1__BackingRelease backing = COW__V1__BACKING_RELEASE__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__RegionFree region = COW__V1__REGION_FREE__INIT;

	switch (reply->result_case) {
	case COW__V1__REPLY__RESULT_REGION:
		region.region_id = reply->region->region_id;
		request.call_case = COW__V1__REQUEST__CALL_REGION_FREE;
		request.region_free = &region;
		break;
	case COW__V1__REPLY__RESULT_BACKING:
		backing.backing_id = reply->backing->backing_id;
		request.call_case = COW__V1__REQUEST__CALL_BACKING_RELEASE;
		request.backing_release = &backing;
		break;
	case COW__V1__REPLY__RESULT_SNAPSHOT:
		snapshot.snapshot_id = reply->snapshot->snapshot_id;
		request.call_case = COW__V1__REQUEST__CALL_SNAPSHOT_RELEASE;
		request.snapshot_release = &snapshot;
		break;
	default:
		return;
	}
	(void)cowi_call_async(client, &request, NULL, 0, ignore_reply, NULL);
}
