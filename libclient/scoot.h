/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The two functions of the talk that cowd grew from, and one that frees what they return. They use
 * the client that cow_client_new(NULL) gives, or a private cowd if no daemon is there.
 */
#ifndef COW_SCOOT_H
#define COW_SCOOT_H

#include <stddef.h>

#include "cowclient.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * scoot_alloc() - memory that scoot_duplicate() can duplicate
 * @size_bytes: rounded up to whole pages
 *
 * Return: its address; NULL with errno set, and cow_last_error() says why.
 */
COW_PUBLIC void *scoot_alloc(size_t size_bytes);

/**
 * scoot_duplicate() - duplicate memory of scoot_alloc() as it is now
 * @origin: from scoot_alloc()
 *
 * Origin and duplicate share every page until one of them is written; both may be written.
 *
 * Return: the duplicate's address, which the caller frees with scoot_free(); NULL with errno set.
 */
COW_PUBLIC void *scoot_duplicate(void *origin);

/** scoot_free() - free an origin or a duplicate, in any order; NULL is allowed; keeps errno */
COW_PUBLIC void scoot_free(void *address);

#ifdef __cplusplus
}
#endif

#endif
