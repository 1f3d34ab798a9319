/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writers whose order of writing can be seen in a frozen copy of what they write to.
 *
 * Pages are used in pairs, one from the lower half of the memory and one from the upper half, each
 * pair owned by one thread. In round r its thread writes r to four words, in this order: first and
 * last word of page X, first and last word of page Y. X is the lower page in half of the pairs and
 * the upper one in the others. So at any one instant, for all four words in the order of writing,
 *
 *	x_first >= x_last >= y_first >= y_last >= x_first - 1
 *
 * A copy that is not one instant breaks it. If, while pages are protected in ascending order, a
 * writer is let through before the last one is, the old bytes of its protected lower page are in
 * the copy and the new ones of its unprotected upper page are too: y > x where X is the lower page,
 * and x > y + 1 where Y is.
 *
 * Between threads: in each round a thread also writes what it reads from its neighbour's first page
 * to a word of its own (the echo). An echo in a copy must not be greater than the neighbour's word
 * in it: the echo was written after it.
 */
#ifndef TESTS_PAIRS_H
#define TESTS_PAIRS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define PAIRS_THREADS_MAX 256

struct pairs;

struct pairs_writer {
	struct pairs *pairs;
	unsigned int idx;
	pthread_t thread;
	_Atomic uint64_t rounds; /* finished; kept outside of the memory under test */
	uint64_t longest_nsec;   /* of them; for whoever has joined the thread */
};

struct pairs {
	char *base;
	size_t n_pages;
	unsigned int n_threads;
	unsigned int pause_usec; /* of each writer after each round */
	_Atomic int is_stopping;
	struct pairs_writer writers[PAIRS_THREADS_MAX];
};

/** pairs_start() - write all over [@base, @base + @size_bytes)
 * from @n_threads threads, from 0 on */
void pairs_start(struct pairs *pairs, void *base, size_t size_bytes, unsigned int n_threads);

/** pairs_start_paced() - the same, but that each pauses between rounds, and leaves the CPU to
 * others */
void pairs_start_paced(struct pairs *pairs, void *base, size_t size_bytes, unsigned int n_threads,
		       unsigned int pause_usec);

/** pairs_wait() - until every writer has finished @n_rounds more */
void pairs_wait(const struct pairs *pairs, uint64_t n_rounds);

/** pairs_rounds() - of each writer, into @rounds of at least n_threads */
void pairs_rounds(const struct pairs *pairs, uint64_t *rounds);

/** pairs_stop() - every writer finishes its round; returns when all have */
void pairs_stop(struct pairs *pairs);

/** pairs_longest_nsec() - after pairs_stop(): how long the longest round of any writer took */
uint64_t pairs_longest_nsec(const struct pairs *pairs);

/**
 * pairs_check() - fail the test unless @copy is one instant of what the writers wrote
 * @copy:   as large as the memory
 * @before: rounds that each writer had finished before the copy was begun, or NULL
 * @after:  and when it was complete, or NULL
 * @what:   for the message
 */
void pairs_check(const struct pairs *pairs, const void *copy, const uint64_t *before,
		 const uint64_t *after, const char *what);

/** pairs_check_final() - after pairs_stop(): fail unless every write is there */
void pairs_check_final(const struct pairs *pairs);

#endif
