// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowd: start, run, end.
 *
 * The order at start is the sandbox's (sandbox.c): open what needs rights, look at the kernel, give
 * up rights, start threads, give up system calls, and only then accept anyone. The end is its
 * mirror image: sessions, then work under way, then threads, then what they used.
 */
#include "config.h"

#include <fcntl.h>
#include <grp.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "common/clock.h"
#include "common/err.h"
#include "daemon/base/closer.h"
#include "daemon/base/worker.h"
#include "daemon/daemon.h"
#include "daemon/process/device.h"
#include "daemon/process/log.h"
#include "daemon/process/options.h"
#include "daemon/process/sandbox.h"
#include "daemon/process/service.h"
#include "daemon/region/children.h"
#include "daemon/rpc/events.h"
#include "daemon/rpc/listener.h"
#include "daemon/rpc/session.h"

#define EXIT_USAGE 2

/* Threads that arm, read and drop: short work, and much of it waits for memory. */
#define N_JOB_THREADS 4

struct cowd {
	struct daemon daemon;
	struct listener *listener;
	struct watchdog *watchdog;
	struct watch signal_watch;
};

static void apply_settings(struct daemon *daemon)
{
	for (int i = 0; i < QUOTA_N; i++)
		quota_set_limit(daemon->quota, (enum quota_kind)i, daemon->options.limits[i]);
	log_set_verbose(daemon->options.is_verbose);
}

/* A private cowd speaks on its program's stderr: there only of what went wrong. */
static int priority_of(const struct daemon *daemon, int priority)
{
	return daemon->options.client_fd >= 0 ? LOG_DEBUG : priority;
}

static void say_what_is_not_lent(const struct daemon *daemon)
{
	char hint[DEVICE_HINT_MAX];

	if (*device_hint(daemon, hint, sizeof(hint)))
		log_line(priority_of(daemon, LOG_WARNING), "%s", hint);
}

/* Whoever has just mended the mode of the device reloads cowd. */
static void look_for_device_again(struct daemon *daemon)
{
	if (daemon->uffd_device_fd < 0 && device_open(daemon))
		probe_uffd(&daemon->probe, &daemon->options, daemon->uffd_device_fd);
}

static void reload(struct daemon *daemon)
{
	service_reloading();
	if (options_reload(&daemon->options)) {
		log_error("settings stay as they were: %s", err_sentence());
	} else {
		apply_settings(daemon);
		look_for_device_again(daemon);
		log_info("settings read again; lending: %s",
			 options_lend_name(device_lend(daemon)));
		say_what_is_not_lent(daemon);
	}
	service_ready(daemon);
}

static void on_signal(struct watch *watch, uint32_t events)
{
	struct cowd *cowd = container_of(watch, struct cowd, signal_watch);
	struct signalfd_siginfo info;

	(void)events;
	if (read(watch->fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGHUP) {
		reload(&cowd->daemon);
		return;
	}
	log_info("ending: signal %u from pid %u", info.ssi_signo, info.ssi_pid);
	loop_stop(cowd->daemon.loop);
}

static int start_signals(struct cowd *cowd)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGHUP);
	/* A write to a closed pipe, or past a limit on the size of files (ulimit -f, which a
	 * private cowd has from its program, and which counts for memfds too), is an error of that
	 * request, not a signal. Blocking is no answer: the signal stays pending. */
	if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || signal(SIGXFSZ, SIG_IGN) == SIG_ERR ||
	    sigprocmask(SIG_BLOCK, &mask, NULL) < 0)
		return err_raise_errno("cannot set up signals");
	cowd->signal_watch.fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	cowd->signal_watch.on_ready = on_signal;
	if (cowd->signal_watch.fd < 0)
		return err_raise_errno("cannot create a signalfd");
	return loop_watch(cowd->daemon.loop, &cowd->signal_watch, EPOLLIN);
}

