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
#include "backends/space.h"
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

int scoot_adopt_check(const char *addr, uint64_t len)
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

/*
 * Turn shared mappings of @home into the program's own memory again. If there is no memory for a
 * chunk, it becomes a private mapping of @home: nobody else sees writes to it.
 */
static int revert(struct scoot_region *region, uint64_t len)
{
	int result = 0;

	for (uint64_t off = 0, n; off < len; off += n) {
		char *addr = region->addr + off;
		uint64_t done;
		int r;

		n = settle_chunk_len(addr, len - off);
		r = settle_revert_chunk(&region->settle, addr, n, region->home, off);
		if (!r)
			continue;
		result = r;
		done = region->settle.n_settled;
		(void)space_map(addr + done, n - done, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_NORESERVE, region->home->fd, off + done);
	}
	(void)madvise(region->addr, region->size_bytes, MADV_DOFORK);
	return result;
}

/* The sentence names the cause of the failure, and any memory that is not as it was. */
static int undo(struct scoot_region *region, uint64_t len, int error)
{
	char sentence[512];

	(void)snprintf(sentence, sizeof(sentence), "%s", err_sentence());
	if (revert(region, len))
		return err_raise(error, "%s; part of the memory is a private mapping of a file now",
				 sentence);
	return err_raise(error, "%s", sentence);
}

int scoot_adopt(struct scoot_region *region)
{
	const uint64_t len = region->size_bytes;
	uint64_t done = 0;
	int r = 0;

	region->settle.is_adopting = true;
	while (!r && done < len) {
		struct chunk chunk = {
			.addr = region->addr + done, .backing = region->home, .backing_off = done};

		chunk.len = settle_chunk_len(chunk.addr, len - done);
		r = settle_chunk(&region->settle, &chunk);
		done += region->settle.n_settled;
	}
	region->settle.is_adopting = false;
	return r ? undo(region, done, r) : 0;
}

int scoot_unadopt(struct scoot_region *region, int error)
{
	return undo(region, region->size_bytes, error);
}

void scoot_region_leave(struct scoot_region *region)
{
	/* If it cannot be frozen it stays shared, with nobody: children do not get it. */
	if (!scoot_freeze(region, 0, region->size_bytes))
		(void)madvise(region->addr, region->size_bytes, MADV_DOFORK);
}
