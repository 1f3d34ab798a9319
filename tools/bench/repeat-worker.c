// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowbench repeat: the client that works all the while. Each of its threads reads (90 %) and writes
 * (10 %) without a pause; each write is timed. Reads are of pages at random.
 *
 * Without --period writes are too. With it the pages that are written between two takes are as many
 * as --dirty says and lie as --spread says, and their first writes are spread over the whole
 * period: a write whose page is not due yet is one to the page that the thread wrote last.
 */
#include "config.h"

#include "common/clock.h"
#include "common/util.h"
#include "tools/bench/repeat.h"

uint64_t repeat_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

uint64_t repeat_n_dirty(const struct repeat *repeat)
{
	return repeat->size_bytes / page_size_bytes() * repeat->percent / 100;
}

uint64_t repeat_page(const struct repeat *repeat, uint64_t round, uint64_t i)
{
	const uint64_t n_pages = repeat->size_bytes / page_size_bytes();
	uint64_t seed = 88172645463325252 + round;

	switch (repeat->spread) {
	case SPREAD_SEQUENTIAL:
		return (round * repeat_n_dirty(repeat) + i) % n_pages;
	case SPREAD_HOT:
		return i * repeat->stride % n_pages;
	default:
		/* Each once, from another one on each time. */
		return (repeat_random(&seed) + i * repeat->stride) % n_pages;
	}
}

static _Atomic uint64_t *word_of(const struct repeat *repeat, uint64_t page)
{
	return (_Atomic uint64_t *)(void *)(repeat->base + page * page_size_bytes());
}

static void time_write(struct worker *worker, uint64_t page, uint64_t value)
{
	struct repeat *repeat = worker->repeat;
	_Atomic uint64_t *word = word_of(repeat, page);
	int phase = atomic_load_explicit(&repeat->phase, memory_order_relaxed);
	uint64_t start = now_nsec(), waited;

	atomic_store_explicit(word, value, memory_order_relaxed);
	waited = now_nsec() - start;
	worker->worst_nsec[phase] = max_u64(worker->worst_nsec[phase], waited);
	if (atomic_load_explicit(&repeat->is_counted, memory_order_relaxed))
		waits_add(&worker->waits, waited);
}

/* Of the round's pages every n_threads-th is this worker's. */
static uint64_t choose_page(struct worker *worker, uint64_t n_dirty)
{
	struct repeat *repeat = worker->repeat;
	uint64_t round = atomic_load_explicit(&repeat->round, memory_order_acquire);
	uint64_t begin = atomic_load_explicit(&repeat->round_nsec, memory_order_relaxed);
	uint64_t since = now_nsec() - begin;

	if (round != worker->round) {
		worker->round = round;
		worker->next = worker->idx;
	}
	if (worker->next < n_dirty &&
	    (double)worker->next * (double)repeat->period_nsec <= (double)since * (double)n_dirty) {
		worker->last = repeat_page(repeat, round, worker->next);
		worker->next += repeat->n_threads;
		if (atomic_load_explicit(&repeat->is_counted, memory_order_relaxed))
			worker->n_fresh++;
	}
	return worker->last;
}

void *repeat_work(void *arg)
{
	struct worker *worker = arg;
	struct repeat *repeat = worker->repeat;
	const uint64_t n_pages = repeat->size_bytes / page_size_bytes();
	const uint64_t n_dirty = repeat_n_dirty(repeat);

	worker->round = UINT64_MAX;
	worker->last = repeat_page(repeat, 0, worker->idx % max_u64(n_dirty, 1));
	while (!atomic_load_explicit(&repeat->is_over, memory_order_relaxed)) {
		uint64_t number = repeat_random(&worker->seed), page = number % n_pages;
		bool writes = !(number >> 32 & 0xff) || (number >> 40) % 10 == 0;

		if (repeat->period_nsec && !n_dirty)
			writes = false;
		if (writes)
			time_write(worker,
				   repeat->period_nsec ? choose_page(worker, n_dirty) : page,
				   number);
		else
			(void)atomic_load_explicit(word_of(repeat, page), memory_order_relaxed);
		atomic_fetch_add_explicit(&worker->n_ops, 1, memory_order_relaxed);
	}
	return NULL;
}
