// SPDX-License-Identifier: GPL-2.0-or-later
// Counters and latency histograms; see stats.h.
#include "config.h"

#include "daemon/base/stats.h"

#include <string.h>

void stats_init(struct stats *stats)
{
	memset((void *)stats, 0, sizeof(*stats));
}
