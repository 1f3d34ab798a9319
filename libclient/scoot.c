// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * scoot_alloc(), scoot_duplicate(), scoot_free(): the talk's interface on the library's own.
 *
 * What scoot_alloc() gives is a region of a client that the process has one of. A duplicate is a
 * snapshot mapped private and writable; cowd is not told of it. It keeps the memory that it shares
 * frozen, so the origin settles once its duplicates are gone.
 */
#include "config.h"

#include "libclient/scoot.h"

#include <errno.h>
#include <sys/mman.h>

#include "backends/space.h"
#include "libclient/scoot/blocks.h"

/* Without the lock, which a fork takes: to connect may take long. */
static int find_client(struct cow_client **out)
{
	struct cow_client *client = NULL;
	int r;

	*out = cowi_blocks_client(&client);
	if (*out)
		return 0;
	r = cow_client_new(&client, NULL);
	if (r)
		r = cow_client_new(&client, "exec:");
	if (r)
		return r;
	*out = cowi_blocks_client(&client);
	cow_client_unref(client);
	return 0;
}

static void *fail(int error)
{
	errno = -error;
	return NULL;
}

void *scoot_alloc(size_t size_bytes)
{
	COWI_ENTRY();
	struct cow_region_params params = {
		.size_bytes = size_bytes,
		.mode = COW_MODE_SCOOT,
		.name = "scoot_alloc",
	};
	struct cow_region *region = NULL;
	struct cow_client *client = NULL;
	int r;

	r = find_client(&client);
	if (!r)
		r = cow_region_new(&region, client, &params);
	if (!r)
		r = cowi_block_add(region->addr, region->size_bytes, region, NULL);
	if (r) {
		cow_region_unref(region);
		return fail(r);
	}
	return cow_region_address(region);
}

/* Pages that have changed since an earlier duplicate go here; only this process reads them. */
static int local_overlay(struct memfile **out, uint64_t size_bytes)
{
	AUTO_FD int fd = memfd_create("scoot-duplicate", MFD_CLOEXEC);
	int none = -1;

	if (fd < 0 || ftruncate(fd, (off_t)size_bytes))
		return err_raise_errno("cannot make a memfd of %llu bytes",
				       (unsigned long long)size_bytes);
	return memfile_new(out, &fd, &none, size_bytes);
}

static int freeze(struct cow_region *region, struct scoot_snapshot **frozen)
{
	CLEANUP(memfile_unrefp) struct memfile *overlay = NULL;
	int r;

	cowi_region_lock(region);
	r = cowi_scoot_take(region, NULL, frozen);
	if (r == SCOOT_E_OVERLAY) {
		r = local_overlay(&overlay, region->size_bytes);
		if (!r)
			r = cowi_scoot_take(region, overlay, frozen);
	}
	cowi_scoot_post(region);
	cowi_region_unlock(region);
	return r;
}

static int map_duplicate(const struct scoot_snapshot *frozen, char **addr)
{
	const uint64_t size_bytes = frozen->map.size_bytes;
	int r = space_reserve(addr, size_bytes);

	if (r)
		return r;
	r = scoot_snapshot_map(frozen, *addr, PROT_READ | PROT_WRITE);
	if (!r && madvise(*addr, size_bytes, MADV_DONTFORK))
		r = err_raise_errno("cannot keep a duplicate from fork children");
	if (r)
		(void)munmap(*addr, size_bytes);
	return r;
}

void *scoot_duplicate(void *origin)
{
	COWI_ENTRY();
	CLEANUP(scoot_snapshot_freep) struct scoot_snapshot *frozen = NULL;
	struct cow_region *region = cowi_block_origin(origin);
	char *addr = NULL;
	int r;

	if (!region)
		return fail(err_raise(-EINVAL, "%p is not what scoot_alloc() gave", origin));
	r = cowi_check_process(region->client);
	if (!r)
		r = freeze(region, &frozen);
	cow_region_unref(region);
	if (!r)
		r = map_duplicate(frozen, &addr);
	if (r)
		return fail(r);
	r = cowi_block_add(addr, frozen->map.size_bytes, NULL, frozen);
	if (r) {
		(void)munmap(addr, frozen->map.size_bytes);
		return fail(r);
	}
	(void)steal_ptr(&frozen);
	return addr;
}

void scoot_free(void *address)
{
	COWI_ENTRY();
	int saved_errno = errno;
	struct cowi_block *block;

	if (!address)
		return;
	block = cowi_block_remove(address);
	if (block && block->frozen) {
		if (!block->is_forked)
			(void)munmap(block->addr, block->size_bytes);
		scoot_snapshot_free(block->frozen);
		cowi_blocks_settle();
	}
	if (block)
		cow_region_unref(block->region);
	free(block);
	errno = saved_errno;
}
