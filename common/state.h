/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lifecycles: the states that an object can be in, and which may follow which.
 *
 * Each lifecycle is an enum and one table of this kind beside it; one function changes the state of
 * an object, and ends the process rather than make a change that the table does not have. Any thread.
 */
#ifndef COW_STATE_H
#define COW_STATE_H

#include <stdbool.h>
#include <stdint.h>

/**
 * struct state_table
 * @what:  the object, as sentences call it
 * @names: of the states
 * @next:  of each state: a bit for each state that may follow
 * @n:     how many states there are, at most 32
 */
struct state_table {
	const char *what;
	const char *const *names;
	const uint32_t *next;
	unsigned int n;
};

#define STATE_BIT(state) (UINT32_C(1) << (state))

const char *state_name(const struct state_table *table, unsigned int state);
/** state_may_follow() - whether an object may go from @from to @to */
bool state_may_follow(const struct state_table *table, unsigned int from, unsigned int to);

#endif
