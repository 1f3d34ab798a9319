// SPDX-License-Identifier: LGPL-2.1-or-later
/* Per-thread error sentences; see err.h. */
#include "config.h"

#include "common/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "common/format.h"

static __thread char sentence[512];

/* Written elsewhere first: the arguments may point to the last sentence. */
static void set_sentence(const char *fmt, va_list args)
{
	char text[sizeof(sentence)];
	int n = vsnprintf(text, sizeof(text), fmt, args);

	if (n < 0)
		text[0] = '\0';
	memcpy(sentence, text, strnlen(text, sizeof(text) - 1) + 1);
}

/* Limits of a process, and the errno that reports that it wanted more. */
static const struct hint {
	int error;
	__rlimit_resource_t resource;
	bool is_bytes;
	const char *of_what;
} hints[] = {
	{ENOMEM, RLIMIT_AS, true, "of address space (ulimit -v)"},
	{ENOMEM, RLIMIT_DATA, true, "of data (ulimit -d)"},
	{EFBIG, RLIMIT_FSIZE, true, "in one file or memfd (ulimit -f)"},
	{EMFILE, RLIMIT_NOFILE, false, "descriptors (ulimit -n, LimitNOFILE= of a service)"},
};

static void append(const char *fmt, ...) PRINTF(1, 2);
static void append(const char *fmt, ...)
{
	size_t used = strlen(sentence);
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(sentence + used, sizeof(sentence) - used, fmt, args);
	va_end(args);
}

/* Who reads the sentence may be in another process: it names this one. */
static void append_limits(int error)
{
	const char *before = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(hints); i++) {
		char size[32];
		struct rlimit limit;

		if (hints[i].error != error || getrlimit(hints[i].resource, &limit) ||
		    limit.rlim_cur == RLIM_INFINITY)
			continue;
		if (hints[i].is_bytes)
			(void)format_bytes(size, limit.rlim_cur);
		else
			(void)snprintf(size, sizeof(size), "%llu",
				       (unsigned long long)limit.rlim_cur);
		if (!before)
			append("; %s may have", program_invocation_short_name);
		append("%s %s %s", before ? before : "", size, hints[i].of_what);
		before = " and";
	}
	if (error == ENFILE)
		append("; all programs together have what fs.file-max in proc(5) allows");
	if (error == ENOMEM && !before)
		append("; see vm.overcommit_memory and vm.max_map_count in proc(5)");
}

int err_raise(int error, const char *fmt, ...)
{
	int saved_errno = errno;
	va_list args;

	va_start(args, fmt);
	set_sentence(fmt, args);
	va_end(args);
	errno = saved_errno;
	return error;
}

int err_raise_errno(const char *fmt, ...)
{
	int saved_errno = errno;
	va_list args;

	va_start(args, fmt);
	set_sentence(fmt, args);
	va_end(args);
	append(": %s",
	       strerrordesc_np(saved_errno) ? strerrordesc_np(saved_errno) : "unknown error");
	append_limits(saved_errno);
	errno = saved_errno;
	return saved_errno > 0 ? -saved_errno : -EIO;
}

int err_oom(size_t n_bytes, const char *what)
{
	(void)err_raise(-ENOMEM, "out of memory: %zu bytes for %s", n_bytes, what);
	append_limits(ENOMEM);
	return -ENOMEM;
}

const char *err_sentence(void)
{
	return sentence;
}
