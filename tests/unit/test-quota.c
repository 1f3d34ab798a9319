// SPDX-License-Identifier: GPL-2.0-or-later
// Accounts: nothing beyond the limit, and everything given back exactly once.
#include "config.h"

#include <check.h>
#include <pthread.h>
#include <string.h>

#include "common/err.h"
#include "daemon/base/quota.h"

static struct quota *quota;
static struct quota_user *user;

static void setup(void)
{
	ck_assert_int_eq(quota_new(&quota), 0);
	ck_assert_int_eq(quota_user_get(&user, quota, 1000), 0);
}

static void teardown(void)
{
	user = quota_user_unref(user);
	quota = quota_free(quota);
}

START_TEST(beyond_the_limit_nothing_is_charged)
{
	struct charge a = {0}, b = {0};

	quota_set_limit(quota, QUOTA_REGIONS, 2);
	ck_assert_int_eq(quota_charge(&a, user, QUOTA_REGIONS, 2), 0);
	ck_assert_int_eq(quota_charge(&b, user, QUOTA_REGIONS, 1), QUOTA_E_EXCEEDED);
	ck_assert_ptr_null(b.user);
	ck_assert_uint_eq(quota_user_held(user, QUOTA_REGIONS), 2);
	charge_deinit(&b);
	ck_assert_uint_eq(quota_user_held(user, QUOTA_REGIONS), 2);
	charge_deinit(&a);
	charge_deinit(&a); /* idempotent */
	ck_assert_uint_eq(quota_user_held(user, QUOTA_REGIONS), 0);
}
END_TEST

START_TEST(the_sentence_has_uid_figures_and_key)
{
	struct charge charge = {0};

	quota_set_limit(quota, QUOTA_KEPT_BYTES, UINT64_C(4) << 30);
	ck_assert_int_eq(quota_charge(&charge, user, QUOTA_KEPT_BYTES, UINT64_C(4) << 30), 0);
	ck_assert_int_eq(quota_charge_more(&charge, 4096), QUOTA_E_EXCEEDED);
	ck_assert_ptr_nonnull(
		strstr(err_sentence(), "uid 1000 holds 4.0 GiB of 4.0 GiB of kept pages"));
	ck_assert_ptr_nonnull(strstr(err_sentence(), "kept-bytes"));
	ck_assert_uint_eq(charge.amount, UINT64_C(4) << 30);
	charge_deinit(&charge);
}
END_TEST

START_TEST(huge_amounts_do_not_wrap_round)
{
	struct charge a = {0}, b = {0};

	quota_set_limit(quota, QUOTA_REGION_BYTES, 1000);
	ck_assert_int_eq(quota_charge(&a, user, QUOTA_REGION_BYTES, 10), 0);
	ck_assert_int_eq(quota_charge(&b, user, QUOTA_REGION_BYTES, UINT64_MAX), QUOTA_E_EXCEEDED);
	ck_assert_int_eq(quota_charge_more(&a, UINT64_MAX - 5), QUOTA_E_EXCEEDED);
	charge_deinit(&a);
}
END_TEST

START_TEST(a_lowered_limit_takes_nothing_away_and_gives_nothing_more)
{
	struct charge charge = {0};

	ck_assert_int_eq(quota_charge(&charge, user, QUOTA_FDS, 10), 0);
	quota_set_limit(quota, QUOTA_FDS, 5);
	ck_assert_int_eq(quota_charge_more(&charge, 1), QUOTA_E_EXCEEDED);
	quota_refund(&charge, 6);
	ck_assert_int_eq(quota_charge_more(&charge, 1), 0);
	ck_assert_uint_eq(quota_user_held(user, QUOTA_FDS), 5);
	charge_deinit(&charge);
}
END_TEST

START_TEST(uids_do_not_pay_for_each_other)
{
	CLEANUP(quota_user_unrefp) struct quota_user *other = NULL;
	CLEANUP(quota_user_unrefp) struct quota_user *again = NULL;
	struct charge a = {0}, b = {0};

	quota_set_limit(quota, QUOTA_SNAPSHOTS, 1);
	ck_assert_int_eq(quota_user_get(&other, quota, 1001), 0);
	ck_assert_int_eq(quota_user_get(&again, quota, 1000), 0);
	ck_assert_ptr_eq(again, user);
	ck_assert_int_eq(quota_charge(&a, user, QUOTA_SNAPSHOTS, 1), 0);
	ck_assert_int_eq(quota_charge(&b, again, QUOTA_SNAPSHOTS, 1), QUOTA_E_EXCEEDED);
	ck_assert_int_eq(quota_charge(&b, other, QUOTA_SNAPSHOTS, 1), 0);
	ck_assert_uint_eq(quota_total(quota, QUOTA_SNAPSHOTS), 2);
	charge_deinit(&a);
	charge_deinit(&b);
}
END_TEST

