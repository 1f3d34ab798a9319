// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowbench: measure the cost of a frozen copy on this machine. `cowbench -m MODE` is the measuring
 * tool of the talk. The table below has the subcommands, each of which has a file of its own.
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/format.h"
#include "tools/bench/bench.h"
#include "tools/report.h"

struct subcommand {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *arguments;
	const char *description;
};

static const struct subcommand subcommands[] = {
	{"compare", bench_compare,
	 "[-s SIZE] [-n RUNS] [--warm] [--without-feature NAME]... [--json]",
	 "all modes side by side, against fork and memcpy"},
	{"repeat", bench_repeat,
	 "[-s SIZE] [--dirty PERCENT] [-n SNAPSHOTS] [--threads N] [--stop-threads] "
	 "[--hold N|newest|none] [--period MS] [--spread random|hot|sequential] [--json]",
	 "copies again and again under a working client: scoot, fork, uffd and mmapcopy"},
	{"fork", bench_fork, "[-s SIZE] [-n RUNS] [--again MS] [--json]",
	 "cow_fork() and fork() of a region, against fork() of other memory"},
	{"rollback", bench_rollback, "[-s SIZE] [--dirty PAGES] [-n RUNS] [--json]",
	 "change pages and go back, scoot and uffd, against doing it in fork children"},
	{"faults", bench_faults,
	 "[--clients N] [--threads M] [--pattern random|sequential] [--storm] [-s SIZE] [-n RUNS] "
	 "[--json]",
	 "first writes served by cowd, against a bare loop"},
};

static void print_help(void)
{
	printf("Usage: cowbench -m {scoot|fork|mmapcopy|uffd} [-s SIZE] [-p] [-t] [-x db|snap] "
	       "[-v]\n"
	       "       cowbench SUBCOMMAND [OPTION]...\n"
	       "Measure what a frozen copy of memory costs.\n\n"
	       "One shot of one mode:\n"
	       "  -m MODE            how the copy is made: scoot, fork, mmapcopy or uffd\n"
	       "  -s SIZE            how much memory: 64, which is MiB, or 64M, 1.5G [1]\n"
	       "  -p                 populate it when it is allocated\n"
	       "  -t                 look at page frames before and after a write; implies -v\n"
	       "  -x db|snap         until the program can go on, or the copy can be read [db]\n"
	       "  -v                 say what is done\n\n"
	       "Subcommands:\n");
	for (size_t i = 0; i < ARRAY_SIZE(subcommands); i++) {
		printf("  %-8s ", subcommands[i].name);
		report_paragraph(subcommands[i].arguments, 11, report_width());
		printf("        %s\n", subcommands[i].description);
	}
	printf("\nOptions of all:\n"
	       "  --socket ADDRESS   use this cowd, not a private one\n"
	       "  -h, --help         print this\n"
	       "  -V, --version      print the version\n\n"
	       "Exit status: 0 done, 1 failed, 2 wrong arguments, 3 no daemon, 4 not allowed.\n");
}

/*
 * $COWD_ADDRESS counts only if it says how to start a private cowd: figures of a daemon that serves
 * others are asked for by name.
 */
const char *bench_address(const char *socket)
{
	const char *from_environment = getenv("COWD_ADDRESS");

	if (socket)
		return socket;
	if (from_environment && !strncmp(from_environment, "exec:", strlen("exec:")))
		return from_environment;
	return cli_private_cowd();
}

int bench_connect(struct cow_client **client, const char *socket)
{
	int r = cow_client_new(client, bench_address(socket));

	return r && r != -EACCES && r != -EPERM ? -ENOTCONN : r;
}

bool bench_parse_size(uint64_t *size_bytes, const char *text)
{
	const uint64_t mib = (uint64_t)1 << 20, most = mib << 24;
	uint64_t parsed;

	if (cli_parse_u64(&parsed, text, 1, most >> 20))
		parsed <<= 20;
	else if (!text[strspn(text, "0123456789")] || format_parse_bytes(&parsed, text))
		return false;
	if (parsed < mib || parsed > most)
		return false;
	*size_bytes = (parsed + mib - 1) & ~(mib - 1);
	return true;
}

static int run_subcommand(int argc, char **argv)
{
	for (size_t i = 0; i < ARRAY_SIZE(subcommands); i++)
		if (!strcmp(subcommands[i].name, argv[0]))
			return subcommands[i].run(argc, argv);
	return cli_unknown("subcommand", argv[0],
			   cli_nearest(argv[0], &subcommands[0].name, ARRAY_SIZE(subcommands),
				       sizeof(subcommands[0])));
}

static bool is_word(const char *word, const char *letter, const char *name)
{
	return !strcmp(word, letter) || !strcmp(word, name);
}

int main(int argc, char **argv)
{
	cli_name("cowbench");
	for (int i = 1; i < argc; i++) {
		if (is_word(argv[i], "-h", "--help") || (i == 1 && !strcmp(argv[i], "help"))) {
			print_help();
			return cli_finish(CLI_OK);
		}
		if (is_word(argv[i], "-V", "--version")) {
			printf("cowbench %s\n", PACKAGE_VERSION);
			return cli_finish(CLI_OK);
		}
	}
	if (argc < 2)
		return cli_usage("-m MODE or SUBCOMMAND is missing");
	if (argv[1][0] == '-')
		return cli_finish(bench_measure(argc, argv));
	return cli_finish(run_subcommand(argc - 1, argv + 1));
}
