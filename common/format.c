// SPDX-License-Identifier: LGPL-2.1-or-later
/* Sizes as people write and read them; see format.h. */
#include "config.h"

#include "common/format.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/err.h"

static const char units[] = "BKMGTPE";

const char *format_bytes(char buf[static FORMAT_BYTES_MAX], uint64_t bytes)
{
	uint64_t tenths;
	int exponent = 0;

	while (units[exponent + 1] && bytes >> (10 * exponent) >= 1024)
		exponent++;
	if (!exponent) {
		(void)snprintf(buf, FORMAT_BYTES_MAX, "%u B", (unsigned int)bytes);
		return buf;
	}
	tenths = (uint64_t)((((__uint128_t)bytes * 10 >> (10 * exponent - 1)) + 1) >> 1);
	if (tenths >= 10240 && units[exponent + 1]) { /* 1023.96 KiB reads better as 1.0 MiB */
		tenths = 10;
		exponent++;
	}
	(void)snprintf(buf, FORMAT_BYTES_MAX, "%u.%u %ciB", (unsigned int)(tenths / 10),
		       (unsigned int)(tenths % 10), units[exponent]);
	return buf;
}

/* The power of 1024 that @suffix stands for, or -1. */
static int unit_exponent(const char *suffix)
{
	const char *found;

	if (!*suffix)
		return 0;
	found = strchr(units, toupper((unsigned char)*suffix));
	if (!found)
		return -1;
	suffix++;
	if (found == units)
		return *suffix ? -1 : 0;
	if (*suffix && strcasecmp(suffix, "B") != 0 && strcasecmp(suffix, "iB") != 0)
		return -1;
	return (int)(found - units);
}

int format_parse_bytes(uint64_t *bytes, const char *text)
{
	uint64_t numerator = 0;
	uint64_t denominator = 1;
	const char *p = text;
	uint64_t whole = 0;
	uint64_t unit;
	int exponent;

	while (isspace((unsigned char)*p))
		p++;
	if (!isdigit((unsigned char)*p))
		return err_raise(-EINVAL, "\"%s\" is not a size such as 64M or 1.5 GiB", text);
	for (; isdigit((unsigned char)*p); p++) {
		if (__builtin_mul_overflow(whole, 10, &whole) ||
		    __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
			return err_raise(-ERANGE, "\"%s\" is more than 64 bits can hold", text);
	}
	if (*p == '.') {
		p++;
		for (int n_digits = 0; isdigit((unsigned char)*p); p++, n_digits++) {
			if (n_digits >= 6)
				continue; /* below a thousandth of a thousandth */
			numerator = numerator * 10 + (uint64_t)(*p - '0');
			denominator *= 10;
		}
	}
	while (isspace((unsigned char)*p))
		p++;
	exponent = unit_exponent(p);
	if (exponent < 0)
		return err_raise(-EINVAL,
				 "\"%s\" has an unknown unit; K, M, G, T, P and E are known", text);
	unit = UINT64_C(1) << (10 * exponent);
	if (__builtin_mul_overflow(whole, unit, &whole) ||
	    __builtin_add_overflow(whole, (uint64_t)((__uint128_t)numerator * unit / denominator),
				   &whole))
		return err_raise(-ERANGE, "\"%s\" is more than 64 bits can hold", text);
	*bytes = whole;
	return 0;
}

size_t format_utf8_length(const char *text)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	const unsigned char *s = (const unsigned char *)text;
	size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
	uint32_t point = n > 1 ? s[0] & (0x7fu >> n) : 0;

	if (s[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		point = point << 6 | (s[i] & 0x3f);
	}
	if (n > 1 && (point < least[n] || point > 0x10ffff || (point >> 11) == 0x1b))
		return 0;
	return n;
}

/* Characters of several bytes that do something to the line they stand in. */
static int is_harmful(const char *text, size_t n)
{
	const unsigned char *s = (const unsigned char *)text;

	if (n == 2)
		return s[0] == 0xc2 && s[1] < 0xa0; /* U+0080 to U+009F, control characters */
	if (n != 3 || s[0] != 0xe2)
		return 0;
	if (s[1] == 0x80) /* marks of direction, ends of lines, embedding and overriding */
		return s[2] == 0x8e || s[2] == 0x8f || (s[2] >= 0xa8 && s[2] <= 0xae);
	return s[1] == 0x81 && s[2] >= 0xa6 && s[2] <= 0xa9; /* isolates */
}

void format_clean(char *dst, size_t size, const char *text)
{
	size_t n_done = 0;

	while (*text) {
		size_t n = format_utf8_length(text);
		int is_fit = n && (n > 1 ? !is_harmful(text, n) : *text >= 0x20 && *text < 0x7f);

		if (n_done + (is_fit ? n : 1) >= size)
			break;
		if (is_fit)
			memcpy(dst + n_done, text, n);
		else
			dst[n_done] = '?';
		n_done += is_fit ? n : 1;
		text += n ? n : 1;
	}
	dst[n_done] = '\0';
}
