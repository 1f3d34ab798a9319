/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options of cowbench's subcommands, each a table. */
#ifndef COW_TOOLS_BENCH_OPTIONS_H
#define COW_TOOLS_BENCH_OPTIONS_H

#include "tools/cli.h"

enum bench_option_kind {
	BENCH_FLAG,       /* bool *: set to true */
	BENCH_SIZE,       /* uint64_t *: MiB on the command line, bytes here */
	BENCH_NUMBER,     /* uint64_t *: from @min to @max */
	BENCH_TEXT,       /* const char **: borrowed from argv */
	BENCH_MAYBE_TEXT, /* const char **: the same; "" if no word follows that is no option */
	BENCH_TEXTS,      /* struct bench_texts *: the same, one each time */
};

#define BENCH_TEXTS_MAX 16

struct bench_texts {
	const char *texts[BENCH_TEXTS_MAX];
	size_t n_texts;
};

/**
 * struct bench_option
 * @name:  without dashes; one letter is a short option
 * @value: gets it, see the kinds
 * @wants: description of a right value, for the sentence about a wrong one
 */
struct bench_option {
	const char *name;
	enum bench_option_kind kind;
	void *value;
	uint64_t min;
	uint64_t max;
	const char *wants;
};

/**
 * bench_parse_options() - set what @argv, after the subcommand in argv[0], says
 *
 * Return: CLI_OK; CLI_USAGE, and a sentence was said that begins with @argv[0].
 */
int bench_parse_options(const struct bench_option *options, size_t n_options, int argc,
			char **argv);

#endif
