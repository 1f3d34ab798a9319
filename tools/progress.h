/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A progress bar on a terminal: share done, bytes, rate and time left, drawn over itself at most
 * ten times a second. If stderr is no terminal nothing is ever written.
 */
#ifndef COW_TOOLS_PROGRESS_H
#define COW_TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	bool is_shown;
	uint64_t started_usec;
	uint64_t drawn_usec; /* 0: not yet */
	uint64_t done_bytes;
};

void progress_init(struct progress *progress);
void progress_update(struct progress *progress, uint64_t done_bytes, uint64_t total_bytes);
/** progress_finish() - take the bar away and, if @is_done, leave one line that sums up */
void progress_finish(struct progress *progress, bool is_done);

#endif
