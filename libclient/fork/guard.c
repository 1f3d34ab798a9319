// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Keeping memory frozen while fork children have it.
 *
 * A pthread_atfork() handler in the parent cannot tell which process is the child, and children
 * have children. So the child says it: over a socket made before the fork it sends a pidfd of
 * itself, and it keeps its end, for its own children to do the same. The memory is needed until
 * both hold: every copy of the child's end is closed, and every process that was made known has
 * ended. What a child may do instead:
 *
 *   It executes another program  Its end is closed (CLOEXEC) while it lives. Whether a process
 *                                still has the memory is then seen from its /proc/PID/maps.
 *   It closes all descriptors    (Daemons do.) It is known by pidfd, and its maps still show the
 *                                memory. A child of it cannot make itself known and has to do
 *                                without the regions: cowi_guards_inherited() says so.
 *   It dies before it has said   Its end is closed, and nobody is known.
 *
 * The parent's side is a thread, made with the first fork, that waits for all of it in one poll().
 *
 * The guard is in the process that would write to the memory. cowd is told of the children as well,
 * by the same pidfds (RegionChild): a child has the memory when its parent has ended, and as long
 * the region is listed and charged.
 *
 * Lock: guards_lock, for the list of guards; client->lock may be taken with it held.
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

#include "common/own-fd.h"
#include "common/wire.h"
#include "libclient/base/own-threads.h"
#include "libclient/requests.h"
#include "libclient/scoot/mode.h"

/* Nested forks between which new regions were made. */
#define UPWARD_MAX 16
/* Fork children that a turn of the thread takes back; of more, cowd waits until they end. */
#define GONE_MAX   64
/* Nothing tells when there is memory or a descriptor again. */
#define RETRY_MSEC 200

/* A process that has the memory, as it made itself known; cowd knows it by @key. */
struct fork_child {
	int pidfd;
	uint64_t key;
	bool is_told; /* to cowd, when it was new */
};

struct cowi_guard {
	int sock;       /* the parent's end; -1 once all of the other ends are closed */
	int child_sock; /* until the fork is over */
	/* Whoever wrote to @sock waits there until there is room for its pidfd. */
	bool is_starved;
	struct fork_child *children;
	size_t n_children;
	struct scoot_snapshot **frozen;
	size_t n_frozen;
	struct cowi_guard *next;
};

static pthread_mutex_t guards_lock = PTHREAD_MUTEX_INITIALIZER;
static struct cowi_guard *guards;    /* guards_lock */
static struct cowi_guard *abandoned; /* guards_lock: nobody can watch these any more */
static int wake_fd = -1;
static unsigned long thread_number; /* guards_lock: the thread that is to watch; 0: none */
static unsigned long last_thread_number;
static bool has_news; /* guards_lock: a child is not told of */
static uint64_t last_key;
static int upwards[UPWARD_MAX]; /* sockets to processes whose memory this one has */
static size_t n_upwards;

static void guard_free(struct cowi_guard *guard)
{
	guard->sock = own_fd_close(guard->sock);
	guard->child_sock = own_fd_close(guard->child_sock);
	for (size_t i = 0; i < guard->n_children; i++)
		own_fd_close(guard->children[i].pidfd);
	for (size_t i = 0; i < guard->n_frozen; i++)
		scoot_snapshot_free(guard->frozen[i]);
	free(guard->children);
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
	guard->sock = own_fd_note(socks[0]);
	guard->child_sock = own_fd_note(socks[1]);
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
	int r = send_self(guard->child_sock);

	if (!r && n_upwards == UPWARD_MAX)
		r = err_raise(-EMFILE, "too many forks within each other");
	if (!r)
		upwards[n_upwards++] = fd_steal(&guard->child_sock);
	guard_free(guard);
	return r;
}

/* Return: -ECONNRESET when the process that could write to the memory has gone. */
static int tell_upward(int sock)
{
	return own_fd_is(sock) ? send_self(sock) : own_fd_raise();
}

/*
 * The other end is closed when its process ends, or executes something else; before that only when
 * all of these ends are. Then nobody is left who could change the memory, and nobody to be told.
 */
