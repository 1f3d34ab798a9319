// SPDX-License-Identifier: GPL-2.0-or-later
/* See report.h. */
#include "config.h"

#include "tools/report.h"

#include <inttypes.h>
#include <libsmartcols.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

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
		size_t n = format_utf8_length((const char *)s);

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
	case REPORT_WORDS:
		*cell = '\0';
		for (size_t i = 0, n = 0; i < json_object_array_length(value) && n < CELL_MAX; i++)
			n += (size_t)snprintf(
				cell + n, CELL_MAX - n, "%s%s", n ? " " : "",
				json_object_get_string(json_object_array_get_idx(value, i)));
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

/* Cells that @text takes in a terminal; bytes that this locale has no characters for take four. */
static unsigned int text_width(const char *text)
{
	unsigned int width = 0;
	mbstate_t state = {0};
	wchar_t wide;
	size_t n;

	while (*text) {
		int cells = -1;

		n = mbrtowc(&wide, text, MB_LEN_MAX, &state);
		if (n && n <= MB_LEN_MAX)
			cells = wcwidth(wide);
		if (cells < 0) {
			state = (mbstate_t){0};
			n = 1;
		}
		width += cells < 0 ? 4 : (unsigned int)cells; /* "\\xe4", as libsmartcols has it */
		text += n;
	}
	return width;
}

#define COLUMNS_MAX 32

/**
 * struct layout - which columns of a table are shown
 * @widths: in cells
 */
struct layout {
	const struct report_column *columns;
	size_t n_columns;
	unsigned int widths[COLUMNS_MAX];
	bool is_left_out[COLUMNS_MAX];
};

static void measure(struct layout *layout, struct json_object *rows)
{
	char cell[CELL_MAX];

	for (size_t c = 0; c < layout->n_columns; c++) {
		const struct report_column *column = &layout->columns[c];

		layout->widths[c] = text_width(column->title);
		for (size_t i = 0; i < json_object_array_length(rows); i++) {
			format_cell(cell, lookup(json_object_array_get_idx(rows, i), column->key),
				    column->kind);
			layout->widths[c] =
				(unsigned int)max_u64(layout->widths[c], text_width(shown(cell)));
		}
	}
}

static unsigned int total_width(const struct layout *layout)
{
	unsigned int total = 0;

	for (size_t c = 0; c < layout->n_columns; c++)
		if (!layout->is_left_out[c])
			total += layout->widths[c] + (total ? 1 : 0);
	return total;
}

/* The column to be left out next; n_columns if there is none. Of those of one rank the last. */
static size_t least_wanted(const struct layout *layout)
{
	size_t found = layout->n_columns;
	unsigned int rank = 1;

	for (size_t c = 0; c < layout->n_columns; c++) {
		if (layout->is_left_out[c] || layout->columns[c].rank < rank)
			continue;
		rank = layout->columns[c].rank;
		found = c;
	}
	return found;
}

static void fit(struct layout *layout, unsigned int width)
{
	while (total_width(layout) > width) {
		size_t c = least_wanted(layout);

		if (c == layout->n_columns)
			return;
		layout->is_left_out[c] = true;
	}
}

#define TEXT_LEAST 8

/* If no column can be left out, shorten the widest text, down to TEXT_LEAST cells. */
static void shorten(struct layout *layout, unsigned int width)
{
	unsigned int total = total_width(layout);
	size_t widest = layout->n_columns;

	for (size_t c = 0; c < layout->n_columns; c++)
		if (!layout->is_left_out[c] && layout->columns[c].kind == REPORT_TEXT &&
		    (widest == layout->n_columns || layout->widths[c] > layout->widths[widest]))
			widest = c;
	if (total <= width || widest == layout->n_columns || layout->widths[widest] <= TEXT_LEAST)
		return;
	layout->widths[widest] = layout->widths[widest] > TEXT_LEAST + total - width
					 ? layout->widths[widest] - (total - width)
					 : TEXT_LEAST;
}

