// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Torture: every allocation, descriptor and system call of a program's and of cowd's life fails
 * once. For each script, mode and kind of call, N grows from 1 until no call has that number any
 * more. After each N: nothing crashed or hangs, what failed said so with a plausible errno and a
 * sentence of its own, no byte is wrong, no descriptor, allocation or mapping is left, and the same
 * script without a fault works.
 *
 *	torture TARGET KIND                           all: library or daemon; allocation …
 *	torture TARGET SCRIPT MODE KIND N             one of them, as a finding's line names it
 *
 * This process starts cowd and, for each series, a worker: itself, with fault.c loaded if the
 * target is the library. In a series for cowd, fault.c is in cowd and the worker is its client. A
 * worker that ends before its time is a finding, and another one goes on with the next N. If cowd
 * has ended, so does the worker.
 */
#include "config.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/clock.h"
#include "common/util.h"
#include "system/daemon-fixture.h"
#include "system/proof.h"
#include "tests/skip.h"
#include "tests/torture/script.h"

enum {
	HANG_MSEC = 20000,      /* no script takes a hundredth of it */
	POLL_MSEC = 5,          /* nothing tells of a munmap() */
	SETTLE_MSEC = 2000,     /* for descriptors to be closed: an end, not a wait */
	ALLOCATIONS_MSEC = 500, /* for allocations: what is left then may be a cache */
	IDLE_MSEC = 30,
	N_WARM_UPS = 3,
	N_MISSES = 3, /* so many numbers that no call has end a series: threads make N vary */
	END_OF_COWD = 3,
};

static const char *const target_names[] = {"library", "daemon"};
static const char *const kind_names[FAULT_N_KINDS] = {"allocation", "descriptor", "call"};
static const char *const mode_names[] = {"", "uffd", "scoot", "mmapcopy"};

struct series {
	int target; /* of target_names */
	const struct script_kind *script;
	uint32_t mode;
	enum fault_kind kind;
};

/* What a target has between scripts. */
struct holdings {
	int64_t n_allocations, n_fds, mapped_bytes;
};

static struct torture *torture;
static char torture_path[64];
static struct daemon_fixture cowd = DAEMON_FIXTURE_NULL;

/* --- the worker ------------------------------------------------------------------------------- */

/* Until @what of the target is @want, or for @msec. Return: what it is then. */
static int64_t await(struct fault_point *point, _Atomic int64_t *what, int64_t want, int msec)
{
	uint64_t end = now_nsec() + (uint64_t)msec * 1000000;
	int64_t is;

	atomic_fetch_add(&point->n_waiting, 1);
	for (;;) {
		uint32_t n_events = atomic_load(&point->n_events);
		struct timespec left = {.tv_sec = 0};
		uint64_t now = now_nsec();

		is = atomic_load(what);
		if (is == want || now >= end)
			break;
		left.tv_sec = (time_t)((end - now) / 1000000000);
		left.tv_nsec = (long)((end - now) % 1000000000);
		(void)syscall(SYS_futex, &point->n_events, FUTEX_WAIT, n_events, &left, NULL, 0);
	}
	atomic_fetch_sub(&point->n_waiting, 1);
	return is;
}

/*
 * What the target has when it does nothing. Nothing says that it is done, so it has done nothing
 * for a while; a series that begins with too much only finds less in its first step.
 */
static void await_idle(struct fault_point *point, struct holdings *is)
{
	uint32_t n_events;

	do {
		n_events = atomic_load(&point->n_events);
		(void)await(point, &point->n_fds, INT64_MIN, IDLE_MSEC);
	} while (atomic_load(&point->n_events) != n_events);
	is->n_fds = atomic_load(&point->n_fds);
	is->n_allocations = atomic_load(&point->n_allocations);
}

/* Of memfds that are mapped in this process: regions, overlays, views. */
static int64_t mapped_bytes(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];
	int64_t n = 0;

	while (maps && fgets(line, sizeof(line), maps)) {
		unsigned long first, last;

		if (strstr(line, "/memfd:") && sscanf(line, "%lx-%lx", &first, &last) == 2)
			n += (int64_t)(last - first);
	}
	if (maps)
		(void)fclose(maps);
	return n;
}

