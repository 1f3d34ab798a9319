// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Settings: defaults, then the file, then the command line; contracts are in options.h.
 *
 * The command line is walked twice: once for --config and what ends early, and again over the
 * file's settings. A reload makes a whole new set and takes over only what can change in a
 * sandboxed daemon.
 */
#include "config.h"

#include <ctype.h>
#include <getopt.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "backends/kernel.h"
#include "common/err.h"
#include "common/format.h"
#include "daemon/process/log.h"
#include "daemon/process/options-file.h"

#define DEFAULT_CONFIG COW_SYSCONFDIR "/cowd/cowd.conf"
#define DEFAULT_SOCKET "/run/cowd/cowd.sock"

enum {
	OPT_CLIENT_FD = 256,
	OPT_SOCKET,
	OPT_CONFIG,
	OPT_USER,
	OPT_LEND,
	OPT_WORKERS,
	OPT_NO_SANDBOX,
	OPT_STRICT_SANDBOX,
	OPT_WITHOUT,
	OPT_CHECK_CONFIG,
};

/* One table for getopt and for --help. */
static const struct {
	struct option option;
	const char *argument;
	const char *help;
} table[] = {
	{{"socket", required_argument, NULL, OPT_SOCKET}, "PATH", "listen there"},
	{{"client-fd", required_argument, NULL, OPT_CLIENT_FD},
	 "N",
	 "serve the connected socket N, end when it closes; listen only with --socket"},
	{{"config", required_argument, NULL, OPT_CONFIG}, "FILE", "instead of " DEFAULT_CONFIG},
	{{"user", required_argument, NULL, OPT_USER},
	 "NAME",
	 "become NAME after start as root; \"\" to stay"},
	{{"lend", required_argument, NULL, OPT_LEND},
	 "POLICY",
	 "lend /dev/userfaultfd to clients: yes, no, user-mode-only"},
	{{"workers", required_argument, NULL, OPT_WORKERS}, "N", "fault workers; 0: one per CPU"},
	{{"no-sandbox", no_argument, NULL, OPT_NO_SANDBOX},
	 NULL,
	 "keep capabilities and all system calls (for sanitizers)"},
	{{"strict-sandbox", no_argument, NULL, OPT_STRICT_SANDBOX},
	 NULL,
	 "a system call outside of the list ends cowd (for tests)"},
	{{"without-feature", required_argument, NULL, OPT_WITHOUT},
	 "NAME",
	 "do as on a kernel without NAME (for tests; \"help\" lists them)"},
	{{"verbose", no_argument, NULL, 'v'}, NULL, "say more"},
	{{"check-config", no_argument, NULL, OPT_CHECK_CONFIG},
	 NULL,
	 "read the settings, print those in effect, end"},
	{{"help", no_argument, NULL, 'h'}, NULL, "print this"},
	{{"version", no_argument, NULL, 'V'}, NULL, "print the version"},
};

static const char *const lend_names[] = {
	[LEND_NO] = "no",
	[LEND_YES] = "yes",
	[LEND_USER_MODE_ONLY] = "user-mode-only",
};

const char *options_lend_name(enum lend_policy lend)
{
	return lend_names[lend];
}

static void print_help(void)
{
	printf("Usage: cowd [OPTION]...\nThe daemon that keeps frozen copies of programs' memory; "
	       "see "
	       "cowd(8).\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		char left[40];
		int val = table[i].option.val;

		(void)snprintf(left, sizeof(left), "%c%c%s --%s %s", val < 256 ? '-' : ' ',
			       val < 256 ? val : ' ', val < 256 ? "," : " ", table[i].option.name,
			       table[i].argument ? table[i].argument : "");
		printf("  %-30s %s\n", left, table[i].help);
	}
}

static int add_without(struct options *options, const char *name)
{
	char known[256];
	const struct kernel_feature *feature = kernel_feature_find(name);

	if (!feature)
		return err_raise(-EINVAL, "\"%s\" is none of %s", name,
				 kernel_feature_names(known, sizeof(known)));
	options->without_features |= feature->uffd_features;
	options->without |= feature->without;
	return 0;
}

/* A value's sentence, with the option that it was given to before it. */
static int fail_option(const char *name, int error)
{
	char because[256];

	(void)snprintf(because, sizeof(because), "%s", err_sentence());
	return err_raise(error, "--%s: %s", name, because);
}

