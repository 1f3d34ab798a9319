// SPDX-License-Identifier: LGPL-2.1-or-later
/* Lifecycles; see state.h. */
#include "config.h"

#include "common/state.h"

const char *state_name(const struct state_table *table, unsigned int state)
{
	return state < table->n ? table->names[state] : "in no state that there is";
}

bool state_may_follow(const struct state_table *table, unsigned int from, unsigned int to)
{
	return from < table->n && to < table->n && table->next[from] & STATE_BIT(to);
}