START_TEST(a_charge_keeps_the_account_alive)
{
	struct charge charge = {0};

	ck_assert_int_eq(quota_charge(&charge, user, QUOTA_SNAPSHOTS, 1), 0);
	user = quota_user_unref(user);
	ck_assert_int_eq(quota_user_get(&user, quota, 1000), 0);
	ck_assert_uint_eq(quota_user_held(user, QUOTA_SNAPSHOTS), 1);
	charge_deinit(&charge);
}
END_TEST

struct sleeper {
	struct quota_waiter waiter;
	unsigned int n_woken;
};

static void count_wake(struct quota_waiter *waiter)
{
	container_of(waiter, struct sleeper, waiter)->n_woken++;
}

/* Broken by a refund that wakes nobody, and by a limit that is set and tells nobody. */
START_TEST(who_waits_is_woken_once_by_what_makes_room)
{
	struct sleeper a = {.waiter.wake = count_wake}, b = {.waiter.wake = count_wake};
	CLEANUP(quota_user_unrefp) struct quota_user *other = NULL;
	struct charge kept = {0}, fds = {0}, theirs = {0};

	ck_assert_int_eq(quota_user_get(&other, quota, 1001), 0);
	ck_assert_int_eq(quota_charge(&kept, user, QUOTA_KEPT_BYTES, 10), 0);
	ck_assert_int_eq(quota_charge(&fds, user, QUOTA_FDS, 10), 0);
	ck_assert_int_eq(quota_charge(&theirs, other, QUOTA_KEPT_BYTES, 10), 0);
	ck_assert(quota_wait(&a.waiter, user));
	ck_assert(!quota_wait(&a.waiter, user));
	ck_assert(quota_wait(&b.waiter, user));
	ck_assert(quota_has_waiters(user) && !quota_has_waiters(other));
	quota_refund(&fds, 5);
	quota_refund(&theirs, 5);
	quota_refund(&kept, 0);
	ck_assert_uint_eq(a.n_woken + b.n_woken, 0);
	quota_unwait(&b.waiter);
	quota_unwait(&b.waiter);
	quota_refund(&kept, 1);
	quota_refund(&kept, 1);
	ck_assert_uint_eq(a.n_woken, 1);
	ck_assert_uint_eq(b.n_woken, 0);
	ck_assert(!quota_has_waiters(user));
	ck_assert(quota_wait(&a.waiter, user));
	ck_assert(quota_wait(&b.waiter, other));
	quota_set_limit(quota, QUOTA_KEPT_BYTES, 100);
	ck_assert_uint_eq(a.n_woken, 2);
	ck_assert_uint_eq(b.n_woken, 1);
	charge_deinit(&kept);
	charge_deinit(&fds);
	charge_deinit(&theirs);
	ck_assert_uint_eq(a.n_woken, 2);
}
END_TEST

#define N_THREADS 4
#define N_ROUNDS  100000

static void *charge_and_refund(void *arg)
{
	unsigned int *n_refused = arg;

	for (int i = 0; i < N_ROUNDS; i++) {
		struct charge charge = {0};

		if (quota_charge(&charge, user, QUOTA_KEPT_BYTES, 3)) {
			++*n_refused;
			continue;
		}
		/* Never above the limit, at any time: broken by a check that is not part of the
		 * swap. */
		ck_assert_uint_le(quota_user_held(user, QUOTA_KEPT_BYTES), 3);
		charge_deinit(&charge);
	}
	return NULL;
}

START_TEST(threads_never_pass_the_limit_together)
{
	unsigned int n_refused[N_THREADS] = {0};
	pthread_t threads[N_THREADS];

	quota_set_limit(quota, QUOTA_KEPT_BYTES, 3);
	for (int i = 0; i < N_THREADS; i++)
		ck_assert_int_eq(
			pthread_create(&threads[i], NULL, charge_and_refund, &n_refused[i]), 0);
	for (int i = 0; i < N_THREADS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(quota_user_held(user, QUOTA_KEPT_BYTES), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("quota");
	TCase *tcase = tcase_create("quota");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, beyond_the_limit_nothing_is_charged);
	tcase_add_test(tcase, the_sentence_has_uid_figures_and_key);
	tcase_add_test(tcase, huge_amounts_do_not_wrap_round);
	tcase_add_test(tcase, a_lowered_limit_takes_nothing_away_and_gives_nothing_more);
	tcase_add_test(tcase, uids_do_not_pay_for_each_other);
	tcase_add_test(tcase, a_charge_keeps_the_account_alive);
	tcase_add_test(tcase, threads_never_pass_the_limit_together);
	tcase_add_test(tcase, who_waits_is_woken_once_by_what_makes_room);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
