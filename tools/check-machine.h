/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `cowctl check`: try each feature and read each setting that matters for freezing memory, and
 * write a row with the finding and the remedy. Nothing here needs a daemon.
 */
#ifndef COW_TOOLS_CHECK_MACHINE_H
#define COW_TOOLS_CHECK_MACHINE_H

#include <json-c/json.h>
#include <stdbool.h>

/* How a thing stands. In rows of modes: works; works, but slower than it could; does not work. */
#define CHECK_YES     "yes"
#define CHECK_SLOWER  "slower"
#define CHECK_NO      "no"
#define CHECK_UNKNOWN "unknown"

/**
 * check_row() - put a row on @rows
 * @state:   CHECK_*
 * @finding: a sentence without a capital and without a full stop
 * @advice:  what to do about it; "" if there is nothing to be done
 */
void check_row(struct json_object *rows, const char *name, const char *state, const char *finding,
	       const char *advice);

/**
 * struct machine - what the rows about modes need to know of this machine
 * @has_lazy: pages are protected as they are touched, not all of them at a snapshot
 * @has_scan: written pages are found by one call
 * @has_shadow: there is room for the second mapping that scoot exchanges with the first
 */
struct machine {
	bool has_lazy;
	bool has_scan;
	bool has_shadow;
};

/** check_kernel() - try what the kernel can do; @device_fd: lent by cowd, or -1 */
void check_kernel(struct json_object *rows, struct machine *machine, int device_fd);

/** check_limits() - limits of this process, and settings of the system */
void check_limits(struct json_object *rows, struct machine *machine);

#endif
