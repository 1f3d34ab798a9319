// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Adopting memory that exists: an anonymous range becomes a region in place, threads going on; and
 * letting a region end whose memory the program keeps. See scoot.h.
 */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "backends/scoot/internal.h"
#include "common/err.h"

/* One line of /proc/self/maps: 0 if [*@at, @end) goes on in it, with *@at moved to its end. */
static int check_line(const char *line, uint64_t *at, uint64_t end)
{
	uint64_t start, stop, inode;
	char perms[5], name[32] = "";

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*x %*x:%*x %" SCNu64 " %31s", &start, &stop,
		   perms, &inode, name) < 4 ||
	    stop <= *at || start >= end)
		return 0;
	if (start > *at)
		return err_raise(-EINVAL, "nothing is mapped at %#" PRIx64, *at);
	if (strcmp(perms, "rw-p") != 0 || inode || !strcmp(name, "[stack]"))
		return err_raise(-EINVAL,
				 "%#" PRIx64 "-%#" PRIx64 " (%s%s%s) is not private anonymous "
				 "memory for reading and writing",
				 start, stop, perms, *name ? ", " : "", name);
	*at = stop;
	return 0;
}

static int check_range(const char *addr, uint64_t len)
{
	uint64_t at = (uint64_t)(uintptr_t)addr, end = at + len;
	char line[512];
	FILE *file;
	int r = 0;

	file = fopen("/proc/self/maps", "re");
	if (!file)
		return err_raise_errno("cannot open /proc/self/maps");
	while (!r && at < end && fgets(line, sizeof(line), file))
		r = check_line(line, &at, end);
	(void)fclose(file);
	if (!r && at < end)
		r = err_raise(-EINVAL, "nothing is mapped at %#" PRIx64, at);
	return r;
}

static uint64_t chunk_len(const char *addr, uint64_t off, uint64_t len)
{
	uint64_t at = (uint64_t)(uintptr_t)addr + off;
	uint64_t chunk_end = align_down(at, SETTLE_CHUNK_BYTES) + SETTLE_CHUNK_BYTES;

	return min_u64(chunk_end - at, len - off);
}

int scoot_adopt(char *addr, struct memfile *home, int uffd)
{
	const uint64_t len = home->size_bytes;
	struct pagemap pagemap = {.fd = -1};
	struct settle settle;
	uint64_t done = 0;
	int r, r2 = 0;

	r = check_range(addr, len);
	if (r)
		return r;
	r = pagemap_init(&pagemap);
	if (r)
		return r;
	r = settle_init(&settle, uffd, &pagemap);
	settle.is_adopting = true;
	while (!r && done < len) {
		struct chunk chunk = {.addr = addr + done, .backing = home, .backing_off = done};

		chunk.len = chunk_len(addr, done, len);
		r = settle_chunk(&settle, &chunk);
		if (!r)
			done += chunk.len;
	}
	for (uint64_t off = 0; r && !r2 && off < done;) {
		uint64_t n = chunk_len(addr, off, done);

		r2 = settle_revert_chunk(&settle, addr + off, n, home, off);
		off += n;
	}
	settle_deinit(&settle);
	pagemap_deinit(&pagemap);
	return r;
}

void scoot_region_leave(struct scoot_region *region)
{
	/* Where it cannot be frozen it stays shared: with nobody, since children do not get it. */
	if (!scoot_freeze(region, 0, region->size_bytes))
		(void)madvise(region->addr, region->size_bytes, MADV_DOFORK);
}
