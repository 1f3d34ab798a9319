// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What cowd gives up before it accepts anyone, in stages.
 *
 *   limits     RLIMIT_NOFILE is raised to what is allowed, while we may.
 *   user       root becomes the user of the settings, with its group and no supplementary ones.
 *              Everything that needed root is open by now: the socket and /dev/userfaultfd.
 *   privilege  The capability bounding set is emptied (that needs CAP_SETPCAP, so it comes before
 *              the change of user), then all other sets; no_new_privs makes it final, execve(2) of
 *              a setuid file included. A daemon that serves others becomes undumpable: its memory
 *              maps what many users keep, which is nobody's to find in a core file or through
 *              ptrace(2), another process of the same user included. A private one stays
 *              debuggable by its user.
 *   files      Landlock (since 5.13) takes away the file system, but for reading the configuration
 *              again and removing the socket file. If the kernel has no Landlock, file modes and
 *              the user still hold. See landlock.c.
 *
 *   Then the fault workers and pools of threads are started: the stages above count for the thread
 *   that takes them, and are inherited.
 *
 *   calls      A seccomp list, for all threads at once (TSYNC). No thread is started afterwards, so
 *              the list has no clone(2). See seccomp.c.
 *
 * One thing stays reachable: /proc/self/fd was opened O_PATH before. Its permission check and that
 * of its links let a thread group look at its own descriptors whatever its user and whether or not
 * it is dumpable (proc_fd_permission(), ptrace_may_access(), same thread group), so foreign
 * descriptors can still be told apart and a memfd can be opened again for reading only.
 *
 * --no-sandbox leaves out privilege, files and calls. So does a build with sanitizers: their
 * runtime makes calls of its own.
 */
#include "config.h"

#include "daemon/process/sandbox.h"

#include <cap-ng.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "common/err.h"
#include "daemon/process/log.h"

#ifdef COW_SANITIZED
#define IS_SANITIZED true
#else
#define IS_SANITIZED false
#endif

/* More than fs.nr_open is refused; this is its default. */
#define WANTED_FDS ((rlim_t)1024 * 1024)

static bool is_restricted(const struct options *options)
{
	return options->is_sandboxed && !IS_SANITIZED;
}

void sandbox_raise_limits(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < WANTED_FDS) {
		const struct rlimit wanted = {.rlim_cur = WANTED_FDS, .rlim_max = WANTED_FDS};

		if (!setrlimit(RLIMIT_NOFILE, &wanted)) /* needs CAP_SYS_RESOURCE */
			return;
	}
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		log_warning("cannot raise the limit of descriptors: %m");
}

static int drop_bounding_set(void)
{
	if (!capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP))
		return 0; /* then there is no privilege that no_new_privs would not stop */
	capng_clear(CAPNG_SELECT_BOUNDS);
	if (capng_apply(CAPNG_SELECT_BOUNDS))
		return err_raise(-EPERM, "cannot empty the capability bounding set");
	return 0;
}

const struct passwd *sandbox_next_user(const struct options *options)
{
	const char *name = options->user;
	const struct passwd *passwd;

	if (geteuid() != 0 || !name || !*name)
		return NULL;
	passwd = getpwnam(name);
	/* A private cowd speaks on its program's stderr: there only of what went wrong. */
	if (!passwd)
		log_line(options->client_fd >= 0 ? LOG_DEBUG : LOG_WARNING,
			 "there is no user \"%s\": cowd stays root, without capabilities; "
			 "systemd-sysusers or adduser --system makes it",
			 name);
	return passwd;
}

static int change_user(const struct passwd *passwd)
{
	if (!passwd)
		return 0;
	if (setgroups(0, NULL) < 0 ||
	    setresgid(passwd->pw_gid, passwd->pw_gid, passwd->pw_gid) < 0 ||
	    setresuid(passwd->pw_uid, passwd->pw_uid, passwd->pw_uid) < 0)
		return err_raise_errno("cannot become user \"%s\"", passwd->pw_name);
	return 0;
}

static int drop_capabilities(void)
{
	/* None is left after a change of user; a service manager's
	 * filter may deny capset(2) then. */
	if (capng_get_caps_process() == 0 &&
	    capng_have_capabilities(CAPNG_SELECT_CAPS) == CAPNG_NONE)
		return 0;
	capng_clear(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT);
	if (capng_apply(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT))
		return err_raise(-EPERM, "cannot give up capabilities");
	return 0;
}

static int drop_privilege(const struct options *options)
{
	int r;

	r = drop_capabilities();
	if (r)
		return r;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_raise_errno("cannot set no_new_privs");
	if (options->client_fd < 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_raise_errno("cannot make cowd undumpable");
	return 0;
}

int sandbox_enter(const struct options *options, const struct passwd *next_user)
{
	int r = 0;

	if (is_restricted(options))
		r = drop_bounding_set();
	if (!r)
		r = change_user(next_user);
	if (r || !is_restricted(options))
		return r;
	r = drop_privilege(options);
	return r ? r : sandbox_restrict_files(options);
}

int sandbox_close(const struct options *options)
{
	return is_restricted(options) ? sandbox_restrict_calls(options->is_strict) : 0;
}
