// SPDX-License-Identifier: LGPL-2.1-or-later
/* The shortest complete use: freeze memory, save it to a file, and go on writing meanwhile. */
#include <cowclient.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Keeps the file of the last run until the new one is complete and on disk. */
static void save(struct cow_snapshot *snap, const char *path, const char *temporary)
{
	int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		err(1, "%s", temporary);
	if (cow_snapshot_save(snap, fd, NULL, NULL)) {
		warnx("%s: %s", temporary, cow_last_error());
	} else if (fsync(fd) || close(fd) || rename(temporary, path)) {
		warn("%s", temporary);
	} else {
		return;
	}
	unlink(temporary);
	exit(1);
}

int main(void)
{
	struct cow_client *client = NULL;
	struct cow_region *region = NULL;
	struct cow_snapshot *snap = NULL;
	struct cow_region_params params = {.size_bytes = 64 << 20, .mode = COW_MODE_SCOOT};

	if (cow_client_new(&client, NULL) || cow_region_new(&region, client, &params))
		errx(1, "%s", cow_last_error());
	strcpy(cow_region_address(region), "as it was");
	if (cow_snapshot_new(&snap, region)) /* one instant for all threads */
		errx(1, "%s", cow_last_error());
	strcpy(cow_region_address(region), "as it went on");
	save(snap, "heap.snapshot", "heap.snapshot.new"); /* "as it was" */
	cow_snapshot_unref(snap);
	cow_region_unref(region);
	cow_client_unref(client);
	return 0;
}
