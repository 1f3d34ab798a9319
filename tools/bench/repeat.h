/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of cowbench repeat share: options and rounds (repeat.c), one turn of one mode
 * (repeat-turn.c), copies (repeat-copy.c), the client that works (repeat-worker.c), what is printed
 * (repeat-report.c).
 *
 * A turn runs in a process of its own, and adds what it measures to memory that it shares with the
 * process of the command. In it the main thread takes, and releases; the workers read and write.
 */
#ifndef COW_TOOLS_BENCH_REPEAT_H
#define COW_TOOLS_BENCH_REPEAT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "libclient/cowclient.h"
#include "tools/bench/child.h"
#include "tools/bench/waits.h"

#define MSEC        ((uint64_t)1000000)
#define THREADS_MAX 64
#define HOLD_MAX    16

/* scoot first: a daemon that is not there is found out before a minute of fork(). */
enum repeat_mode {
	REPEAT_SCOOT,
	REPEAT_FORK,
	REPEAT_UFFD,
	REPEAT_MMAPCOPY,
	N_REPEAT_MODES,
};

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

enum spread {
	SPREAD_RANDOM,     /* pages all over, others each time */
	SPREAD_HOT,        /* pages all over, the same ones each time */
	SPREAD_SEQUENTIAL, /* one run of pages, the next run each time */
	N_SPREADS,
};

/* CPU time of all takes that count, in nanoseconds. */
struct repeat_cpu {
	uint64_t take_nsec;     /* of the thread that takes and releases */
	uint64_t library_nsec;  /* of the library's thread */
	uint64_t cowd_nsec;     /* of a private cowd */
	uint64_t children_nsec; /* of the children of fork(), which do nothing but end */
};

/**
 * struct figures - what was measured of one mode, in all turns; shared by the turns' processes
 * @before_rate, @rate: sums, of operations in a nanosecond
 * @dip:                sums, of ratios to the time before
 * @n_settled:          pages
 * @written_bytes:      that the workers wrote for the first time after a take, with --period
 * @measured_nsec:      from the first take that counts to the end of its turn, of all turns
 * @stalls:             of each take that counts
 */
struct figures {
	uint64_t first_stall_nsec, last_stall_nsec;
	uint64_t worst_nsec[N_PHASES];
	double before_rate;
	double rate[N_WINDOWS];
	double dip[N_WINDOWS];
	struct cow_snapshot_cost cost; /* sums; of scoot */
	uint64_t settle_cpu_nsec;
	uint64_t n_settled;
	uint64_t extra_bytes;
	uint64_t written_bytes;
	uint64_t measured_nsec;
	struct repeat_cpu cpu;
	struct waits waits;
	double copy_usec; /* to memcpy() one page; of fork */

	struct bench_child child; /* of the last turn */
	size_t n_stalls;
	uint64_t stalls[];
};

/* A frozen copy: a snapshot, a child of fork(), or a region that was copied into. */
struct copy {
	struct cow_snapshot *snap;
	struct cow_region *region;
	pid_t child;
};

/**
 * struct repeat - what was asked for, and one turn
 * @n_held:      the newest so many copies are held; the one before them until the take is over
 * @period_nsec: from take to take; 0: see run_slowly() in repeat-turn.c
 * @left_out:    why a mode is not measured; "" if it is
 * @copies:      that are alive, oldest first
 * @round:       a take begins the next; what workers write depends on it, with --period
 */
struct repeat {
	uint64_t size_bytes;
	uint64_t percent;
	uint64_t n_snapshots;
	uint64_t n_threads;
	uint64_t n_held;
	uint64_t period_nsec;
	enum spread spread;
	bool is_json;
	bool stops_threads;
	const char *socket;
	struct figures *figures[N_REPEAT_MODES];
	char left_out[N_REPEAT_MODES][512];

	/* in the process of a turn */
	enum repeat_mode mode;
	struct figures *now;
	char *base;
	uint64_t stride; /* of pages that are written one after the other */
	struct cow_client *client;
	struct cow_region *region; /* NULL: fork */
	struct copy copies[HOLD_MAX + 1];
	size_t n_copies;
	_Atomic int phase;
	atomic_bool is_over;
	atomic_bool is_counted; /* waits are counted from now on */
	_Atomic uint64_t round;
	_Atomic uint64_t round_nsec; /* when it began */
};

extern const char *const repeat_mode_names[N_REPEAT_MODES];
extern const char *const repeat_spread_names[N_SPREADS];

/* --- repeat-turn.c -------------------------------------------------------------------------- */

/** repeat_turn() - in a process of its own, @n takes that count. 0 or -errno with a sentence */
int repeat_turn(struct repeat *repeat, enum repeat_mode mode, uint64_t n);

/* --- repeat-copy.c -------------------------------------------------------------------------- */

/**
 * repeat_open() - memory of repeat->mode. 0 or -errno with a sentence; repeat_close() in any
 * case
 */
int repeat_open(struct repeat *repeat);
void repeat_close(struct repeat *repeat);
/** repeat_prepare() - what the next take needs and is no part of it. 0 or -errno */
int repeat_prepare(struct repeat *repeat);
/** repeat_take() - a copy more. 0 or -errno with a sentence */
int repeat_take(struct repeat *repeat);
/** repeat_drop() - the oldest copies, until @n are left */
void repeat_drop(struct repeat *repeat, size_t n);
/** repeat_held() - bytes that memory and copies hold, wherever. 0 or -errno with a sentence */
int repeat_held(struct repeat *repeat, uint64_t *n_bytes);

/* --- repeat-worker.c ------------------------------------------------------------------------ */

struct worker {
	struct repeat *repeat;
	pthread_t thread;
	uint64_t idx;
	uint64_t seed;
	_Atomic uint64_t n_ops;
	uint64_t worst_nsec[N_PHASES];
	struct waits waits;
	uint64_t n_fresh; /* pages written that were not yet since the take; of those that count */

	/* with --period */
	uint64_t round;
	uint64_t next; /* the next of the round's pages that is this worker's */
	uint64_t last; /* the page that was written last */
};

/** repeat_page() - the @i-th page that is written in round @round, of repeat_n_dirty() */
uint64_t repeat_page(const struct repeat *repeat, uint64_t round, uint64_t i);
uint64_t repeat_n_dirty(const struct repeat *repeat);
/** repeat_work() - thread of a worker */
void *repeat_work(void *worker);
uint64_t repeat_random(uint64_t *seed);

/** bench_repeat_report() - print what was measured. 0 or -errno with a sentence */
int bench_repeat_report(struct repeat *repeat);

#endif
