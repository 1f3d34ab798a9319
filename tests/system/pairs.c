/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writers whose order of writing can be seen afterwards; see pairs.h for what is written. */
#include "config.h"

#include "system/pairs.h"

#include <check.h>
#include <inttypes.h>
#include <sched.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/util.h"

enum {
	ECHO_WORD = 8
}; /* index of the echo in the writer's first page: a cache line of its own */

static size_t words_per_page(void)
{
	return page_size_bytes() / sizeof(uint64_t);
}

/* First words of pages X and Y of pair @idx, in memory or in a copy of it at @base. */
static void locate(const struct pairs *pairs, const void *base, size_t idx, const uint64_t **x,
		   const uint64_t **y)
{
	const uint64_t *low = (const uint64_t *)base + idx * words_per_page();
	const uint64_t *high =
		(const uint64_t *)base + (pairs->n_pages - 1 - idx) * words_per_page();

	*x = idx % 2 ? high : low;
	*y = idx % 2 ? low : high;
}

static void put(const uint64_t *word, uint64_t value)
{
	atomic_store_explicit((_Atomic uint64_t *)(uintptr_t)word, value, memory_order_release);
}

static uint64_t get(const uint64_t *word)
{
	return atomic_load_explicit((_Atomic uint64_t *)(uintptr_t)word, memory_order_acquire);
}

/* The first pair of writer @idx: its X carries what the neighbour echoes, and the echo. */
static const uint64_t *first_page(const struct pairs *pairs, const void *base, unsigned int idx)
{
	const uint64_t *x, *y;

	locate(pairs, base, idx % pairs->n_threads, &x, &y);
	return x;
}

static void write_round(struct pairs *pairs, unsigned int idx, uint64_t round)
{
	size_t last = words_per_page() - 1;

	for (size_t pair = idx; pair < pairs->n_pages / 2; pair += pairs->n_threads) {
		const uint64_t *x, *y;

		locate(pairs, pairs->base, pair, &x, &y);
		put(&x[0], round);
		put(&x[last], round);
		put(&y[0], round);
		put(&y[last], round);
	}
	put(&first_page(pairs, pairs->base, idx)[ECHO_WORD],
	    get(first_page(pairs, pairs->base, idx + 1)));
}

static void *write_on(void *user)
{
	struct pairs_writer *writer = user;
	struct pairs *pairs = writer->pairs;
	uint64_t since_nsec = now_nsec(), end_nsec, round = 0;

	while (!atomic_load_explicit(&pairs->is_stopping, memory_order_acquire)) {
		write_round(pairs, writer->idx, ++round);
		end_nsec = now_nsec();
		writer->longest_nsec = max_u64(writer->longest_nsec, end_nsec - since_nsec);
		atomic_store_explicit(&writer->rounds, round, memory_order_release);
		if (pairs->pause_usec)
			(void)usleep(pairs->pause_usec);
		since_nsec = now_nsec();
	}
	return NULL;
}

void pairs_start(struct pairs *pairs, void *base, size_t size_bytes, unsigned int n_threads)
{
	pairs_start_paced(pairs, base, size_bytes, n_threads, 0);
}

void pairs_start_paced(struct pairs *pairs, void *base, size_t size_bytes, unsigned int n_threads,
		       unsigned int pause_usec)
{
	ck_assert_uint_le(n_threads, PAIRS_THREADS_MAX);
	ck_assert_uint_ge(size_bytes / page_size_bytes() / 2, n_threads);
	pairs->base = base;
	pairs->n_pages = size_bytes / page_size_bytes();
	pairs->n_threads = n_threads;
	pairs->pause_usec = pause_usec;
	atomic_store(&pairs->is_stopping, 0);
	for (unsigned int i = 0; i < n_threads; i++) {
		struct pairs_writer *writer = &pairs->writers[i];

		writer->pairs = pairs;
		writer->longest_nsec = 0;
		writer->idx = i;
		atomic_store(&writer->rounds, 0);
		ck_assert_int_eq(pthread_create(&writer->thread, NULL, write_on, writer), 0);
	}
}

