/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a program does with the library, in pieces short enough to be run once for each of their
 * calls that may fail. Each script begins with what has to work, arms the fault, and ends with
 * nothing of the library's left. It knows at any time what memory and snapshots must read as,
 * whatever has failed before.
 *
 * script_run() is called by one thread. What is wrong is a *finding*: a line on stderr that says
 * how to have it again.
 */
#ifndef TESTS_TORTURE_SCRIPT_H
#define TESTS_TORTURE_SCRIPT_H

#include "libclient/cowclient.h"
#include "tests/torture/fault.h"

struct script;

/**
 * struct script_kind - what is done
 * @modes: bits 1 << enum cow_mode: regions of which modes it is run for
 * @is_for_library: its connection stays, so that a fault in cowd shows in the script after it
 */
struct script_kind {
	const char *name;
	uint32_t modes;
	void (*run)(struct script *s);
	bool is_for_library;
};

extern const struct script_kind script_kinds[];
extern const size_t n_script_kinds;

/**
 * script_run() - @kind once, in @mode
 * @torture: lent
 * @point:   of the program that is to fail
 * @n:       the number of the call that fails, of kind point->kind; 0: none does
 *
 * Return: whether the call was reached.
 */
bool script_run(const struct script_kind *kind, uint32_t mode, struct torture *torture,
		struct fault_point *point, int64_t n);

/** script_set_title() - of what goes on, for findings */
void script_set_title(const char *title);

/** script_finding() - say it */
void script_finding(struct torture *torture, const struct fault_point *point, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
