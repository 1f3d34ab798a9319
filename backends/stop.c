// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Stopping threads; see stop.h.
 *
 * The helper's functions are marked HELPER. The helper has a stack of its own, but shares the
 * caller's thread-local storage, and so its errno. So it makes bare system calls, which may fail
 * only while the caller waits for it; the caller then restores errno. A sanitizer keeps records by
 * thread, so it must not instrument these functions.
 */
#include "config.h"

#include "backends/stop.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/clock.h"

#define HELPER __attribute__((no_sanitize("address", "undefined", "thread")))

#define PATIENCE_NSEC ((uint64_t)100000000)
#define SPIN_NSEC     ((uint64_t)100000)
#define THREADS_MAX   16384
#define STACK_BYTES   65536

/* include/linux/sched.h: flags in /proc/PID/stat, proc(5). */
#define PF_IO_WORKER 0x10UL

/* The size of a set of signals in the kernel. */
#define KERNEL_SIGSET_BYTES 8

/* struct stop's futex word. */
enum {
	STOP_GONE, /* by the kernel */
	STOP_UNNAMED,
	STOP_SEIZING,
	STOP_DONE,
	STOP_LEAVING,
};

#define SIGNAL_RUNS  (-1)
#define SIGNAL_ENDED (-2)

struct seized {
	pid_t id;
	int signal; /* that it stopped for, to deliver again; 0: none; or SIGNAL_* */
};

/**
 * struct stop - shared by caller and helper, in a mapping of its own
 * @task_fd:   /proc/self/task, the caller's
 * @n_stopped: of @threads, from the first one on
 * @at:        index to look for the next id at: listings come in the same order
 */
struct stop {
	_Atomic uint32_t state;
	pid_t pid;
	pid_t caller_id;
	pid_t helper;
	int task_fd;
	bool is_named;
	bool (*is_spared)(pid_t id);
	uint64_t until_nsec;
	size_t n_threads;
	size_t n_stopped;
	size_t at;
	struct seized threads[THREADS_MAX];
	char stack[STACK_BYTES] __attribute__((aligned(16)));
};

static pthread_mutex_t stopping = PTHREAD_MUTEX_INITIALIZER;

HELPER static void await_change(struct stop *stop, uint32_t from)
{
	while (atomic_load(&stop->state) == from)
		(void)syscall(SYS_futex, &stop->state, FUTEX_WAIT, from, NULL, NULL, 0);
}

/* A value that the kernel has set stays. */
HELPER static void change(struct stop *stop, uint32_t from, uint32_t to)
{
	if (!atomic_compare_exchange_strong(&stop->state, &from, to))
		return;
	(void)syscall(SYS_futex, &stop->state, FUTEX_WAKE, 1, NULL, NULL, 0);
}

HELPER static long trace(long request, long id, long data)
{
	return syscall(SYS_ptrace, request, id, 0L, data);
}

/* --- the helper: states of the threads that it seized ----------------------------------------- */

/*
 * A stop that is an event has no signal of its own: it is PTRACE_EVENT_STOP, since no other was
 * asked for.
 */
HELPER static void note(struct seized *thread, int status)
{
	if (!WIFSTOPPED(status))
		*thread = (struct seized){.signal = SIGNAL_ENDED};
	else
		thread->signal = status >> 16 ? 0 : WSTOPSIG(status);
}

HELPER static bool is_late(const struct stop *stop, struct timespec *left)
{
	struct timespec now;
	uint64_t nsec;

	(void)syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
	nsec = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	if (nsec >= stop->until_nsec)
		return true;
	left->tv_sec = 0;
	left->tv_nsec = (long)(stop->until_nsec - nsec);
	return false;
}

/*
 * Wait until all seized threads have stopped or ended: each tells its tracer by SIGCHLD. The helper
 * waits for one at a time: to wait for any of them the kernel searches all.
 */
