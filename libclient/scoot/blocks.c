// SPDX-License-Identifier: LGPL-2.1-or-later
/* The blocks of scoot.h's calls: see blocks.h. */
#include "config.h"

#include "libclient/scoot/blocks.h"

#include "backends/space.h"
#include "libclient/scoot/mode.h"

static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;
static struct cowi_block *blocks;
static struct cow_client *shared_client; /* blocks_lock; lives until the process ends */

struct cow_client *cowi_blocks_client(struct cow_client **client)
{
	struct cow_client *shared;

	pthread_mutex_lock(&blocks_lock);
	/* A fork child's copy of its parent's is no client. */
	if (shared_client && cowi_check_process(shared_client))
		shared_client = NULL;
	if (!shared_client)
		shared_client = steal_ptr(client);
	shared = shared_client;
	pthread_mutex_unlock(&blocks_lock);
	return shared;
}

int cowi_block_add(char *addr, uint64_t size_bytes, struct cow_region *region,
		   struct scoot_snapshot *frozen)
{
	struct cowi_block *block = malloc(sizeof(*block));

	if (!block)
		return err_oom(sizeof(*block), "a block");
	*block = (struct cowi_block){
		.addr = addr,
		.size_bytes = size_bytes,
		.region = region,
		.frozen = frozen,
	};
	pthread_mutex_lock(&blocks_lock);
	block->next = blocks;
	blocks = block;
	pthread_mutex_unlock(&blocks_lock);
	return 0;
}

struct cow_region *cowi_block_origin(const void *addr)
{
	struct cow_region *region = NULL;

	pthread_mutex_lock(&blocks_lock);
	for (struct cowi_block *block = blocks; block; block = block->next) {
		if (block->addr == addr && block->region)
			region = cow_region_ref(block->region);
	}
	pthread_mutex_unlock(&blocks_lock);
	return region;
}

struct cowi_block *cowi_block_remove(const void *addr)
{
	struct cowi_block *block, **link;

	pthread_mutex_lock(&blocks_lock);
	for (link = &blocks; *link && (*link)->addr != addr; link = &(*link)->next)
		;
	block = *link;
	if (block)
		*link = block->next;
	pthread_mutex_unlock(&blocks_lock);
	return block;
}

void cowi_blocks_settle(void)
{
	pthread_mutex_lock(&blocks_lock);
	for (struct cowi_block *block = blocks; block; block = block->next) {
		if (block->region && !cowi_check_process(block->region->client))
			cowi_scoot_post(block->region);
	}
	pthread_mutex_unlock(&blocks_lock);
}

void cowi_scoot_blocks_fork_prepare(void)
{
	pthread_mutex_lock(&blocks_lock);
}

void cowi_scoot_blocks_fork_child(void)
{
	for (struct cowi_block *block = blocks; block; block = block->next) {
		if (block->frozen && !block->is_forked)
			(void)space_reserve_at(block->addr, block->size_bytes);
		block->is_forked = true;
	}
}

void cowi_scoot_blocks_fork_done(void)
{
	pthread_mutex_unlock(&blocks_lock);
}
