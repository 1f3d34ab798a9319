// SPDX-License-Identifier: GPL-2.0-or-later
/* See cli.h. */
#include "config.h"

#include "tools/cli.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *program_name = "cow";

void cli_name(const char *program)
{
	program_name = program;
}

static void PRINTF(1, 0) vsay(const char *fmt, va_list args)
{
	fflush(stdout);
	fprintf(stderr, "%s: ", program_name);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
}

void cli_say(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsay(fmt, args);
	va_end(args);
}

int cli_usage(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsay(fmt, args);
	va_end(args);
	fprintf(stderr, "Try '%s --help'.\n", program_name);
	return CLI_USAGE;
}

int cli_fail(int error, const char *sentence, const char *what)
{
	cli_say("%s: %s", what, sentence);
	switch (-error) {
	case EACCES:
	case EPERM:
		return CLI_DENIED;
	case ENOENT:
		return CLI_NOT_FOUND;
	case ESTALE:
		return CLI_LOST;
	case ECANCELED:
		return CLI_INTERRUPTED;
	case ENOTCONN:
		return CLI_NO_DAEMON;
	default:
		return CLI_FAILED;
	}
}

int cli_fail_connect(int error, const char *sentence)
{
	/* The library's sentence names the address, and what to do. */
	cli_say("%s", sentence);
	return error == -EACCES || error == -EPERM ? CLI_DENIED : CLI_NO_DAEMON;
}

const char *cli_private_cowd(void)
{
	static char address[PATH_MAX + sizeof("exec:/cowd")];
	char self[PATH_MAX];
	ssize_t n;

	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n > 0) {
		self[n] = '\0';
		*strrchr(self, '/') = '\0';
		snprintf(address, sizeof(address), "exec:%s/cowd", self);
		if (!access(address + strlen("exec:"), X_OK))
			return address;
	}
	return "exec:";
}

int cli_finish(int status)
{
	if (fflush(stdout) || ferror(stdout)) {
		/* The reader of the pipe has had enough; that is no failure to report. */
		if (errno != EPIPE)
			cli_say("standard output: %s", strerror(errno));
		return status ? status : CLI_FAILED;
	}
	return status;
}

bool cli_parse_u64(uint64_t *value, const char *text, uint64_t min, uint64_t max)
{
	unsigned long long parsed;
	char *end;

	/* strtoull() takes signs and spaces, and turns -1 into the greatest number. */
	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	parsed = strtoull(text, &end, 10);
	if (errno || *end || parsed < min || parsed > max)
		return false;
	*value = parsed;
	return true;
}

#define WORD_MAX 24

/* Edits between two words: insert, delete, replace, swap neighbours. Longer words are cut. */
static unsigned int distance(const char *a, const char *b)
{
	unsigned int d[WORD_MAX + 1][WORD_MAX + 1];
	size_t n_a = strnlen(a, WORD_MAX), n_b = strnlen(b, WORD_MAX);

	for (size_t i = 0; i <= n_a; i++)
		d[i][0] = (unsigned int)i;
	for (size_t j = 0; j <= n_b; j++)
		d[0][j] = (unsigned int)j;
	for (size_t i = 1; i <= n_a; i++) {
		for (size_t j = 1; j <= n_b; j++) {
			unsigned int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);

			if (d[i - 1][j] + 1 < best)
				best = d[i - 1][j] + 1;
			if (d[i][j - 1] + 1 < best)
				best = d[i][j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    d[i - 2][j - 2] + 1 < best)
				best = d[i - 2][j - 2] + 1;
			d[i][j] = best;
		}
	}
	return d[n_a][n_b];
}

const char *cli_nearest(const char *word, const char *const *names, size_t n_names,
			size_t stride_bytes)
{
	unsigned int best = UINT_MAX;
	const char *nearest = NULL;

	for (size_t i = 0; i < n_names; i++) {
		const char *name = *(const char *const *)(const void *)((const char *)names +
									i * stride_bytes);
		unsigned int d;

		/* A beginning of a name means that name. */
		d = word[0] && !strncmp(word, name, strlen(word)) ? 0 : distance(word, name);
		/*
		 * A third of it may be wrong, no more: with half of it any name would be as good as
		 * another.
		 */
		if (d < best && d <= (min_u64(strlen(word), strlen(name)) + 2) / 3) {
			best = d;
			nearest = name;
		}
	}
	return nearest;
}

int cli_unknown(const char *what, const char *word, const char *nearest)
{
	if (nearest)
		return cli_usage("'%s' is no %s; did you mean '%s'?", word, what, nearest);
	return cli_usage("'%s' is no %s", word, what);
}