void pairs_wait(const struct pairs *pairs, uint64_t n_rounds)
{
	uint64_t from[PAIRS_THREADS_MAX];

	pairs_rounds(pairs, from);
	for (unsigned int i = 0; i < pairs->n_threads; i++) {
		while (atomic_load(&pairs->writers[i].rounds) < from[i] + n_rounds)
			sched_yield();
	}
}

void pairs_rounds(const struct pairs *pairs, uint64_t *rounds)
{
	for (unsigned int i = 0; i < pairs->n_threads; i++)
		rounds[i] = atomic_load_explicit(&pairs->writers[i].rounds, memory_order_acquire);
}

void pairs_stop(struct pairs *pairs)
{
	atomic_store(&pairs->is_stopping, 1);
	for (unsigned int i = 0; i < pairs->n_threads; i++)
		ck_assert_int_eq(pthread_join(pairs->writers[i].thread, NULL), 0);
}

uint64_t pairs_longest_nsec(const struct pairs *pairs)
{
	uint64_t longest_nsec = 0;

	for (unsigned int i = 0; i < pairs->n_threads; i++)
		longest_nsec = max_u64(longest_nsec, pairs->writers[i].longest_nsec);
	return longest_nsec;
}

static void check_pair(const struct pairs *pairs, const void *copy, size_t pair,
		       const uint64_t *before, const uint64_t *after, const char *what)
{
	unsigned int owner = (unsigned int)(pair % pairs->n_threads);
	size_t last = words_per_page() - 1;
	const uint64_t *x, *y;

	locate(pairs, copy, pair, &x, &y);
	ck_assert_msg(x[0] >= x[last] && x[last] >= y[0] && y[0] >= y[last] && y[last] + 1 >= x[0],
		      "%s: pair %zu is torn: x %" PRIu64 " %" PRIu64 ", y %" PRIu64 " %" PRIu64,
		      what, pair, x[0], x[last], y[0], y[last]);
	ck_assert_msg(!before || y[last] >= before[owner],
		      "%s: pair %zu is of round %" PRIu64 ", but %" PRIu64
		      " was finished before the snapshot was asked for",
		      what, pair, y[last], before ? before[owner] : 0);
	ck_assert_msg(!after || x[0] <= after[owner] + 1,
		      "%s: pair %zu is of round %" PRIu64 ", but %" PRIu64
		      " was not finished when the snapshot was there",
		      what, pair, x[0], after ? after[owner] + 1 : 0);
}

void pairs_check(const struct pairs *pairs, const void *copy, const uint64_t *before,
		 const uint64_t *after, const char *what)
{
	for (size_t pair = 0; pair < pairs->n_pages / 2; pair++)
		check_pair(pairs, copy, pair, before, after, what);
	for (unsigned int i = 0; i < pairs->n_threads; i++) {
		uint64_t echo = first_page(pairs, copy, i)[ECHO_WORD];
		uint64_t original = first_page(pairs, copy, i + 1)[0];

		ck_assert_msg(echo <= original,
			      "%s: writer %u echoes %" PRIu64 ", its neighbour says %" PRIu64, what,
			      i, echo, original);
	}
}

void pairs_check_final(const struct pairs *pairs)
{
	uint64_t rounds[PAIRS_THREADS_MAX];
	size_t last = words_per_page() - 1;

	pairs_rounds(pairs, rounds);
	for (size_t pair = 0; pair < pairs->n_pages / 2; pair++) {
		uint64_t want = rounds[pair % pairs->n_threads];
		const uint64_t *x, *y;

		locate(pairs, pairs->base, pair, &x, &y);
		ck_assert_msg(x[0] == want && x[last] == want && y[0] == want && y[last] == want,
			      "pair %zu: round %" PRIu64 " was written, memory says %" PRIu64
			      " %" PRIu64 " %" PRIu64 " %" PRIu64,
			      pair, want, x[0], x[last], y[0], y[last]);
	}
}
