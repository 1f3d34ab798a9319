/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The figures that cowbench repeat measures (repeat.c) and shows (repeat-report.c). */
#ifndef COW_TOOLS_BENCH_REPEAT_H
#define COW_TOOLS_BENCH_REPEAT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "libclient/cowclient.h"
#include "tools/samples.h"

enum phase {
	PHASE_QUIET,
	PHASE_TAKE,
	PHASE_LIVE,
	PHASE_SETTLE,
	N_PHASES,
};

enum window {
	WINDOW_10_MS,
	WINDOW_100_MS,
	WINDOW_1_S,
	N_WINDOWS,
};

struct figures {
	struct samples stall;
	uint64_t first_stall_nsec, last_stall_nsec;
	uint64_t worst_nsec[N_PHASES];
	double before_rate; /* sums, of operations in a nanosecond */
	double rate[N_WINDOWS];
	double dip[N_WINDOWS];         /* sums, of ratios to the time before */
	struct cow_snapshot_cost cost; /* sums; of scoot */
	uint64_t settle_cpu_nsec;
	uint64_t n_settled; /* pages */
	uint64_t extra_bytes;
};

/* A frozen copy: a snapshot of scoot, or a child of fork(). */
struct copy {
	struct cow_snapshot *snap;
	pid_t child;
	int child_fd; /* closing it ends the child */
};

/**
 * @is_held: each copy is held until the next one is taken
 * @copy:    the one that is being looked at
 * @held:    the one before, until this one was taken
 */
struct repeat {
	uint64_t size_bytes;
	uint64_t percent;
	uint64_t n_snapshots;
	uint64_t n_threads;
	bool is_json;
	bool stops_threads;
	bool is_held;
	const char *socket;
	struct figures figures[2]; /* scoot, fork */
	double copy_usec;          /* to memcpy() one page */

	/* of the mode that is being measured */
	char *base;
	struct cow_client *client;
	struct cow_region *region; /* NULL: fork */
	struct copy copy;
	struct copy held;
	_Atomic int phase;
	atomic_bool is_over;
};

/** bench_repeat_report() - print what was measured. 0 or -errno with a sentence */
int bench_repeat_report(struct repeat *repeat);

#endif
