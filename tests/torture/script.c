// SPDX-License-Identifier: LGPL-2.1-or-later
/* The scripts; script.h says what they are. */
#include "config.h"

#include "tests/torture/script.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "common/util.h"
#include "libclient/scoot.h"

enum {
	N_PAGES = 24,
	PAGE_BYTES = 4096,
	REGION_BYTES = N_PAGES * PAGE_BYTES,
	N_WORDS = PAGE_BYTES / sizeof(uint64_t),
	/* mmapcopy is scoot, but for copy_pages() */
	BOTH_MODES = 1 << COW_MODE_UFFD | 1 << COW_MODE_SCOOT,
};

/* What each page was written with; 0: it is zeroes. */
struct model {
	uint8_t seed[N_PAGES];
};

struct script {
	struct torture *torture;
	struct fault_point *point;
	uint32_t mode;
	int64_t n;
	int file_fd;
	struct cow_client *client;
	struct cow_region *region;
	struct cow_snapshot *snap;
	char *base; /* of the region */
	struct model now, frozen;
};

static char title[96];
static sigjmp_buf *volatile on_sigbus; /* volatile: the handler reads it in memcpy() */

void script_set_title(const char *text)
{
	(void)snprintf(title, sizeof(title), "%s", text);
}

void script_finding(struct torture *torture, const struct fault_point *point, const char *fmt, ...)
{
	char text[1024];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	atomic_fetch_add(&torture->n_findings, 1);
	(void)dprintf(STDERR_FILENO, "FOUND %s %lld: %s%s at +%#llx: %s\n", title,
		      (long long)atomic_load(&torture->n),
		      atomic_load(&point->is_hit) ? "" : "not reached, was ",
		      point->name[0] ? point->name : "nothing", (unsigned long long)point->caller,
		      text);
}

#define finding(s, ...) script_finding((s)->torture, (s)->point, __VA_ARGS__)

/* --- what fails ------------------------------------------------------------------------------- */

/* A thread of a program without fault.c is paused by nothing. */
static void call_fault_layer(const char *name)
{
	void (*function)(void) = (void (*)(void))(uintptr_t)dlsym(RTLD_DEFAULT, name);

	if (function)
		function();
}

static void arm(struct script *s)
{
	if (!s->n)
		return;
	atomic_store(&s->point->is_hit, 0);
	atomic_store(&s->point->n_calls, 0);
	atomic_store(&s->point->fail_at, s->n);
	atomic_store(&s->point->is_armed, 1);
}

/* What a program may be told when something ran out, here or in cowd, or as a consequence. */
static bool is_plausible(int error)
{
	static const int errors[] = {ENOMEM, EMFILE,   EAGAIN,  EDQUOT, ENOSPC,     EIO,
				     ESTALE, ENOTCONN, ENOBUFS, EPIPE,  ECONNRESET, ECONNREFUSED};

	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		if (error == -errors[i])
			return true;
	}
	return false;
}

#define OLD_SENTENCE "no place"

/* Only the call itself is under torture, and a sentence that it leaves is its own. */
static void before(struct script *s)
{
	if (cow_client_new(NULL, NULL) != -EINVAL || !strstr(cow_last_error(), OLD_SENTENCE))
		finding(s, "cow_client_new(NULL): %s", cow_last_error());
	call_fault_layer("fault_resume");
}

static int after(struct script *s, const char *call, int r)
{
	call_fault_layer("fault_pause");
	if (r >= 0)
		return r;
	if (!atomic_load(&s->point->is_hit))
		finding(s, "%s without a fault: %d: %s", call, r, cow_last_error());
	else if (!is_plausible(r))
		finding(s, "%s: not an errno for that: %d: %s", call, r, cow_last_error());
	else if (!*cow_last_error() || strstr(cow_last_error(), OLD_SENTENCE))
		finding(s, "%s: %d without a sentence of its own: %s", call, r, cow_last_error());
	return r;
}

