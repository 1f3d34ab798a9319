/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The output of the tools. All output is first a JSON document (json-c). With --json it is printed
 * as it is, numbers as numbers and sizes in bytes. For people an array of objects in it is shown as
 * an aligned table (libsmartcols), in which columns choose members by key and say their unit.
 */
#ifndef COW_TOOLS_REPORT_H
#define COW_TOOLS_REPORT_H

#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>

enum report_kind {
	REPORT_TEXT,
	REPORT_WORDS,  /* an array of strings */
	REPORT_NUMBER, /* right aligned */
	REPORT_BYTES,  /* "1.5 GiB" */
	REPORT_USEC,   /* "12s", "3h05m" */
	REPORT_HEX,    /* an address; in JSON a number like any other */
	REPORT_RATIO,  /* "0.01x" */
};

/**
 * struct report_column - one column of a table
 * @key:   member of each row; "a.b" is member b of the object a; a row without it shows "-"
 * @title: heading
 * @rank:  if a table is too wide, columns are left out, the highest rank first; 0: never
 */
struct report_column {
	const char *key;
	const char *title;
	enum report_kind kind;
	unsigned int rank;
};

/** report_table() - print @rows, an array of objects. Return: 0 or -errno with a sentence */
int report_table(struct json_object *rows, const struct report_column *columns, size_t n_columns);

/**
 * report_table_within() - the same in lines of at most @width cells of a terminal; 0: of any width
 *
 * Which columns were left out for that is said in a line below. If those of rank 0 alone are wider,
 * the widest text is cut.
 */
int report_table_within(struct json_object *rows, const struct report_column *columns,
			size_t n_columns, unsigned int width);

/**
 * report_fields() - print one object as lines of title and value
 *
 * Return: 0 or -errno with a sentence.
 */
int report_fields(struct json_object *object, const struct report_column *columns,
		  size_t n_columns);

/**
 * report_paragraph() - print @text in lines of at most @width cells, broken at blanks
 * @indent: blanks before each line but the first, which goes on at the cursor
 * @width:  0: one line
 */
void report_paragraph(const char *text, unsigned int indent, unsigned int width);

/** report_width() - cells in a line of the terminal that stdout is; 0 if it is none */
unsigned int report_width(void);

/** report_json() - print a document, with a final newline. Return: 0 or -errno with a sentence */
int report_json(struct json_object *document);

/** report_real() - @value with three decimals: nanoseconds, where microseconds are the unit */
struct json_object *report_real(double value);
/** report_put_real() - the same as a member of @object */
void report_put_real(struct json_object *object, const char *key, double value);

/** report_text() - @text as a JSON string; bytes that are no UTF-8 become question marks */
struct json_object *report_text(const char *text);

#define REPORT_DURATION_MAX 32

/** report_duration() - microseconds as "0.4s", "12s", "3m05s", "2h03m", "5d04h". Return: @buf */
const char *report_duration(char buf[static REPORT_DURATION_MAX], uint64_t usec);

/** report_micros() - a figure in microseconds with three digits
 * that count: "1.25", "340", "18700" */
const char *report_micros(char buf[static REPORT_DURATION_MAX], double usec);

#endif
