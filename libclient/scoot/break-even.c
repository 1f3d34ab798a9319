// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * From which size on cow_mmapcopy() maps.
 *
 * From which size on mapping takes less time depends on the machine, most of all on how dear system
 * calls are there. So it is measured once in each process, with the first region of mode mmapcopy
 * or by the first copy of a size in question: the same work on a little memory of its own, for less
 * than a millisecond.
 */
#include "config.h"

#include <string.h>
#include <sys/mman.h>

#include "backends/mmapcopy/mmapcopy.h"
#include "common/clock.h"
#include "libclient/scoot/mode.h"

#define MIN_BYTES_USUAL ((size_t)256 << 10) /* without measuring */

#define PROBE_BYTES    ((size_t)64 << 10)
#define PROBE_TRIES    4
#define PROBE_NSEC     ((uint64_t)500000)
#define PROBE_MAPPINGS 2 /* mmapcopy_pages() maps both sides anew */

static pthread_once_t probe_once = PTHREAD_ONCE_INIT;
static size_t min_bytes = MIN_BYTES_USUAL;

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
	n_bytes = max_u64(min_u64(n_bytes, COWI_MMAPCOPY_MOST_BYTES), COWI_MMAPCOPY_LEAST_BYTES);
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
