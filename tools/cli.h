/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line of cowctl and cowbench: exit statuses, usage errors, and the reading of numbers.
 */
#ifndef COW_TOOLS_CLI_H
#define COW_TOOLS_CLI_H

#include <stddef.h>
#include <stdint.h>

#include "common/util.h"

/* How a tool ends. Scripts rely on these; cowctl(1) and cowbench(1) list them. */
enum cli_status {
	CLI_OK = 0,
	CLI_FAILED = 1,
	CLI_USAGE = 2,     /* wrong arguments; nothing was done */
	CLI_NO_DAEMON = 3, /* no daemon listens there, or it speaks another protocol */
	CLI_DENIED = 4,
	CLI_NOT_FOUND = 5, /* no such snapshot or region */
	CLI_LOST = 6,      /* the snapshot could not be kept */
	CLI_INTERRUPTED = 130,
};

/** cli_name() - set what sentences to stderr begin with; the string is borrowed for ever */
void cli_name(const char *program);

/** cli_say() - one sentence on stderr, after the program's name; with a final newline of its own */
void cli_say(const char *fmt, ...) PRINTF(1, 2);

/** cli_usage() - cli_say() with a pointer to --help. Return: CLI_USAGE */
int cli_usage(const char *fmt, ...) PRINTF(1, 2);

/** cli_fail() - say "@what: " and @sentence. Return: the status that belongs to @error, -errno */
int cli_fail(int error, const char *sentence, const char *what);

/** cli_fail_connect() - cow_client_new() failed. Return: CLI_DENIED or CLI_NO_DAEMON */
int cli_fail_connect(int error, const char *sentence);

/**
 * cli_private_cowd() - address that starts a cowd for this program alone
 *
 * It is the one that lies beside this program, so in the build tree, else the installed one, which
 * the library knows. Return: for cow_client_new(); not freed.
 */
const char *cli_private_cowd(void);

/** cli_finish() - flush stdout; a tool whose output is not there has failed. Return: the status */
int cli_finish(int status);

/** cli_parse_u64() - a whole decimal number from @min to @max. Return: whether it is one */
bool cli_parse_u64(uint64_t *value, const char *text, uint64_t min, uint64_t max);

/**
 * cli_nearest() - the name that a mistyped word was meant to be
 * @names:  first of @n_names pointers to names, @stride_bytes apart, as in a table of structs
 *
 * Return: one of the names; NULL when none is near.
 */
const char *cli_nearest(const char *word, const char *const *names, size_t n_names,
			size_t stride_bytes);

/** cli_unknown() - usage error that names @word, its kind @what, and the nearest name */
int cli_unknown(const char *what, const char *word, const char *nearest);

#endif
