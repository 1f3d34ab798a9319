// SPDX-License-Identifier: LGPL-2.1-or-later
/* Log-linear histogram; see hist.h. */
#include "config.h"

#include "common/hist.h"

#define SUB_COUNT (1u << HIST_SUB_BITS)

static unsigned int bucket_of(uint64_t value)
{
	unsigned int exponent;

	if (value < SUB_COUNT)
		return (unsigned int)value;
	exponent = 63u - (unsigned int)__builtin_clzll(value) - HIST_SUB_BITS;
	return ((exponent + 1) << HIST_SUB_BITS) + (unsigned int)((value >> exponent) - SUB_COUNT);
}

/* The largest value that falls into @bucket. */
static uint64_t bucket_bound(unsigned int bucket)
{
	unsigned int exponent;

	if (bucket < SUB_COUNT)
		return bucket;
	exponent = (bucket >> HIST_SUB_BITS) - 1;
	return ((((uint64_t)(bucket & (SUB_COUNT - 1)) + SUB_COUNT + 1) << exponent)) - 1;
}

void hist_add(struct hist *hist, uint64_t value)
{
	uint64_t seen;

	if (value == UINT64_MAX)
		value--;
	atomic_fetch_add_explicit(&hist->counts[bucket_of(value)], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&hist->n_values, 1, memory_order_relaxed);
	seen = atomic_load_explicit(&hist->max, memory_order_relaxed);
	while (value > seen && !atomic_compare_exchange_weak(&hist->max, &seen, value))
		;
	seen = atomic_load_explicit(&hist->min_plus_one, memory_order_relaxed);
	while ((!seen || value + 1 < seen) &&
	       !atomic_compare_exchange_weak(&hist->min_plus_one, &seen, value + 1))
		;
}

uint64_t hist_count(const struct hist *hist)
{
	return atomic_load_explicit(&hist->n_values, memory_order_relaxed);
}

uint64_t hist_min(const struct hist *hist)
{
	uint64_t min_plus_one = atomic_load_explicit(&hist->min_plus_one, memory_order_relaxed);

	return min_plus_one ? min_plus_one - 1 : 0;
}

uint64_t hist_max(const struct hist *hist)
{
	return atomic_load_explicit(&hist->max, memory_order_relaxed);
}

uint64_t hist_quantile(const struct hist *hist, double q)
{
	uint64_t total = hist_count(hist), max = hist_max(hist), seen = 0, bound;
	double wanted = q * (double)total;

	if (!total)
		return 0;
	for (unsigned int i = 0; i < HIST_BUCKETS; i++) {
		seen += atomic_load_explicit(&hist->counts[i], memory_order_relaxed);
		if (seen && (double)seen >= wanted) {
			bound = bucket_bound(i);
			return bound < max ? bound : max;
		}
	}
	return max;
}
