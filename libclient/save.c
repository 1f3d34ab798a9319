// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Saving: cowd writes to a descriptor that this program has opened, so it needs no right to any
 * file. What can be told of the descriptor here is, in a sentence that has the program's own number
 * of it.
 */
#include "config.h"

#include <stdio.h>

#include "common/savable.h"
#include "libclient/internal.h"

static int check_save_fd(int fd)
{
	char name[32];

	(void)snprintf(name, sizeof(name), "descriptor %d", fd);
	return savable_check(fd, name);
}

int cow_snapshot_save(struct cow_snapshot *snap, int fd, cow_progress_fn progress, void *user)
{
	COWI_ENTRY();
	Cow__V1__SnapshotSave save = COW__V1__SNAPSHOT_SAVE__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__Reply *reply = NULL;
	int r;

	if (!snap)
		return err_raise(-EINVAL, "cow_snapshot_save() was given no snapshot");
	r = check_save_fd(fd);
	if (!r)
		r = cowi_snapshot_settle_id(snap, &save.snapshot_id);
	if (r)
		return r;
	request.call_case = COW__V1__REQUEST__CALL_SNAPSHOT_SAVE;
	request.snapshot_save = &save;
	r = cowi_call_progress(snap->client, snap->generation, &request, &fd, 1, &reply, progress,
			       user);
	if (!r)
		cow__v1__reply__free_unpacked(reply, NULL);
	return r;
}
