// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowd.conf: its sections and keys, each with the function that reads its value.
 *
 * inih does the parsing. Debian builds it without line numbers for the handler, so lines are
 * counted where they are read; the handler runs right after the line was.
 */
#include "config.h"

#include "daemon/process/options-file.h"

#include <assert.h>
#include <ctype.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/err.h"
#include "common/format.h"

struct reader {
	FILE *file;
	const char *path;
	struct options *options;
	int line;
	bool is_cut; /* the line read is longer than inih takes */
	int error;
};

int option_set_string(char **out, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return err_oom(strlen(value) + 1, "a setting");
	free(*out);
	*out = copy;
	return 0;
}

int option_parse_bool(bool *out, const char *value)
{
	if (!strcasecmp(value, "yes") || !strcasecmp(value, "true") || !strcmp(value, "1"))
		*out = true;
	else if (!strcasecmp(value, "no") || !strcasecmp(value, "false") || !strcmp(value, "0"))
		*out = false;
	else
		return err_raise(-EINVAL, "\"%s\" is neither yes nor no", value);
	return 0;
}

int option_parse_count(unsigned int *out, const char *value, unsigned int min, unsigned int max)
{
	unsigned long number;
	char *end;

	errno = 0;
	number = strtoul(value, &end, 10);
	if (!isdigit((unsigned char)*value) || *end || errno || number < min || number > max)
		return err_raise(-EINVAL, "\"%s\" is not a number from %u to %u", value, min, max);
	*out = (unsigned int)number;
	return 0;
}

int option_parse_lend(enum lend_policy *out, const char *value)
{
	for (int i = LEND_NO; i <= LEND_USER_MODE_ONLY; i++) {
		if (!strcasecmp(value, options_lend_name((enum lend_policy)i))) {
			*out = (enum lend_policy)i;
			return 0;
		}
	}
	return err_raise(-EINVAL, "\"%s\" is none of yes, no, user-mode-only", value);
}

static int parse_mode(unsigned int *out, const char *value)
{
	unsigned long mode;
	char *end;

	mode = strtoul(value, &end, 8);
	if (!isdigit((unsigned char)*value) || *end || mode > 0777)
		return err_raise(-EINVAL, "\"%s\" is not an octal mode such as 0666", value);
	*out = (unsigned int)mode;
	return 0;
}

uint64_t option_memory_bytes(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * page_size_bytes();
}

/* "unlimited", a size, or "50%" of the machine's memory. */
static int parse_limit_bytes(uint64_t *out, const char *value)
{
	unsigned long percent;
	char *end;

	if (!strcasecmp(value, "unlimited")) {
		*out = LIMIT_UNLIMITED;
		return 0;
	}
	percent = strtoul(value, &end, 10);
	if (isdigit((unsigned char)*value) && !strcmp(end, "%")) {
		if (percent > 100000)
			return err_raise(-ERANGE, "\"%s\" is more than 100000%%", value);
		*out = option_memory_bytes() / 100 * percent;
		return 0;
	}
	if (format_parse_bytes(out, value))
		return err_raise(-EINVAL,
				 "\"%s\" is no size such as 64G, no share of memory such as 50%%, "
				 "and not \"unlimited\"",
				 value);
	return 0;
}

static int parse_limit_count(uint64_t *out, const char *value)
{
	unsigned int count;

	if (!strcasecmp(value, "unlimited")) {
		*out = LIMIT_UNLIMITED;
		return 0;
	}
	if (option_parse_count(&count, value, 0, 1000000000))
		return err_raise(-EINVAL,
				 "\"%s\" is neither a number up to 1000000000 nor \"unlimited\"",
				 value);
	*out = count;
	return 0;
}

static int set_socket(struct options *options, const char *value)
{
	return option_set_string(&options->socket_path, value);
}

static int set_socket_mode(struct options *options, const char *value)
{
	return parse_mode(&options->socket_mode, value);
}

static int set_user(struct options *options, const char *value)
{
	options->is_user_named = true;
	return option_set_string(&options->user, value);
}

static int set_admin_group(struct options *options, const char *value)
{
	options->is_admin_group_named = true;
	return option_set_string(&options->admin_group, value);
}

