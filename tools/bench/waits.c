// SPDX-License-Identifier: GPL-2.0-or-later
/* See waits.h. */
#include "config.h"

#include "tools/bench/waits.h"

#include <math.h>
#include <stddef.h>

#include "common/util.h"

/* Below 32 a bucket for each value; above, 32 for each power of two. */
static size_t bucket_of(uint64_t nsec)
{
	unsigned int shift;

	if (nsec >> WAITS_BITS == 0)
		return nsec;
	shift = 63 - (unsigned int)__builtin_clzll(nsec) - WAITS_BITS;
	return ((size_t)(shift + 1) << WAITS_BITS) + ((nsec >> shift) & ((1U << WAITS_BITS) - 1));
}

/* The largest value in bucket @idx. */
static uint64_t bound_of(size_t idx)
{
	unsigned int shift;

	if (idx >> WAITS_BITS == 0)
		return idx;
	shift = (unsigned int)(idx >> WAITS_BITS) - 1;
	return (((uint64_t)(1U << WAITS_BITS) + (idx & ((1U << WAITS_BITS) - 1)) + 1) << shift) - 1;
}

void waits_add(struct waits *waits, uint64_t nsec)
{
	waits->counts[bucket_of(nsec)]++;
	waits->n++;
	waits->max_nsec = max_u64(waits->max_nsec, nsec);
}

void waits_merge(struct waits *into, const struct waits *from)
{
	for (size_t i = 0; i < WAITS_BUCKETS; i++)
		into->counts[i] += from->counts[i];
	into->n += from->n;
	into->max_nsec = max_u64(into->max_nsec, from->max_nsec);
}

uint64_t waits_quantile(const struct waits *waits, double q)
{
	uint64_t rank = max_u64((uint64_t)ceil(q * (double)waits->n), 1), n = 0;

	for (size_t i = 0; waits->n && i < WAITS_BUCKETS; i++) {
		n += waits->counts[i];
		if (n >= rank)
			return min_u64(bound_of(i), waits->max_nsec);
	}
	return 0;
}
