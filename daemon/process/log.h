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
#include <syslog.h>

#include "common/util.h"

struct session;
struct snapshot;

/** log_init() - find out where stderr goes; opens the journal's socket, so before the sandbox */
void log_init(bool is_verbose);
/** log_set_verbose() - whether LOG_DEBUG lines are written */
void log_set_verbose(bool is_verbose);

/** log_line() - @priority is LOG_ERR … LOG_DEBUG of syslog(3); keeps errno */
void log_line(int priority, const char *fmt, ...) PRINTF(2, 3);
/** log_session() - about one client; its number, pid, uid and program are added */
void log_session(int priority, const struct session *session, const char *fmt, ...) PRINTF(3, 4);

/**
 * log_lost() - a warning that @snap is lost, with its reason
 *
 * Of each uid so many lines in some time, and one that says that there are others: a client that
 * has snapshots lost without end does not fill the journal. Loop thread.
 */
void log_lost(const struct snapshot *snap);

#define log_error(...)   log_line(LOG_ERR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_info(...)    log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_line(LOG_DEBUG, __VA_ARGS__)

#endif