static int set_lend(struct options *options, const char *value)
{
	return option_parse_lend(&options->lend, value);
}

static int set_workers(struct options *options, const char *value)
{
	return option_parse_count(&options->n_workers, value, 0, OPTION_WORKERS_MAX);
}

static int set_savers(struct options *options, const char *value)
{
	return option_parse_count(&options->n_savers, value, 1, OPTION_SAVERS_MAX);
}

static int set_verbose(struct options *options, const char *value)
{
	return option_parse_bool(&options->is_verbose, value);
}

static const struct {
	const char *key;
	int (*set)(struct options *options, const char *value);
} daemon_keys[] = {
	{"socket", set_socket}, {"socket-mode", set_socket_mode},
	{"user", set_user},     {"admin-group", set_admin_group},
	{"lend", set_lend},     {"workers", set_workers},
	{"savers", set_savers}, {"verbose", set_verbose},
};

static int set_limit(struct options *options, const char *key, const char *value)
{
	for (int i = 0; i < QUOTA_N; i++) {
		if (strcmp(key, quota_kind_key((enum quota_kind)i)) != 0)
			continue;
		if (quota_kind_is_bytes((enum quota_kind)i))
			return parse_limit_bytes(&options->limits[i], value);
		return parse_limit_count(&options->limits[i], value);
	}
	return err_raise(-EINVAL,
			 "unknown key in [limits]; known are sessions, regions, snapshots, "
			 "descriptors, region-bytes, kept-bytes, queued-bytes");
}

static int set_daemon(struct options *options, const char *key, const char *value)
{
	for (size_t i = 0; i < ARRAY_SIZE(daemon_keys); i++) {
		if (!strcmp(key, daemon_keys[i].key))
			return daemon_keys[i].set(options, value);
	}
	return err_raise(-EINVAL, "unknown key in [daemon]; known are socket, socket-mode, user, "
				  "admin-group, lend, workers, savers, verbose");
}

/* Puts file, line and key before the sentence there is. Keeps the first error of a file. */
static int fail_at(struct reader *reader, const char *key, int error)
{
	char because[256];

	if (reader->error)
		return 0;
	(void)snprintf(because, sizeof(because), "%s", err_sentence());
	reader->error =
		err_raise(error, "%s, line %d, %s: %s", reader->path, reader->line, key, because);
	return 0;
}

static int on_pair(void *user, const char *section, const char *key, const char *value)
{
	struct reader *reader = user;
	int r;

	if (reader->error)
		return 0;
	if (!strcmp(section, "daemon"))
		r = set_daemon(reader->options, key, value);
	else if (!strcmp(section, "limits"))
		r = set_limit(reader->options, key, value);
	else
		r = err_raise(-EINVAL, "unknown section [%s]; known are [daemon] and [limits]",
			      section);
	return r ? fail_at(reader, key, r) : 1;
}

static char *read_line(char *buf, int size, void *stream)
{
	struct reader *reader = stream;
	char *line;
	size_t len;

	if (reader->error || reader->is_cut)
		return NULL;
	line = fgets(buf, size, reader->file);
	if (!line)
		return NULL;
	reader->line++;
	len = strlen(line);
	reader->is_cut = len + 1 == (size_t)size && line[len - 1] != '\n';
	return line;
}

int options_read_file(struct options *options, const char *path, bool must_exist)
{
	struct reader reader = {.path = path, .options = options};
	int bad_line;

	reader.file = fopen(path, "re");
	if (!reader.file) {
		if (errno == ENOENT && !must_exist)
			return 0;
		return err_raise_errno("cannot read the configuration file %s", path);
	}
	bad_line = ini_parse_stream(read_line, &reader, on_pair, &reader);
	if (ferror(reader.file) && !reader.error)
		reader.error = err_raise(
			-EIO, "cannot read the configuration file %s: is it a file?", path);
	(void)fclose(reader.file);
	if (reader.is_cut)
		return err_raise(-EINVAL, "%s, line %d: longer than %d characters", path,
				 reader.line, INI_MAX_LINE - 2);
	if (reader.error)
		return reader.error;
	if (bad_line)
		return err_raise(-EINVAL, "%s, line %d: neither [section] nor key = value", path,
				 bad_line);
	return 0;
}
