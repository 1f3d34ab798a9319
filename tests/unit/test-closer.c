// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * daemon/closer.c: whatever was given is closed, each uid's in order, and what was charged for it
 * is given back. That one who hangs hinders nobody else is tests/system/hostile.c's.
 */
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/err.h"
#include "daemon/closer.h"

enum {
	N_GIVERS = 4,
	N_EACH = 200,
	N_USERS = 2,
};

struct giver {
	pthread_t thread;
	struct closer *closer;
	struct quota_user *user;
	int read_fds[N_EACH];
};

static void *give(void *arg)
{
	struct giver *giver = arg;

	for (size_t i = 0; i < N_EACH; i++) {
		struct charge charge = {.user = NULL};
		int fds[2];

		ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
		giver->read_fds[i] = fds[0];
		ck_assert_int_eq(quota_charge(&charge, giver->user, QUOTA_FDS, 1), 0);
		closer_give(giver->closer, giver->user, &fds[1], 1, &charge, 1);
		ck_assert_int_eq(fds[1], -1);
		ck_assert_ptr_null(charge.user);
	}
	return NULL;
}

/* Seen to fail: with take() that leaves closer->last at what it took (never ends). */
START_TEST(all_is_closed_and_given_back)
{
	struct giver *givers = calloc(N_GIVERS, sizeof(*givers));
	struct quota_user *users[N_USERS];
	struct closer *closer = NULL;
	struct quota *quota = NULL;
	char byte;

	ck_assert_int_eq(quota_new(&quota), 0);
	ck_assert_int_eq(closer_new(&closer), 0);
	for (uid_t i = 0; i < N_USERS; i++)
		ck_assert_int_eq(quota_user_get(&users[i], quota, 1000 + i), 0);
	for (size_t i = 0; i < N_GIVERS; i++) {
		givers[i].closer = closer;
		givers[i].user = users[i % N_USERS];
		ck_assert_int_eq(pthread_create(&givers[i].thread, NULL, give, &givers[i]), 0);
	}
	for (size_t i = 0; i < N_GIVERS; i++) {
		ck_assert_int_eq(pthread_join(givers[i].thread, NULL), 0);
		for (size_t k = 0; k < N_EACH; k++) {
			/* The end of a pipe that nobody has open for writing; it is waited for. */
			ck_assert_int_eq(read(givers[i].read_fds[k], &byte, 1), 0);
			fd_close(givers[i].read_fds[k]);
		}
	}
	ck_assert_ptr_null(closer_free(closer));
	for (uid_t i = 0; i < N_USERS; i++) {
		ck_assert_uint_eq(quota_user_held(users[i], QUOTA_FDS), 0);
		quota_user_unref(users[i]);
	}
	quota_free(quota);
	free(givers);
}
END_TEST

/* Without threads, before they are there and when there is no memory, it is done at once. */
START_TEST(without_threads_it_is_closed_at_once)
{
	int fds[2];

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	closer_give(NULL, NULL, fds, 2, NULL, 0);
	ck_assert_int_eq(fds[0], -1);
	ck_assert_int_eq(fds[1], -1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("closer");
	TCase *tcase = tcase_create("closer");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tcase, all_is_closed_and_given_back);
	tcase_add_test(tcase, without_threads_it_is_closed_at_once);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
