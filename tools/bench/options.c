// SPDX-License-Identifier: GPL-2.0-or-later
// Options of cowbench's subcommands; see options.h.
#include "config.h"

#include "tools/bench/options.h"

#include <getopt.h>
#include <string.h>

#include "tools/bench/bench.h"

#define OPTIONS_MAX 16
#define LONG_BASE   256 /* above all letters */

static bool is_short(const struct bench_option *option)
{
	return !option->name[1];
}

/* For getopt_long(): ":s:n:" and the table of the long ones, whose values are LONG_BASE + index. */
static void describe(const struct bench_option *options, size_t n_options, char *letters,
		     struct option *names)
{
	*letters++ = ':';
	for (size_t i = 0; i < n_options; i++) {
		bool has_value = options[i].kind != BENCH_FLAG;

		if (is_short(&options[i])) {
			*letters++ = options[i].name[0];
			if (has_value)
				*letters++ = ':';
			continue;
		}
		*names++ = (struct option){
			.name = options[i].name,
			.has_arg = options[i].kind == BENCH_MAYBE_TEXT ? optional_argument
				   : has_value                         ? required_argument
								       : no_argument,
			.val = LONG_BASE + (int)i,
		};
	}
	*letters = '\0';
	*names = (struct option){0};
}

static bool add(struct bench_texts *texts, const char *text)
{
	if (texts->n_texts >= BENCH_TEXTS_MAX)
		return false;
	texts->texts[texts->n_texts++] = text;
	return true;
}

static bool set(const struct bench_option *option, const char *text)
{
	switch (option->kind) {
	case BENCH_FLAG:
		*(bool *)option->value = true;
		return true;
	case BENCH_SIZE:
		return bench_parse_size(option->value, text);
	case BENCH_NUMBER:
		return cli_parse_u64(option->value, text, option->min, option->max);
	case BENCH_MAYBE_TEXT:
		*(const char **)option->value = text ? text : "";
		return true;
	case BENCH_TEXT:
		*(const char **)option->value = text;
		return true;
	case BENCH_TEXTS:
		return add(option->value, text);
	}
	return false;
}

static const struct bench_option *find(const struct bench_option *options, size_t n_options, int c)
{
	if (c >= LONG_BASE)
		return &options[c - LONG_BASE];
	for (size_t i = 0; i < n_options; i++) {
		if (is_short(&options[i]) && options[i].name[0] == c)
			return &options[i];
	}
	return NULL;
}

int bench_parse_options(const struct bench_option *options, size_t n_options, int argc, char **argv)
{
	char letters[2 * OPTIONS_MAX + 2];
	struct option names[OPTIONS_MAX + 1];
	int c;

	if (n_options > OPTIONS_MAX)
		return cli_usage("%s has more options than there is room for", argv[0]);
	describe(options, n_options, letters, names);
	opterr = 0;
	while ((c = getopt_long(argc, argv, letters, names, NULL)) != -1) {
		const struct bench_option *option = find(options, n_options, c);

		if (c == ':')
			return cli_usage("%s: %s needs a value", argv[0], argv[optind - 1]);
		if (!option && optopt && optopt < LONG_BASE)
			return cli_usage("%s has no option -%c", argv[0], optopt);
		if (!option)
			return cli_usage("%s has no option %s", argv[0], argv[optind - 1]);
		/* getopt_long() takes the word only with "=", as no other option has it. */
		if (option->kind == BENCH_MAYBE_TEXT && !optarg && optind < argc &&
		    argv[optind][0] != '-')
			optarg = argv[optind++];
		if (!set(option, optarg))
			return cli_usage("%s%s wants %s, not '%s'", is_short(option) ? "-" : "--",
					 option->name, option->wants, optarg);
	}
	if (optind < argc)
		return cli_usage("%s: '%s' is an argument too many", argv[0], argv[optind]);
	return CLI_OK;
}
