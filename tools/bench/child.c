// SPDX-License-Identifier: GPL-2.0-or-later
/* Measuring processes; see child.h. */
#include "config.h"

#include "tools/bench/child.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/err.h"
#include "common/util.h"

#define COWD_END_MSEC 60000
/* The private cowd has heard that its client is gone; until it has gone too, it holds memory. */
static void await_cowd(pid_t pid)
{
	AUTO_FD int pidfd = -1;

	if (pid <= 0)
		return;
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd >= 0)
		(void)poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, COWD_END_MSEC);
}

int bench_child_run(struct bench_child *child, int (*measure)(void *arg), void *arg)
{
	int status = 0;
	pid_t parent = getpid(), pid;

	*child = (struct bench_child){.error = -EIO,
				      .sentence = "the measuring process ended early"};
	fflush(NULL); /* the child must not write it again */
	pid = fork();
	if (pid < 0)
		return err_raise_errno("no process to measure in");
	if (!pid) {
		/* Ctrl-C reaches both, a kill of the parent only the parent. */
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(0);
		child->error = measure(arg);
		if (child->error)
			(void)snprintf(child->sentence, sizeof(child->sentence), "%s",
				       err_sentence());
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		continue;
	await_cowd(child->cowd_pid);
	if (WIFSIGNALED(status))
		return err_raise(-EIO, "the measuring process was ended by signal %d",
				 WTERMSIG(status));
	return child->error ? err_raise(child->error, "%s", child->sentence) : 0;
}
