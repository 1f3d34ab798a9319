/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A real cowd for tests: started on a socket in a directory of its own, waited for without a clock,
 * ended by its process id.
 *
 *	struct daemon_fixture cowd = DAEMON_FIXTURE_NULL;
 *
 *	if (daemon_fixture_start(&cowd, NULL))
 *		return 99;
 *	cow_client_new(&client, cowd.socket);
 *	…
 *	daemon_fixture_kill(&cowd, SIGKILL);
 *	daemon_fixture_start(&cowd, NULL);   // the same socket path again
 *	…
 *	daemon_fixture_stop(&cowd);
 *
 * The program is $COWD_EXECUTABLE, else ./cowd. Readiness is the daemon's own READY=1 on a notify
 * socket with an abstract name, so that it does not matter which user cowd becomes. What it writes
 * to its standard output and error is kept in a file, shown when it does not start.
 */
#ifndef COW_TESTS_DAEMON_FIXTURE_H
#define COW_TESTS_DAEMON_FIXTURE_H

#include <stdbool.h>
#include <sys/types.h>

struct daemon_fixture {
	pid_t pid;       /* 0: not running */
	int pidfd;       /* -1: not running */
	char dir[64];    /* "" until the first start; removed by daemon_fixture_stop() */
	char socket[96]; /* where clients connect */
	char log_path[96];
};

#define DAEMON_FIXTURE_NULL ((struct daemon_fixture){.pidfd = -1})

/**
 * daemon_fixture_start() - start cowd and wait until it accepts
 * @cowd: DAEMON_FIXTURE_NULL, or one that was killed before
 * @args: further arguments for cowd, ended by NULL; may be NULL
 *
 * Return: 0; -1 after having written to stderr what went wrong and the daemon's log.
 */
int daemon_fixture_start(struct daemon_fixture *cowd, const char *const *args);

/**
 * daemon_fixture_kill() - send @signal and wait for the end
 *
 * The directory with the socket and the log stays. Return: the wait status; -1 if none was running.
 */
int daemon_fixture_kill(struct daemon_fixture *cowd, int signal);

/**
 * daemon_fixture_stop() - end it by SIGTERM if it runs, remove its directory
 *
 * Return: true when it was not running any more, or ended with status 0.
 */
bool daemon_fixture_stop(struct daemon_fixture *cowd);

/** daemon_fixture_log() - what it wrote so far, malloc()ed, NUL-terminated; NULL on an error */
char *daemon_fixture_log(const struct daemon_fixture *cowd);

#endif
