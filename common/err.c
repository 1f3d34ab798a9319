// SPDX-License-Identifier: LGPL-2.1-or-later
/* Per-thread error sentences; see err.h. */
#include "config.h"

#include "common/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static __thread char sentence[512];

/* Written elsewhere first: the arguments may point to the last sentence. */
static size_t set_sentence(const char *fmt, va_list args)
{
	char text[sizeof(sentence)];
	int n = vsnprintf(text, sizeof(text), fmt, args);

	if (n < 0)
		text[0] = '\0';
	memcpy(sentence, text, strnlen(text, sizeof(text) - 1) + 1);
	return n < 0 ? 0 : (size_t)n;
}

int err_raise(int error, const char *fmt, ...)
{
	int saved_errno = errno;
	va_list args;

	va_start(args, fmt);
	(void)set_sentence(fmt, args);
	va_end(args);
	errno = saved_errno;
	return error;
}

int err_raise_errno(const char *fmt, ...)
{
	int saved_errno = errno;
	va_list args;
	size_t used;

	va_start(args, fmt);
	used = set_sentence(fmt, args);
	va_end(args);
	if (used < sizeof(sentence))
		(void)snprintf(sentence + used, sizeof(sentence) - used, ": %s",
			       strerrordesc_np(saved_errno) ? strerrordesc_np(saved_errno)
							    : "unknown error");
	errno = saved_errno;
	return saved_errno > 0 ? -saved_errno : -EIO;
}

int err_oom(size_t n_bytes, const char *what)
{
	return err_raise(-ENOMEM, "out of memory: %zu bytes for %s", n_bytes, what);
}

const char *err_sentence(void)
{
	return sentence;
}