#define TRY(s, call)                                                                               \
	__extension__({                                                                            \
		int r_;                                                                            \
		before(s);                                                                         \
		r_ = (call);                                                                       \
		after(s, #call, r_);                                                               \
	})
#define END(s, call)                                                                               \
	do {                                                                                       \
		before(s);                                                                         \
		(call);                                                                            \
		(void)after(s, #call, 0);                                                          \
	} while (0)

/* --- what memory must read as ----------------------------------------------------------------- */

static uint64_t word(uint8_t seed, size_t page, size_t i)
{
	return seed ? (uint64_t)seed << 48 | (uint64_t)page << 16 | i : 0;
}

static void write_pages(char *base, struct model *model, size_t first, size_t step, uint8_t seed)
{
	for (size_t page = first; page < N_PAGES; page += step) {
		uint64_t *words = (uint64_t *)(void *)(base + page * PAGE_BYTES);

		for (size_t i = 0; i < N_WORDS; i++)
			words[i] = word(seed, page, i);
		model->seed[page] = seed;
	}
}

static bool page_is(const char *base, size_t page, uint8_t seed)
{
	const uint64_t *words = (const uint64_t *)(const void *)(base + page * PAGE_BYTES);

	for (size_t i = 0; i < N_WORDS; i++) {
		if (words[i] != word(seed, page, i))
			return false;
	}
	return true;
}

static void check_pages(struct script *s, const char *what, const char *base,
			const struct model *model)
{
	for (size_t page = 0; page < N_PAGES; page++) {
		if (page_is(base, page, model->seed[page]))
			continue;
		finding(s, "%s: page %zu is wrong: %#llx rather than %#llx", what, page,
			*(const unsigned long long *)(const void *)(base + page * PAGE_BYTES),
			(unsigned long long)word(model->seed[page], page, 0));
		return;
	}
}

/* After a call that failed half-way: each page is what it was or what it was to become. */
static void check_either(struct script *s, const char *what, const struct model *other)
{
	for (size_t page = 0; page < N_PAGES; page++) {
		if (page_is(s->base, page, s->now.seed[page]))
			continue;
		if (page_is(s->base, page, other->seed[page]))
			s->now.seed[page] = other->seed[page];
		else
			finding(s, "%s: page %zu is neither old nor new", what, page);
	}
}

static void check_region(struct script *s)
{
	check_pages(s, "region", s->base, &s->now);
}

/* All of it, unless it is lost. */
static void check_snapshot(struct script *s, const char *what, struct cow_snapshot *snap,
			   const struct model *model)
{
	static char bytes[REGION_BYTES];

	if (!TRY(s, cow_snapshot_read(snap, bytes, sizeof(bytes), 0)))
		check_pages(s, what, bytes, model);
}

static void at_sigbus(int signal)
{
	if (on_sigbus)
		siglongjmp(*on_sigbus, 1);
	(void)sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
}

/* A page that cannot be read, or not any more, raises SIGBUS; any other is right. */
static void check_view(struct script *s, const char *view)
{
	static char copy[REGION_BYTES];
	sigjmp_buf jump;

	if (!sigsetjmp(jump, 1)) {
		on_sigbus = &jump;
		memcpy(copy, view, sizeof(copy));
		on_sigbus = NULL;
		check_pages(s, "view", copy, &s->frozen);
		return;
	}
	on_sigbus = NULL;
	if (!atomic_load(&s->point->is_hit))
		finding(s, "the view raised SIGBUS without a fault");
}

static void check_file(struct script *s)
{
	char *file = mmap(NULL, REGION_BYTES, PROT_READ, MAP_SHARED, s->file_fd, 0);

	if (lseek(s->file_fd, 0, SEEK_END) != REGION_BYTES || file == MAP_FAILED)
		finding(s, "a saved file has not the snapshot's size");
	else
		check_pages(s, "saved file", file, &s->frozen);
	if (file != MAP_FAILED)
		(void)munmap(file, REGION_BYTES);
}

/* --- parts of scripts ------------------------------------------------------------------------- */

static int new_client(struct script *s)
{
	return TRY(s, cow_client_new(&s->client, NULL));
}

static int new_region(struct script *s)
{
	const struct cow_region_params params = {
		.size_bytes = REGION_BYTES, .mode = s->mode, .name = "torture"};
	int r = TRY(s, cow_region_new(&s->region, s->client, &params));

	if (r)
		return r;
	s->base = cow_region_address(s->region);
	check_region(s);
	write_pages(s->base, &s->now, 0, 1, 1);
	return 0;
}

static int new_snapshot(struct script *s)
{
	int r = TRY(s, cow_snapshot_new(&s->snap, s->region));

	s->frozen = s->now;
	return r;
}

static int save(struct script *s, struct cow_snapshot *snap)
{
	int r;

	if (ftruncate(s->file_fd, 0) || lseek(s->file_fd, 0, SEEK_SET))
		finding(s, "the file is not there");
	r = TRY(s, cow_snapshot_save(snap, s->file_fd, NULL, NULL));
	if (!r)
		check_file(s);
	return r;
}

/* Everything but the fault: a snapshot of a region that was written since. */
static bool prepare(struct script *s)
{
	if (new_client(s) || new_region(s) || new_snapshot(s))
		return false;
	write_pages(s->base, &s->now, 0, 2, 2);
	return true;
}

static void end(struct script *s)
{
	if (s->region)
		check_region(s);
	END(s, s->snap = cow_snapshot_unref(s->snap));
	if (s->region)
		check_region(s);
	END(s, s->region = cow_region_unref(s->region));
	END(s, s->client = cow_client_unref(s->client));
}

/* --- scripts ---------------------------------------------------------------------------------- */

static void connect_to_cowd(struct script *s)
{
	arm(s);
	(void)new_client(s);
}

static void make_region(struct script *s)
{
	if (new_client(s))
		return;
	arm(s);
	if (!new_region(s))
		write_pages(s->base, &s->now, 0, 3, 2);
}

static void take(struct script *s)
{
	struct cow_snapshot *first;
	struct model frozen;

	if (new_client(s) || new_region(s))
		return;
	arm(s);
	(void)new_snapshot(s);
	write_pages(s->base, &s->now, 0, 2, 2);
	check_region(s);
	if (s->snap)
		check_snapshot(s, "snapshot", s->snap, &s->frozen);
	first = steal_ptr(&s->snap);
	frozen = s->frozen;
	(void)new_snapshot(s);
	write_pages(s->base, &s->now, 0, 3, 3);
	if (first)
		check_snapshot(s, "first snapshot", first, &frozen);
	END(s, cow_snapshot_unref(first));
	if (s->snap)
		check_snapshot(s, "second snapshot", s->snap, &s->frozen);
}

static void map(struct script *s)
{
	const void *view = NULL;

	if (!prepare(s))
		return;
	arm(s);
	if (!TRY(s, cow_snapshot_map(s->snap, &view)))
		check_view(s, view);
	write_pages(s->base, &s->now, 1, 2, 3);
	if (view)
		check_view(s, view);
}

static void save_to_file(struct script *s)
{
	if (!prepare(s))
		return;
	arm(s);
	(void)save(s, s->snap);
	write_pages(s->base, &s->now, 1, 2, 3);
	check_snapshot(s, "snapshot", s->snap, &s->frozen);
}

static void open_by_id(struct script *s)
{
	struct cow_client *client = NULL;
	struct cow_snapshot *snap = NULL;
	uint64_t id;

	if (!prepare(s))
		return;
	id = cow_snapshot_id(s->snap);
	arm(s);
	if (!TRY(s, cow_client_new(&client, NULL)) &&
	    !TRY(s, cow_snapshot_open(&snap, client, id))) {
		check_snapshot(s, "opened snapshot", snap, &s->frozen);
		(void)save(s, snap);
	}
	END(s, cow_snapshot_unref(snap));
	END(s, cow_client_unref(client));
}

static void save_once(struct script *s)
{
	const struct cow_snapshot_params params = {.flags = COW_SNAPSHOT_ONCE};

	if (new_client(s) || new_region(s))
		return;
	arm(s);
	s->frozen = s->now;
	if (TRY(s, cow_snapshot_new_with(&s->snap, s->region, &params)))
		return;
	write_pages(s->base, &s->now, 0, 2, 2);
	(void)save(s, s->snap);
}

static void roll_back(struct script *s)
{
	if (!prepare(s))
		return;
	arm(s);
	if (TRY(s, cow_region_rollback(s->region, s->snap)))
		check_either(s, "rollback", &s->frozen);
	else
		s->now = s->frozen;
	check_region(s);
	write_pages(s->base, &s->now, 1, 3, 4);
	check_snapshot(s, "snapshot", s->snap, &s->frozen);
}

static void discard(struct script *s)
{
	struct model other;

	if (!prepare(s))
		return;
	other = s->now;
	memset(&other.seed[4], 0, 8);
	arm(s);
	if (TRY(s, cow_region_discard(s->region, 4 * PAGE_BYTES, 8 * PAGE_BYTES)))
		check_either(s, "discard", &other);
	else
		s->now = other;
	check_region(s);
	check_snapshot(s, "snapshot", s->snap, &s->frozen);
}

static void copy_pages(struct script *s)
{
	const struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = s->mode};
	struct cow_region *other = NULL;
	struct model model = {{0}};
	char *to;

	if (!prepare(s) || TRY(s, cow_region_new(&other, s->client, &params)))
		return;
	to = cow_region_address(other);
	write_pages(to, &model, 0, 1, 5);
	arm(s);
	END(s, cow_mmapcopy(to + 4 * PAGE_BYTES, s->base + 4 * PAGE_BYTES, 8 * PAGE_BYTES));
	memcpy(&model.seed[4], &s->now.seed[4], 8);
	check_pages(s, "copy", to, &model);
	write_pages(s->base, &s->now, 0, 2, 6);
	write_pages(to, &model, 0, 3, 7);
	check_pages(s, "copy", to, &model);
	END(s, cow_region_unref(other));
}

static int run_child(struct script *s)
{
	uint32_t n_findings = atomic_load(&s->torture->n_findings);

	check_pages(s, "region in the child", s->base, &s->now);
	write_pages(s->base, &s->now, 0, 2, 8);
	check_pages(s, "region that the child wrote", s->base, &s->now);
	return atomic_load(&s->torture->n_findings) != n_findings;
}

static void fork_with_regions(struct script *s)
{
	int status = -1;
	pid_t pid;

	if (!prepare(s))
		return;
	arm(s);
	pid = TRY(s, cow_fork(s->client));
	if (!pid)
		_exit(run_child(s));
	write_pages(s->base, &s->now, 1, 2, 3);
	if (pid > 0 && (waitpid(pid, &status, 0) != pid || status))
		finding(s, "the child ended with status %#x", (unsigned int)status);
	if (pid < 0 && (waitpid(-1, NULL, WNOHANG) != -1 || errno != ECHILD))
		finding(s, "there is a child of a fork that failed");
	check_region(s);
	check_snapshot(s, "snapshot", s->snap, &s->frozen);
	END(s, cow_snapshot_unref(steal_ptr(&s->snap)));
	if (!new_snapshot(s))
		check_snapshot(s, "snapshot after the fork", s->snap, &s->frozen);
}

static void adopt(struct script *s)
{
	const struct cow_region_params params = {.mode = s->mode};
	char *addr = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);

	if (addr == MAP_FAILED || new_client(s))
		return;
	s->base = addr;
	write_pages(addr, &s->now, 0, 1, 1);
	arm(s);
	if (!TRY(s, cow_region_adopt(&s->region, s->client, addr, REGION_BYTES, &params)) &&
	    !new_snapshot(s)) {
		write_pages(addr, &s->now, 0, 2, 2);
		check_snapshot(s, "snapshot", s->snap, &s->frozen);
	}
	check_pages(s, "adopted memory", addr, &s->now);
	END(s, s->snap = cow_snapshot_unref(s->snap));
	END(s, s->region = cow_region_unref(s->region));
	check_pages(s, "adopted memory, afterwards", addr, &s->now);
	write_pages(addr, &s->now, 0, 1, 3);
	(void)munmap(addr, REGION_BYTES);
}

