// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Keeping memory frozen while fork children have it.
 *
 * Which process is the child a pthread_atfork() handler in the parent cannot tell, and children
 * have children. So the child says it: over a socket made before the fork it sends a pidfd of
 * itself, and it keeps its end, for its own children to do the same. The memory is needed until
 * both hold: every copy of the child's end is closed, and every process that was made known has
 * ended.
 *
 *   It executes another program   Its end is closed (CLOEXEC) while it lives. Whether a process
 * still has the memory is then seen from its /proc/PID/maps. It closes all descriptors     (daemons
 * do) It is known by pidfd, and its maps still show the memory. A child of it cannot make itself
 * known and has to do without the regions: cowi_guards_inherited() says so. It dies before it has
 * said    Its end is closed, and nobody is known.
 *
 * The parent's side is a thread, made with the first fork, that waits for all of it in one poll().
 */
#include "config.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/wire.h"
#include "libclient/mode-scoot.h"

/* Nested forks between which new regions were made. */
#define UPWARD_MAX 16

struct cowi_guard {
	int sock;       /* the parent's end; -1 once all of the other ends are closed */
	int child_sock; /* until the fork is over */
	int *pidfds;
	size_t n_pidfds;
	struct scoot_snapshot **frozen;
	size_t n_frozen;
	struct cowi_guard *next;
};

/* A socket to a process whose memory this one has: who closed it may have opened something else. */
struct upward {
	int sock;
	dev_t dev;
	ino_t ino;
};

static pthread_mutex_t guards_lock = PTHREAD_MUTEX_INITIALIZER;
static struct cowi_guard *guards; /* guards_lock */
static int wake_fd = -1;
static bool has_thread;
static struct upward upwards[UPWARD_MAX];
static size_t n_upwards;

static void guard_free(struct cowi_guard *guard)
{
	guard->sock = fd_close(guard->sock);
	guard->child_sock = fd_close(guard->child_sock);
	for (size_t i = 0; i < guard->n_pidfds; i++)
		fd_close(guard->pidfds[i]);
	for (size_t i = 0; i < guard->n_frozen; i++)
		scoot_snapshot_free(guard->frozen[i]);
	free(guard->pidfds);
	free((void *)guard->frozen);
	free(guard);
}

int cowi_guard_new(struct cowi_guard **out)
{
	struct cowi_guard *guard = calloc(1, sizeof(*guard));
	int socks[2];

	if (!guard)
		return err_oom(sizeof(*guard), "a fork child's memory");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, socks)) {
		free(guard);
		return err_raise_errno("cannot make a socket to a fork child");
	}
	guard->sock = socks[0];
	guard->child_sock = socks[1];
	*out = guard;
	return 0;
}

int cowi_guard_add(struct cowi_guard *guard, struct scoot_snapshot **frozen)
{
	struct scoot_snapshot **grown = (struct scoot_snapshot **)reallocarray(
		(void *)guard->frozen, guard->n_frozen + 1, sizeof(*grown));

	if (!grown)
		return err_oom(sizeof(*grown), "a fork child's memory");
	guard->frozen = grown;
	guard->frozen[guard->n_frozen++] = steal_ptr(frozen);
	return 0;
}

/* --- the child -------------------------------------------------------------------------------- */

static int send_self(int sock)
{
	AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	if (pidfd < 0)
		return err_raise_errno("cannot open a pidfd");
	return wire_send(sock, "", 1, &pidfd, 1, 0);
}

int cowi_guard_child(struct cowi_guard *guard)
{
	struct stat st;
	int r;

	r = send_self(guard->child_sock);
	if (!r && (n_upwards == UPWARD_MAX || fstat(guard->child_sock, &st)))
		r = err_raise(-EMFILE, "too many forks within each other");
	if (!r)
		upwards[n_upwards++] = (struct upward){
			.sock = fd_steal(&guard->child_sock),
			.dev = st.st_dev,
			.ino = st.st_ino,
		};
	guard_free(guard);
	return r;
}

int cowi_guards_inherited(void)
{
	for (size_t i = 0; i < n_upwards; i++) {
		struct stat st;
		int r;

		if (fstat(upwards[i].sock, &st) || st.st_dev != upwards[i].dev ||
		    st.st_ino != upwards[i].ino)
			return err_raise(-EBADF, "this process closed the library's descriptor");
		r = send_self(upwards[i].sock);
		if (r)
			return r;
	}
	return 0;
}

/* --- the parent ------------------------------------------------------------------------------- */

static pid_t pid_of(int pidfd)
{
	char path[64], line[128];
	int pid = -1;
	FILE *file;

	(void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	file = fopen(path, "re");
	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "Pid: %d", &pid) == 1)
			break;
	}
	(void)fclose(file);
	return pid;
}

/* Whether a line of /proc/PID/maps is of a file of that inode. */
static bool is_mapping_of(const char *line, const struct cowi_guard *guard)
{
	unsigned long long inode;
	struct stat st;

	if (sscanf(line, "%*x-%*x %*4s %*x %*x:%*x %llu", &inode) != 1 || !inode)
		return false;
	for (size_t i = 0; i < guard->n_frozen; i++) {
		const struct extents *map = &guard->frozen[i]->map;

		for (size_t k = 0; k < map->n_runs; k++) {
			if (!fstat(memfile_read_fd(map->runs[k].backing), &st) &&
			    st.st_ino == inode)
				return true;
		}
	}
	return false;
}

/* False only if it is certain: then it has executed something else. */
static bool has_memory(const struct cowi_guard *guard, int pidfd)
{
	char path[64], line[512];
	bool has = false;
	FILE *file;

	(void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid_of(pidfd));
	file = fopen(path, "re");
	if (!file)
		return true;
	while (!has && fgets(line, sizeof(line), file))
		has = is_mapping_of(line, guard);
	has |= ferror(file) != 0;
	(void)fclose(file);
	return has;
}

