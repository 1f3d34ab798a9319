// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Accepting connections; contracts are in listener.h.
 *
 * A connection that cannot be accepted stays in the queue and keeps the socket readable, so an
 * error of accept(2) must not simply be retried: the loop would spin. When descriptors have run out
 * (EMFILE), one held in reserve is given up, the connection is taken with it, told so and closed,
 * and the reserve is made again. When the machine has run out (ENFILE, ENOBUFS, ENOMEM), or the
 * reserve could not be made again, accepting pauses for a second.
 */
#include "config.h"

#include "daemon/rpc/listener.h"

#include <fcntl.h>
#include <libgen.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include "common/err.h"
#include "common/wire.h"
#include "daemon/daemon.h"
#include "daemon/process/log.h"
#include "daemon/rpc/session.h"
#include "proto/cow.pb-c.h"

#define ACCEPTS_PER_TURN 16

struct listener {
	struct daemon *daemon;
	int fd;
	int reserve_fd;
	int timer_fd;
	struct watch watch;
	struct watch pause_watch; /* accepting pauses until the timer fires */
	bool has_complained;      /* about a lack of descriptors: one line, not thousands */
	char *path;               /* ours to remove, as long as it is … */
	dev_t dev;                /* … this file */
	ino_t ino;
};

/* The refused client gets a reason, if its socket buffer has room, which a fresh one has. */
static void refuse(struct listener *listener, int sock, int error, const char *sentence)
{
	unsigned char packet[1024];
	Cow__V1__Reply reply;
	char text[512];

	stats_add(&listener->daemon->stats, connections_refused, 1);
	(void)snprintf(text, sizeof(text), "%s", sentence);
	cow__v1__reply__init(&reply);
	reply.error = (uint32_t)-error;
	reply.sentence = text;
	if (cow__v1__reply__get_packed_size(&reply) > sizeof(packet))
		return;
	(void)wire_send(sock, packet, cow__v1__reply__pack(&reply, packet), NULL, 0, MSG_DONTWAIT);
}

static void pause_accepting(struct listener *listener)
{
	static const struct itimerspec second = {.it_value = {.tv_sec = 1}};

	loop_unwatch(&listener->watch);
	if (timerfd_settime(listener->timer_fd, 0, &second, NULL) < 0)
		log_error("cannot set a timer, no more connections are accepted");
}

static void on_pause_over(struct watch *watch, uint32_t events)
{
	struct listener *listener = container_of(watch, struct listener, pause_watch);
	uint64_t count;

	(void)events;
	if (read(watch->fd, &count, sizeof(count)) < 0)
		return;
	if (listener->reserve_fd < 0)
		listener->reserve_fd = fcntl(listener->timer_fd, F_DUPFD_CLOEXEC, 3);
	if (loop_watch(listener->daemon->loop, &listener->watch, EPOLLIN))
		pause_accepting(listener);
}

static void turn_away(struct listener *listener)
{
	AUTO_FD int sock = -1;

	if (!listener->has_complained)
		log_error(
			"out of descriptors: new connections are turned away; see LimitNOFILE= in "
			"systemd.exec(5)");
	listener->has_complained = true;
	listener->reserve_fd = fd_close(listener->reserve_fd);
	sock = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	errno = EMFILE;
	if (sock >= 0)
		refuse(listener, sock, err_raise_errno("cowd has no room for a connection more"),
		       err_sentence());
	fd_closep(&sock);
	listener->reserve_fd = fcntl(listener->timer_fd, F_DUPFD_CLOEXEC, 3);
	if (listener->reserve_fd < 0)
		pause_accepting(listener);
}

/* False: nobody waits, or no more for now. */
static bool accept_one(struct listener *listener)
{
	AUTO_FD int sock = -1;
	int r;

	sock = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (sock < 0) {
		switch (errno) {
		case EAGAIN:
			return false;
		case EMFILE:
			turn_away(listener);
			return false;
		case ENFILE:
		case ENOBUFS:
		case ENOMEM:
			log_error("cannot accept a connection: %m; trying again in a second");
			pause_accepting(listener);
			return false;
		default: /* about that one connection, which has gone: accept(2) */
			return true;
		}
	}
	listener->has_complained = false;
	r = session_new(NULL, listener->daemon, &sock);
	if (r) {
		log_warning("connection refused: %s", err_sentence());
		refuse(listener, sock, r, err_sentence());
	}
	return true;
}

