// SPDX-License-Identifier: GPL-2.0-or-later
/* See samples.h. */
#include "config.h"

#include "tools/samples.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/err.h"

int samples_init(struct samples *samples, size_t n_max)
{
	*samples = (struct samples){0};
	return samples_grow(samples, n_max);
}

int samples_grow(struct samples *samples, size_t n_more)
{
	size_t n_max = samples->n_values + n_more;
	uint64_t *values;

	if (n_max <= samples->n_max)
		return 0;
	values = reallocarray(samples->values, n_max, sizeof(*values));
	if (!values)
		return err_oom(n_max * sizeof(*values), "the measured values");
	/* Touched now, so that no page fault of our own falls between two readings of the clock. */
	memset(values + samples->n_values, 0, (n_max - samples->n_values) * sizeof(*values));
	samples->values = values;
	samples->n_max = n_max;
	return 0;
}

void samples_deinit(struct samples *samples)
{
	free(samples->values);
	*samples = (struct samples){0};
}

static int compare_values(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

uint64_t samples_quantile(struct samples *samples, double q)
{
	size_t rank;

	if (!samples->n_values)
		return 0;
	if (!samples->is_sorted) {
		qsort(samples->values, samples->n_values, sizeof(*samples->values), compare_values);
		samples->is_sorted = true;
	}
	rank = (size_t)ceil(q * (double)samples->n_values);
	if (rank < 1)
		rank = 1;
	if (rank > samples->n_values)
		rank = samples->n_values;
	return samples->values[rank - 1];
}

uint64_t samples_stride(uint64_t n)
{
	uint64_t stride = n * 618 / 1000 | 1; /* the golden section: even spacing */

	for (;; stride += 2) {
		uint64_t a = n, b = stride;

		while (b) { /* Euclid's: nothing divides both */
			uint64_t rest = a % b;

			a = b;
			b = rest;
		}
		if (a == 1)
			return stride;
	}
}
