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
#include "libclient/requests.h"

static int check_save_fd(int fd)
{
	char name[32];

	(void)snprintf(name, sizeof(name), "descriptor %d", fd);
	return savable_check(fd, name);
}

int cow_snapshot_save(struct cow_snapshot *snap, int fd, cow_progress_fn progress, void *user)
{
	COWI_ENTRY();
	uint64_t id;
	int r;

	if (!snap)
		return err_raise(-EINVAL, "cow_snapshot_save() was given no snapshot");
	r = check_save_fd(fd);
	if (!r)
		r = cowi_snapshot_await_id(snap, &id);
	return r ? r : cowi_ask_snapshot_save(snap, id, fd, progress, user);
}
