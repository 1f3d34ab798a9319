// SPDX-License-Identifier: GPL-2.0-or-later
/* See report.h. */
#include "config.h"

#include "tools/report.h"

#include <inttypes.h>
#include <libsmartcols.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/err.h"
#include "common/format.h"

#define CELL_MAX 256

const char *report_duration(char buf[static REPORT_DURATION_MAX], uint64_t usec)
{
	uint64_t s = usec / 1000000;

	if (s < 10)
		snprintf(buf, REPORT_DURATION_MAX, "%.1fs", (double)usec / 1e6);
	else if (s < 60)
		snprintf(buf, REPORT_DURATION_MAX, "%" PRIu64 "s", s);
	else if (s < 3600)
		snprintf(buf, REPORT_DURATION_MAX, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(buf, REPORT_DURATION_MAX, "%" PRIu64 "h%02" PRIu64 "m", s / 3600,
			 s / 60 % 60);
	else
		snprintf(buf, REPORT_DURATION_MAX, "%" PRIu64 "d%02" PRIu64 "h", s / 86400,
			 s / 3600 % 24);
	return buf;
}

const char *report_micros(char buf[static REPORT_DURATION_MAX], double usec)
{
	int n_decimals = usec < 10 ? 2 : usec < 100 ? 1 : 0;

	snprintf(buf, REPORT_DURATION_MAX, "%.*f", n_decimals, usec);
	return buf;
}

/* Length of the UTF-8 sequence at @s, 0 if there is none. Overlong forms are left to the terminal.
 */
static size_t utf8_length(const unsigned char *s)
{
	size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

	if (s[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

struct json_object *report_real(double value)
{
	char text[64];

	(void)snprintf(text, sizeof(text), "%.3f", value);
	return json_object_new_double_s(value, text);
}

void report_put_real(struct json_object *object, const char *key, double value)
{
	json_object_object_add(object, key, report_real(value));
}

struct json_object *report_text(const char *text)
{
	CLEANUP(freep) char *clean = strdup(text ? text : "");
	unsigned char *s = (unsigned char *)clean;

	if (!clean)
		return NULL;
	while (*s) {
		size_t n = utf8_length(s);

		if (!n)
			*s = '?';
		s += n ? n : 1;
	}
	return json_object_new_string(clean);
}

/* Member "a.b" of @object, or NULL. */
static struct json_object *lookup(struct json_object *object, const char *key)
{
	const char *dot = strchr(key, '.');
	char head[64];

	if (!dot)
		return json_object_object_get(object, key);
	snprintf(head, sizeof(head), "%.*s", (int)(dot - key), key);
	return lookup(json_object_object_get(object, head), dot + 1);
}

static void format_cell(char cell[static CELL_MAX], struct json_object *value,
			enum report_kind kind)
{
	char buf[FORMAT_BYTES_MAX > REPORT_DURATION_MAX ? FORMAT_BYTES_MAX : REPORT_DURATION_MAX];

	if (!value) {
		snprintf(cell, CELL_MAX, "-");
		return;
	}
	switch (kind) {
	case REPORT_TEXT:
		snprintf(cell, CELL_MAX, "%s", json_object_get_string(value));
		return;
	case REPORT_NUMBER:
		if (json_object_is_type(value, json_type_double))
			snprintf(cell, CELL_MAX, "%s",
				 report_micros(buf, json_object_get_double(value)));
		else
			snprintf(cell, CELL_MAX, "%" PRIu64, json_object_get_uint64(value));
		return;
	case REPORT_BYTES:
		snprintf(cell, CELL_MAX, "%s", format_bytes(buf, json_object_get_uint64(value)));
		return;
	case REPORT_USEC:
		snprintf(cell, CELL_MAX, "%s", report_duration(buf, json_object_get_uint64(value)));
		return;
	case REPORT_HEX:
		snprintf(cell, CELL_MAX, "0x%" PRIx64, json_object_get_uint64(value));
		return;
	case REPORT_RATIO: {
		double ratio = json_object_get_double(value);

		/* Three digits that count: 0.00214x says what 0.00x would hide. */
		if (ratio > 0 && ratio < 1)
			snprintf(cell, CELL_MAX, "%.*fx", (int)ceil(-log10(ratio)) + 1, ratio);
		else
			snprintf(cell, CELL_MAX, "%.*fx",
				 ratio < 10    ? 2
				 : ratio < 100 ? 1
					       : 0,
				 ratio);
		return;
	}
	}
}

/* A title or value that is empty would swallow its column in tools that split at blanks. */
static const char *shown(const char *cell)
{
	return *cell ? cell : "-";
}

static int fill_row(struct libscols_table *table, struct json_object *row,
		    const struct report_column *columns, size_t n_columns)
{
	struct libscols_line *line = scols_table_new_line(table, NULL);
	char cell[CELL_MAX];

	if (!line)
		return -ENOMEM;
	for (size_t i = 0; i < n_columns; i++) {
		format_cell(cell, lookup(row, columns[i].key), columns[i].kind);
		if (scols_line_set_data(line, i, shown(cell)))
			return -ENOMEM;
	}
	return 0;
}

int report_table(struct json_object *rows, const struct report_column *columns, size_t n_columns)
{
	struct libscols_table *table;
	int r = 0;

	/* libsmartcols prints nothing at all for a table without lines; people want to see which.
	 */
	if (!json_object_array_length(rows)) {
		for (size_t i = 0; i < n_columns; i++)
			printf("%s%s", i ? " " : "", columns[i].title);
		putchar('\n');
		return 0;
	}
	table = scols_new_table();
	if (!table)
		return err_oom(0, "a table");
	/*
	 * A row is a line, in a terminal as in a pipe: libsmartcols would break single cells to
	 * fit its width, into rows that nobody can read.
	 */
	(void)scols_table_set_termforce(table, SCOLS_TERMFORCE_NEVER);
	for (size_t i = 0; !r && i < n_columns; i++) {
		int flags = columns[i].kind == REPORT_TEXT || columns[i].kind == REPORT_HEX
				    ? 0
				    : SCOLS_FL_RIGHT;

		if (!scols_table_new_column(table, columns[i].title, 0.1, flags))
			r = -ENOMEM;
	}
	for (size_t i = 0; !r && i < json_object_array_length(rows); i++)
		r = fill_row(table, json_object_array_get_idx(rows, i), columns, n_columns);
	if (!r && scols_print_table(table))
		r = -EIO;
	scols_unref_table(table);
	return r ? err_raise(r, "the table could not be printed: %s", strerror(-r)) : 0;
}

int report_fields(struct json_object *object, const struct report_column *columns, size_t n_columns)
{
	int width = 0;

	for (size_t i = 0; i < n_columns; i++)
		if ((int)strlen(columns[i].title) > width)
			width = (int)strlen(columns[i].title);
	for (size_t i = 0; i < n_columns; i++) {
		char cell[CELL_MAX];

		format_cell(cell, lookup(object, columns[i].key), columns[i].kind);
		printf("%-*s  %s\n", width, columns[i].title, shown(cell));
	}
	return 0;
}

int report_json(struct json_object *document)
{
	const char *text = json_object_to_json_string_ext(
		document,
		JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE);

	if (!text)
		return err_oom(0, "the JSON text");
	puts(text);
	return 0;
}
