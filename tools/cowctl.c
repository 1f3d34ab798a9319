// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowctl, the operator's command. One table holds the verbs: main() dispatches from it, --help
 * prints it, and a mistyped verb is compared with it.
 */
#include "config.h"

#include "tools/cowctl.h"

#include <getopt.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"

#define DEFAULT_ADDRESS "/run/cowd/cowd.sock"

/**
 * struct verb - one line of the table
 * @arguments: their names, separated by single blanks; one in brackets may be left out
 * @parse:     check the arguments before anything is done; NULL if they need no check
 * @run:       do it
 * @flags:     VERB_* bits
 * @details:   more text for `cowctl help VERB`
 */
struct verb {
	const char *name;
	const char *arguments;
	int (*parse)(struct ctl *ctl, char **args);
	int (*run)(struct ctl *ctl, char **args);
	unsigned int flags;
	const char *description;
	const char *details;
};

#define VERB_JSON  1u /* --json makes sense */
#define VERB_FORCE 2u
#define VERB_SAVE  4u
#define VERB_WIDE  8u
#define VERB_ALONE 16u /* is not to be given a connection */
#define VERB_LIST  (VERB_JSON | VERB_WIDE)

static int ctl_help(struct ctl *ctl, char **args);
static int ctl_version(struct ctl *ctl, char **args);

static const struct verb verbs[] = {
	{"status", "", NULL, ctl_status, VERB_JSON,
	 "the daemon: version, kernel, mechanisms, totals",
	 "Says of a daemon that runs which ways of freezing memory it has here, whether it lends\n"
	 "a userfaultfd, and how much it holds."},
	{"clients", "", NULL, ctl_clients, VERB_LIST, "who is connected, and what each holds",
	 "One line for each connection. Without administrator's rights only your own are shown."},
	{"regions", "", NULL, ctl_regions, VERB_LIST, "memory that can be frozen",
	 "One line for each region: whose, where, how large, how much memory is behind it.\n"
	 "Without administrator's rights only your own are shown."},
	{"snapshots", "", NULL, ctl_snapshots, VERB_LIST, "frozen copies, and those that were lost",
	 "One line for each snapshot: whether it is live, what is kept for it, how far a save is.\n"
	 "Without administrator's rights only your own are shown."},
	{"stats", "", NULL, ctl_stats, VERB_LIST, "counters and latencies since the daemon started",
	 "Three tables: what was counted, how long things took, where regions are served."},
	{"save", "SNAPSHOT FILE", ctl_save_parse, ctl_save, VERB_FORCE,
	 "write a snapshot to a new file; - is standard output",
	 "SNAPSHOT is a number that 'cowctl snapshots' shows. FILE has its name when it is whole,\n"
	 "and not before; one that is there is replaced with --force only."},
	{"snapshot", "REGION", ctl_snapshot_parse, ctl_snapshot, VERB_FORCE | VERB_SAVE,
	 "freeze a program's uffd region; hold or --save it",
	 "REGION is a number that 'cowctl regions' shows, of mode uffd. Without --save the "
	 "snapshot\n"
	 "is held until cowctl ends, by Ctrl-C for one."},
	{"check", "", NULL, ctl_check, VERB_JSON | VERB_ALONE,
	 "what works here, and what to do about the rest",
	 "Tries the kernel, limits, the connection to cowd, and each mode. Ends with 0 if all "
	 "modes\n"
	 "work, if slower than they could, 1 if one does not, 3 without a cowd, 4 if its socket "
	 "may\n"
	 "not be used. Without a cowd a private one is started to try the modes."},
	{"help", "[VERB]", NULL, ctl_help, VERB_ALONE,
	 "explain cowctl, or one verb: more than this", NULL},
	{"version", "", NULL, ctl_version, VERB_ALONE, "print the version", NULL},
};

/* @flag: bit of the verbs that take it; 0: all do. */
static const struct {
	struct option option;
	const char *argument;
	unsigned int flag;
	const char *help;
} options[] = {
	{{"socket", required_argument, NULL, 's'},
	 " PATH",
	 0,
	 "cowd's socket [$COWD_ADDRESS or " DEFAULT_ADDRESS "]"},
	{{"json", no_argument, NULL, 'j'},
	 "",
	 VERB_JSON,
	 "print JSON; keys name their units: _bytes, _usec"},
	{{"wide", no_argument, NULL, 'w'},
	 "",
	 VERB_WIDE,
	 "tables: all columns, on a narrow terminal too"},
	{{"force", no_argument, NULL, 'f'}, "", VERB_FORCE, "save: replace FILE if it exists"},
	{{"save", required_argument, NULL, 'S'},
	 " FILE",
	 VERB_SAVE,
	 "snapshot: write it to FILE, as save does"},
	{{"help", no_argument, NULL, 'h'}, "", 0, "explain cowctl, or the verb that is given"},
	{{"version", no_argument, NULL, 'V'}, "", 0, "print the version"},
};

static void print_options(unsigned int flags)
{
	char left[32];

	printf("\nOptions:\n");
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		if (options[i].flag & ~flags)
			continue;
		snprintf(left, sizeof(left), "-%c, --%s%s", options[i].option.val,
			 options[i].option.name, options[i].argument);
		printf("  %-22s %s\n", left, options[i].help);
	}
}

static void print_help(void)
{
	char call[64];

	printf("Usage: cowctl [OPTION]... VERB [ARGUMENT]...\n"
	       "See and use what a running cowd holds.\n\n"
	       "Verbs:\n");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		snprintf(call, sizeof(call), "%s %s", verbs[i].name, verbs[i].arguments);
		printf("  %-22s %s\n", call, verbs[i].description);
	}
	print_options(~0u);
	printf("\nExit status: 0 done, 1 failed, 2 wrong arguments, 3 no daemon, 4 not allowed,\n"
	       "5 no such snapshot, 6 snapshot lost, 130 interrupted.\n");
}

