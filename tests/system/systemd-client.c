/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client as an installed cowd gets them: built against the installed header and library, of a uid
 * without any privilege. For each mode: a region, a snapshot, writes after it, and the snapshot is
 * what was there before. Part of systemd.sh; plain C, as a user would write it.
 */
#include <cowclient.h>
#include <stdio.h>
#include <string.h>

enum {
	SIZE = 1 << 20,
};

static int complain(const char *mode, const char *what)
{
	(void)fprintf(stderr, "%s: %s: %s\n", mode, what, cow_last_error());
	return 1;
}

static int try(struct cow_client *client, uint32_t mode, const char *name)
{
	struct cow_region_params params = {.size_bytes = SIZE, .mode = mode, .name = name};
	static char bytes[SIZE], want[SIZE];
	struct cow_snapshot *snap = NULL;
	struct cow_region *region = NULL;
	int failed = 0;

	if (cow_region_new(&region, client, &params))
		return complain(name, "cow_region_new");
	memset(want, 'a', SIZE);
	memset(cow_region_address(region), 'a', SIZE);
	if (cow_snapshot_new(&snap, region))
		failed = complain(name, "cow_snapshot_new");
	memset(cow_region_address(region), 'b', SIZE);
	if (!failed && !cow_snapshot_id(snap))
		failed = complain(name, "cow_snapshot_id");
	if (!failed && cow_snapshot_read(snap, bytes, SIZE, 0))
		failed = complain(name, "cow_snapshot_read");
	if (!failed && memcmp(bytes, want, SIZE) != 0) {
		(void)fprintf(stderr, "%s: the snapshot is not what was there\n", name);
		failed = 1;
	}
	cow_snapshot_unref(snap);
	cow_region_unref(region);
	if (!failed)
		printf("mode %s works\n", name);
	return failed;
}

int main(void)
{
	struct cow_client *client = NULL;
	int failed = 0;

	if (cow_client_new(&client, NULL))
		return complain("any mode", "cow_client_new");
	failed |= try(client, COW_MODE_UFFD, "uffd");
	failed |= try(client, COW_MODE_SCOOT, "scoot");
	failed |= try(client, COW_MODE_MMAPCOPY, "mmapcopy");
	cow_client_unref(client);
	return failed;
}