HELPER static bool await_stops(struct stop *stop)
{
	const uint64_t child = 1UL << (SIGCHLD - 1);
	struct timespec left;
	int status;

	while (stop->n_stopped < stop->n_threads) {
		struct seized *thread = &stop->threads[stop->n_stopped];

		if (thread->signal == SIGNAL_ENDED) {
			stop->n_stopped++;
		} else if (syscall(SYS_wait4, (long)thread->id, &status, __WALL | WNOHANG, NULL) >
			   0) {
			note(thread, status);
			stop->n_stopped++;
		} else if (is_late(stop, &left)) {
			return false;
		} else {
			(void)syscall(SYS_rt_sigtimedwait, &child, NULL, &left,
				      KERNEL_SIGSET_BYTES);
		}
	}
	return true;
}

/* Of those that have not stopped the kernel detaches it when it ends, and loses nothing. */
HELPER static void detach(struct stop *stop)
{
	for (size_t i = 0; i < stop->n_threads; i++) {
		const struct seized *thread = &stop->threads[i];

		if (thread->signal >= 0)
			(void)trace(PTRACE_DETACH, thread->id, thread->signal);
	}
}

/* --- the helper: list the threads ------------------------------------------------------------- */

enum kind {
	KIND_RUNS,
	KIND_ENDED, /* the first thread, whose id is the process's, is listed until all have */
	KIND_UNSTOPPABLE,
};

/* Field 3 of the line, a letter, and 9, a number; field 2 is in
 * brackets, and may have any in it. */
HELPER static enum kind kind_in(const char *line, size_t len)
{
	unsigned long flags = 0;
	size_t at = len;
	char state;

	while (at && line[at - 1] != ')')
		at--;
	if (!at || at + 2 >= len)
		return KIND_UNSTOPPABLE;
	state = line[at + 1];
	for (int n_spaces = 0; at < len && n_spaces < 7; at++)
		n_spaces += line[at] == ' ';
	for (; at < len && line[at] >= '0' && line[at] <= '9'; at++)
		flags = 10 * flags + (unsigned long)(line[at] - '0');
	if (flags & PF_IO_WORKER)
		return KIND_UNSTOPPABLE;
	return state == 'Z' || state == 'X' ? KIND_ENDED : KIND_RUNS;
}