/* Cut @cell to @width cells; the last one says that there was more. */
static void cut(char *cell, unsigned int width)
{
	size_t n = strlen(cell);

	if (text_width(cell) <= width)
		return;
	while (n && text_width(cell) > width - 1) {
		do
			n--;
		while (n && ((unsigned char)cell[n] & 0xc0) == 0x80);
		cell[n] = '\0';
	}
	(void)strcpy(cell + n, "~");
}

static void say_what_is_left_out(const struct layout *layout, unsigned int width)
{
	char text[COLUMNS_MAX * 16] = "";
	size_t n = 0;

	for (size_t c = 0; c < layout->n_columns; c++)
		if (layout->is_left_out[c] && n < sizeof(text))
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", n ? ", " : "",
					      layout->columns[c].title);
	if (!n)
		return;
	printf("(--wide shows ");
	(void)snprintf(text + strlen(text), sizeof(text) - strlen(text), ")");
	report_paragraph(text, 14, width);
}

static int fill_row(struct libscols_table *table, struct json_object *row,
		    const struct layout *layout)
{
	struct libscols_line *line = scols_table_new_line(table, NULL);
	char cell[CELL_MAX];
	size_t n = 0;

	if (!line)
		return -ENOMEM;
	for (size_t c = 0; c < layout->n_columns; c++) {
		if (layout->is_left_out[c])
			continue;
		format_cell(cell, lookup(row, layout->columns[c].key), layout->columns[c].kind);
		cut(cell, layout->widths[c]);
		if (scols_line_set_data(line, n++, shown(cell)))
			return -ENOMEM;
	}
	return 0;
}

static int print_table(struct json_object *rows, const struct layout *layout)
{
	struct libscols_table *table = scols_new_table();
	int r = 0;

	if (!table)
		return -ENOMEM;
	/*
	 * A row is a line, in a terminal as in a pipe: libsmartcols would break single cells to
	 * fit its width, into rows that nobody can read.
	 */
	(void)scols_table_set_termforce(table, SCOLS_TERMFORCE_NEVER);
	for (size_t c = 0; !r && c < layout->n_columns; c++) {
		const struct report_column *column = &layout->columns[c];
		bool is_left = column->kind == REPORT_TEXT || column->kind == REPORT_WORDS ||
			       column->kind == REPORT_HEX;

		if (!layout->is_left_out[c] &&
		    !scols_table_new_column(table, column->title, 0.1,
					    is_left ? 0 : SCOLS_FL_RIGHT))
			r = -ENOMEM;
	}
	for (size_t i = 0; !r && i < json_object_array_length(rows); i++)
		r = fill_row(table, json_object_array_get_idx(rows, i), layout);
	if (!r && scols_print_table(table))
		r = -EIO;
	scols_unref_table(table);
	return r;
}

int report_table_within(struct json_object *rows, const struct report_column *columns,
			size_t n_columns, unsigned int width)
{
	struct layout layout = {.columns = columns, .n_columns = n_columns};
	int r;

	if (n_columns > COLUMNS_MAX)
		return err_raise(-E2BIG, "a table has more columns than there is room for");
	measure(&layout, rows);
	if (width) {
		fit(&layout, width);
		shorten(&layout, width);
	}
	r = print_table(rows, &layout);
	if (r)
		return err_raise(r, "the table could not be printed: %s", strerror(-r));
	say_what_is_left_out(&layout, width);
	return 0;
}

int report_table(struct json_object *rows, const struct report_column *columns, size_t n_columns)
{
	return report_table_within(rows, columns, n_columns, 0);
}

void report_paragraph(const char *text, unsigned int indent, unsigned int width)
{
	unsigned int room = width > indent ? width - indent : 1, n_cells = 0;

	while (*(text += strspn(text, " "))) {
		CLEANUP(freep) char *word = strndup(text, strcspn(text, " "));
		unsigned int n_word = word ? text_width(word) : 0;

		if (!word)
			break;
		if (width && n_cells && n_cells + 1 + n_word > room) {
			printf("\n%*s", (int)indent, "");
			n_cells = 0;
		}
		printf("%s%s", n_cells ? " " : "", word);
		n_cells += n_word + (n_cells ? 1 : 0);
		text += strlen(word);
	}
	putchar('\n');
}

unsigned int report_width(void)
{
	struct winsize size;

	if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size))
		return 0;
	return size.ws_col;
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