/* The library unmaps in the background, as it comes to it: until no more than @want are left. */
static int64_t await_mapped(int64_t want)
{
	const uint64_t end = now_nsec() + (uint64_t)SETTLE_MSEC * 1000000;
	int64_t is;

	while ((is = mapped_bytes()) > want && now_nsec() < end)
		(void)poll(&(struct pollfd){.fd = cowd.pidfd, .events = POLLIN}, 1, POLL_MSEC);
	return is;
}

static struct fault_point *point_of(const struct series *series)
{
	return series->target ? &torture->daemon : &torture->library;
}

static void settle(const struct series *series, struct holdings *is, const struct holdings *want)
{
	struct fault_point *point = point_of(series);

	is->n_fds = await(point, &point->n_fds, want->n_fds, SETTLE_MSEC);
	is->n_allocations =
		await(point, &point->n_allocations, want->n_allocations, ALLOCATIONS_MSEC);
	is->mapped_bytes = await_mapped(want->mapped_bytes);
}

/* Exits if cowd has ended: this worker's series goes on with another one. */
static bool run(const struct series *series, int64_t n)
{
	bool is_hit = script_run(series->script, series->mode, torture, point_of(series), n);

	atomic_fetch_add(&torture->n_steps, 1);
	if (poll(&(struct pollfd){.fd = cowd.pidfd, .events = POLLIN}, 1, 0))
		_exit(END_OF_COWD);
	return is_hit;
}

static bool run_and_settle(const struct series *series, int64_t n, struct holdings *is,
			   const struct holdings *want)
{
	bool is_hit = run(series, n);

	settle(series, is, want);
	atomic_store(&point_of(series)->is_armed, 0);
	return is_hit || atomic_load(&point_of(series)->is_hit);
}

static void check_growth(const struct series *series, const char *what, int64_t before,
			 const int64_t after[3])
{
	if (after[0] > before && after[1] > after[0] && after[2] > after[1])
		script_finding(torture, point_of(series), "%lld, %lld, %lld %s are left",
			       (long long)(after[0] - before), (long long)(after[1] - before),
			       (long long)(after[2] - before), what);
}

/*
 * More than before may be a cache's, which then does not grow any more; a leak does, each time. So
 * may what another thread gives back in its own time.
 */
static void check_holdings(const struct series *series, int64_t n, struct holdings *want,
			   const struct holdings *first)
{
	struct holdings second, third;

	if (first->n_allocations <= want->n_allocations && first->n_fds <= want->n_fds &&
	    first->mapped_bytes <= want->mapped_bytes) {
		*want = *first;
		return;
	}
	(void)run_and_settle(series, n, &second, first);
	(void)run_and_settle(series, n, &third, &second);
	check_growth(series, "allocations", want->n_allocations,
		     (int64_t[]){first->n_allocations, second.n_allocations, third.n_allocations});
	check_growth(series, "descriptors", want->n_fds,
		     (int64_t[]){first->n_fds, second.n_fds, third.n_fds});
	check_growth(series, "mapped bytes", want->mapped_bytes,
		     (int64_t[]){first->mapped_bytes, second.mapped_bytes, third.mapped_bytes});
	*want = third;
}

static bool step(const struct series *series, int64_t n, struct holdings *want)
{
	struct holdings is;
	bool is_hit;

	atomic_store(&torture->n, n);
	is_hit = run_and_settle(series, n, &is, want);
	check_holdings(series, n, want, &is);
	(void)run_and_settle(series, 0, &is, want);
	return is_hit;
}

static int work(const struct series *series, int64_t first, int64_t last)
{
	struct fault_point *point = point_of(series);
	struct holdings want;
	int n_misses = 0;

	atomic_store(&point->kind, series->kind);
	for (int i = 0; i < N_WARM_UPS; i++)
		(void)run(series, 0);
	await_idle(point, &want);
	want.mapped_bytes = mapped_bytes();
	for (int64_t n = first; n <= last && n_misses < N_MISSES; n++) {
		if (step(series, n, &want)) {
			atomic_fetch_add(&torture->n_hits, 1);
			n_misses = 0;
		} else {
			n_misses++;
		}
	}
	return 0;
}

/* --- the runner ------------------------------------------------------------------------------- */

