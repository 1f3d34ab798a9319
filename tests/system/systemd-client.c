/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client as an installed cowd gets them: built against the installed header and library, of a uid
 * without any privilege. For each mode: a region, a snapshot, writes after it, and the snapshot is
 * what was there before. Part of systemd.sh and systemd-faults.sh; plain C, as a user would write
 * it.
 *
 *	systemd-client          what is said above
 *	systemd-client hold     connect, say so, and stay until a signal comes
 *	systemd-client lose N   have N snapshots lost, one after the other, for want of kept-bytes
 */
#include <cowclient.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	SIZE = 1 << 20,
	LOSE_SIZE = 4 << 20,
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

static int hold(void)
{
	(void)puts("connected");
	(void)fflush(stdout);
	for (;;)
		(void)pause();
}

/* All of the region is written after the snapshot: more than cowd may keep for this uid. */
static int lose_one(struct cow_region *region, int value)
{
	struct cow_snapshot *snap = NULL;
	char byte;
	int r;

	r = cow_snapshot_new(&snap, region);
	if (r)
		return complain("lose", "cow_snapshot_new");
	memset(cow_region_address(region), value, LOSE_SIZE);
	r = cow_snapshot_read(snap, &byte, 1, 0);
	cow_snapshot_unref(snap);
	if (r == -ESTALE)
		return 0;
	(void)fprintf(stderr, "lose: a read answered %d, not ESTALE\n", r);
	return 1;
}

static int lose(struct cow_client *client, int n_snapshots)
{
	struct cow_region_params params = {
		.size_bytes = LOSE_SIZE, .mode = COW_MODE_UFFD, .name = "too-large"};
	struct cow_region *region = NULL;
	int failed = 0;

	if (cow_region_new(&region, client, &params))
		return complain("lose", "cow_region_new");
	memset(cow_region_address(region), 1, LOSE_SIZE);
	for (int i = 0; i < n_snapshots && !failed; i++)
		failed = lose_one(region, i + 2); /* pages of zeroes are kept for nothing */
	cow_region_unref(region);
	return failed;
}

int main(int argc, char **argv)
{
	struct cow_client *client = NULL;
	int failed = 0;

	if (cow_client_new(&client, NULL))
		return complain("any mode", "cow_client_new");
	if (argc == 2 && !strcmp(argv[1], "hold"))
		return hold();
	if (argc == 3 && !strcmp(argv[1], "lose"))
		return lose(client, atoi(argv[2]));
	failed |= try(client, COW_MODE_UFFD, "uffd");
	failed |= try(client, COW_MODE_SCOOT, "scoot");
	failed |= try(client, COW_MODE_MMAPCOPY, "mmapcopy");
	cow_client_unref(client);
	return failed;
}
