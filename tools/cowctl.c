// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowctl: what operators type. One table holds the verbs; it is what is dispatched from, what
 * --help prints, and what a mistyped verb is compared with.
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
 * @arguments:   their names, separated by single blanks
 * @takes_json:  whether --json makes sense
 * @takes_force: whether --force does
 * @takes_save:  whether --save does
 */
struct verb {
	const char *name;
	const char *arguments;
	int (*run)(struct ctl *ctl, char **args);
	bool takes_json;
	bool takes_force;
	bool takes_save;
	const char *description;
};

static const struct verb verbs[] = {
	{"status", "", ctl_status, true, false, false,
	 "the daemon: version, kernel, mechanisms, totals"},
	{"clients", "", ctl_clients, true, false, false, "who is connected, and what each holds"},
	{"regions", "", ctl_regions, true, false, false, "memory that can be frozen"},
	{"snapshots", "", ctl_snapshots, true, false, false,
	 "frozen copies, and those that were lost"},
	{"stats", "", ctl_stats, true, false, false,
	 "counters and latencies since the daemon started"},
	{"save", "SNAPSHOT FILE", ctl_save, false, true, false,
	 "write a snapshot to a new file, or to standard output if FILE is -"},
	{"snapshot", "REGION", ctl_snapshot, false, true, true,
	 "freeze a uffd region of a running program, and hold or --save it"},
};

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
	printf("\nOptions:\n"
	       "  -s, --socket PATH      cowd's socket (else $COWD_ADDRESS, else " DEFAULT_ADDRESS
	       ")\n"
	       "  -j, --json             print JSON: sizes in bytes, times in microseconds\n"
	       "  -f, --force            save: replace FILE if it exists\n"
	       "  -S, --save FILE        snapshot: write it to FILE, as save does, then release "
	       "it\n"
	       "  -h, --help             print this\n"
	       "  -V, --version          print the version\n\n"
	       "Exit status: 0 done, 1 failed, 2 wrong arguments, 3 no daemon, 4 not allowed,\n"
	       "5 no such snapshot, 6 snapshot lost, 130 interrupted.\n");
}

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
	return NULL;
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

static int check_arguments(const struct verb *verb, const struct ctl *ctl, int n_args, char **args)
{
	int n_wanted = 0, length;
	const char *name;

	while (argument_name(verb->arguments, n_wanted, &name))
		n_wanted++;
	if (n_args < n_wanted) {
		length = argument_name(verb->arguments, n_args, &name);
		return cli_usage("%s: %.*s is missing", verb->name, length, name);
	}
	if (n_args > n_wanted)
		return cli_usage("%s: '%s' is an argument too many", verb->name, args[n_wanted]);
	if (ctl->is_json && !verb->takes_json)
		return cli_usage("%s: --json has no meaning here", verb->name);
	if (ctl->save_path && !verb->takes_save)
		return cli_usage("%s: --save has no meaning here", verb->name);
	if (ctl->is_forced && !verb->takes_force)
		return cli_usage("%s: --force has no meaning here", verb->name);
	return CLI_OK;
}

static const struct option long_options[] = {
	{"socket", required_argument, NULL, 's'},
	{"json", no_argument, NULL, 'j'},
	{"force", no_argument, NULL, 'f'},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{"save", required_argument, NULL, 'S'},
	{0},
};

/* CLI_OK: go on; -1: all was said, end well. */
static int parse_options(struct ctl *ctl, int argc, char **argv)
{
	int c;

	/* Wrong options are named in our own words, which say where to look further. */
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":s:S:jfhV", long_options, NULL)) != -1) {
		switch (c) {
		case 's':
			ctl->address = optarg;
			break;
		case 'j':
			ctl->is_json = true;
			break;
		case 'f':
			ctl->is_forced = true;
			break;
		case 'S':
			ctl->save_path = optarg;
			break;
		case 'h':
			print_help();
			return -1;
		case 'V':
			printf("cowctl %s\n", PACKAGE_VERSION);
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
	if (!argc)
		return cli_usage("VERB is missing");
	verb = find_verb(argv[0]);
	if (!verb)
		return cli_unknown(
			"verb", argv[0],
			cli_nearest(argv[0], &verbs[0].name, ARRAY_SIZE(verbs), sizeof(verbs[0])));
	r = check_arguments(verb, &ctl, argc - 1, argv + 1);
	if (r)
		return r;

	r = cow_client_new(&ctl.client, ctl.address);
	if (r)
		return cli_fail_connect(r, cow_last_error());
	r = verb->run(&ctl, argv + 1);
	cow_client_unref(ctl.client);
	return cli_finish(r);
}