static void on_ready(struct watch *watch, uint32_t events)
{
	struct listener *listener = container_of(watch, struct listener, watch);

	(void)events;
	for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
		if (!accept_one(listener))
			return;
	}
}

int listener_new(struct listener **out, struct daemon *daemon, int *fd)
{
	CLEANUP(listener_freep) struct listener *listener = NULL;

	listener = malloc(sizeof(*listener));
	if (!listener)
		return err_oom(sizeof(*listener), "the listening socket");
	*listener = (struct listener){.daemon = daemon, .fd = -1, .reserve_fd = -1, .timer_fd = -1};
	listener->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (listener->timer_fd < 0)
		return err_raise_errno("cannot create a timer");
	listener->reserve_fd = fcntl(listener->timer_fd, F_DUPFD_CLOEXEC, 3);
	if (listener->reserve_fd < 0)
		return err_raise_errno("cannot hold a descriptor in reserve");
	if (fcntl(*fd, F_SETFL, O_NONBLOCK) < 0) /* a passed one may block */
		return err_raise_errno("cannot make the listening socket non-blocking");
	listener->fd = fd_steal(fd);
	*out = steal_ptr(&listener);
	return 0;
}

static int fill_address(struct sockaddr_un *address, const char *path)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (!*path || strlen(path) >= sizeof(address->sun_path))
		return err_raise(-EINVAL,
				 "the socket path \"%s\" is empty or longer than %zu bytes", path,
				 sizeof(address->sun_path) - 1);
	(void)snprintf(address->sun_path, sizeof(address->sun_path), "%s", path);
	return 0;
}

/* 0: the file has gone, or was none. Nothing but a socket without a listener is removed. */
static int remove_stale(const struct sockaddr_un *address)
{
	AUTO_FD int probe_fd = -1;
	struct stat st;

	if (lstat(address->sun_path, &st) < 0) {
		if (errno == ENOENT)
			return 0;
		return err_raise_errno("cannot look at %s", address->sun_path);
	}
	if (!S_ISSOCK(st.st_mode))
		return err_raise(-EEXIST, "%s is there already and is no socket",
				 address->sun_path);
	probe_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (probe_fd < 0)
		return err_raise_errno("cannot create a socket");
	if (!connect(probe_fd, (const struct sockaddr *)address, sizeof(*address)) ||
	    errno != ECONNREFUSED)
		return err_raise(-EADDRINUSE,
				 "a daemon answers on %s already; end it or give another --socket",
				 address->sun_path);
	if (unlink(address->sun_path) < 0)
		return err_raise_errno("cannot remove the stale socket %s", address->sun_path);
	log_info("removed the stale socket %s", address->sun_path);
	return 0;
}

static int bind_and_listen(int fd, const struct sockaddr_un *address, unsigned int mode)
{
	mode_t old_mask;
	int r;

	old_mask = umask(~mode & 0777); /* bind(2) makes the file with it */
	r = bind(fd, (const struct sockaddr *)address, sizeof(*address));
	umask(old_mask);
	if (r < 0) {
		if (errno == ENOENT)
			return err_raise(-ENOENT,
					 "the directory of %s does not exist; create it or give "
					 "another --socket",
					 address->sun_path);
		return err_raise_errno("cannot create the socket %s", address->sun_path);
	}
	if (listen(fd, SOMAXCONN) < 0)
		return err_raise_errno("cannot listen on %s", address->sun_path);
	return 0;
}

int listener_new_at(struct listener **out, struct daemon *daemon, const char *path,
		    unsigned int mode)
{
	CLEANUP(freep) char *copy = strdup(path);
	struct sockaddr_un address;
	AUTO_FD int fd = -1;
	struct stat st;
	int r;

	if (!copy)
		return err_oom(strlen(path) + 1, "the path of the socket");
	r = fill_address(&address, path);
	if (!r)
		r = remove_stale(&address);
	if (r)
		return r;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_raise_errno("cannot create a socket");
	r = bind_and_listen(fd, &address, mode);
	if (!r)
		r = listener_new(out, daemon, &fd);
	if (r)
		return r;
	(*out)->path = steal_ptr(&copy);
	if (lstat(path, &st) == 0) {
		(*out)->dev = st.st_dev;
		(*out)->ino = st.st_ino;
	}
	return 0;
}