HELPER static enum kind kind_of(const struct stop *stop, const char *name)
{
	static const char tail[] = "/stat";
	char path[32], line[256];
	size_t n = 0;
	long fd, len;

	for (; n < sizeof(path) - sizeof(tail) && name[n]; n++)
		path[n] = name[n];
	for (size_t i = 0; i < sizeof(tail); i++)
		path[n + i] = tail[i];
	fd = syscall(SYS_openat, stop->task_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? KIND_ENDED : KIND_UNSTOPPABLE;
	len = syscall(SYS_read, fd, line, sizeof(line));
	(void)syscall(SYS_close, fd);
	if (len < 0)
		return errno == ESRCH ? KIND_ENDED : KIND_UNSTOPPABLE;
	return kind_in(line, (size_t)len);
}

HELPER static bool is_known(struct stop *stop, pid_t id)
{
	for (size_t i = 0; i < stop->n_threads; i++) {
		size_t idx = (stop->at + i) % stop->n_threads;

		if (stop->threads[idx].id == id) {
			stop->at = idx + 1;
			return true;
		}
	}
	return false;
}

HELPER static void add(struct stop *stop, pid_t id, int signal)
{
	stop->threads[stop->n_threads++] = (struct seized){.id = id, .signal = signal};
}

/* Return: whether it is seized, or has ended. */
HELPER static bool seize(struct stop *stop, pid_t id, const char *name)
{
	enum kind kind = kind_of(stop, name);

	if (kind == KIND_UNSTOPPABLE || stop->n_threads == THREADS_MAX)
		return false;
	if (kind == KIND_RUNS && !trace(PTRACE_SEIZE, id, 0)) {
		add(stop, id, SIGNAL_RUNS);
		(void)trace(PTRACE_INTERRUPT, id, 0);
		return true;
	}
	if (kind == KIND_RUNS && errno != ESRCH && kind_of(stop, name) != KIND_ENDED)
		return false;
	if (id == stop->pid)
		add(stop, id, SIGNAL_ENDED);
	return true;
}

/* The result of one reading of the directory. */
struct listing {
	size_t n;
	bool has_self;
	bool has_new;
};

/* Return: whether all new threads are seized. */
HELPER static bool seize_listed(struct stop *stop, const char *entries, size_t len,
				struct listing *listing)
{
	const struct dirent64 *entry;

	for (size_t off = 0; off < len; off += entry->d_reclen) {
		pid_t id = 0;

		entry = (const struct dirent64 *)(const void *)(entries + off);
		for (const char *c = entry->d_name; *c >= '0' && *c <= '9'; c++)
			id = 10 * id + (*c - '0');
		if (!id)
			continue; /* "." and ".." */
		listing->n++;
		listing->has_self |= id == stop->caller_id;
		if (id == stop->caller_id || is_known(stop, id) || stop->is_spared(id))
			continue;
		listing->has_new = true;
		if (!seize(stop, id, entry->d_name))
			return false;
	}
	return true;
}

/* As the directory itself says. */
HELPER static size_t count_threads(const struct stop *stop)
{
	struct stat st;

	return fstat(stop->task_fd, &st) || st.st_nlink < 2 ? 0 : st.st_nlink - 2;
}

/*
 * Seize all new threads.
 *
 * @is_quiet: whether there was none; if all others have stopped, there will be none.
 *
 * A new thread that has ended may have started another one, too late for this listing. A listing
 * may also leave a thread out if another one ends meanwhile, so the number of entries has to match
 * the kernel's count, before and after.
 */
HELPER static bool seize_all(struct stop *stop, bool *is_quiet)
{
	char entries[4096] __attribute__((aligned(8)));
	const size_t n_before = count_threads(stop);
	struct listing listing = {.n = 0};
	long n;

	(void)syscall(SYS_lseek, stop->task_fd, 0L, SEEK_SET);
	while ((n = syscall(SYS_getdents64, stop->task_fd, entries, sizeof(entries))) > 0) {
		if (!seize_listed(stop, entries, (size_t)n, &listing))
			return false;
	}
	/* A /proc of other numbers is not for this process. */
	if (n < 0 || !listing.has_self)
		return false;
	*is_quiet = !listing.has_new && listing.n == n_before && listing.n == count_threads(stop);
	return true;
}

HELPER static bool stop_all(struct stop *stop)
{
	struct timespec left;
	bool is_quiet = false;

	while (!is_quiet) {
		if (is_late(stop, &left) || !seize_all(stop, &is_quiet) || !await_stops(stop))
			return false;
	}
	return true;
}

/*
 * The helper must not outlive the caller's thread, which is its parent: the kernel ends the helper
 * with it, and then resumes all threads that the helper has stopped. The program may have set
 * SIGCHLD so that none is sent, or handles it.
 */
HELPER static bool prepare(const struct stop *stop)
{
	static const char by_default[64]; /* larger than the kernel's struct sigaction */
	const uint64_t all = ~(uint64_t)0;

	/* Signals to the program's process group are not for the helper. */
	(void)syscall(SYS_setpgid, 0L, 0L);
	return !syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, KERNEL_SIGSET_BYTES) &&
	       !syscall(SYS_rt_sigaction, SIGCHLD, by_default, NULL, KERNEL_SIGSET_BYTES) &&
	       !syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0L, 0L, 0L) &&
	       syscall(SYS_getppid) == stop->pid &&
	       !syscall(SYS_tgkill, stop->pid, stop->caller_id, 0);
}

HELPER static int helper_main(void *arg)
{
	struct stop *stop = arg;

	if (!prepare(stop))
		return 1;
	await_change(stop, STOP_UNNAMED);
	if (stop_all(stop)) {
		change(stop, STOP_SEIZING, STOP_DONE);
		await_change(stop, STOP_DONE);
	}
	detach(stop);
	return 0;
}

