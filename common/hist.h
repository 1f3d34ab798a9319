/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A histogram of 64-bit values that any number of threads add to without a lock.
 *
 * Buckets are log-linear: 32 per power of two, so a quantile is at most 3.2 % above the true one.
 * The field's library for this (HdrHistogram_c) is not packaged in Debian 12; this is the part of
 * it that is needed.
 */
#ifndef COW_COMMON_HIST_H
#define COW_COMMON_HIST_H

#include <stdatomic.h>
#include <stdint.h>

#define HIST_SUB_BITS 5
#define HIST_BUCKETS  ((64 - HIST_SUB_BITS + 1) << HIST_SUB_BITS)

struct hist {
	_Atomic uint64_t counts[HIST_BUCKETS];
	_Atomic uint64_t n_values;
	_Atomic uint64_t min_plus_one; /* 0: none yet */
	_Atomic uint64_t max;
};

/** hist_add() - count @value once; any thread; wait-free but for the new extremes */
void hist_add(struct hist *hist, uint64_t value);
/** hist_quantile() - smallest bucket bound that @q (0 to 1) of
 * the values do not pass; 0 if empty */
uint64_t hist_quantile(const struct hist *hist, double q);
uint64_t hist_count(const struct hist *hist);
uint64_t hist_min(const struct hist *hist);
uint64_t hist_max(const struct hist *hist);

#endif
