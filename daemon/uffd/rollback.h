/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rolling a region of mode uffd back to one of its snapshots; how is in rollback.c. Loop thread
 * only.
 */
#ifndef COWD_ROLLBACK_H
#define COWD_ROLLBACK_H

#include <stddef.h>

#include "common/util.h"

struct snapshot;

/* The region is rolled back; or -errno with a sentence. */
typedef void rollback_done_fn(void *arg, int error);

/**
 * rollback_begin() - of @snap's region to @snap; then calls @done with @arg
 *
 * Return: 0; -EINVAL: not of mode uffd; -ENOMEM; each with a sentence, and @done is not called.
 */
int rollback_begin(struct snapshot *snap, rollback_done_fn *done, void *arg) MUST_CHECK;
/** rollback_memory_bytes() - what it needs, to be charged by the caller of rollback_begin() */
size_t rollback_memory_bytes(void);

#endif
