/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Counters and latency histograms, added to by any thread without locks, read by the Stats call
 * (rpc/stats.c).
 */
#ifndef COWD_STATS_H
#define COWD_STATS_H

#include <stdatomic.h>
#include <stdint.h>

#include "common/hist.h"

/* name, help */
#define STATS_COUNTERS(X)                                                                          \
	X(connections, "connections accepted")                                                     \
	X(connections_refused, "connections refused: quota or a broken peer")                      \
	X(protocol_errors, "connections ended because the client broke the protocol")              \
	X(requests, "requests served")                                                             \
	X(faults, "page faults read from userfaultfds")                                            \
	X(pages_kept, "pages kept because a client was about to change them")                      \
	X(snapshots_taken, "snapshots taken")                                                      \
	X(snapshots_lost, "snapshots that became lost")                                            \
	X(saves, "saves finished")                                                                 \
	X(saves_failed, "saves that failed or were cancelled")                                     \
	X(saved_bytes, "bytes written by saves")                                                   \
	X(read_bytes, "bytes of snapshots read by clients")                                        \
	X(view_pages, "pages filled in views")

#define STATS_HISTOGRAMS(X)                                                                        \
	X(fault_latency, "ns",                                                                     \
	  "from reading a fault to waking its thread; of a burst one in eight is measured")        \
	X(arm_latency, "ns", "to write-protect a region")                                          \
	X(request_latency, "ns", "from receiving a request to sending its reply")

struct stats {
#define X(name, help) _Atomic uint64_t name;
	STATS_COUNTERS(X)
#undef X
#define X(name, unit, help) struct hist name;
	STATS_HISTOGRAMS(X)
#undef X
};

/** stats_init() - zeroes, in memory that is there: no first fault waits for a page of it */
void stats_init(struct stats *stats);

#define stats_add(stats, counter, n)                                                               \
	atomic_fetch_add_explicit(&(stats)->counter, (n), memory_order_relaxed)

#endif