static int parse_client_fd(struct options *options, const char *value)
{
	unsigned int fd;

	if (option_parse_count(&fd, value, 0, 1 << 20))
		return -EINVAL;
	options->client_fd = (int)fd;
	return 0;
}

static int apply(struct options *options, int val, const char *value)
{
	switch (val) {
	case OPT_SOCKET:
		return option_set_string(&options->socket_path, value);
	case OPT_CLIENT_FD:
		return parse_client_fd(options, value);
	case OPT_USER:
		options->is_user_named = true;
		return option_set_string(&options->user, value);
	case OPT_LEND:
		return option_parse_lend(&options->lend, value);
	case OPT_WORKERS:
		return option_parse_count(&options->n_workers, value, 0, OPTION_WORKERS_MAX);
	case OPT_NO_SANDBOX:
		options->is_sandboxed = false;
		return 0;
	case OPT_STRICT_SANDBOX:
		options->is_strict = true;
		return 0;
	case OPT_WITHOUT:
		return add_without(options, value);
	case 'v':
		options->is_verbose = true;
		return 0;
	default: /* taken in the other walk */
		return 0;
	}
}

enum walk {
	WALK_FIRST, /* --config and what ends early */
	WALK_APPLY, /* everything else, over the file */
};

#define WALK_E_HELP    1
#define WALK_E_VERSION 2

static int take_first(struct options *options, bool *is_check, int val, const char *value)
{
	switch (val) {
	case 'h':
		return WALK_E_HELP;
	case 'V':
		return WALK_E_VERSION;
	case OPT_CONFIG:
		options->is_config_named = true;
		return option_set_string(&options->config_path, value);
	case OPT_CLIENT_FD: /* decides defaults, so before the file */
		return parse_client_fd(options, value);
	case OPT_CHECK_CONFIG:
		*is_check = true;
		return 0;
	default:
		return 0;
	}
}

static int raise_bad_option(int found, char **argv)
{
	const char *given = argv[optind - 1];

	if (found == ':')
		return err_raise(-EINVAL, "%s needs a value; see cowd --help", given);
	return err_raise(-EINVAL, "there is no option %s; see cowd --help", given);
}

static int walk(struct options *options, bool *is_check, enum walk which)
{
	struct option long_options[ARRAY_SIZE(table) + 1] = {0};
	int index = 0;
	int found;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		long_options[i] = table[i].option;
	optind = 0; /* glibc: start anew */
	while ((found = getopt_long(options->argc, options->argv, ":hVv", long_options, &index)) >=
	       0) {
		if (found == '?' || found == ':')
			return raise_bad_option(found, options->argv);
		r = which == WALK_FIRST ? take_first(options, is_check, found, optarg)
					: apply(options, found, optarg);
		if (r < 0)
			return found < 256 ? r : fail_option(table[index].option.name, r);
		if (r)
			return r;
	}
	if (optind < options->argc)
		return err_raise(-EINVAL, "unexpected argument %s; see cowd --help",
				 options->argv[optind]);
	return 0;
}

/* A private daemon's one client is the user who started it:
 * memory is as limited as without cowd. */
static void set_default_limits(struct options *options)
{
	bool is_private = options->client_fd >= 0;

	options->limits[QUOTA_SESSIONS] = 1024;
	options->limits[QUOTA_REGIONS] = 4096;
	options->limits[QUOTA_SNAPSHOTS] = 4096;
	options->limits[QUOTA_FDS] = 32768;
	options->limits[QUOTA_QUEUED_BYTES] = UINT64_C(64) << 20;
	options->limits[QUOTA_REGION_BYTES] =
		is_private ? LIMIT_UNLIMITED : 2 * option_memory_bytes();
	options->limits[QUOTA_KEPT_BYTES] =
		is_private ? LIMIT_UNLIMITED : option_memory_bytes() / 2;
}

static int set_default_strings(struct options *options)
{
	if (!options->config_path && option_set_string(&options->config_path, DEFAULT_CONFIG))
		return -ENOMEM;
	if (option_set_string(&options->user, "cowd"))
		return -ENOMEM;
	return option_set_string(&options->admin_group, "cowd");
}

