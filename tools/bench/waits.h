/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long a thread waited, too often for every value to be kept (samples.h): counted in buckets
 * whose bounds are 1/32 apart, so a quantile is too large by that much at most.
 */
#ifndef COW_TOOLS_BENCH_WAITS_H
#define COW_TOOLS_BENCH_WAITS_H

#include <stdint.h>

#define WAITS_BITS    5
#define WAITS_BUCKETS ((64 - WAITS_BITS + 1) << WAITS_BITS)

struct waits {
	uint64_t max_nsec;
	uint64_t n;
	uint64_t counts[WAITS_BUCKETS];
};

void waits_add(struct waits *waits, uint64_t nsec);
void waits_merge(struct waits *into, const struct waits *from);
/**
 * waits_quantile() - upper bound of the bucket of the nearest rank; at most the longest. 0:
 * none
 */
uint64_t waits_quantile(const struct waits *waits, double q);

#endif