static void set_environment(const char *target)
{
	(void)setenv("COW_TORTURE_FILE", torture_path, 1);
	(void)setenv("COW_TORTURE_TARGET", target, 1);
	(void)setenv("LD_PRELOAD", getenv("COW_FAULT_LAYER"), 1);
}

static void clear_environment(void)
{
	(void)unsetenv("LD_PRELOAD");
}

static bool start_cowd(bool is_target)
{
	static const char *const args[] = {"--config", "/dev/null", NULL};
	bool is_started;

	atomic_store(&torture->daemon.is_armed, 0);
	if (is_target)
		set_environment("daemon");
	is_started = !daemon_fixture_start(&cowd, args);
	atomic_store(&torture->cowd_pid, cowd.pid);
	clear_environment();
	return is_started && !setenv("COWD_ADDRESS", cowd.socket, 1);
}

static void title_of(const struct series *series)
{
	char title[96];

	(void)snprintf(title, sizeof(title), "%s %s %s %s", target_names[series->target],
		       series->script->name, mode_names[series->mode], kind_names[series->kind]);
	script_set_title(title);
}

static pid_t start_worker(const struct series *series, int64_t first, int64_t last)
{
	char numbers[6][24];
	char *argv[] = {(char *)(uintptr_t) "torture",
			(char *)(uintptr_t) "--work",
			numbers[0],
			numbers[1],
			numbers[2],
			numbers[3],
			numbers[4],
			numbers[5],
			NULL};
	const int64_t values[] = {series->target, series->script - script_kinds,
				  series->mode,   series->kind,
				  first,          last};
	pid_t pid;

	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		(void)snprintf(numbers[i], sizeof(numbers[i]), "%lld", (long long)values[i]);
	if (!series->target)
		set_environment("library");
	pid = fork();
	if (!pid) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)execv("/proc/self/exe", argv);
		_exit(127);
	}
	clear_environment();
	return pid;
}

/* Return: its wait status; -1 if it hung, and was killed. */
static int await_worker(pid_t pid)
{
	AUTO_FD int pidfd = pidfd_open(pid, 0);
	struct pollfd ended = {.fd = pidfd, .events = POLLIN};
	bool is_hanging = false;
	int status = -1;

	while (!is_hanging) {
		uint64_t n_steps = atomic_load(&torture->n_steps);

		if (poll(&ended, 1, HANG_MSEC) > 0)
			break;
		is_hanging = atomic_load(&torture->n_steps) == n_steps;
	}
	if (is_hanging && getenv("COW_TORTURE_KEEP"))
		(void)pause(); /* for gdb -p */
	if (is_hanging)
		(void)kill(pid, SIGKILL);
	(void)waitpid(pid, &status, 0);
	return is_hanging ? -1 : status;
}

/* One that ended is a finding, and started again. Return: 0, or -1 if it does not start. */
static int look_after_cowd(const struct series *series)
{
	CLEANUP(freep) char *log = NULL;
	int status;

	if (waitpid(cowd.pid, &status, WNOHANG) == 0)
		return 0;
	log = daemon_fixture_log(&cowd);
	script_finding(torture, point_of(series), "cowd ended, status %#x; it wrote:\n%s",
		       (unsigned int)status, log ? log : "");
	cowd.pid = 0;
	cowd.pidfd = fd_close(cowd.pidfd);
	return start_cowd(series->target) ? 0 : -1;
}

static int run_series(const struct series *series, int64_t first, int64_t last)
{
	bool is_done = false;

	title_of(series);
	while (!is_done) {
		int status;

		atomic_store(&torture->n, first - 1);
		status = await_worker(start_worker(series, first, last));
		first = atomic_load(&torture->n) + 1;
		is_done = status == 0 || first > last || first == 1;
		if (status == -1)
			script_finding(torture, point_of(series), "hangs");
		else if (status && status != END_OF_COWD << 8)
			script_finding(torture, point_of(series), "ended, status %#x",
				       (unsigned int)status);
		atomic_store(&point_of(series)->is_armed, 0);
		if (look_after_cowd(series))
			return -1;
	}
	return 0;
}

static bool can_do(uint32_t mode)
{
	return mode != COW_MODE_UFFD || proof_has_uffd();
}

