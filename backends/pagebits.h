/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A record of pages: a bit for each page of a range.
 *
 * Such a record goes from process to process (an overlay has one behind its pages), so its layout
 * is the same everywhere: page n is bit n % 8 of byte n / 8. Any bytes are a valid record, so what
 * a stranger wrote needs no check beyond its length.
 */
#ifndef COW_BACKENDS_PAGEBITS_H
#define COW_BACKENDS_PAGEBITS_H

#include "common/util.h"

/** pagebits_bytes() - how long a record of @n_pages is */
static inline uint64_t pagebits_bytes(uint64_t n_pages)
{
	return n_pages / 8 + (n_pages % 8 != 0);
}

static inline bool pagebits_get(const uint8_t *bits, uint64_t idx)
{
	return bits[idx / 8] >> (idx % 8) & 1;
}

/** pagebits_set() - note @n pages from @first on */
void pagebits_set(uint8_t *bits, uint64_t first, uint64_t n);

/**
 * pagebits_next() - the first page from @idx on, and before @end, that is noted or is not
 * @is_noted: which of both is looked for
 *
 * Return: it; @end if there is none.
 */
uint64_t pagebits_next(const uint8_t *bits, uint64_t idx, uint64_t end, bool is_noted);

#endif
