// SPDX-License-Identifier: LGPL-2.1-or-later
// Threads that write in an order their seed decides, and what a copy may hold; see scoot-oracle.h.
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "system/scoot-oracle.h"

/* --- threads that write ----------------------------------------------------------------------- */

static struct stream stream_of(const struct writer *writer)
{
	size_t n_pages = writer->oracle->n_words / words_per_page();

	return (struct stream){
		.random = writer->seed,
		.number = writer->number,
		.n_slots = n_pages / N_THREADS,
	};
}

/* On one page, on page after page, or all over. Zeroes too: a page may become all zero again. */
static struct word stream_next(struct stream *stream)
{
	struct word word;

	if (!stream->n_left) {
		stream->stride = next_random(&stream->random) % 3;
		stream->n_left = 1 + next_random(&stream->random) % 64;
		stream->at = next_random(&stream->random) % stream->n_slots;
	}
	stream->n_left--;
	if (stream->stride < 2)
		stream->at = (stream->at + stream->stride) % stream->n_slots;
	else
		stream->at = next_random(&stream->random) % stream->n_slots;
	word.idx = (stream->at * N_THREADS + stream->number) * words_per_page() +
		   next_random(&stream->random) % words_per_page();
	word.value = next_random(&stream->random);
	if (word.value % 4 == 0)
		word.value = 0;
	return word;
}

static void *write_words(void *arg)
{
	struct writer *writer = arg;
	struct oracle *oracle = writer->oracle;
	struct stream stream = stream_of(writer);

	for (size_t n = 0; n < writer->n_words; n++) {
		struct word word = stream_next(&stream);
		uint64_t *at = word_at(oracle, word.idx);
		uint64_t found = __atomic_load_n(at, __ATOMIC_RELAXED);

		if (found != oracle->now[word.idx]) {
			writer->is_bad = true;
			writer->bad_idx = word.idx;
			writer->bad_value = found;
			break;
		}
		__atomic_store_n(at, word.value, __ATOMIC_RELEASE);
		oracle->now[word.idx] = word.value;
		atomic_store(&writer->n_done, n + 1);
	}
	return NULL;
}

void begin_writing(struct oracle *oracle, size_t n_words_max)
{
	memcpy(oracle->base, oracle->now, oracle->n_words * sizeof(uint64_t));
	for (size_t i = 0; i < N_THREADS; i++) {
		struct writer *writer = &oracle->writers[i];

		*writer = (struct writer){.oracle = oracle, .number = i};
		writer->seed = next_random(&oracle->seed) | 1;
		writer->n_words = 1 + pick(oracle, n_words_max);
	}
	oracle->is_writing = true;
	for (size_t i = 0; i < N_THREADS; i++)
		ck_assert_int_eq(pthread_create(&oracle->writers[i].thread, NULL, write_words,
						&oracle->writers[i]),
				 0);
}

void end_writing(struct oracle *oracle)
{
	for (size_t i = 0; i < N_THREADS; i++)
		pthread_join(oracle->writers[i].thread, NULL);
	oracle->is_writing = false;
	for (size_t i = 0; i < N_THREADS; i++) {
		const struct writer *writer = &oracle->writers[i];

		ck_assert_msg(!writer->is_bad,
			      "thread %zu finds %#" PRIx64 " in page %zu, word %zu, not %#" PRIx64,
			      i, writer->bad_value, writer->bad_idx / words_per_page(),
			      writer->bad_idx % words_per_page(), oracle->now[writer->bad_idx]);
	}
}

/* --- what was frozen while they wrote --------------------------------------------------------- */

void count_done(const struct oracle *oracle, size_t *counts)
{
	for (size_t i = 0; i < N_THREADS; i++)
		counts[i] = oracle->is_writing ? atomic_load(&oracle->writers[i].n_done) : 0;
}

static const uint64_t *base_of(const struct oracle *oracle, size_t region)
{
	return (oracle->is_writing ? oracle->base : oracle->now) + region * oracle->region_words;
}

/* How many words of the pages of thread @number differ. */
static size_t n_differing(const struct oracle *oracle, size_t region, size_t number,
			  const uint64_t *want, const uint64_t *got)
{
	size_t first_page = region * oracle->region_words / words_per_page();
	size_t n = 0;

	for (size_t page = 0; page * words_per_page() < oracle->region_words; page++) {
		size_t at = page * words_per_page();

		if ((first_page + page) % N_THREADS != number ||
		    !memcmp(want + at, got + at, page_size_bytes()))
			continue;
		for (size_t i = at; i < at + words_per_page(); i++)
			n += want[i] != got[i];
	}
	return n;
}

/* Make @want, the base, what @got must be as to one thread. */
static bool find_cut(const struct writer *writer, size_t region, const struct bounds *bounds,
		     uint64_t *want, const uint64_t *got)
{
	const struct oracle *oracle = writer->oracle;
	struct stream stream = stream_of(writer);
	size_t n_max = min_u64(bounds->after[writer->number] + 1, writer->n_words);
	size_t n_diff = SIZE_MAX;

	for (size_t n = 0; n <= n_max; n++) {
		struct word word;
		size_t idx;

		if (n == bounds->before[writer->number])
			n_diff = n_differing(oracle, region, writer->number, want, got);
		if (!n_diff)
			return true;
		word = stream_next(&stream);
		idx = word.idx % oracle->region_words;
		if (n == n_max || word.idx / oracle->region_words != region)
			continue;
		if (n_diff != SIZE_MAX)
			n_diff -= want[idx] != got[idx];
		want[idx] = word.value;
		if (n_diff != SIZE_MAX)
			n_diff += want[idx] != got[idx];
	}
	(void)fprintf(stderr,
		      "thread %zu: no number of words from %zu to %zu gives what was frozen; "
		      "%zu words differ\n",
		      writer->number, bounds->before[writer->number], n_max, n_diff);
	return false;
}

/* Make @want what @got must be, and compare. Allocates nothing: fork children call it. */
bool is_one_cut(const struct oracle *oracle, size_t region, const struct bounds *bounds,
		uint64_t *want, const uint64_t *got)
{
	memcpy(want, base_of(oracle, region), oracle->region_words * sizeof(uint64_t));
	for (size_t i = 0; oracle->is_writing && i < N_THREADS; i++) {
		if (!find_cut(&oracle->writers[i], region, bounds, want, got))
			return false;
	}
	for (size_t i = 0; i < oracle->region_words; i++) {
		if (want[i] == got[i])
			continue;
		(void)fprintf(stderr, "page %zu, word %zu is %#" PRIx64 ", not %#" PRIx64 "\n",
			      i / words_per_page(), i % words_per_page(), got[i], want[i]);
		return false;
	}
	return true;
}