/* A socket passed by systemd goes before that of the settings. */
static int open_listener(struct cowd *cowd)
{
	const struct options *options = &cowd->daemon.options;
	AUTO_FD int passed_fd = -1;
	int r;

	r = service_take_socket(&passed_fd);
	if (r)
		return r;
	if (passed_fd >= 0)
		return listener_new(&cowd->listener, &cowd->daemon, &passed_fd);
	if (options->socket_path)
		return listener_new_at(&cowd->listener, &cowd->daemon, options->socket_path,
				       options->socket_mode);
	return 0;
}

static int open_files(struct daemon *daemon)
{
	daemon->proc_self_fd_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (daemon->proc_self_fd_fd < 0)
		return err_raise_errno("cannot open /proc/self/fd; is /proc mounted?");
	daemon->statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	(void)device_open(daemon);
	return 0;
}

static void find_admin_group(struct daemon *daemon)
{
	const char *name = daemon->options.admin_group;
	const struct group *group;

	if (!name || !*name)
		return;
	group = getgrnam(name);
	if (!group) {
		log_debug("there is no group \"%s\": only root sees what others hold", name);
		return;
	}
	daemon->admin_gid = group->gr_gid;
	daemon->has_admin_gid = true;
}

/*
 * A thread inherits the class of its maker: fault workers come before the others. Jobs allocate now
 * and then, and all use one arena of malloc()'s: with one of its own the first allocation of each
 * thread would map that, 50 us that somebody's snapshot waits for.
 */
static int start_threads(struct daemon *daemon)
{
	int r;

	(void)mallopt(M_ARENA_MAX, 1);
	stats_init(&daemon->stats);
	priority_ask_for_slice(PRIORITY_SLICE_NSEC);
	r = worker_pool_new(&daemon->workers, daemon->options.n_workers);
	priority_ask_for_slice(0);
	if (r)
		return r;
	priority_give_way(&daemon->priority);
	r = job_pool_new(&daemon->jobs, daemon->loop, N_JOB_THREADS, "cowd-job");
	if (!r)
		r = job_pool_new(&daemon->savers, daemon->loop, daemon->options.n_savers,
				 "cowd-saver");
	if (!r)
		r = closer_new(&daemon->closer);
	return r;
}

static int start_serving(struct cowd *cowd)
{
	struct daemon *daemon = &cowd->daemon;
	int client_fd = daemon->options.client_fd;
	int r = 0;

	if (client_fd >= 0)
		r = session_new(NULL, daemon, &client_fd);
	if (!r && cowd->listener)
		r = listener_start(cowd->listener);
	if (!r)
		r = watchdog_new(&cowd->watchdog, daemon);
	if (!r)
		r = status_line_new(&daemon->status_line, daemon);
	return r;
}

/* The one line that says what this kernel can do and what cowd makes of it. */
static void say_what_was_found(const struct cowd *cowd)
{
	const struct daemon *daemon = &cowd->daemon;
	const struct probe *probe = &daemon->probe;
	char mechanisms[PROBE_MECHANISMS_MAX];

	(void)probe_mechanisms(probe, device_has_mode_uffd(daemon), mechanisms, sizeof(mechanisms));
	log_line(
		priority_of(daemon, LOG_INFO),
		"cowd %s on Linux %s: uffd features 0x%llx, arming %s, mremap %s, pagemap scan %s; "
		"mechanisms: %s; lending: %s",
		PACKAGE_VERSION, probe->release, (unsigned long long)probe->uffd_features,
		!probe->has_uffd  ? "none"
		: probe->has_lazy ? "lazy or eager"
				  : "eager",
		probe->has_dontunmap ? "yes" : "no", probe->has_pagemap_scan ? "yes" : "no",
		mechanisms[0] ? mechanisms : "none", options_lend_name(device_lend(daemon)));
	say_what_is_not_lent(daemon);
}

static void say_where(const struct cowd *cowd)
{
	char address[LISTENER_ADDRESS_MAX];

	if (cowd->listener)
		log_line(priority_of(&cowd->daemon, LOG_INFO), "listening on %s",
			 listener_address(cowd->listener, address));
}

