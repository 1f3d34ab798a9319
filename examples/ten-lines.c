// SPDX-License-Identifier: LGPL-2.1-or-later
/* The shortest whole use: memory, a frozen copy of it in a file, the program going on meanwhile. */
#include <cowclient.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
	struct cow_client *client = NULL;
	struct cow_region *region = NULL;
	struct cow_snapshot *snap = NULL;
	int fd = open("heap.snapshot", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct cow_region_params params = {.size_bytes = 64 << 20, .mode = COW_MODE_SCOOT};

	if (cow_client_new(&client, NULL) || cow_region_new(&region, client, &params))
		return fprintf(stderr, "ten-lines: %s\n", cow_last_error()), 1;
	strcpy(cow_region_address(region), "as it was");
	if (cow_snapshot_new(&snap, region)) /* one instant for all threads */
		return fprintf(stderr, "ten-lines: %s\n", cow_last_error()), 1;
	strcpy(cow_region_address(region), "as it went on");
	if (cow_snapshot_save(snap, fd, NULL, NULL)) /* "as it was" */
		return fprintf(stderr, "ten-lines: %s\n", cow_last_error()), 1;
	cow_snapshot_unref(snap);
	cow_region_unref(region);
	cow_client_unref(client);
	return 0;
}