int cowi_guards_inherited(void)
{
	size_t n_left = 0;
	int r = 0;

	for (size_t i = 0; i < n_upwards; i++) {
		int told = tell_upward(upwards[i]);

		if (told == -ECONNRESET) {
			own_fd_close(upwards[i]);
			continue;
		}
		if (told && !r)
			r = told;
		upwards[n_left++] = upwards[i];
	}
	n_upwards = n_left;
	return r;
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

static void drop_fork_child(struct cowi_guard *guard, size_t i)
{
	own_fd_close(guard->children[i].pidfd);
	guard->children[i] = guard->children[--guard->n_children];
}

/* --- what cowd knows of it -------------------------------------------------------------------- */

static bool has_region(const struct cowi_guard *guard, const struct cow_region *region)
{
	for (size_t i = 0; i < guard->n_frozen; i++) {
		const struct extents *map = &guard->frozen[i]->map;

		for (size_t k = 0; k < map->n_runs; k++) {
			if (map->runs[k].backing == region->scoot->home)
				return true;
		}
	}
	return false;
}

/* Does not wait; what does not reach cowd now is said again after the next connection. */
static void tell_fork_child(struct cow_region *region, const struct fork_child *fork_child)
{
	uint64_t generation, region_id;

	pthread_mutex_lock(&region->client->lock);
	region_id = region->id;
	generation = region->generation;
	pthread_mutex_unlock(&region->client->lock);
	if (region_id)
		cowi_tell_region_child(region->client, generation, region_id, fork_child->key,
				       fork_child->pidfd);
}

/* With guards_lock held. */
static void tell_region(struct cow_region *region, bool only_new)
{
	for (const struct cowi_guard *guard = guards; guard; guard = guard->next) {
		if (!has_region(guard, region))
			continue;
		for (size_t i = 0; i < guard->n_children; i++) {
			if (!only_new || !guard->children[i].is_told)
				tell_fork_child(region, &guard->children[i]);
		}
	}
}

void cowi_guards_tell(struct cow_region *region)
{
	pthread_mutex_lock(&guards_lock);
	tell_region(region, false);
	pthread_mutex_unlock(&guards_lock);
}

/* The regions of this process that cowd may be told about, with references. */
static size_t list_regions(struct cow_region ***out)
{
	size_t n_regions = 0, n = 0;

	if (cowi_registry_list(out, &n_regions))
		return 0;
	for (size_t i = 0; i < n_regions; i++) {
		struct cow_region *region = (*out)[i];

		if (region->scoot && region->client->pid == getpid())
			(*out)[n++] = region;
		else
			cow_region_unref(region);
	}
	return n;
}

/* Who is new, and (@gone) who has executed something else. No lock is held. */
static void tell_news(const uint64_t *gone, size_t n_gone)
{
	struct cow_region **regions = NULL;
	size_t n_regions = list_regions(&regions);

	pthread_mutex_lock(&guards_lock);
	for (size_t i = 0; i < n_regions; i++)
		tell_region(regions[i], true);
	for (struct cowi_guard *guard = guards; guard; guard = guard->next) {
		for (size_t i = 0; i < guard->n_children; i++)
			guard->children[i].is_told = true;
	}
	has_news = false;
	pthread_mutex_unlock(&guards_lock);
	for (size_t i = 0; i < n_regions; i++) {
		for (size_t k = 0; k < n_gone; k++)
			cowi_tell_region_child_end(regions[i]->client,
						   cowi_generation(regions[i]->client), gone[k]);
		cow_region_unref(regions[i]);
	}
	free((void *)regions);
}

/* All ends are closed: those who are known may have executed something else. */
static void end_sock(struct cowi_guard *guard, uint64_t *gone, size_t *n_gone)
{
	guard->sock = own_fd_close(guard->sock);
	for (size_t i = guard->n_children; i-- > 0;) {
		if (has_memory(guard, guard->children[i].pidfd))
			continue;
		if (guard->children[i].is_told && *n_gone < GONE_MAX)
			gone[(*n_gone)++] = guard->children[i].key;
		drop_fork_child(guard, i);
	}
}

/* Return: -EAGAIN: nobody was there; -ECONNRESET: nor will be; other: it is there still. */
static int receive_fork_child(struct cowi_guard *guard)
{
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	struct fork_child *grown =
		reallocarray(guard->children, guard->n_children + 1, sizeof(*guard->children));
	char byte;
	size_t len;
	int r;

	if (!grown)
		return err_oom(sizeof(*grown), "a fork child");
	guard->children = grown;
	/* What finds no room for its descriptor would be received without, and never again. */
	r = wire_recv(guard->sock, &byte, sizeof(byte), &len, &fds, MSG_DONTWAIT | MSG_PEEK);
	if (r)
		return r;
	(void)recv(guard->sock, &byte, sizeof(byte), MSG_DONTWAIT);
	if (!fds.n_fds)
		return 0; /* not from this library; its end of the socket speaks for it */
	guard->children[guard->n_children++] =
		(struct fork_child){.pidfd = own_fd_note(fdset_take(&fds, 0)), .key = ++last_key};
	has_news = true;
	return 0;
}

/* Who else has the memory makes itself known, or all ends are closed. */
static void receive(struct cowi_guard *guard, uint64_t *gone, size_t *n_gone)
{
	int r = receive_fork_child(guard);

	guard->is_starved = r && r != -EAGAIN && r != -ECONNRESET;
	if (r == -ECONNRESET)
		end_sock(guard, gone, n_gone);
}

/* With guards_lock held: all descriptors to wait for. Return: how many; 0 without memory. */
static size_t list_fds(struct pollfd **out)
{
	size_t n = 1, n_max = 1;
	struct pollfd *fds;

	for (const struct cowi_guard *guard = guards; guard; guard = guard->next)
		n_max += 1 + guard->n_children;
	fds = calloc(n_max, sizeof(*fds));
	if (!fds)
		return 0;
	fds[0] = (struct pollfd){.fd = wake_fd, .events = POLLIN};
	for (const struct cowi_guard *guard = guards; guard; guard = guard->next) {
		fds[n++] = (struct pollfd){.fd = guard->is_starved ? -1 : guard->sock,
					   .events = POLLIN};
		for (size_t i = 0; i < guard->n_children; i++)
			fds[n++] =
				(struct pollfd){.fd = guard->children[i].pidfd, .events = POLLIN};
	}
	*out = fds;
	return n;
}

/* With guards_lock held: for how long to wait. */
static int timeout_msec(void)
{
	for (const struct cowi_guard *guard = guards; guard; guard = guard->next) {
		if (guard->is_starved)
			return RETRY_MSEC;
	}
	return -1;
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
static struct cowi_guard *serve(const struct pollfd *fds, size_t n_fds, uint64_t *gone,
				size_t *n_gone)
{
	struct cowi_guard *ended = NULL, **link = &guards;

	while (*link) {
		struct cowi_guard *guard = *link;

		for (size_t i = guard->n_children; i-- > 0;) {
			if (is_ready(fds, n_fds, guard->children[i].pidfd))
				drop_fork_child(guard, i);
		}
		if (guard->is_starved || is_ready(fds, n_fds, guard->sock))
			receive(guard, gone, n_gone);
		if (guard->sock < 0 && !guard->n_children) {
			*link = guard->next;
			guard->next = ended;
			ended = guard;
		} else {
			link = &guard->next;
		}
	}
	return ended;
}

/*
 * With guards_lock held: whether the caller, thread @number, is to go on. If the program has closed
 * its descriptors nobody can watch any more: what is frozen stays so for good, which costs memory
 * and wrongs nobody, and the next fork begins anew.
 */
static bool may_watch(unsigned long number)
{
	if (number != thread_number)
		return false;
	if (own_fd_is(wake_fd))
		return true;
	own_fd_close(wake_fd);
	wake_fd = -1;
	while (guards) {
		struct cowi_guard *guard = guards;

		guards = guard->next;
		guard->next = abandoned;
		abandoned = guard;
	}
	thread_number = 0;
	return false;
}

static void *watch(void *arg)
{
	const unsigned long number = (unsigned long)(uintptr_t)arg;
	uint64_t n_wakes, gone[GONE_MAX];

	(void)cowi_entry_begin(); /* to the thread's end */
	cowi_own_thread_begins();
	for (;;) {
		CLEANUP(freep) struct pollfd *fds = NULL;
		struct cowi_guard *ended = NULL;
		size_t n_fds, n_gone = 0;
		bool is_news = false, is_over;
		int msec;

		pthread_mutex_lock(&guards_lock);
		n_fds = list_fds(&fds);
		msec = n_fds ? timeout_msec() : RETRY_MSEC;
		pthread_mutex_unlock(&guards_lock);
		if (poll(fds, n_fds, msec) < 0)
			continue;
		pthread_mutex_lock(&guards_lock);
		is_over = !may_watch(number);
		if (!is_over && n_fds && fds[0].revents)
			(void)!read(wake_fd, &n_wakes, sizeof(n_wakes));
		if (!is_over)
			ended = serve(fds, n_fds, gone, &n_gone);
		is_news = !is_over && (has_news || n_gone);
		pthread_mutex_unlock(&guards_lock);
		if (is_over)
			break;
		if (is_news)
			tell_news(gone, n_gone);
		if (!ended)
			continue;
		while (ended) {
			struct cowi_guard *guard = ended;

			ended = guard->next;
			guard_free(guard);
		}
		cowi_scoot_post_all();
	}
	cowi_own_thread_ends();
	return NULL;
}

/* With guards_lock held. Without the thread the memory just stays frozen. */
static void start_thread(void)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_t thread;

	if (thread_number && may_watch(thread_number))
		return;
	if (wake_fd < 0)
		wake_fd = own_fd_note(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	if (wake_fd < 0 || pthread_attr_init(&attr))
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	thread_number = ++last_thread_number;
	if (pthread_create(&thread, &attr, watch, (void *)(uintptr_t)thread_number))
		thread_number = 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	(void)pthread_attr_destroy(&attr);
}

void cowi_guard_watch(struct cowi_guard *guard)
{
	const uint64_t one = 1;

	guard->child_sock = own_fd_close(guard->child_sock);
	pthread_mutex_lock(&guards_lock);
	start_thread();
	guard->next = guards;
	guards = guard;
	/* a full counter wakes as well */
	if (wake_fd >= 0)
		(void)!write(wake_fd, &one, sizeof(one));
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
	wake_fd = own_fd_close(wake_fd);
	thread_number = 0;
	pthread_mutex_unlock(&guards_lock);
}