/* Root's rights are good for one thing more: the socket file goes to whom cowd becomes. */
static int change_rights(struct cowd *cowd)
{
	const struct options *options = &cowd->daemon.options;
	const struct passwd *next_user = sandbox_next_user(options);
	int r = 0;

	if (next_user && cowd->listener)
		r = listener_hand_over(cowd->listener, next_user->pw_uid);
	if (!r)
		r = sandbox_enter(options, next_user);
	if (!r && cowd->listener)
		listener_check_end(cowd->listener);
	return r;
}

static int start(struct cowd *cowd)
{
	struct daemon *daemon = &cowd->daemon;
	int r;

	daemon->started_usec = now_usec();
	sandbox_raise_limits();
	if (daemon->options.client_fd >= 0) {
		r = service_check_client(daemon->options.client_fd);
		if (r)
			return r;
	}
	r = loop_new(&daemon->loop);
	if (!r)
		r = start_signals(cowd);
	if (!r)
		r = quota_new(&daemon->quota);
	if (!r)
		r = open_files(daemon);
	if (!r)
		r = open_listener(cowd);
	if (r)
		return r;
	apply_settings(daemon);
	find_admin_group(daemon);
	probe_kernel(&daemon->probe, &daemon->options, daemon->uffd_device_fd);
	r = change_rights(cowd);
	if (!r)
		r = start_threads(daemon);
	if (!r)
		r = sandbox_close(&daemon->options);
	if (!r)
		r = start_serving(cowd);
	if (r)
		return r;
	say_what_was_found(cowd);
	say_where(cowd);
	service_ready(daemon);
	return 0;
}

/* Sessions let go of their objects; some go in jobs, which may make further ones. */
static void end_sessions(struct daemon *daemon)
{
	bool any = true;

	while (daemon->sessions)
		session_end(daemon->sessions, "cowd ends");
	inherit_drop_all(daemon);
	while (any) {
		any = daemon->loop && loop_run_tasks(daemon->loop);
		if (daemon->jobs)
			any |= job_pool_finish(daemon->jobs);
		if (daemon->savers)
			any |= job_pool_finish(daemon->savers);
	}
}

static void stop(struct cowd *cowd)
{
	struct daemon *daemon = &cowd->daemon;

	cowd->listener = listener_free(cowd->listener);
	cowd->watchdog = watchdog_free(cowd->watchdog);
	daemon->status_line = status_line_free(daemon->status_line); /* "ending" is what it says */
	end_sessions(daemon);
	daemon->workers = worker_pool_free(daemon->workers);
	daemon->savers = job_pool_free(daemon->savers);
	daemon->jobs = job_pool_free(daemon->jobs);
	loop_unwatch(&cowd->signal_watch);
	cowd->signal_watch.fd = fd_close(cowd->signal_watch.fd);
	daemon->closer = closer_free(daemon->closer);
	if (!daemon->closer)
		daemon->quota = quota_free(daemon->quota);
	daemon->loop = loop_free(daemon->loop);
	daemon->uffd_device_fd = fd_close(daemon->uffd_device_fd);
	daemon->statm_fd = fd_close(daemon->statm_fd);
	daemon->proc_self_fd_fd = fd_close(daemon->proc_self_fd_fd);
	options_deinit(&daemon->options);
}

int main(int argc, char **argv)
{
	static struct cowd cowd = {
		.daemon = {.snapshot_events = &events_of_snapshots,
			   .uffd_device_fd = -1,
			   .proc_self_fd_fd = -1,
			   .statm_fd = -1},
		.signal_watch = {.fd = -1},
	};
	int r;

	log_init(false);
	r = options_parse(&cowd.daemon.options, argc, argv);
	if (r > 0)
		return EXIT_SUCCESS;
	if (r < 0) {
		log_error("%s", err_sentence());
		return EXIT_USAGE;
	}
	log_set_verbose(cowd.daemon.options.is_verbose);
	r = start(&cowd);
	if (!r)
		r = loop_run(cowd.daemon.loop);
	if (r)
		log_error("%s", err_sentence());
	service_stopping();
	stop(&cowd);
	return r ? EXIT_FAILURE : EXIT_SUCCESS;
}
