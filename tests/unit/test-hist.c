// SPDX-License-Identifier: LGPL-2.1-or-later
/* Histograms: a quantile is never below the true one, and at most 3.2 % above it. */
#include "config.h"

#include <check.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/hist.h"
#include "common/util.h"

enum {
	N_VALUES = 20000,
	N_THREADS = 4,
};

static struct hist hist;

static void clear(void)
{
	hist = (struct hist){.n_values = 0};
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

START_TEST(quantiles_are_close_to_the_sorted_values)
{
	static const double quantiles[] = {0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1};
	static uint64_t values[N_VALUES];
	uint64_t state = 88172645463325252ULL;

	for (size_t i = 0; i < N_VALUES; i++) {
		/* of all magnitudes */
		values[i] = next_random(&state) >> (next_random(&state) % 64);
		hist_add(&hist, values[i]);
	}
	qsort(values, N_VALUES, sizeof(values[0]), compare);
	for (size_t i = 0; i < ARRAY_SIZE(quantiles); i++) {
		size_t rank = (size_t)(quantiles[i] * N_VALUES);
		uint64_t exact = values[rank ? rank - 1 : 0];
		uint64_t got = hist_quantile(&hist, quantiles[i]);

		ck_assert_msg(got >= exact, "%g: %lu below %lu", quantiles[i], got, exact);
		ck_assert_msg(got - exact <= exact / 32 + 1, "%g: %lu far above %lu", quantiles[i],
			      got, exact);
	}
	ck_assert_uint_eq(hist_count(&hist), N_VALUES);
	ck_assert_uint_eq(hist_min(&hist), values[0]);
	ck_assert_uint_eq(hist_max(&hist), values[N_VALUES - 1]);
}
END_TEST

START_TEST(an_empty_one_is_all_zeroes)
{
	ck_assert_uint_eq(hist_quantile(&hist, 0.5), 0);
	ck_assert_uint_eq(hist_count(&hist), 0);
	ck_assert_uint_eq(hist_min(&hist), 0);
	ck_assert_uint_eq(hist_max(&hist), 0);
}
END_TEST

START_TEST(extremes_have_a_bucket)
{
	hist_add(&hist, 0);
	hist_add(&hist, UINT64_MAX);
	ck_assert_uint_eq(hist_quantile(&hist, 0.5), 0);
	/* the largest of all is counted as the one before it: min_plus_one has to hold it */
	ck_assert_uint_eq(hist_quantile(&hist, 1), UINT64_MAX - 1);
	ck_assert_uint_eq(hist_min(&hist), 0);
	ck_assert_uint_eq(hist_max(&hist), UINT64_MAX - 1);
}
END_TEST

static void *add_many(void *arg)
{
	for (uint64_t i = 0; i < N_VALUES; i++)
		hist_add(&hist, (uintptr_t)arg * N_VALUES + i);
	return NULL;
}

START_TEST(threads_lose_no_value)
{
	pthread_t threads[N_THREADS];

	for (uintptr_t i = 0; i < N_THREADS; i++)
		ck_assert(!pthread_create(&threads[i], NULL, add_many, (void *)i));
	for (size_t i = 0; i < N_THREADS; i++)
		ck_assert(!pthread_join(threads[i], NULL));
	ck_assert_uint_eq(hist_count(&hist), (uint64_t)N_THREADS * N_VALUES);
	ck_assert_uint_eq(hist_min(&hist), 0);
	ck_assert_uint_eq(hist_max(&hist), (uint64_t)N_THREADS * N_VALUES - 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("hist");
	TCase *tcase = tcase_create("hist");
	SRunner *runner = srunner_create(suite);
	int n_failed;

	tcase_add_checked_fixture(tcase, clear, NULL);
	tcase_add_test(tcase, quantiles_are_close_to_the_sorted_values);
	tcase_add_test(tcase, an_empty_one_is_all_zeroes);
	tcase_add_test(tcase, extremes_have_a_bucket);
	tcase_add_test(tcase, threads_lose_no_value);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
