/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parts of manual-oracle.c, which says what they are for. Ownership of threads: the test's main
 * thread owns everything here; the threads of the company (manual-oracle-company.c) touch only
 * their own jobs, the bytes that those name, and snapshots that nobody ends meanwhile. Any of them,
 * and any child, may complain: the main thread fails the test after the step.
 */
#ifndef TESTS_MANUAL_ORACLE_H
#define TESTS_MANUAL_ORACLE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "system/proof.h"

enum {
	N_AREAS = 4,
	N_HELD = 8,
	N_CHILDREN = 2,
	N_OUTSIDE = 2,
	N_WORKERS = 3,
	N_JOBS = 256,
	N_LINES = 64, /* steps that are remembered */
	MAX_BYTES = 10 << 20,
};

/* What a snapshot has to read as; shared by its handles. */
struct shadow {
	unsigned int n_refs;
	unsigned int area; /* the serial of the region */
	size_t n_bytes;
	uint8_t bytes[];
};

/* A region and what it has to read as. */
struct area {
	struct cow_region *region; /* NULL: the slot is free */
	unsigned int serial;       /* in the log */
	uint32_t flags;
	uint8_t *mem, *shadow;
	size_t n_bytes;
	bool is_adopted;
	bool has_parts; /* cow_mmapcopy() mapped into it, so that it may be too many parts */
};

/* A handle of a snapshot. */
struct held {
	struct cow_snapshot *snap; /* NULL: the slot is free */
	unsigned int serial;
	struct area *area; /* that it was taken of, with this handle; else NULL */
	struct shadow *shadow;
	const uint8_t *view;
	uint64_t id;
	bool may_be_lost; /* cowd ended since, or a limit may have been met */
	bool is_lost;     /* it was said to be: for good */
};

/* A process that was forked, and checks and writes what it has when it is told to. */
struct child {
	pid_t pid; /* 0: the slot is free */
	int fd;
};

/* A snapshot that the other process has opened. */
struct outside {
	struct shadow *shadow; /* NULL: the slot is free */
	bool may_be_lost;
};

/* One write by a thread of the company, and the tickets drawn before and after it. */
struct job {
	size_t off;
	uint8_t was, value;
	uint64_t began, ended;
};

struct oracle;

struct worker {
	pthread_t thread;
	struct oracle *oracle;
	size_t n_jobs;
	struct held *reads; /* what it checks instead; or NULL */
	uint8_t *mem;
	struct job jobs[N_JOBS];
};

/* Seen by children too. */
struct common {
	atomic_bool is_wrong;
	char text[512]; /* the first complaint */
	unsigned int n_steps;
	char lines[N_LINES][200];
	uint8_t bytes[MAX_BYTES]; /* what the other process has read */
};

struct oracle {
	uint32_t mode;
	bool lends, has_signals, may_stop_threads;
	uint64_t random;
	size_t page;
	unsigned int n_serials, n_again;
	struct common *common;
	struct cow_client *client, *second;
	bool is_unsure; /* cowd ended, and no answer of the next one has been seen yet */
	struct area areas[N_AREAS];
	struct held held[N_HELD];
	struct child children[N_CHILDREN];
	struct outside outside[N_OUTSIDE];
	pid_t reader;
	int reader_fd;
	int source_fd; /* a file to read(2) into regions from */
	unsigned int n_workers;
	struct worker workers[N_WORKERS];
	pthread_barrier_t starts, ends;
	bool company_ends;
	_Atomic uint64_t ticket;
};

/* --- manual-oracle-model.c: choices, words, checks -----------------------------------------------
 */

uint64_t oracle_random(struct oracle *oracle);
/** oracle_below() - less than @n, which is not 0 */
size_t oracle_below(struct oracle *oracle, size_t n);
/** oracle_one_in() - true once in @n times */
bool oracle_one_in(struct oracle *oracle, size_t n);
/** oracle_note() - add to the line of this step */
void oracle_note(struct oracle *oracle, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/** oracle_complain() - the test fails when this step is done; the first complaint counts */
void oracle_complain(struct oracle *oracle, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/** oracle_fill() - write @n_bytes of what @seed decides */
void oracle_fill(uint8_t *at, size_t n_bytes, uint64_t seed);
/** oracle_touch() - call @touch; false when it ended by SIGBUS or SIGSEGV. Any thread. */
bool oracle_touch(void (*touch)(void *user), void *user);
void oracle_catch_touches(void);

/** oracle_compare() - complain unless @has is @want; @what: for the sentence. Return: whether it is
 */
bool oracle_compare(struct oracle *oracle, const char *what, unsigned int serial,
		    const uint8_t *has, const uint8_t *want, size_t n_bytes);
void oracle_check_area(struct oracle *oracle, const struct area *area);
/** oracle_check_held() - read [@off, @off + @len) of it; any thread */
void oracle_check_held(struct oracle *oracle, struct held *held, size_t off, size_t len);
/** oracle_check_view() - all of its view, which there has to be; any thread */
void oracle_check_view(struct oracle *oracle, struct held *held);
/** oracle_may_fail() - complain unless a call on @held may give error @r. Return: whether it may */
bool oracle_may_fail(struct oracle *oracle, struct held *held, int r);

struct shadow *shadow_new(const struct area *area); /* as it is now */
struct shadow *shadow_unref(struct shadow *shadow);

struct area *oracle_area(struct oracle *oracle);      /* any; NULL: there is none */
struct area *oracle_free_area(struct oracle *oracle); /* NULL: all are used */
struct held *oracle_held(struct oracle *oracle);
struct held *oracle_free_held(struct oracle *oracle);
/** oracle_held_new() - take @snap into @held */
void oracle_held_new(struct oracle *oracle, struct held *held, struct cow_snapshot *snap,
		     struct area *area, struct shadow *shadow);
void oracle_release(struct oracle *oracle, struct held *held);

/* --- manual-oracle-steps.c, -cowd.c: steps that a table names --------------------------------- */

typedef void oracle_step(struct oracle *oracle);
oracle_step step_write, step_read, step_save, step_map, step_open, step_release, step_roll_back,
	step_discard, step_copy, step_advise, step_new, step_free, step_adopt, step_take_quietly;
oracle_step step_kill, step_beat;

/** oracle_take() - a snapshot of @area into @snap, again until cowd has it if need be; false: none
 */
bool oracle_take(struct oracle *oracle, struct area *area, struct cow_snapshot **snap,
		 bool *may_be_lost);
/** oracle_area_end() - release what was taken of it if it was adopted, and end it */
void oracle_area_end(struct oracle *oracle, struct area *area);
void heart_start(struct oracle *oracle);
void heart_stop(struct oracle *oracle);

/* --- manual-oracle-company.c: threads that write and read meanwhile --------------------------- */

void company_start(struct oracle *oracle);
void company_stop(struct oracle *oracle);
oracle_step step_take, step_write_together;
/** company_begin() - let the threads write to @area, or check snapshots but @spared */
void company_begin(struct oracle *oracle, struct area *area, const struct held *spared);
/** company_finish() - wait for them; their writes are in the area's shadow */
void company_finish(struct oracle *oracle, struct area *area);

/* --- manual-oracle-children.c: other processes ------------------------------------------------ */

void reader_start(struct oracle *oracle); /* before there is a client */
void reader_stop(struct oracle *oracle);
void children_stop(struct oracle *oracle);
oracle_step step_fork, step_ask_child, step_end_child, step_ask_reader;

/* --- what cowd is started with */
const char *oracle_config(const struct oracle *oracle);

#endif