static void drop_pidfd(struct cowi_guard *guard, size_t i)
{
	fd_close(guard->pidfds[i]);
	guard->pidfds[i] = guard->pidfds[--guard->n_pidfds];
}

/* Who else has the memory makes itself known, or all ends are closed. */
static void receive(struct cowi_guard *guard)
{
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	int *grown;
	char byte;
	size_t len;
	int r;

	r = wire_recv(guard->sock, &byte, sizeof(byte), &len, &fds, MSG_DONTWAIT);
	if (r == -EAGAIN)
		return;
	if (r) {
		guard->sock = fd_close(guard->sock);
		for (size_t i = guard->n_pidfds; i-- > 0;) {
			if (!has_memory(guard, guard->pidfds[i]))
				drop_pidfd(guard, i);
		}
		return;
	}
	grown = reallocarray(guard->pidfds, guard->n_pidfds + 1, sizeof(*grown));
	if (!grown || !fds.n_fds)
		return; /* its end of the socket still speaks for it */
	guard->pidfds = grown;
	guard->pidfds[guard->n_pidfds++] = fdset_take(&fds, 0);
}

/* With guards_lock held: all descriptors to wait for. Return: how many; 0 without memory. */
static size_t list_fds(struct pollfd **out)
{
	size_t n = 1, n_max = 1;
	struct pollfd *fds;

	for (const struct cowi_guard *guard = guards; guard; guard = guard->next)
		n_max += 1 + guard->n_pidfds;
	fds = calloc(n_max, sizeof(*fds));
	if (!fds)
		return 0;
	fds[0] = (struct pollfd){.fd = wake_fd, .events = POLLIN};
	for (const struct cowi_guard *guard = guards; guard; guard = guard->next) {
		fds[n++] = (struct pollfd){.fd = guard->sock, .events = POLLIN};
		for (size_t i = 0; i < guard->n_pidfds; i++)
			fds[n++] = (struct pollfd){.fd = guard->pidfds[i], .events = POLLIN};
	}
	*out = fds;
	return n;
}

static bool is_ready(const struct pollfd *fds, size_t n_fds, int fd)
{
	for (size_t i = 0; i < n_fds; i++) {
		if (fds[i].fd == fd)
			return fd >= 0 && fds[i].revents;
	}
	return false;
}

/* With guards_lock held: look at what poll() found. Return: guards that have ended. */
static struct cowi_guard *serve(const struct pollfd *fds, size_t n_fds)
{
	struct cowi_guard *ended = NULL, **link = &guards;

	while (*link) {
		struct cowi_guard *guard = *link;

		for (size_t i = guard->n_pidfds; i-- > 0;) {
			if (is_ready(fds, n_fds, guard->pidfds[i]))
				drop_pidfd(guard, i);
		}
		if (is_ready(fds, n_fds, guard->sock))
			receive(guard);
		if (guard->sock < 0 && !guard->n_pidfds) {
			*link = guard->next;
			guard->next = ended;
			ended = guard;
		} else {
			link = &guard->next;
		}
	}
	return ended;
}

static void *watch(void *arg)
{
	uint64_t n_wakes;

	(void)arg;
	for (;;) {
		CLEANUP(freep) struct pollfd *fds = NULL;
		struct cowi_guard *ended;
		size_t n_fds;

		pthread_mutex_lock(&guards_lock);
		n_fds = list_fds(&fds);
		pthread_mutex_unlock(&guards_lock);
		/* Without memory to wait with: again in a second. */
		if (poll(fds, n_fds, n_fds ? -1 : 1000) < 0)
			continue;
		if (n_fds && fds[0].revents && read(wake_fd, &n_wakes, sizeof(n_wakes)) < 0)
			continue;
		pthread_mutex_lock(&guards_lock);
		ended = serve(fds, n_fds);
		pthread_mutex_unlock(&guards_lock);
		if (!ended)
			continue;
		while (ended) {
			struct cowi_guard *guard = ended;

			ended = guard->next;
			guard_free(guard);
		}
		cowi_scoot_post_all();
	}
	return NULL;
}

/* With guards_lock held. Without the thread the memory just stays frozen. */
static void start_thread(void)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_t thread;

	if (has_thread)
		return;
	if (wake_fd < 0)
		wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (wake_fd < 0 || pthread_attr_init(&attr))
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	has_thread = !pthread_create(&thread, &attr, watch, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	(void)pthread_attr_destroy(&attr);
}

void cowi_guard_watch(struct cowi_guard *guard)
{
	const uint64_t one = 1;

	guard->child_sock = fd_close(guard->child_sock);
	pthread_mutex_lock(&guards_lock);
	guard->next = guards;
	guards = guard;
	start_thread();
	if (wake_fd >= 0 && write(wake_fd, &one, sizeof(one)) < 0)
		has_thread = has_thread && errno == EAGAIN; /* a full counter wakes as well */
	pthread_mutex_unlock(&guards_lock);
}

/* --- around a fork ---------------------------------------------------------------------------- */

void cowi_guards_fork_prepare(void)
{
	pthread_mutex_lock(&guards_lock);
}

void cowi_guards_fork_parent(void)
{
	pthread_mutex_unlock(&guards_lock);
}

/* The parent's children are no concern of this process. */
void cowi_guards_fork_child(void)
{
	while (guards) {
		struct cowi_guard *guard = guards;

		guards = guard->next;
		guard_free(guard);
	}
	wake_fd = fd_close(wake_fd);
	has_thread = false;
	pthread_mutex_unlock(&guards_lock);
}