/* NULL and errno, as a result of the other calls. */
static int got(const void *memory)
{
	if (memory)
		return 0;
	return errno ? -errno : -EPROTO; /* without an errno is no way to fail */
}

static void talk(struct script *s)
{
	struct model other = {{0}};
	char *origin = NULL, *copy = NULL;

	arm(s);
	if (TRY(s, got(origin = scoot_alloc(REGION_BYTES))) || !origin)
		return;
	write_pages(origin, &s->now, 0, 1, 1);
	if (!TRY(s, got(copy = scoot_duplicate(origin))) && copy) {
		other = s->now;
		check_pages(s, "duplicate", copy, &other);
		write_pages(copy, &other, 0, 2, 2);
		write_pages(origin, &s->now, 0, 3, 3);
		check_pages(s, "duplicate", copy, &other);
	}
	check_pages(s, "origin", origin, &s->now);
	END(s, scoot_free(origin));
	if (copy)
		check_pages(s, "duplicate without its origin", copy, &other);
	END(s, scoot_free(copy));
}

const struct script_kind script_kinds[] = {
	{"connect", 1 << COW_MODE_SCOOT, connect_to_cowd},
	{"region", BOTH_MODES, make_region},
	{"take", BOTH_MODES, take},
	{"map", BOTH_MODES, map},
	{"save", BOTH_MODES, save_to_file},
	{"open", BOTH_MODES, open_by_id},
	{"once", 1 << COW_MODE_UFFD, save_once},
	{"rollback", BOTH_MODES, roll_back},
	{"discard", 1 << COW_MODE_SCOOT, discard},
	{"mmapcopy", 1 << COW_MODE_MMAPCOPY, copy_pages},
	{"fork", 1 << COW_MODE_SCOOT, fork_with_regions},
	{"adopt", 1 << COW_MODE_SCOOT, adopt},
	{"talk", 1 << COW_MODE_SCOOT, talk, true},
};
const size_t n_script_kinds = ARRAY_SIZE(script_kinds);

bool script_run(const struct script_kind *kind, uint32_t mode, struct torture *torture,
		struct fault_point *point, int64_t n)
{
	static int file_fd = -1;
	struct script s = {.torture = torture, .point = point, .mode = mode, .n = n};

	if (file_fd < 0) {
		call_fault_layer("fault_pause"); /* of this thread, from now on */
		file_fd = memfd_create("saved", MFD_CLOEXEC);
		(void)sigaction(SIGBUS, &(struct sigaction){.sa_handler = at_sigbus}, NULL);
	}
	s.file_fd = file_fd;
	atomic_store(&point->is_hit, 0);
	point->name[0] = '\0';
	kind->run(&s);
	end(&s);
	return atomic_load(&point->is_hit);
}