/* --- the caller ------------------------------------------------------------------------------- */

static bool is_name_wanted(void)
{
	AUTO_FD int fd = open("/proc/sys/kernel/yama/ptrace_scope", O_RDONLY | O_CLOEXEC);
	char scope;

	return fd >= 0 && read(fd, &scope, 1) == 1 && scope == '1';
}

/* Not inherited, not by an exec either. */
static int start_helper(struct stop *stop)
{
	stop->helper =
		clone(helper_main, stop->stack + sizeof(stop->stack),
		      CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_UNTRACED | CLONE_CHILD_CLEARTID,
		      stop, NULL, NULL, &stop->state);
	if (stop->helper < 0)
		return -1;
	if (stop->is_named) {
		(void)prctl(PR_SET_PTRACER, (unsigned long)stop->helper, 0L, 0L, 0L);
		change(stop, STOP_UNNAMED, STOP_SEIZING);
	}
	return 0;
}

/*
 * Wait for the helper's end. If the program has waited for it in our place, it has ended as well.
 *
 * A caller that sleeps here wakes up among all the threads that go on. So at first it does not give
 * up its CPU while the helper uses another one.
 */
static void await_end(struct stop *stop)
{
	const uint64_t until_nsec = now_nsec() + SPIN_NSEC;
	uint32_t state;

	while (atomic_load(&stop->state) != STOP_GONE && now_nsec() < until_nsec)
		;
	while ((state = atomic_load(&stop->state)) != STOP_GONE)
		await_change(stop, state);
	while (!waitpid(stop->helper, NULL, __WCLONE | WNOHANG) && now_nsec() < until_nsec)
		;
	while (waitpid(stop->helper, NULL, __WCLONE) < 0 && errno == EINTR)
		;
	if (stop->is_named)
		(void)prctl(PR_SET_PTRACER, 0L, 0L, 0L, 0L);
}

static struct stop *stop_free(struct stop *stop)
{
	stop->task_fd = fd_close(stop->task_fd);
	(void)munmap(stop, sizeof(*stop));
	return NULL;
}

static struct stop *stop_new(bool (*is_spared)(pid_t id))
{
	struct stop *stop = mmap(NULL, sizeof(*stop), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (stop == MAP_FAILED)
		return NULL;
	stop->task_fd = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	stop->pid = getpid();
	stop->caller_id = (pid_t)syscall(SYS_gettid);
	stop->is_spared = is_spared;
	stop->is_named = is_name_wanted();
	atomic_store(&stop->state, stop->is_named ? STOP_UNNAMED : STOP_SEIZING);
	stop->until_nsec = now_nsec() + PATIENCE_NSEC;
	return stop->task_fd < 0 ? stop_free(stop) : stop;
}

/* Return: @stop, if all have stopped. */
static struct stop *stop_start(struct stop *stop)
{
	if (start_helper(stop))
		return stop_free(stop);
	await_change(stop, STOP_SEIZING);
	if (atomic_load(&stop->state) == STOP_DONE)
		return stop;
	await_end(stop);
	return stop_free(stop);
}

bool stop_begin(struct stop **out, bool (*is_spared)(pid_t id))
{
	const int saved_errno = errno;
	struct stop *stop;

	pthread_mutex_lock(&stopping);
	stop = stop_new(is_spared);
	if (stop)
		stop = stop_start(stop);
	if (!stop)
		pthread_mutex_unlock(&stopping);
	errno = saved_errno;
	*out = stop;
	return stop != NULL;
}

struct stop *stop_end(struct stop *stop)
{
	const int saved_errno = errno;

	change(stop, STOP_DONE, STOP_LEAVING);
	await_end(stop);
	stop_free(stop);
	pthread_mutex_unlock(&stopping);
	errno = saved_errno;
	return NULL;
}
