/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One half of a mode's turn in `cowbench compare`, in a process of its own: no memory, thread or
 * page table of an earlier one is left when the clock starts, whatever a library tidies up in the
 * background.
 */
#ifndef COW_TOOLS_BENCH_TURN_H
#define COW_TOOLS_BENCH_TURN_H

#include "tools/bench/bench.h"
#include "tools/bench/child.h"

enum turn_kind {
	TURN_TRY,     /* only open and close: is there such memory at all? */
	TURN_TOUCH,   /* freeze, then time single reads and writes */
	TURN_REWRITE, /* freeze, then rewrite everything */
};

/**
 * struct turn - what to do and what was measured; memory that the process shares with its child
 * @is_warm:     not the first snapshot is measured but the second
 * @list:        n_touches different page numbers below half of the pages
 * @reads, @writes: n_touches latencies in nanoseconds, of TURN_TOUCH
 * @rewrite_nsec, @extra_bytes: of TURN_REWRITE
 * @stall_nsec:  of both
 */
struct turn {
	const struct bench_mode *mode;
	const char *address;
	uint64_t size_bytes;
	bool is_warm;
	enum turn_kind kind;
	size_t n_touches;
	uint64_t *list;
	uint64_t *reads;
	uint64_t *writes;

	uint64_t stall_nsec;
	uint64_t rewrite_nsec;
	uint64_t extra_bytes;

	struct bench_child child;
};

/** turn_new() - 0 or -errno with a sentence */
int turn_new(struct turn **turn, size_t n_touches);
struct turn *turn_free(struct turn *turn);

/** turn_run() - returns when all that it used is free again. 0 or -errno with a sentence */
int turn_run(struct turn *turn);

#endif