static void print_verb(const struct verb *verb)
{
	printf("Usage: cowctl [OPTION]... %s %s\n%s\n", verb->name, verb->arguments,
	       verb->description);
	if (verb->details)
		printf("\n%s\n", verb->details);
	print_options(verb->flags);
	printf("\ncowctl(1) says more.\n");
}

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
	return NULL;
}

static int unknown_verb(const char *name)
{
	return cli_unknown("verb", name,
			   cli_nearest(name, &verbs[0].name, ARRAY_SIZE(verbs), sizeof(verbs[0])));
}

static int help_with(const char *name)
{
	const struct verb *verb;

	if (!name) {
		print_help();
		return CLI_OK;
	}
	verb = find_verb(name);
	if (!verb)
		return unknown_verb(name);
	print_verb(verb);
	return CLI_OK;
}

static int ctl_help(struct ctl *ctl, char **args)
{
	(void)ctl;
	return help_with(args[0]);
}

static int ctl_version(struct ctl *ctl, char **args)
{
	(void)ctl;
	(void)args;
	printf("cowctl %s\n", PACKAGE_VERSION);
	return CLI_OK;
}

/* The @idx-th of names separated by blanks; its length, 0 if there are not as many. */
static int argument_name(const char *names, int idx, const char **name)
{
	for (; idx && *names; idx--) {
		names += strcspn(names, " ");
		names += strspn(names, " ");
	}
	*name = names;
	return (int)strcspn(names, " ");
}

static int check_arguments(const struct verb *verb, int n_args, char **args)
{
	int n_most = 0, length;
	const char *name;

	while (argument_name(verb->arguments, n_most, &name))
		n_most++;
	length = argument_name(verb->arguments, n_args, &name);
	if (n_args < n_most && *name != '[')
		return cli_usage("%s: %.*s is missing", verb->name, length, name);
	if (n_args > n_most)
		return cli_usage("%s: '%s' is an argument too many", verb->name, args[n_most]);
	return CLI_OK;
}

static int check_options(const struct verb *verb, const struct ctl *ctl)
{
	if (ctl->is_json && !(verb->flags & VERB_JSON))
		return cli_usage("%s: --json has no meaning here", verb->name);
	if (ctl->is_wide && !(verb->flags & VERB_WIDE))
		return cli_usage("%s: --wide has no meaning here", verb->name);
	if (ctl->save_path && !(verb->flags & VERB_SAVE))
		return cli_usage("%s: --save has no meaning here", verb->name);
	if (ctl->is_forced && !(verb->flags & VERB_FORCE))
		return cli_usage("%s: --force has no meaning here", verb->name);
	return CLI_OK;
}

/* Everything that can be wrong with what was typed, before anybody is connected to. */
static int check_verb(const struct verb *verb, struct ctl *ctl, int n_args, char **args)
{
	int r;

	r = check_arguments(verb, n_args, args);
	if (!r)
		r = check_options(verb, ctl);
	return r || !verb->parse ? r : verb->parse(ctl, args);
}

/* CLI_OK: go on; -1: all was said, end well. */
static int parse_options(struct ctl *ctl, int argc, char **argv)
{
	struct option names[ARRAY_SIZE(options) + 1] = {0};
	int c;

	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		names[i] = options[i].option;
	/* Wrong options are named in our own words, which say where to look further. */
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":s:S:jwfhV", names, NULL)) != -1) {
		switch (c) {
		case 's':
			ctl->address = optarg;
			break;
		case 'j':
			ctl->is_json = true;
			break;
		case 'w':
			ctl->is_wide = true;
			break;
		case 'f':
			ctl->is_forced = true;
			break;
		case 'S':
			ctl->save_path = optarg;
			break;
		case 'h':
			ctl->is_help = true;
			break;
		case 'V':
			(void)ctl_version(ctl, argv);
			return -1;
		case ':':
			return cli_usage("%s needs a value", argv[optind - 1]);
		default:
			if (optopt)
				return cli_usage("there is no option -%c", optopt);
			return cli_usage("there is no option %s", argv[optind - 1]);
		}
	}
	return CLI_OK;
}

static int run_verb(struct ctl *ctl, const struct verb *verb, char **args)
{
	int r;

	if (verb->flags & VERB_ALONE)
		return verb->run(ctl, args);
	r = cow_client_new(&ctl->client, ctl->address);
	if (r)
		return cli_fail_connect(r, cow_last_error());
	r = verb->run(ctl, args);
	cow_client_unref(ctl->client);
	return r;
}

int main(int argc, char **argv)
{
	const char *from_environment = getenv("COWD_ADDRESS");
	struct ctl ctl = {.address = from_environment && *from_environment ? from_environment
									   : DEFAULT_ADDRESS};
	const struct verb *verb;
	int r;

	setlocale(LC_ALL, "");
	setlocale(LC_NUMERIC, "C"); /* numbers look the same everywhere, scripts read them */
	cli_name("cowctl");
	r = parse_options(&ctl, argc, argv);
	if (r)
		return cli_finish(r < 0 ? CLI_OK : r);
	argc -= optind;
	argv += optind;
	if (ctl.is_help)
		return cli_finish(help_with(argv[0]));
	if (!argc)
		return cli_usage("VERB is missing");
	verb = find_verb(argv[0]);
	if (!verb)
		return unknown_verb(argv[0]);
	r = check_verb(verb, &ctl, argc - 1, argv + 1);
	if (r)
		return r;
	return cli_finish(run_verb(&ctl, verb, argv + 1));
}
