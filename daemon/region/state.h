/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changes of state in cowd. One that its table (common/state.h) does not have is a fault of cowd,
 * never of a client: going on would put memory of programs at risk, so cowd ends there, with a
 * sentence. The first state of each lifecycle, 0, is that of a new object. Any thread.
 */
#ifndef COWD_STATE_H
#define COWD_STATE_H

#include "common/state.h"

/** state_check() - object @id goes from @from to @to; does not return if it may not */
void state_check(const struct state_table *table, uint64_t id, unsigned int from, unsigned int to);

#endif
