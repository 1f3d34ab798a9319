/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The oracle of scoot-oracle.c: what memory must hold (@now), the threads that write to it, and
 * whether a copy of it is one instant (scoot-oracle-cut.c).
 */
#ifndef COW_TESTS_SYSTEM_SCOOT_ORACLE_H
#define COW_TESTS_SYSTEM_SCOOT_ORACLE_H

#include <pthread.h>
#include <stdatomic.h>

#include "libclient/scoot/mode.h"
#include "system/proof.h"

enum {
	N_THREADS = 4,
	N_REGIONS_MAX = 2,
	N_SHOTS_MAX = 8,
	N_CHILDREN_MAX = 3,
	N_WORDS_MAX = 4000, /* written by a thread in a step */
	N_WORDS_BUSY = 200000,
};

/* A mode, a way that cowd is set up, and sizes. */
struct variant {
	const char *name;
	uint32_t mode;
	const char *config; /* of cowd; NULL: the default */
	size_t n_regions;
	size_t n_pages; /* of each */
	uint64_t n_steps;
	uint32_t flags; /* of the regions */
};

/* The words that a thread writes, one after another. */
struct stream {
	uint64_t random;
	size_t number, n_slots; /* of pages of that thread */
	size_t at, stride, n_left;
};

struct word {
	size_t idx; /* in all regions, one after the other */
	uint64_t value;
};

struct writer {
	pthread_t thread;
	struct oracle *oracle;
	size_t number;
	uint64_t seed;
	size_t n_words;
	_Atomic size_t n_done;
	bool is_bad;
	size_t bad_idx;
	uint64_t bad_value;
};

struct shot {
	struct cow_snapshot *snap;
	size_t region;
	uint64_t *want;
	const char *view; /* NULL: not mapped */
};

struct child {
	pid_t pid;
	int go_fd;
};

struct oracle {
	const struct variant *variant;
	struct cow_client *client;
	struct cow_region *regions[N_REGIONS_MAX];
	size_t region_words, n_words;
	uint64_t *now;     /* what memory holds; words being written belong to their threads */
	uint64_t *base;    /* what it held when the threads began */
	uint64_t *scratch; /* for fork children, who had better not allocate */
	struct writer writers[N_THREADS];
	bool is_writing;
	struct shot shots[N_SHOTS_MAX];
	size_t n_shots;
	struct child children[N_CHILDREN_MAX];
	size_t n_children;
	uint64_t seed;
	bool is_verbose;
};

/* How many words each thread had written, before a call and after it. */
struct bounds {
	size_t before[N_THREADS], after[N_THREADS];
};

static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline size_t pick(struct oracle *oracle, size_t n)
{
	return next_random(&oracle->seed) % n;
}

static inline size_t words_per_page(void)
{
	return page_size_bytes() / sizeof(uint64_t);
}

static inline uint64_t *region_memory(const struct oracle *oracle, size_t region)
{
	return cow_region_address(oracle->regions[region]);
}

static inline uint64_t *word_at(const struct oracle *oracle, size_t idx)
{
	return region_memory(oracle, idx / oracle->region_words) + idx % oracle->region_words;
}

/** begin_writing() - start the threads; each writes at most so many words */
void begin_writing(struct oracle *oracle, size_t n_words_max);
/** end_writing() - join them, and note what they wrote in @oracle->now */
void end_writing(struct oracle *oracle);
/** count_done() - how many words each thread has written so far */
void count_done(const struct oracle *oracle, size_t *counts);
/** is_one_cut() - whether what was frozen is one instant within @bounds of every thread */
bool is_one_cut(const struct oracle *oracle, size_t region, const struct bounds *bounds,
		uint64_t *want, const uint64_t *got);

#endif
