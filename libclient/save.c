// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Saving: cowd writes to a descriptor that this program has opened, so it needs no right to any
 * file. What can be told of the descriptor here is, in a sentence that has the program's own number
 * of it.
 */
#include "config.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "libclient/internal.h"

static int check_save_fd(int fd)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fstat(fd, &st))
		return err_raise(-EBADF, "descriptor %d is not open", fd);
	if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode))
		return err_raise(-EINVAL,
				 "descriptor %d is no regular file, pipe or stream socket: a "
				 "snapshot can be saved to those only",
				 fd);
	if ((flags & O_ACCMODE) == O_RDONLY || (flags & O_PATH))
		return err_raise(-EBADF, "descriptor %d is not open for writing", fd);
	return 0;
}

int cow_snapshot_save(struct cow_snapshot *snap, int fd, cow_progress_fn progress, void *user)
{
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
