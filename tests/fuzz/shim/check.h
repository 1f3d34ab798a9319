/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The few words of libcheck that tests/unit/frame.c uses, for programs that are no run of
 * libcheck's: what is not as it has to be aborts.
 */
#ifndef TESTS_FUZZ_SHIM_CHECK_H
#define TESTS_FUZZ_SHIM_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define ck_assert(condition)                                                                       \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			(void)printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);               \
			(void)fflush(stdout);                                                      \
			abort();                                                                   \
		}                                                                                  \
	} while (0)
#define ck_assert_msg(condition, ...) ck_assert(condition)
#define ck_assert_int_eq(a, b)        ck_assert((a) == (b))
#define ck_assert_int_ge(a, b)        ck_assert((a) >= (b))
#define ck_assert_int_lt(a, b)        ck_assert((a) < (b))
#define ck_assert_uint_eq(a, b)       ck_assert((a) == (b))
#define ck_assert_uint_ne(a, b)       ck_assert((a) != (b))
#define ck_assert_uint_le(a, b)       ck_assert((a) <= (b))
#define ck_assert_ptr_nonnull(p)      ck_assert((p) != NULL)

#endif
