// SPDX-License-Identifier: LGPL-2.1-or-later
/* Sentences: one per thread, kept with its number, of any length. */
#include "config.h"

#include <check.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>

#include "common/err.h"

START_TEST(the_number_comes_back_and_errno_stays)
{
	errno = EXDEV;
	ck_assert_int_eq(err_raise(-ENOSPC, "%d of %s", 3, "four"), -ENOSPC);
	ck_assert_str_eq(err_sentence(), "3 of four");
	ck_assert_int_eq(errno, EXDEV);
}
END_TEST

START_TEST(errno_is_explained)
{
	errno = EACCES;
	ck_assert_int_eq(err_raise_errno("cannot open %s", "it"), -EACCES);
	ck_assert_str_eq(err_sentence(), "cannot open it: Permission denied");
	ck_assert_int_eq(errno, EACCES);
	errno = 123456;
	ck_assert_int_eq(err_raise_errno("odd"), -123456);
	ck_assert_str_eq(err_sentence(), "odd: unknown error");
	/* a call that failed without saying why is a failure all the same */
	errno = 0;
	ck_assert_int_lt(err_raise_errno("nothing"), 0);
}
END_TEST

/* A sanitizer maps memory of its own, as much as it likes. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define CAN_LIMIT_DATA false
#else
#define CAN_LIMIT_DATA true
#endif

/* Broken by leaving append_limits() out. */
START_TEST(a_limit_that_was_met_is_named)
{
	const struct rlimit few = {.rlim_cur = 64, .rlim_max = 64};
	const struct rlimit small = {.rlim_cur = 3 << 20, .rlim_max = 3 << 20};

	errno = ENOMEM;
	ck_assert_int_eq(err_raise_errno("no memory"), -ENOMEM);
	ck_assert_ptr_nonnull(strstr(err_sentence(), "vm.overcommit_memory"));
	ck_assert(!setrlimit(RLIMIT_NOFILE, &few));
	ck_assert(!setrlimit(RLIMIT_FSIZE, &small));
	if (CAN_LIMIT_DATA)
		ck_assert(!setrlimit(RLIMIT_DATA, &small));
	errno = EMFILE;
	ck_assert_int_eq(err_raise_errno("no descriptor"), -EMFILE);
	ck_assert_ptr_nonnull(strstr(err_sentence(), "test-err may have 64 descriptors (ulimit -n, "
						     "LimitNOFILE= of a service)"));
	errno = EFBIG;
	ck_assert_int_eq(err_raise_errno("no memfd"), -EFBIG);
	ck_assert_ptr_nonnull(strstr(err_sentence(), "3.0 MiB in one file or memfd (ulimit -f)"));
	ck_assert_int_eq(err_oom(7, "a thing"), -ENOMEM);
	ck_assert_ptr_nonnull(strstr(err_sentence(), "7 bytes for a thing"));
	if (CAN_LIMIT_DATA) {
		ck_assert_ptr_nonnull(strstr(err_sentence(), "3.0 MiB of data (ulimit -d)"));
		ck_assert_ptr_null(strstr(err_sentence(), "overcommit"));
	}
	/* what has no such limit has no such end */
	errno = EACCES;
	ck_assert_int_eq(err_raise_errno("no entry"), -EACCES);
	ck_assert_str_eq(err_sentence(), "no entry: Permission denied");
}
END_TEST

/* Callers put what was wrong before into what they say. */
START_TEST(a_sentence_can_hold_the_last_one)
{
	(void)err_raise(-EIO, "the disk is full");
	(void)err_raise(-EIO, "cannot save: %s", err_sentence());
	ck_assert_str_eq(err_sentence(), "cannot save: the disk is full");
	errno = EIO;
	(void)err_raise_errno("again, %s", err_sentence());
	ck_assert_str_eq(err_sentence(),
			 "again, cannot save: the disk is full: Input/output error");
}
END_TEST

START_TEST(a_long_sentence_is_cut)
{
	char text[4096];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	(void)err_raise(-EIO, "%s", text);
	ck_assert_uint_lt(strlen(err_sentence()), sizeof(text) - 1);
	ck_assert_uint_gt(strlen(err_sentence()), 100);
	errno = EIO;
	(void)err_raise_errno("%s", text);
	ck_assert_uint_lt(strlen(err_sentence()), sizeof(text) - 1);
}
END_TEST

static void *raise_other(void *arg)
{
	(void)arg;
	ck_assert_str_eq(err_sentence(), "");
	(void)err_raise(-EIO, "other");
	return NULL;
}

START_TEST(threads_have_their_own)
{
	pthread_t thread;

	(void)err_raise(-EIO, "mine");
	ck_assert(!pthread_create(&thread, NULL, raise_other, NULL));
	ck_assert(!pthread_join(thread, NULL));
	ck_assert_str_eq(err_sentence(), "mine");
}
END_TEST

START_TEST(out_of_memory_names_what_for)
{
	ck_assert_int_eq(err_oom(4096, "a page"), -ENOMEM);
	ck_assert_ptr_nonnull(strstr(err_sentence(), "4096 bytes for a page"));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("err");
	TCase *tcase = tcase_create("err");
	SRunner *runner = srunner_create(suite);
	int n_failed;

	tcase_add_test(tcase, the_number_comes_back_and_errno_stays);
	tcase_add_test(tcase, errno_is_explained);
	tcase_add_test(tcase, a_limit_that_was_met_is_named);
	tcase_add_test(tcase, a_sentence_can_hold_the_last_one);
	tcase_add_test(tcase, a_long_sentence_is_cut);
	tcase_add_test(tcase, threads_have_their_own);
	tcase_add_test(tcase, out_of_memory_names_what_for);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
