// SPDX-License-Identifier: GPL-2.0-or-later
/* Sockets from systemd and notifications to it; contracts are in service.h. */
#include "config.h"

#include "daemon/process/service.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <systemd/sd-daemon.h>

#include "common/clock.h"
#include "common/err.h"
#include "daemon/daemon.h"
#include "daemon/process/log.h"

static bool is_listen_name(const char *name)
{
	return !strcmp(name, "listen") || !strcmp(name, "cowd.socket");
}

static void free_names(char **names)
{
	for (char **name = names; name && *name; name++)
		free(*name);
	free(names);
}

int service_take_socket(int *fd)
{
	char **names = NULL;
	int found = -1;
	int n;
	int r;

	*fd = -1;
	n = sd_listen_fds_with_names(1, &names);
	if (n < 0)
		return err_raise(n, "cannot take over the sockets that systemd passed: %s",
				 strerrordesc_np(-n));
	for (int i = 0; i < n; i++) {
		int passed_fd = SD_LISTEN_FDS_START + i;

		if (found < 0 && is_listen_name(names[i])) {
			found = passed_fd;
			continue;
		}
		log_warning("closed the passed descriptor %d: its name \"%s\" is not known",
			    passed_fd, names[i]);
		fd_close(passed_fd);
	}
	free_names(names);
	if (found < 0)
		return 0;
	r = sd_is_socket(found, AF_UNIX, SOCK_SEQPACKET, 1);
	if (r <= 0) {
		fd_close(found);
		return err_raise(-EINVAL,
				 "the passed socket does not listen for AF_UNIX SOCK_SEQPACKET; "
				 "cowd.socket needs ListenSequentialPacket=");
	}
	*fd = found;
	return 0;
}

int service_check_client(int fd)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);

	if (sd_is_socket(fd, AF_UNIX, SOCK_SEQPACKET, 0) <= 0 ||
	    getpeername(fd, (struct sockaddr *)&peer, &len) < 0)
		return err_raise(-EINVAL,
				 "--client-fd=%d: not a connected AF_UNIX SOCK_SEQPACKET socket",
				 fd);
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_raise_errno("--client-fd=%d", fd);
	return 0;
}

/* The same text wherever it is sent: what `systemctl status` shows is true, and does not jump. */
static void notify_status(const struct daemon *daemon, const char *before)
{
	(void)sd_notifyf(0, "%sSTATUS=%u client%s, Linux %s", before, daemon->n_sessions,
			 daemon->n_sessions == 1 ? "" : "s", daemon->probe.release);
}

void service_ready(const struct daemon *daemon)
{
	notify_status(daemon, "READY=1\n");
}

void service_reloading(void)
{
	(void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, now_usec());
}

void service_stopping(void)
{
	(void)sd_notify(0, "STOPPING=1\nSTATUS=ending connections");
}

struct status_line {
	struct daemon *daemon;
	int timer_fd;
	bool is_pausing;  /* the timer runs */
	bool has_changed; /* since what was sent last */
	struct watch watch;
};

static void send_status(struct status_line *line)
{
	static const struct itimerspec pause = {.it_value = {.tv_sec = 1}};

	line->has_changed = false;
	notify_status(line->daemon, "");
	line->is_pausing = timerfd_settime(line->timer_fd, 0, &pause, NULL) == 0;
}

static void on_status_pause_over(struct watch *watch, uint32_t events)
{
	struct status_line *line = container_of(watch, struct status_line, watch);
	uint64_t count;

	(void)events;
	if (read(watch->fd, &count, sizeof(count)) < 0)
		return;
	line->is_pausing = false;
	if (line->has_changed)
		send_status(line);
}

int status_line_new(struct status_line **out, struct daemon *daemon)
{
	CLEANUP(status_line_freep) struct status_line *line = NULL;
	int r;

	if (!getenv("NOTIFY_SOCKET") || daemon->options.client_fd >= 0)
		return 0;
	line = malloc(sizeof(*line));
	if (!line)
		return err_oom(sizeof(*line), "the status line");
	*line = (struct status_line){.daemon = daemon, .timer_fd = -1};
	line->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (line->timer_fd < 0)
		return err_raise_errno("cannot create the status line's timer");
	line->watch = (struct watch){.fd = line->timer_fd, .on_ready = on_status_pause_over};
	r = loop_watch(daemon->loop, &line->watch, EPOLLIN);
	if (r)
		return r;
	*out = steal_ptr(&line);
	return 0;
}

void status_line_refresh(struct status_line *line)
{
	if (!line)
		return;
	if (line->is_pausing)
		line->has_changed = true;
	else
		send_status(line);
}

struct status_line *status_line_free(struct status_line *line)
{
	if (!line)
		return NULL;
	loop_unwatch(&line->watch);
	line->timer_fd = fd_close(line->timer_fd);
	free(line);
	return NULL;
}

struct watchdog {
	int timer_fd;
	struct watch watch;
};

static void on_tick(struct watch *watch, uint32_t events)
{
	uint64_t count;

	(void)events;
	if (read(watch->fd, &count, sizeof(count)) < 0)
		return;
	(void)sd_notify(0, "WATCHDOG=1");
}

int watchdog_new(struct watchdog **out, struct daemon *daemon)
{
	struct watchdog *watchdog;
	struct itimerspec period;
	uint64_t usec = 0;
	int r;

	if (sd_watchdog_enabled(1, &usec) <= 0)
		return 0;
	usec /= 2; /* as sd_watchdog_enabled(3) recommends */
	period.it_interval.tv_sec = (time_t)(usec / 1000000);
	period.it_interval.tv_nsec = (long)(usec % 1000000) * 1000;
	period.it_value = period.it_interval;
	watchdog = calloc(1, sizeof(*watchdog));
	if (!watchdog)
		return err_oom(sizeof(*watchdog), "the watchdog");
	watchdog->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	watchdog->watch = (struct watch){.fd = watchdog->timer_fd, .on_ready = on_tick};
	if (watchdog->timer_fd < 0 || timerfd_settime(watchdog->timer_fd, 0, &period, NULL) < 0)
		r = err_raise_errno("cannot set the watchdog's timer");
	else
		r = loop_watch(daemon->loop, &watchdog->watch, EPOLLIN);
	if (r) {
		watchdog_free(watchdog);
		return r;
	}
	*out = watchdog;
	return 0;
}

struct watchdog *watchdog_free(struct watchdog *watchdog)
{
	if (!watchdog)
		return NULL;
	loop_unwatch(&watchdog->watch);
	watchdog->timer_fd = fd_close(watchdog->timer_fd);
	free(watchdog);
	return NULL;
}
