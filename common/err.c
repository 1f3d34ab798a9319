// SPDX-License-Identifier: LGPL-2.1-or-later
/* Per-thread error sentences; see err.h. */
#include "config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/err.h"

static __thread char sentence[512];

int err_raise(int error, const char *fmt, ...)
{
	int saved_errno = errno;
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(sentence, sizeof(sentence), fmt, args);
	va_end(args);
	errno = saved_errno;
	return error;
}

int err_raise_errno(const char *fmt, ...)
{
	int saved_errno = errno;
	va_list args;
	size_t used;
	int n;

	va_start(args, fmt);
	n = vsnprintf(sentence, sizeof(sentence), fmt, args);
	va_end(args);
	used = n < 0 ? 0 : (size_t)n;
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
