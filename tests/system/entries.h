/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What tests of entries share: ways to have regions, and a limit of time that says who waits. */
#ifndef COW_TESTS_SYSTEM_ENTRIES_H
#define COW_TESTS_SYSTEM_ENTRIES_H

#include "system/proof.h"

/* A mode, and whether cowd lends a userfaultfd for it. */
struct way {
	uint32_t mode;
	bool lends;
	const char *name;
};

/** entries_n_ways() - for tcase_add_loop_test(): as many as this machine can do */
int entries_n_ways(void);
/** entries_way() - of a loop test's _i; starts a cowd that lends nothing if it is to be so */
struct way entries_way(int i);

/**
 * entries_run() - run @scenario in a process of its own, until it exits with status 0
 *
 * One that has not ended after a minute fails the test with what each of its threads waits for.
 */
void entries_run(const char *what, void (*scenario)(const struct way *way), const struct way *way);

/** entries_region() - a region of @way of a client of its own */
struct cow_region *entries_region(const struct way *way, uint64_t size_bytes);

#endif
