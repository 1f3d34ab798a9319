/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The blocks of scoot.h's calls: origins and their duplicates, found by address.
 *
 * blocks_lock guards the list; fork() takes it, in the step that fork/fork.c says. Whoever has
 * removed a block owns it.
 */
#ifndef COWI_BLOCKS_H
#define COWI_BLOCKS_H

#include "libclient/scoot/mode.h"

/* An origin has a region, a duplicate has the frozen memory. */
struct cowi_block {
	char *addr;
	uint64_t size_bytes;
	struct cow_region *region;
	struct scoot_snapshot *frozen;
	bool is_forked; /* a duplicate of the parent's: what is at its address now is not it */
	struct cowi_block *next;
};

/**
 * cowi_blocks_client() - put @client, if there is none yet, which it takes, and get the one
 * there is
 */
struct cow_client *cowi_blocks_client(struct cow_client **client);
/** cowi_block_add() - takes @region, or @frozen. 0; -ENOMEM with a sentence */
int cowi_block_add(char *addr, uint64_t size_bytes, struct cow_region *region,
		   struct scoot_snapshot *frozen);
/** cowi_block_origin() - the region of the origin at @addr, with a reference, or NULL */
struct cow_region *cowi_block_origin(const void *addr);
/** cowi_block_remove() - the one at @addr, from the list; NULL: there is none */
struct cowi_block *cowi_block_remove(const void *addr);
/** cowi_blocks_settle() - a duplicate is gone, for which any origin may have waited */
void cowi_blocks_settle(void);

#endif
