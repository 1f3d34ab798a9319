/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What fault.c, loaded into a program by LD_PRELOAD, shares with the test that tortures it.
 *
 * The test owns a memfd that holds one struct torture. $COW_TORTURE_FILE names it for the program,
 * $COW_TORTURE_TARGET says "library" or "daemon": which of the two it is. The test writes `kind`,
 * `fail_at` and `n_calls`, and `is_armed` last; the program then counts its calls of that kind, in
 * all its threads, and lets the one numbered `fail_at` fail. It fails once, so that a way back that
 * makes the same call can work, as it does on a machine that lacks something for a moment.
 *
 * n_allocations and n_fds are what the program has now, less what it had before it was watched:
 * only their differences mean something.
 */
#ifndef TESTS_TORTURE_FAULT_H
#define TESTS_TORTURE_FAULT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum fault_kind {
	FAULT_ALLOCATION, /* malloc() and its kin */
	FAULT_DESCRIPTOR, /* whatever makes one */
	FAULT_CALL,       /* other system calls, pthread_create() and fork() */
	FAULT_N_KINDS,
};

struct fault_point {
	_Atomic int32_t pid; /* of the program; set by it, and 0 until then */
	_Atomic uint32_t is_armed;
	_Atomic uint32_t kind;
	_Atomic int64_t fail_at; /* from 1 */
	_Atomic int64_t n_calls;
	_Atomic uint32_t is_hit; /* the call numbered fail_at was made; then: */
	char name[32];           /*   its name */
	uint64_t caller;         /*   where it was made, from the start of the executable */
	_Atomic int64_t n_allocations;
	_Atomic int64_t n_fds;
	_Atomic uint32_t n_events; /* changes of the two; a futex */
	_Atomic uint32_t n_waiting;
};

struct torture {
	struct fault_point library;
	struct fault_point daemon;
	/* What the program that runs the scripts has done; torture.c. */
	_Atomic int64_t n;        /* it lets the call with this number fail now */
	_Atomic uint64_t n_steps; /* grows whenever it gets on */
	_Atomic uint32_t n_hits;  /* calls that failed */
	_Atomic uint32_t n_findings;
	_Atomic int32_t cowd_pid;
};

#endif
