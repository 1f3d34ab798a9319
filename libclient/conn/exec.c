// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A private cowd for one program: "exec:[PROGRAM] [ARGUMENT…]", where ARGUMENT begins with '-'.
 *
 * A library must not surprise its program with a child: no SIGCHLD, no process that the program's
 * own wait() returns, no zombie. So cowd is not a child but a grandchild. The process between is
 * made by clone() with the memory shared and this thread suspended (as vfork() does), with no
 * signal for its end, and does nothing but posix_spawn() and _exit(); wait() finds such a process
 * only if asked for it with __WCLONE, which is done here before anything returns. cowd is then a
 * child of init, or of a subreaper.
 *
 * cowd gets the socket as descriptor 3, the program's standard error for its messages, /dev/null,
 * and nothing else; a session of its own, so that Ctrl-C on the program's terminal does not reach
 * it; and default signals. It ends when the socket does.
 */
#include "config.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "libclient/conn/conn.h"

#define ARGS_MAX          64
#define SPAWN_STACK_BYTES ((size_t)64 * 1024)
#define CLIENT_FD         3

/*
 * glibc's clone() by its other name: the thread sanitizer takes a call of clone() for a fork(), and
 * writes down in memory, which here is shared, that all other threads are gone.
 */
extern int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);

struct spawn {
	const char *program;
	char **argv;
	char **envp;
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	int error;
};

/* Runs in the process between, on memory shared with the thread that waits for it. */
static int spawn_main(void *arg)
{
	struct spawn *spawn = arg;
	pid_t pid;

	spawn->error = posix_spawnp(&pid, spawn->program, &spawn->actions, &spawn->attr,
				    spawn->argv, spawn->envp);
	_exit(0);
}

static bool is_for_cowd(const char *variable)
{
	return strncmp(variable, "NOTIFY_SOCKET=", 14) != 0 &&
	       strncmp(variable, "LISTEN_", 7) != 0 && strncmp(variable, "WATCHDOG_", 9) != 0 &&
	       strncmp(variable, "COWD_ADDRESS=", 13) != 0;
}

/* The program's environment less what a service manager meant for the program itself. */
static char **env_for_cowd(void)
{
	size_t n = 0, k = 0;
	char **env;

	while (environ && environ[n])
		n++;
	env = (char **)calloc(n + 1, sizeof(*env));
	if (!env)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		if (is_for_cowd(environ[i]))
			env[k++] = environ[i];
	}
	return env;
}

static int init_actions(posix_spawn_file_actions_t *actions, int sock)
{
	int error;

	error = posix_spawn_file_actions_init(actions);
	if (error)
		return error;
	/* First, as @sock may be one of the numbers that are put to use below. */
	error = posix_spawn_file_actions_adddup2(actions, sock, CLIENT_FD);
	if (!error)
		error = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null",
							 O_RDONLY, 0);
	if (!error && fcntl(STDERR_FILENO, F_GETFD) < 0)
		error = posix_spawn_file_actions_addopen(actions, STDERR_FILENO, "/dev/null",
							 O_WRONLY, 0);
	if (!error)
		error = posix_spawn_file_actions_adddup2(actions, STDERR_FILENO, STDOUT_FILENO);
	if (!error)
		error = posix_spawn_file_actions_addclosefrom_np(actions, CLIENT_FD + 1);
	if (error)
		posix_spawn_file_actions_destroy(actions);
	return error;
}

static int init_attr(posix_spawnattr_t *attr)
{
	sigset_t none, all;
	int error;

	sigemptyset(&none);
	sigfillset(&all);
	error = posix_spawnattr_init(attr);
	if (error)
		return error;
	error = posix_spawnattr_setsigmask(attr, &none);
	if (!error)
		error = posix_spawnattr_setsigdefault(attr, &all);
	if (!error)
		error = posix_spawnattr_setflags(
			attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
	if (error)
		posix_spawnattr_destroy(attr);
	return error;
}

static int spawn_detached(struct spawn *spawn)
{
	/* Part of this thread's stack: what watches stacks (a sanitizer) knows it. */
	char stack[SPAWN_STACK_BYTES] __attribute__((aligned(16)));
	pid_t pid, r;

	pid = __clone(spawn_main, stack + sizeof(stack), CLONE_VM | CLONE_VFORK, spawn);
	if (pid < 0)
		return errno;
	do {
		r = waitpid(pid, NULL, __WCLONE);
	} while (r < 0 && errno == EINTR);
	return spawn->error;
}

/* "PROGRAM ARGUMENT…", either of them optional, in place into @argv. Return: the program. */
static const char *split(char *text, char **argv)
{
	static char option[] = "--client-fd=3";
	char *save = NULL, *word = strtok_r(text, " ", &save);
	const char *program = NULL;
	size_t n = 2;

	if (word && *word != '-') {
		program = word;
		word = strtok_r(NULL, " ", &save);
	}
	if (!program)
		program = secure_getenv("COWD_EXECUTABLE");
	if (!program || !*program)
		program = COW_SBINDIR "/cowd";
	argv[0] = (char *)(uintptr_t)program;
	argv[1] = option;
	for (; word && n < ARGS_MAX - 1; word = strtok_r(NULL, " ", &save))
		argv[n++] = word;
	return program;
}

static int start(const char *program, char **argv, int sock)
{
	CLEANUP(freep) char **envp = env_for_cowd();
	struct spawn spawn = {.program = program, .argv = argv, .envp = envp};
	int error = envp ? 0 : ENOMEM;

	if (!error)
		error = init_actions(&spawn.actions, sock);
	if (!error) {
		error = init_attr(&spawn.attr);
		if (!error) {
			error = spawn_detached(&spawn);
			posix_spawnattr_destroy(&spawn.attr);
		}
		posix_spawn_file_actions_destroy(&spawn.actions);
	}
	if (error == ENOENT)
		return err_raise(-ENOENT,
				 "cannot start a private cowd: there is no %s: install cowd, or "
				 "name it in $COWD_EXECUTABLE or as exec:/path/to/cowd",
				 program);
	if (error)
		return err_raise(-error, "cannot start a private cowd, %s: %s", program,
				 strerrordesc_np(error));
	return 0;
}

/* In a program without a stderr cowd must not take an end of the socket for one. */
static int move_up(int *fd)
{
	int high_fd;

	if (*fd > STDERR_FILENO)
		return 0;
	high_fd = fcntl(*fd, F_DUPFD_CLOEXEC, CLIENT_FD);
	if (high_fd < 0)
		return err_raise_errno("cannot make a socket for a private cowd");
	fd_close(*fd);
	*fd = high_fd;
	return 0;
}

int cowi_exec(int *sock, const char *address)
{
	CLEANUP(freep) char *text = strdup(address + strlen("exec:"));
	AUTO_FD int our_fd = -1;
	AUTO_FD int their_fd = -1;
	char *argv[ARGS_MAX] = {NULL};
	int fds[2], r;

	if (!text)
		return err_oom(strlen(address), "an address");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		return err_raise_errno("cannot make a socket for a private cowd");
	our_fd = fds[0];
	their_fd = fds[1];
	r = move_up(&our_fd);
	if (!r)
		r = move_up(&their_fd);
	if (!r)
		r = start(split(text, argv), argv, their_fd);
	if (!r)
		*sock = fd_steal(&our_fd);
	return r;
}
