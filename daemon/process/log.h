/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Log lines: to the journal, those about a client with fields of their own, when stderr is
 * connected to it; else one plain line each on stderr.
 *
 * Fields: COWD_CLIENT (number of the connection), COWD_PID, COWD_UID and COWD_PROGRAM say which
 * client a line is about, so `journalctl COWD_UID=1000` shows what one user's programs met with.
 * COWD_REGION and COWD_SNAPSHOT are numbers as cowctl shows them. Any thread.
 */
#ifndef COWD_LOG_H
#define COWD_LOG_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <syslog.h>

#include "common/util.h"

struct session;

/* What a line is about; 0 and NULL: nothing. */
struct log_subject {
	uint64_t client_id;
	uint64_t region_id;
	uint64_t snapshot_id;
	pid_t pid;
	uid_t uid;
	const char *program;
};

/** log_init() - find out where stderr goes; opens the journal's socket, so before the sandbox */
void log_init(bool is_verbose);
/** log_set_verbose() - whether LOG_DEBUG lines are written */
void log_set_verbose(bool is_verbose);

/** log_line() - @priority is LOG_ERR … LOG_DEBUG of syslog(3); keeps errno */
void log_line(int priority, const char *fmt, ...) PRINTF(2, 3);
/** log_session() - about one client; its number, pid, uid and program are added */
void log_session(int priority, const struct session *session, const char *fmt, ...) PRINTF(3, 4);
/** log_about() - about @subject, all of which becomes fields of the journal */
void log_about(int priority, const struct log_subject *subject, const char *fmt, ...) PRINTF(3, 4);

#define log_error(...)   log_line(LOG_ERR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_info(...)    log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_line(LOG_DEBUG, __VA_ARGS__)

#endif
