/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes as people write and read them. */
#ifndef COW_COMMON_FORMAT_H
#define COW_COMMON_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#define FORMAT_BYTES_MAX 16

/** format_bytes() - "512 B", "4.0 GiB", rounded to a tenth. Return: @buf */
const char *format_bytes(char buf[static FORMAT_BYTES_MAX], uint64_t bytes);

/**
 * format_parse_bytes() - a size with an optional unit of 1024: "65536", "64K", "64 KiB", "1.5G",
 * "2t"
 * @bytes: set on success; rounded down to a whole byte
 *
 * Return: 0; -EINVAL, -ERANGE with a sentence.
 */
int format_parse_bytes(uint64_t *bytes, const char *text);

/**
 * format_utf8_length() - bytes of the UTF-8 sequence at @text
 *
 * Return: 1 to 4; 0 if there is none, as for overlong forms, surrogates and values above U+10FFFF;
 * 1 at the end of the string.
 */
size_t format_utf8_length(const char *text);

/**
 * format_clean() - text of a stranger, fit for a log line or a table
 * @dst: gets @text, cut to @size - 1 bytes at the end of a character. Bytes that are no UTF-8,
 *       control characters, and characters that turn the direction of writing or break lines,
 *       become '?'
 */
void format_clean(char *dst, size_t size, const char *text);

#endif
