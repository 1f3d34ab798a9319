/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For the unit tests of backends/scoot/shadow.c: a region that was written to throughout. */
#ifndef COW_TESTS_UNIT_SHADOW_FIXTURE_H
#define COW_TESTS_UNIT_SHADOW_FIXTURE_H

#include <string.h>
#include <sys/resource.h>

#include "tests/unit/scoot-fixture.h"

#define SIZE_BYTES ((uint64_t)64 << 20)

static inline long n_faults(void)
{
	struct rusage usage;

	ck_assert_int_eq(getrusage(RUSAGE_SELF, &usage), 0);
	return usage.ru_minflt;
}

/* Read a byte of each page: their sum. */
static inline uint64_t read_all(const struct scoot_region *region)
{
	const volatile char *byte = region->addr;
	uint64_t sum = 0;

	for (uint64_t off = 0; off < region->size_bytes; off += page_size_bytes())
		sum += (unsigned char)byte[off];
	return sum;
}

static inline struct scoot_region *make_filled(void)
{
	struct scoot_region *region = make_region(SIZE_BYTES, WITH_SCAN);

	memset(region->addr, 1, region->size_bytes);
	return region;
}

static inline uint64_t n_private(const struct scoot_region *region)
{
	uint64_t at = (uint64_t)(uintptr_t)region->addr, n_bytes = 0;
	const uint64_t end = at + region->size_bytes;
	struct page_run runs[64];
	size_t n_runs;

	while (at < end) {
		ck_assert_int_eq(pagemap_private(&region->pagemap, &at, end, runs, ARRAY_SIZE(runs),
						 &n_runs),
				 0);
		for (size_t i = 0; i < n_runs; i++)
			n_bytes += runs[i].len;
	}
	return n_bytes / page_size_bytes();
}

#endif
