/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests that cannot be made here. libcheck counts a test that returns as passed, so one that has
 * not tested anything says so in a line of its own, which ./check counts and lists. A program all
 * of whose tests cannot be made ends with 77 instead.
 */
#ifndef COW_TESTS_SKIP_H
#define COW_TESTS_SKIP_H

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/**
 * test_skip() - in a test, which it ends: it could not be made, because of the sentence
 *
 * dprintf(3), because a test's process may end without its buffers being written.
 */
#define test_skip(...)                                                                             \
	do {                                                                                       \
		(void)dprintf(STDOUT_FILENO, "SKIPPED %.*s: ", (int)strlen(__func__) - 3,          \
			      __func__); /* less the _fn of START_TEST() */                        \
		(void)dprintf(STDOUT_FILENO, __VA_ARGS__);                                         \
		(void)dprintf(STDOUT_FILENO, "\n");                                                \
		return;                                                                            \
	} while (0)

/** tests_left_out() - in main(): tests that the runner does not get, because of the sentence */
#define tests_left_out(...)                                                                        \
	do {                                                                                       \
		(void)dprintf(STDOUT_FILENO, "LEFT OUT ");                                         \
		(void)dprintf(STDOUT_FILENO, __VA_ARGS__);                                         \
		(void)dprintf(STDOUT_FILENO, "\n");                                                \
	} while (0)

#endif
