// SPDX-License-Identifier: GPL-2.0-or-later
/* Changes of state; see state.h. */
#include "config.h"

#include "daemon/region/state.h"

#include <stdlib.h>

#include "daemon/process/log.h"

void state_check(const struct state_table *table, uint64_t id, unsigned int from, unsigned int to)
{
	if (state_may_follow(table, from, to))
		return;
	log_error("fault of cowd: %s %llu is %s and was to be %s", table->what,
		  (unsigned long long)id, state_name(table, from), state_name(table, to));
	abort();
}
