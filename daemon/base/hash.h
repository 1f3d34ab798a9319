/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hash tables of uthash, which by itself ends the process when it has no memory for a table. Here
 * HASH_ADD() that fails leaves hh.tbl of the element NULL, and the table as it was: each caller
 * looks, and HASH_DEL() is for elements that are in a table only.
 *
 * Each table is kept by the lock, or by the thread, of the object that holds it.
 */
#ifndef COWD_HASH_H
#define COWD_HASH_H

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "common/err.h"

/** hash_check() - after HASH_ADD(): 0, or -ENOMEM with a sentence; @what: what was to be added */
static inline int hash_check(const UT_hash_handle *hh, const char *what)
{
	return hh->tbl ? 0 : err_oom(sizeof(*hh->tbl), what);
}

#endif
