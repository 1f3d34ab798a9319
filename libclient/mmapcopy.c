// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * cow_mmapcopy(): what of a copy can be mapped is mapped, the rest is copied.
 *
 * Mapped are whole pages that lie in regions of one client at both ends and at the same offset
 * within a page. Whatever stands in the way (another client, a fork child, a region in too many
 * parts, a failing mmap()) only means that bytes are copied.
 *
 * From which size on mapping takes less time depends on the machine, most of all on how dear system
 * calls are there. So it is measured once in each process, with the first region of mode mmapcopy
 * or by the first copy of a size in question: the same work on a little memory of its own, for less
 * than a millisecond.
 */
#include "config.h"

#include "backends/mmapcopy/mmapcopy.h"

#include <string.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "libclient/scoot/mode.h"

/* What was measured is taken to be in these bounds; the first is what it is without measuring. */
#define MIN_BYTES_USUAL ((size_t)256 << 10)
#define MIN_BYTES_LEAST ((size_t)64 << 10)
#define MIN_BYTES_MOST  ((size_t)1 << 20)

#define PROBE_BYTES    ((size_t)64 << 10)
#define PROBE_TRIES    4
#define PROBE_NSEC     ((uint64_t)500000)
#define PROBE_MAPPINGS 2 /* mmapcopy_pages() maps both sides anew */

static pthread_once_t probe_once = PTHREAD_ONCE_INIT;
static size_t min_bytes = MIN_BYTES_USUAL;

/* --- from which size on it pays --------------------------------------------------------------- */

struct probe {
	char *base;                   /* four pieces of PROBE_BYTES */
	uint64_t copy_nsec, map_nsec; /* of PROBE_BYTES; the least of all tries */
};

static void *probe_map(char *at)
{
	return mmap(at, PROBE_BYTES, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/* Pages are moved aside and something else is mapped there; what it is makes little difference. */
static bool probe_once_more(struct probe *probe)
{
	char *from = probe->base, *to = from + PROBE_BYTES;
	char *mapped = to + PROBE_BYTES, *aside = mapped + PROBE_BYTES;
	uint64_t start;

	memset(mapped, 1, PROBE_BYTES);
	start = now_nsec();
	memcpy(to, from, PROBE_BYTES);
	probe->copy_nsec = min_u64(probe->copy_nsec, now_nsec() - start);
	start = now_nsec();
	if (mremap(mapped, PROBE_BYTES, PROBE_BYTES,
		   MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, aside) == MAP_FAILED ||
	    probe_map(mapped) == MAP_FAILED)
		return false;
	probe->map_nsec = min_u64(probe->map_nsec, now_nsec() - start);
	return true;
}

static bool probe_run(struct probe *probe)
{
	const uint64_t until = now_nsec() + PROBE_NSEC;
	bool is_done = true;

	memset(probe->base, 1, 2 * PROBE_BYTES);
	for (int i = 0; is_done && i < PROBE_TRIES && (!i || now_nsec() < until); i++)
		is_done = probe_once_more(probe);
	return is_done;
}

/* Where copying takes as long as mapping. */
static size_t break_even(const struct probe *probe)
{
	uint64_t n_bytes = PROBE_MAPPINGS * probe->map_nsec * PROBE_BYTES;

	n_bytes /= max_u64(probe->copy_nsec, 1);
	n_bytes = max_u64(min_u64(n_bytes, MIN_BYTES_MOST), MIN_BYTES_LEAST);
	return align_up(n_bytes, page_size_bytes());
}

static void measure(void)
{
	struct probe probe = {.copy_nsec = UINT64_MAX, .map_nsec = UINT64_MAX};
	const int saved_errno = errno;

	probe.base = mmap(NULL, 4 * PROBE_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (probe.base != MAP_FAILED) {
		if (probe_run(&probe))
			min_bytes = break_even(&probe);
		(void)munmap(probe.base, 4 * PROBE_BYTES);
	}
	errno = saved_errno;
}

size_t cowi_mmapcopy_min_bytes(void)
{
	COWI_ENTRY();
	pthread_once(&probe_once, measure);
	return min_bytes;
}

/* --- copying ---------------------------------------------------------------------------------- */

static struct cow_region *find_region(const char *addr, size_t len)
{
	struct cow_region *region = cowi_registry_find(addr);

	if (region && (!region->scoot || addr + len > region->addr + region->size_bytes ||
		       cowi_check_process(region->client)))
		region = cow_region_unref(region);
	return region;
}

/* By address, so that two copies in opposite directions do not wait for each other. */
static void lock_both(struct cow_region *a, struct cow_region *b)
{
	struct cow_region *first = a->addr < b->addr ? a : b;

	cowi_region_lock(first);
	if (a != b)
		cowi_region_lock(first == a ? b : a);
}

static void unlock_both(struct cow_region *a, struct cow_region *b)
{
	cowi_region_unlock(a);
	if (a != b)
		cowi_region_unlock(b);
}

/* Whole pages. Return: how many bytes were mapped. */
static uint64_t map_pages(char *dst, const char *src, uint64_t len)
{
	COWI_ENTRY(); /* not in what is copied: a handler of SIGSEGV may have to mend that */
	struct cow_region *to = find_region(dst, len);
	struct cow_region *from = to ? find_region(src, len) : NULL;
	uint64_t done = 0;

	if (from && from->client == to->client) {
		lock_both(to, from);
		done = mmapcopy_pages(to->scoot, (uint64_t)(dst - to->addr), from->scoot,
				      (uint64_t)(src - from->addr), len);
		unlock_both(to, from);
		cowi_scoot_post_soon(to); /* nobody waits for that */
	}
	cow_region_unref(from);
	cow_region_unref(to);
	return done;
}

void *cow_mmapcopy(void *dst, const void *src, size_t len)
{
	const uint64_t page = page_size_bytes();
	const uint64_t to = (uint64_t)(uintptr_t)dst, from = (uint64_t)(uintptr_t)src;
	uint64_t head, whole, done = 0;

	if (to < from + len && from < to + len)
		return memmove(dst, src, len); /* overlapping: no two pages can be one */
	if (len < MIN_BYTES_LEAST || (to ^ from) & (page - 1) ||
	    (len < MIN_BYTES_MOST && len < cowi_mmapcopy_min_bytes()))
		return memcpy(dst, src, len);
	head = align_up(to, page) - to;
	whole = align_down(len - head, page);
	memcpy(dst, src, head);
	done = map_pages((char *)dst + head, (const char *)src + head, whole);
	head += done;
	memcpy((char *)dst + head, (const char *)src + head, len - head);
	return dst;
}
