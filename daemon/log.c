// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Log lines; see log.h.
 *
 * What a client sends (its program's name) is cleaned of control characters where it is stored
 * (session-rpc.c), so a line is one line.
 */
#include "config.h"

#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "daemon/log.h"
#include "daemon/session.h"

#define LINE_MAX_BYTES 1024

static atomic_bool is_verbose_now;
static bool is_journal;

/* systemd names the device and inode of the stream it connected to stderr in JOURNAL_STREAM. */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev;
	unsigned long long ino;
	struct stat st;

	if (!stream || sscanf(stream, "%llu:%llu", &dev, &ino) != 2)
		return false;
	return fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

void log_init(bool is_verbose)
{
	is_journal = stderr_is_journal();
	log_set_verbose(is_verbose);
}

void log_set_verbose(bool is_verbose)
{
	atomic_store(&is_verbose_now, is_verbose);
}

static void write_plain(const struct session *session, const char *text)
{
	struct pollfd pollfd = {.fd = STDERR_FILENO, .events = POLLOUT};
	char line[LINE_MAX_BYTES + 160];
	int n;

	if (session)
		n = snprintf(line, sizeof(line),
			     "cowd: client %" PRIu64 " (pid %d, uid %u, %s): %s\n", session->id,
			     (int)session->pid, (unsigned int)session->uid,
			     session->program[0] ? session->program : "no name yet", text);
	else
		n = snprintf(line, sizeof(line), "cowd: %s\n", text);
	if (n < 0)
		return;
	if ((size_t)n >= sizeof(line)) {
		n = (int)sizeof(line);
		line[n - 1] = '\n';
	}
	/* One write(2), so that lines of several threads do not mix; a full or closed stderr is no
	 * reason to stop serving memory. */
	if (poll(&pollfd, 1, 0) == 0)
		return;
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return;
}

static void write_journal(int priority, const struct session *session, const char *text)
{
	char fields[6][LINE_MAX_BYTES + 32];
	struct iovec iov[6];
	int n = 0;

#define FIELD(...)                                                                                 \
	do {                                                                                       \
		(void)snprintf(fields[n], sizeof(fields[n]), __VA_ARGS__);                         \
		iov[n] = (struct iovec){.iov_base = fields[n], .iov_len = strlen(fields[n])};      \
		n++;                                                                               \
	} while (0)

	FIELD("MESSAGE=%s", text);
	FIELD("PRIORITY=%d", priority);
	if (session) {
		FIELD("COWD_CLIENT=%" PRIu64, session->id);
		FIELD("COWD_PID=%d", (int)session->pid);
		FIELD("COWD_UID=%u", (unsigned int)session->uid);
		FIELD("COWD_PROGRAM=%s", session->program);
	}
#undef FIELD
	if (sd_journal_sendv(iov, n) < 0)
		write_plain(session, text);
}

static void vlog(int priority, const struct session *session, const char *fmt, va_list args)
	PRINTF(3, 0);

static void vlog(int priority, const struct session *session, const char *fmt, va_list args)
{
	int saved_errno = errno;
	char text[LINE_MAX_BYTES];

	if (priority >= LOG_DEBUG && !atomic_load(&is_verbose_now))
		return;
	(void)vsnprintf(text, sizeof(text), fmt, args);
	if (is_journal)
		write_journal(priority, session, text);
	else
		write_plain(session, text);
	errno = saved_errno;
}

void log_line(int priority, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vlog(priority, NULL, fmt, args);
	va_end(args);
}

void log_session(int priority, const struct session *session, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vlog(priority, session, fmt, args);
	va_end(args);
}
