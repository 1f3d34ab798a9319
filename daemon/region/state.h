/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lifecycles: the states that an object can be in, and which may follow which.
 *
 * Each lifecycle is an enum that begins with 0, the state of a new object, and one table of this
 * kind beside it; one function changes the state of an object, and checks that by state_check().
 * A change that the table does not have is a fault of cowd, never of a client: going on would put
 * memory of programs at risk, so cowd ends there, with a sentence. Any thread.
 */
#ifndef COWD_STATE_H
#define COWD_STATE_H

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
/** state_check() - object @id goes from @from to @to; does not return if it may not */
void state_check(const struct state_table *table, uint64_t id, unsigned int from, unsigned int to);

#endif