static int load(struct options *options, bool *is_check, int argc, char **argv)
{
	int r;

	*options = (struct options){.argc = argc,
				    .argv = argv,
				    .client_fd = -1,
				    .socket_mode = 0666,
				    .lend = LEND_YES,
				    .n_savers = 2,
				    .is_sandboxed = true};
	r = walk(options, is_check, WALK_FIRST);
	if (r)
		return r;
	set_default_limits(options);
	r = set_default_strings(options);
	if (r)
		return r;
	r = options_read_file(options, options->config_path, options->is_config_named);
	if (r)
		return r;
	if (options->client_fd >= 0) { /* the file's socket is the system's daemon's */
		free(options->socket_path);
		options->socket_path = NULL;
	}
	r = walk(options, is_check, WALK_APPLY);
	if (r)
		return r;
	if (!options->socket_path && options->client_fd < 0)
		r = option_set_string(&options->socket_path, DEFAULT_SOCKET);
	return r;
}

static void print_limit(enum quota_kind kind, uint64_t limit)
{
	char text[FORMAT_BYTES_MAX];

	if (limit == LIMIT_UNLIMITED)
		printf("%s = unlimited\n", quota_kind_key(kind));
	else if (quota_kind_is_bytes(kind))
		printf("%s = %" PRIu64 "\t; %s\n", quota_kind_key(kind), limit,
		       format_bytes(text, limit));
	else
		printf("%s = %" PRIu64 "\n", quota_kind_key(kind), limit);
}

/* In the form of the file, so that it can be kept as one. */
static void print_settings(const struct options *options)
{
	printf("[daemon]\n");
	if (options->socket_path)
		printf("socket = %s\n", options->socket_path);
	printf("socket-mode = 0%03o\n", options->socket_mode);
	printf("user = %s\n", options->user);
	printf("admin-group = %s\n", options->admin_group);
	printf("lend = %s\n", options_lend_name(options->lend));
	printf("workers = %u\n", options->n_workers);
	printf("savers = %u\n", options->n_savers);
	printf("verbose = %s\n", options->is_verbose ? "yes" : "no");
	printf("\n[limits]\n");
	for (int i = 0; i < QUOTA_N; i++)
		print_limit((enum quota_kind)i, options->limits[i]);
}

/*
 * Whoever names a user does not want cowd to stay root for a misspelling. Not part of load(): at a
 * reload the sandbox hides the files that say which users there are, and neither setting changes.
 */
static int check_names(const struct options *options)
{
	if (options->is_user_named && *options->user && !getpwnam(options->user))
		return err_raise(
			-EINVAL,
			"there is no user \"%s\" (--user, or user= in %s): name another, or "
			"make it (systemd-sysusers, adduser --system)",
			options->user, options->config_path);
	if (options->is_admin_group_named && *options->admin_group &&
	    !getgrnam(options->admin_group))
		return err_raise(-EINVAL, "there is no group \"%s\" (admin-group= in %s)",
				 options->admin_group, options->config_path);
	return 0;
}

int options_parse(struct options *options, int argc, char **argv)
{
	bool is_check = false;
	int r;

	opterr = 0;
	r = load(options, &is_check, argc, argv);
	if (!r)
		r = check_names(options);
	if (r == WALK_E_HELP)
		print_help();
	else if (r == WALK_E_VERSION)
		printf("cowd %s\n", PACKAGE_VERSION);
	else if (!r && is_check)
		print_settings(options);
	if (!r && !is_check)
		return 0;
	options_deinit(options);
	return r < 0 ? r : 1;
}

static bool differs(const char *a, const char *b)
{
	return strcmp(a ? a : "", b ? b : "") != 0;
}

int options_reload(struct options *options)
{
	struct options fresh;
	bool is_check = false;
	int r;

	r = load(&fresh, &is_check, options->argc, options->argv);
	if (r) {
		options_deinit(&fresh);
		return r < 0 ? r : err_raise(-EINVAL, "the command line cannot be read again");
	}
	if (differs(fresh.socket_path, options->socket_path) ||
	    differs(fresh.user, options->user) ||
	    differs(fresh.admin_group, options->admin_group) ||
	    fresh.socket_mode != options->socket_mode || fresh.n_workers != options->n_workers ||
	    fresh.n_savers != options->n_savers)
		log_warning(
			"changes of socket, socket-mode, user, admin-group, workers and savers in "
			"%s take effect when cowd is started again",
			options->config_path);
	options->lend = fresh.lend;
	options->is_verbose = fresh.is_verbose;
	memcpy(options->limits, fresh.limits, sizeof(options->limits));
	options_deinit(&fresh);
	return 0;
}

void options_deinit(struct options *options)
{
	free(options->config_path);
	free(options->socket_path);
	free(options->user);
	free(options->admin_group);
	*options = (struct options){.client_fd = -1};
}
