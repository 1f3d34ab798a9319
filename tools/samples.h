/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A list of measured values and exact quantiles of it: every value is kept and sorted, nothing is
 * estimated. Memory is taken when the list is made, so that adding a value costs one store and the
 * measurement does not disturb itself.
 */
#ifndef COW_TOOLS_SAMPLES_H
#define COW_TOOLS_SAMPLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct samples {
	uint64_t *values;
	size_t n_values;
	size_t n_max;
	bool is_sorted;
};

/** samples_init() - room for @n_max values, already touched. Return: 0 or -ENOMEM, sentence */
int samples_init(struct samples *samples, size_t n_max);
/** samples_grow() - room for @n_more further values. Return: 0 or -ENOMEM, sentence */
int samples_grow(struct samples *samples, size_t n_more);
void samples_deinit(struct samples *samples);

/** samples_add() - there must be room */
static inline void samples_add(struct samples *samples, uint64_t value)
{
	samples->values[samples->n_values++] = value;
	samples->is_sorted = false;
}

/**
 * samples_quantile() - smallest value that at least @q (0 to 1) of the values do not pass
 *
 * The nearest rank: a value that was really measured, never a mean of two. Return: 0 if empty.
 */
uint64_t samples_quantile(struct samples *samples, double q);

/**
 * samples_stride() - a step that, from any number below @n on and modulo @n, visits each once
 *
 * Far enough that neither the CPU nor the kernel finds a sequence in pages so numbered.
 */
uint64_t samples_stride(uint64_t n);

#endif
