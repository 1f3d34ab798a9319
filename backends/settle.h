/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Settling: pages that were written to a frozen mapping go back to the backing, and the mapping is
 * owned again, while threads go on using it.
 *
 * One chunk at a time: threads that touch the chunk wait (hold.h), its private pages, now aside,
 * are written to the backing with pwrite(2), a shared mapping of the backing is moved into place,
 * threads go on; what is aside is dropped after that. So nobody waits longer than for one chunk,
 * and most of a chunk's cost (dropping page tables) is after the wait. If a step fails, the chunk
 * is as it was.
 *
 * The caller knows that nobody else refers to those bytes of the backing (extents_is_shared()).
 */
#ifndef COW_BACKENDS_SETTLE_H
#define COW_BACKENDS_SETTLE_H

#include "backends/extents.h"
#include "backends/pagemap.h"

/* Two page-table pages' worth: moved aside as one entry where the kernel can. */
#define SETTLE_CHUNK_BYTES ((uint64_t)2 << 20)

/**
 * struct settle - what settling needs, for one region
 * @uffd:    after hold_init(); lent
 * @pagemap: lent
 * @side:    reserved address space, 2 * SETTLE_CHUNK_BYTES: the chunk's old pages, its new mapping
 * @n_pages: private pages written back so far
 * @is_adopting: chunks are private anonymous memory that becomes a shared mapping: the same steps
 */
struct settle {
	int uffd;
	const struct pagemap *pagemap;
	char *side;
	uint64_t n_pages;
	bool is_adopting;
};

/** settle_init() - reserves @side. 0 or -errno */
int settle_init(struct settle *settle, int uffd, const struct pagemap *pagemap);
void settle_deinit(struct settle *settle);

/**
 * settle_chunk() - make [@addr, @addr + @len) a shared mapping of @backing
 * @addr: mapped private on the same bytes of @backing; @len is at most SETTLE_CHUNK_BYTES
 * @from: NULL, or @addr is mapped shared on that instead, from @from_off on: its data moves to
 *        @backing, which has none there
 *
 * The new mapping is not inherited by fork children (MADV_DONTFORK) from its first instant on.
 * Return: 0; -errno with a sentence, and the memory is as it was.
 */
int settle_chunk(struct settle *settle, char *addr, uint64_t len, const struct memfile *backing,
		 uint64_t backing_off, const struct memfile *from, uint64_t from_off);

/** settle_revert_chunk() - the other way: what is mapped shared on @from becomes anonymous memory
 */
int settle_revert_chunk(struct settle *settle, char *addr, uint64_t len, const struct memfile *from,
			uint64_t from_off);

#endif
