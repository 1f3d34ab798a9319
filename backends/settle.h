/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Settling: write the private pages of a frozen mapping back to the backing, and make the mapping
 * owned again, while threads go on using it.
 *
 * Settling handles one chunk at a time:
 *
 *  1. Threads that touch the chunk wait (hold.h); its private pages lie aside.
 *  2. The private pages are written to the backing.
 *  3. A shared mapping of the backing is moved into place, and threads go on.
 *  4. The mapping that lies aside is dropped, or made a shadow (scoot/shadow.c).
 *
 * So no thread waits longer than for one chunk, and most of a chunk's cost (dropping page tables)
 * comes after the wait. If a step fails, the chunk is as it was.
 *
 * If the shared mapping exists already with its page tables (a shadow), step 2 writes through it,
 * else with pwrite(2), which takes twice as long. It writes through the mapping only to pages that
 * are mapped there: if there is no memory for a page, pwrite() fails, and memcpy() would raise a
 * signal.
 *
 * The caller guarantees that nobody else refers to those bytes of the backing
 * (extents_is_shared()).
 */
#ifndef COW_BACKENDS_SETTLE_H
#define COW_BACKENDS_SETTLE_H

#include "backends/extents.h"
#include "backends/pagemap.h"

/* The bytes of one page of page tables: the kernel moves them as one entry if it can. */
#define SETTLE_CHUNK_BYTES ((uint64_t)2 << 20)

/* Of 4 KiB, the smallest there are. */
#define SETTLE_PAGES_MAX (SETTLE_CHUNK_BYTES >> 12)

/* Every second page of a chunk, and what a search asks for as room. */
#define SETTLE_RUNS_MAX 260

/* The chunk is settled, but what should be its shadow now is not. */
#define SETTLE_E_SHADOW 1

/**
 * struct settle - what settling needs, for one region
 * @uffd:    after hold_init(); lent
 * @pagemap: lent
 * @side:    reserved address space, 2 * SETTLE_CHUNK_BYTES: the chunk's old pages, its new mapping
 * @n_pages: private pages written back so far
 * @runs:    those of the chunk at hand
 * @is_mapped: pages of the shadow of the chunk at hand
 * @n_settled: bytes from the start of the chunk at hand that are mapped anew, also after an error
 * @is_adopting: chunks are private anonymous memory that becomes a shared mapping: the same steps
 */
struct settle {
	int uffd;
	const struct pagemap *pagemap;
	char *side;
	uint64_t n_pages;
	struct page_run runs[SETTLE_RUNS_MAX];
	size_t n_runs;
	unsigned char is_mapped[SETTLE_PAGES_MAX];
	uint64_t n_settled;
	bool is_adopting;
};

/**
 * settle_chunk_len() - how many of the @len bytes at @addr may be one chunk
 *
 * A chunk ends where a page of page tables ends. Its address tells that end. An offset in a region
 * tells it only if the region's address is a multiple of 2 MiB, and addresses of adopted and small
 * regions are not.
 */
uint64_t settle_chunk_len(const char *addr, uint64_t len);

/** settle_init() - reserves @side. 0 or -errno */
int settle_init(struct settle *settle, int uffd, const struct pagemap *pagemap);
void settle_deinit(struct settle *settle);

/**
 * struct chunk - memory to settle
 * @addr:    mapped private on the bytes of @backing from @backing_off on
 * @len:     of settle_chunk_len()
 * @from:    NULL, or @addr is mapped shared on that instead, from @from_off on: its bytes move to
 *           @backing, which is one hole there
 * @shadow:  NULL, or the address of a shared mapping of the same bytes of @backing: it is moved to
 *           @addr, and the mapping at @addr, without its private pages, to @shadow
 */
struct chunk {
	char *addr;
	uint64_t len;
	struct memfile *backing;
	uint64_t backing_off;
	const struct memfile *from;
	uint64_t from_off;
	char *shadow;
};

/**
 * settle_chunk() - make it a shared mapping of its backing
 *
 * The new mapping is not inherited by fork children (MADV_DONTFORK) from its first instant on, and
 * has the protections that the program gave parts of the old one. Return: 0; SETTLE_E_SHADOW;
 * -errno with a sentence, and the memory from @n_settled on is as it was.
 */
int settle_chunk(struct settle *settle, const struct chunk *chunk);

/**
 * settle_revert_chunk() - the other way: turn a shared mapping of @from into anonymous memory
 *
 * Return: 0; -errno with a sentence, and the memory from @n_settled on is as it was.
 */
int settle_revert_chunk(struct settle *settle, char *addr, uint64_t len, const struct memfile *from,
			uint64_t from_off);

#endif
