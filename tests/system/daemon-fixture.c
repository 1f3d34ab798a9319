// SPDX-License-Identifier: GPL-2.0-or-later
/* A real cowd for tests; the contract is in daemon-fixture.h. */
#include "config.h"

#include "tests/system/daemon-fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "common/util.h"

/* A machine under load is slow; a daemon that needs longer than this hangs. */
#define START_TIMEOUT_MSEC 30000
#define ARGS_MAX           32

static const char *cowd_program(void)
{
	const char *path = getenv("COWD_EXECUTABLE");

	return path && *path ? path : "./cowd";
}

/* A datagram socket for READY=1, with an abstract name that goes into @name as $NOTIFY_SOCKET. */
static int notify_socket(char *name, size_t size)
{
	AUTO_FD int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	uint64_t salt = 0;
	int n;

	if (fd < 0 || getrandom(&salt, sizeof(salt), 0) != sizeof(salt))
		return -1;
	n = snprintf(name, size, "@cowd-test-%d-%016llx", (int)getpid(), (unsigned long long)salt);
	memcpy(addr.sun_path, name, (size_t)n);
	addr.sun_path[0] = '\0';
	if (bind(fd, (struct sockaddr *)&addr,
		 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n)))
		return -1;
	return fd_steal(&fd);
}

static int make_dir(struct daemon_fixture *cowd)
{
	const char *tmp = getenv("TMPDIR");

	if (cowd->dir[0])
		return 0;
	(void)snprintf(cowd->dir, sizeof(cowd->dir), "%s/cowd-test-XXXXXX",
		       tmp && strlen(tmp) < 40 ? tmp : "/tmp");
	if (!mkdtemp(cowd->dir)) {
		perror(cowd->dir);
		cowd->dir[0] = '\0';
		return -1;
	}
	/* Whatever user cowd becomes, its clients in this test may have another uid. */
	(void)chmod(cowd->dir, 0755);
	(void)snprintf(cowd->socket, sizeof(cowd->socket), "%s/cowd.sock", cowd->dir);
	(void)snprintf(cowd->log_path, sizeof(cowd->log_path), "%s/cowd.log", cowd->dir);
	return 0;
}

/* In the child: only async-signal-safe calls, tests have threads. */
static void __attribute__((noreturn))
become_cowd(char *const *argv, char *const *envp, int log_fd, pid_t parent)
{
	sigset_t none;

	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	if (dup2(log_fd, STDOUT_FILENO) < 0 || dup2(log_fd, STDERR_FILENO) < 0)
		_exit(127);
	execve(argv[0], argv, envp);
	_exit(127);
}

/* The environment of this process, with $NOTIFY_SOCKET in place of everything of systemd's. */
static char **make_env(char *notify)
{
	extern char **environ;
	size_t n = 0, k = 0;
	char **env;

	while (environ[n])
		n++;
	env = calloc(n + 2, sizeof(*env));
	if (!env)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		if (strncmp(environ[i], "NOTIFY_SOCKET=", 14) != 0 &&
		    strncmp(environ[i], "LISTEN_", 7) != 0 &&
		    strncmp(environ[i], "WATCHDOG_", 9) != 0)
			env[k++] = environ[i];
	}
	env[k] = notify;
	return env;
}

/* 0 once READY=1 came; -1 when the daemon ended or said nothing for too long. */
static int await_ready(int notify_fd, int pidfd)
{
	struct pollfd fds[] = {
		{.fd = notify_fd, .events = POLLIN},
		{.fd = pidfd, .events = POLLIN},
	};

	for (;;) {
		char text[4096];
		ssize_t n;

		if (poll(fds, ARRAY_SIZE(fds), START_TIMEOUT_MSEC) <= 0)
			return -1;
		if (!(fds[0].revents & POLLIN))
			return -1;
		n = recv(notify_fd, text, sizeof(text) - 1, MSG_DONTWAIT);
		if (n < 0)
			continue;
		text[n] = '\0';
		if (!strncmp(text, "READY=1", 7) || strstr(text, "\nREADY=1"))
			return 0;
	}
}

static pid_t spawn(struct daemon_fixture *cowd, char **argv, char *notify)
{
	AUTO_FD int log_fd = open(cowd->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	CLEANUP(freep) char **env = make_env(notify);
	pid_t parent = getpid(), pid;

	if (log_fd < 0 || !env)
		return -1;
	pid = fork();
	if (!pid)
		become_cowd(argv, env, log_fd, parent);
	return pid;
}

int daemon_fixture_start(struct daemon_fixture *cowd, const char *const *args)
{
	char notify_env[128] = "NOTIFY_SOCKET=";
	char *notify_name = notify_env + strlen(notify_env);
	CLEANUP(freep) char *program = strdup(cowd_program());
	AUTO_FD int notify_fd = -1;
	char *argv[ARGS_MAX] = {program, (char *)(uintptr_t) "--socket", cowd->socket};
	CLEANUP(freep) char *log = NULL;
	size_t n = 3;

	if (cowd->pid || !program || make_dir(cowd))
		return -1;
	notify_fd =
		notify_socket(notify_name, sizeof(notify_env) - (size_t)(notify_name - notify_env));
	if (notify_fd < 0) {
		perror("notify socket");
		return -1;
	}
	for (; args && *args && n < ARGS_MAX - 1; args++)
		argv[n++] = (char *)(uintptr_t)*args;
	cowd->pid = spawn(cowd, argv, notify_env);
	if (cowd->pid < 0) {
		perror("fork");
		cowd->pid = 0;
		return -1;
	}
	cowd->pidfd = pidfd_open(cowd->pid, 0);
	if (cowd->pidfd >= 0 && !await_ready(notify_fd, cowd->pidfd))
		return 0;
	log = daemon_fixture_log(cowd);
	(void)fprintf(stderr, "%s did not become ready; it wrote:\n%s\n", program, log ? log : "");
	(void)daemon_fixture_kill(cowd, SIGKILL);
	return -1;
}

int daemon_fixture_kill(struct daemon_fixture *cowd, int signal)
{
	int status = -1;
	pid_t r;

	if (!cowd->pid)
		return -1;
	(void)kill(cowd->pid, signal);
	do {
		r = waitpid(cowd->pid, &status, 0);
	} while (r < 0 && errno == EINTR);
	cowd->pid = 0;
	cowd->pidfd = fd_close(cowd->pidfd);
	return r < 0 ? -1 : status;
}

bool daemon_fixture_stop(struct daemon_fixture *cowd)
{
	bool is_clean = true;
	int status;

	if (cowd->pid) {
		status = daemon_fixture_kill(cowd, SIGTERM);
		is_clean = status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
	}
	if (!is_clean) {
		CLEANUP(freep) char *log = daemon_fixture_log(cowd);

		(void)fprintf(stderr, "cowd ended badly (status %#x); it wrote:\n%s\n",
			      (unsigned int)status, log ? log : "");
	}
	if (cowd->dir[0]) {
		(void)unlink(cowd->socket);
		(void)unlink(cowd->log_path);
		(void)rmdir(cowd->dir);
	}
	*cowd = DAEMON_FIXTURE_NULL;
	return is_clean;
}

char *daemon_fixture_log(const struct daemon_fixture *cowd)
{
	AUTO_FD int fd = open(cowd->log_path, O_RDONLY | O_CLOEXEC);
	CLEANUP(freep) char *text = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st))
		return NULL;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return NULL;
	n = pread(fd, text, (size_t)st.st_size, 0);
	if (n < 0)
		return NULL;
	text[n] = '\0';
	return steal_ptr(&text);
}
