// SPDX-License-Identifier: LGPL-2.1-or-later
// Records of pages; see pagebits.h.
#include "config.h"

#include "backends/pagebits.h"

#include <string.h>

void pagebits_set(uint8_t *bits, uint64_t first, uint64_t n)
{
	const uint64_t end = first + n;

	while (first < end && (first % 8 || end - first < 8)) {
		bits[first / 8] |= (uint8_t)(1u << (first % 8));
		first++;
	}
	memset(bits + first / 8, 0xff, (end - first) / 8);
	for (first += align_down(end - first, 8); first < end; first++)
		bits[first / 8] |= (uint8_t)(1u << (first % 8));
}

uint64_t pagebits_next(const uint8_t *bits, uint64_t idx, uint64_t end, bool is_noted)
{
	const uint8_t other = is_noted ? 0 : 0xff; /* eight pages, none of which is looked for */

	while (idx < end) {
		if (idx % 8 == 0 && bits[idx / 8] == other)
			idx += 8;
		else if (pagebits_get(bits, idx) == is_noted)
			return idx;
		else
			idx++;
	}
	return end;
}
