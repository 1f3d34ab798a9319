// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Log lines; see log.h.
 *
 * What a client sends (its program's name) is cleaned of control characters where it is stored
 * (rpc/hello.c), so a line is one line.
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

#include "daemon/process/log.h"
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

/*
 * What is about no client goes to the journal by stderr, too, behind its priority: journald knows
 * from the start whose stream that is. To a datagram of a process that ends at once, as with a
 * wrong setting, it can no longer find the unit.
 */
static int print_subject(char *buf, size_t size, int priority, const struct log_subject *subject)
{
	if (!subject && is_journal)
		return snprintf(buf, size, "<%d>", priority);
	if (!subject)
		return snprintf(buf, size, "cowd: ");
	if (subject->client_id)
		return snprintf(buf, size, "cowd: client %" PRIu64 " (pid %d, uid %u, %s): ",
				subject->client_id, (int)subject->pid, (unsigned int)subject->uid,
				*subject->program ? subject->program : "no name yet");
	return snprintf(buf, size, "cowd: (pid %d, uid %u): ", (int)subject->pid,
			(unsigned int)subject->uid);
}

static void write_plain(int priority, const struct log_subject *subject, const char *text)
{
	struct pollfd pollfd = {.fd = STDERR_FILENO, .events = POLLOUT};
	char line[LINE_MAX_BYTES + 160];
	int n;

	n = print_subject(line, sizeof(line), priority, subject);
	if (n >= 0 && (size_t)n < sizeof(line))
		n += snprintf(line + n, sizeof(line) - (size_t)n, "%s\n", text);
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

#define FIELDS_MAX 8

struct fields {
	char text[FIELDS_MAX][LINE_MAX_BYTES + 32];
	struct iovec iov[FIELDS_MAX];
	int n;
};

static void add_field(struct fields *fields, const char *fmt, ...) PRINTF(2, 3);

static void add_field(struct fields *fields, const char *fmt, ...)
{
	char *text = fields->text[fields->n];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(fields->text[0]), fmt, args);
	va_end(args);
	fields->iov[fields->n++] = (struct iovec){.iov_base = text, .iov_len = strlen(text)};
}

static void add_subject(struct fields *fields, const struct log_subject *subject)
{
	add_field(fields, "COWD_PID=%d", (int)subject->pid);
	add_field(fields, "COWD_UID=%u", (unsigned int)subject->uid);
	if (subject->client_id)
		add_field(fields, "COWD_CLIENT=%" PRIu64, subject->client_id);
	if (subject->program)
		add_field(fields, "COWD_PROGRAM=%s", subject->program);
	if (subject->region_id)
		add_field(fields, "COWD_REGION=%" PRIu64, subject->region_id);
	if (subject->snapshot_id)
		add_field(fields, "COWD_SNAPSHOT=%" PRIu64, subject->snapshot_id);
}

static void write_journal(int priority, const struct log_subject *subject, const char *text)
{
	struct fields fields;

	fields.n = 0;
	add_field(&fields, "MESSAGE=%s", text);
	add_field(&fields, "PRIORITY=%d", priority);
	add_subject(&fields, subject);
	if (sd_journal_sendv(fields.iov, fields.n) < 0)
		write_plain(priority, subject, text);
}

static void vlog(int priority, const struct log_subject *subject, const char *fmt, va_list args)
	PRINTF(3, 0);

static void vlog(int priority, const struct log_subject *subject, const char *fmt, va_list args)
{
	int saved_errno = errno;
	char text[LINE_MAX_BYTES];

	if (priority >= LOG_DEBUG && !atomic_load(&is_verbose_now))
		return;
	(void)vsnprintf(text, sizeof(text), fmt, args);
	if (is_journal && subject)
		write_journal(priority, subject, text);
	else
		write_plain(priority, subject, text);
	errno = saved_errno;
}

void log_about(int priority, const struct log_subject *subject, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vlog(priority, subject, fmt, args);
	va_end(args);
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
	const struct log_subject subject = {.client_id = session->id,
					    .pid = session->pid,
					    .uid = session->uid,
					    .program = session->program};
	va_list args;

	va_start(args, fmt);
	vlog(priority, &subject, fmt, args);
	va_end(args);
}