/* Looked at before it is given away: others may have put another file in its place by now. */
int listener_hand_over(struct listener *listener, uid_t uid)
{
	AUTO_FD int file_fd = -1;
	struct stat st;

	if (!listener->path)
		return 0;
	file_fd = open(listener->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (file_fd < 0 || fstat(file_fd, &st) < 0)
		return err_raise_errno("cannot look at the socket %s", listener->path);
	if (!S_ISSOCK(st.st_mode) || st.st_dev != listener->dev || st.st_ino != listener->ino)
		return err_raise(-EEXIST, "%s was replaced by something else", listener->path);
	if (fchownat(file_fd, "", uid, (gid_t)-1, AT_EMPTY_PATH) < 0)
		return err_raise_errno("cannot give the socket %s to uid %u", listener->path,
				       (unsigned int)uid);
	return 0;
}

/* As unlink(2): write permission, and in a sticky directory to own the file or the directory. */
static int check_removable(const char *path)
{
	CLEANUP(freep) char *copy = strdup(path);
	struct stat dir_st;
	struct stat st;
	const char *dir;

	if (!copy)
		return -ENOMEM;
	dir = dirname(copy);
	if (faccessat(AT_FDCWD, dir, W_OK | X_OK, AT_EACCESS) || stat(dir, &dir_st) ||
	    lstat(path, &st))
		return -errno;
	if (dir_st.st_mode & S_ISVTX && st.st_uid != geteuid() && dir_st.st_uid != geteuid())
		return -EPERM;
	return 0;
}

void listener_check_end(const struct listener *listener)
{
	int r = listener->path ? check_removable(listener->path) : 0;

	if (r)
		log_warning("when it ends, cowd cannot remove %s as uid %u: %s; the next cowd "
			    "replaces it. A directory of its user's own, as /run/cowd is, lets it",
			    listener->path, (unsigned int)geteuid(), strerrordesc_np(-r));
}

const char *listener_address(const struct listener *listener, char buf[LISTENER_ADDRESS_MAX])
{
	struct sockaddr_un address = {.sun_family = AF_UNSPEC};
	socklen_t len = sizeof(address);

	if (getsockname(listener->fd, (struct sockaddr *)&address, &len) < 0 ||
	    len <= offsetof(struct sockaddr_un, sun_path))
		address.sun_path[0] = '\0';
	(void)snprintf(buf, LISTENER_ADDRESS_MAX, "%.*s", (int)sizeof(address.sun_path),
		       address.sun_path);
	return buf;
}

int listener_start(struct listener *listener)
{
	struct loop *loop = listener->daemon->loop;
	int r;

	listener->watch = (struct watch){.fd = listener->fd, .on_ready = on_ready};
	listener->pause_watch = (struct watch){.fd = listener->timer_fd, .on_ready = on_pause_over};
	r = loop_watch(loop, &listener->pause_watch, EPOLLIN);
	return r ? r : loop_watch(loop, &listener->watch, EPOLLIN);
}

/* Somebody may have replaced it. Its number is no other file's as long as the socket is bound to
 * it. */
static void remove_own(const struct listener *listener)
{
	struct stat st;

	if (lstat(listener->path, &st) < 0 || st.st_dev != listener->dev ||
	    st.st_ino != listener->ino)
		return;
	if (unlink(listener->path) < 0 && errno != ENOENT)
		log_info("left the socket %s behind: %m; the next cowd replaces it",
			 listener->path);
}

struct listener *listener_free(struct listener *listener)
{
	if (!listener)
		return NULL;
	loop_unwatch(&listener->watch);
	loop_unwatch(&listener->pause_watch);
	if (listener->path)
		remove_own(listener);
	listener->fd = fd_close(listener->fd);
	listener->reserve_fd = fd_close(listener->reserve_fd);
	listener->timer_fd = fd_close(listener->timer_fd);
	free(listener->path);
	free(listener);
	return NULL;
}
