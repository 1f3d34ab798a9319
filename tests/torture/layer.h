/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the two files of the layer share: fault.c, and allocation.c. */
#ifndef TESTS_TORTURE_LAYER_H
#define TESTS_TORTURE_LAYER_H

#include "tests/torture/fault.h"

#define EXPORT __attribute__((visibility("default")))
#define CALLER ((uint64_t)(uintptr_t)__builtin_return_address(0))

extern struct fault_point *point; /* NULL: not told, or a child */

/** is_failing() - whether this call is the one; then errno is @error */
bool is_failing(enum fault_kind kind, const char *name, int error, uint64_t caller);
/** fault_count() - @what is now @by more, which whoever waits for it sees */
void fault_count(_Atomic int64_t *what, int by);

#endif