/* All series of @target and @kind. Return: whether that could be done, and any call failed. */
static bool run_all(int target, enum fault_kind kind)
{
	uint64_t since = now_nsec();

	if (!start_cowd(target))
		return false;
	for (size_t i = 0; i < n_script_kinds; i++) {
		const struct script_kind *script = &script_kinds[i];

		if (target && script->is_for_library)
			continue;
		for (uint32_t mode = COW_MODE_UFFD; mode <= COW_MODE_MMAPCOPY; mode++) {
			const struct series series = {target, script, mode, kind};

			if ((script->modes & 1u << mode) && can_do(mode) &&
			    run_series(&series, 1, INT64_MAX - 1))
				return false;
		}
	}
	printf("%s: each %s failed once: %u, in %.1f s\n", target_names[target], kind_names[kind],
	       atomic_load(&torture->n_hits), (double)(now_nsec() - since) / 1e9);
	return daemon_fixture_stop(&cowd);
}

static int index_of(const char *const *names, int n, const char *name)
{
	for (int i = 0; i < n; i++) {
		if (!strcmp(names[i], name))
			return i;
	}
	(void)fprintf(stderr, "%s is no target, mode or kind\n", name);
	exit(2);
}

static const struct script_kind *script_of(const char *name)
{
	for (size_t i = 0; i < n_script_kinds; i++) {
		if (!strcmp(script_kinds[i].name, name))
			return &script_kinds[i];
	}
	(void)fprintf(stderr, "%s is no script\n", name);
	exit(2);
}

static bool run_one(char **args)
{
	const struct series series = {
		.target = index_of(target_names, ARRAY_SIZE(target_names), args[0]),
		.script = script_of(args[1]),
		.mode = (uint32_t)index_of(mode_names, ARRAY_SIZE(mode_names), args[2]),
		.kind = (enum fault_kind)index_of(kind_names, FAULT_N_KINDS, args[3])};
	int64_t n = strtoll(args[4], NULL, 10);

	if (!start_cowd(series.target) || run_series(&series, n, n))
		return false;
	return daemon_fixture_stop(&cowd);
}

/* What this process and the targets share. In a worker its name comes from the environment. */
static int open_torture(void)
{
	const char *path = getenv("COW_TORTURE_FILE");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : memfd_create("torture", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, sizeof(*torture)))
		return -1;
	torture = mmap(NULL, sizeof(*torture), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	(void)snprintf(torture_path, sizeof(torture_path), "/proc/%d/fd/%d", (int)getpid(), fd);
	if (!path)
		(void)setenv("COW_TORTURE_FILE", torture_path, 1);
	return torture == MAP_FAILED ? -1 : 0;
}

static int work_with(char **args)
{
	const struct series series = {.target = atoi(args[0]),
				      .script = &script_kinds[atoi(args[1])],
				      .mode = (uint32_t)atoi(args[2]),
				      .kind = (enum fault_kind)atoi(args[3])};

	title_of(&series);
	cowd.pidfd = pidfd_open(atomic_load(&torture->cowd_pid), 0);
	return work(&series, strtoll(args[4], NULL, 10), strtoll(args[5], NULL, 10));
}

int main(int argc, char **argv)
{
	const char *sanitizers = getenv("COWD_SANITIZERS");
	bool is_good;

	if (sanitizers && strcmp(sanitizers, "no") != 0) {
		printf("a sanitizer has an allocator of its own\n");
		return 77;
	}
	if (!getenv("COW_FAULT_LAYER") || open_torture()) {
		(void)fprintf(stderr, "torture: no fault layer, or no memfd\n");
		return 99;
	}
	if (argc == 8 && !strcmp(argv[1], "--work"))
		return work_with(argv + 2);
	if (argc == 6)
		is_good = run_one(argv + 1);
	else if (argc == 3)
		is_good = run_all(index_of(target_names, ARRAY_SIZE(target_names), argv[1]),
				  (enum fault_kind)index_of(kind_names, FAULT_N_KINDS, argv[2]));
	else
		return 2;
	/* a test that cannot fail is none */
	if (!atomic_load(&torture->n_hits))
		script_finding(torture, &torture->library, "no call was reached");
	printf("%u failures were made, %u findings\n", atomic_load(&torture->n_hits),
	       atomic_load(&torture->n_findings));
	return is_good && !atomic_load(&torture->n_findings) ? EXIT_SUCCESS : EXIT_FAILURE;
}
