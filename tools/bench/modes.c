// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The ways to get a frozen copy, side by side behind one interface.
 *
 * fork and memcpy work on anonymous memory, as programs have it that use them today; transparent
 * huge pages are kept out of it, since regions have none and pages of one size are to be compared.
 * Each subject has a cowd of its own unless a socket was named: nothing of one mode's run is left
 * when the next one begins.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "libclient/internal.h"
#include "tools/bench/bench.h"

/* --- memory of cowd --------------------------------------------------------------------------- */

static int new_region(struct subject *subject, struct cow_region **region, uint32_t mode,
		      const char *name, bool is_populated)
{
	return cow_region_new(region, subject->client,
			      &(struct cow_region_params){
				      .size_bytes = subject->size_bytes,
				      .mode = mode,
				      .flags = is_populated ? COW_REGION_POPULATE : 0,
				      .name = name,
			      });
}

static int open_region(struct subject *subject, uint32_t mode)
{
	int r;

	r = cow_client_new(&subject->client, subject->address);
	/* Whatever it was, there is no daemon; only a lack of rights is another matter. */
	if (r)
		return r == -EACCES || r == -EPERM ? r : -ENOTCONN;
	r = new_region(subject, &subject->region, mode, "cowbench", subject->is_populated);
	if (r)
		return r;
	subject->addr = cow_region_address(subject->region);
	return 0;
}

static int open_uffd(struct subject *subject)
{
	return open_region(subject, COW_MODE_UFFD);
}

static int open_scoot(struct subject *subject)
{
	return open_region(subject, COW_MODE_SCOOT);
}

static int open_mmapcopy(struct subject *subject)
{
	int r = open_region(subject, COW_MODE_MMAPCOPY);

	if (r)
		return r;
	/* The target is never populated: it is going to have the pages of the source. */
	return new_region(subject, &subject->copy_region, COW_MODE_MMAPCOPY, "cowbench copy",
			  false);
}

static int freeze_snapshot(struct subject *subject)
{
	return cow_snapshot_new(&subject->snap, subject->region);
}

static int view_snapshot(struct subject *subject)
{
	const void *view;
	int r;

	r = cow_snapshot_map(subject->snap, &view);
	if (r)
		return r;
	subject->view = view;
	(void)*(volatile const char *)subject->view;
	return 0;
}

static int freeze_mmapcopy(struct subject *subject)
{
	subject->view = cow_region_address(subject->copy_region);
	cow_mmapcopy(cow_region_address(subject->copy_region), subject->addr, subject->size_bytes);
	return 0;
}

static int view_copy(struct subject *subject)
{
	(void)*(volatile const char *)subject->view;
	return 0;
}

static int peek_view(struct subject *subject, uint64_t page_idx, uint8_t *byte, uint64_t *entry)
{
	const char *page = subject->view + page_idx * page_size_bytes();

	*byte = *(volatile const uint8_t *)page;
	*entry = page_entry(page);
	return 0;
}

static void thaw_snapshot(struct subject *subject)
{
	subject->view = NULL;
	subject->snap = cow_snapshot_unref(subject->snap);
}

static void thaw_nothing(struct subject *subject)
{
	(void)subject; /* a copy by value goes with its memory */
}

static void close_region(struct subject *subject)
{
	subject->snap = cow_snapshot_unref(subject->snap);
	subject->copy_region = cow_region_unref(subject->copy_region);
	subject->region = cow_region_unref(subject->region);
	subject->client = cow_client_unref(subject->client);
}

/* --- anonymous memory ------------------------------------------------------------------------- */

static char *map_anonymous(uint64_t size_bytes, bool is_populated)
{
	char *addr;

	addr = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (addr == MAP_FAILED)
		return NULL;
	(void)madvise(addr, size_bytes, MADV_NOHUGEPAGE);
	if (is_populated && madvise(addr, size_bytes, MADV_POPULATE_WRITE)) {
		int saved_errno = errno;

		munmap(addr, size_bytes);
		errno = saved_errno;
		return NULL;
	}
	return addr;
}

static int open_anonymous(struct subject *subject)
{
	subject->addr = map_anonymous(subject->size_bytes, subject->is_populated);
	if (!subject->addr)
		return err_raise_errno("%llu bytes of memory cannot be mapped",
				       (unsigned long long)subject->size_bytes);
	return 0;
}

static void close_anonymous(struct subject *subject)
{
	if (subject->copy)
		munmap(subject->copy, subject->size_bytes);
	if (subject->addr)
		munmap(subject->addr, subject->size_bytes);
	subject->addr = subject->copy = NULL;
}

static int freeze_memcpy(struct subject *subject)
{
	if (!subject->copy)
		subject->copy = map_anonymous(subject->size_bytes, false);
	if (!subject->copy)
		return err_raise_errno("%llu bytes of memory cannot be mapped",
				       (unsigned long long)subject->size_bytes);
	memcpy(subject->copy, subject->addr, subject->size_bytes);
	subject->view = subject->copy;
	return 0;
}

/* --- fork ------------------------------------------------------------------------------------- */

struct answer {
	uint64_t readable_nsec;
	uint64_t entry;
	uint8_t byte;
};

/*
 * The child is the frozen copy. It reads its first byte, says when that was, then answers for pages
 * it is asked for until the parent closes the pipe. Only async-signal-safe calls.
 */
static _Noreturn void be_copy(struct subject *subject, int ask_fd, int answer_fd)
{
	uint64_t page_idx = 0;
	struct answer answer;

	do {
		char *page = subject->addr + page_idx * page_size_bytes();

		answer.byte = *(volatile uint8_t *)page;
		answer.readable_nsec = now_nsec();
		answer.entry = page_entry(page);
		if (write(answer_fd, &answer, sizeof(answer)) != sizeof(answer))
			_exit(1);
	} while (read(ask_fd, &page_idx, sizeof(page_idx)) == sizeof(page_idx));
	_exit(0);
}

static int freeze_fork(struct subject *subject)
{
	AUTO_FD int answer_write_fd = -1;
	AUTO_FD int ask_read_fd = -1;
	int ask[2], answer[2];

	if (pipe2(ask, O_CLOEXEC))
		return err_raise_errno("no pipe can be made");
	ask_read_fd = ask[0];
	subject->ask_fd = ask[1];
	if (pipe2(answer, O_CLOEXEC))
		return err_raise_errno("no pipe can be made");
	subject->answer_fd = answer[0];
	answer_write_fd = answer[1];

	subject->child = fork();
	if (subject->child < 0)
		return err_raise_errno("fork");
	if (!subject->child) {
		close(subject->ask_fd);
		be_copy(subject, ask_read_fd, answer_write_fd);
	}
	return 0;
}

static int read_answer(struct subject *subject, struct answer *answer)
{
	ssize_t n = read(subject->answer_fd, answer, sizeof(*answer));

	if (n != (ssize_t)sizeof(*answer))
		return err_raise(-EIO, "the forked child ended early");
	return 0;
}

static int view_fork(struct subject *subject)
{
	struct answer answer;
	int r;

	r = read_answer(subject, &answer);
	if (r)
		return r;
	subject->readable_nsec = answer.readable_nsec;
	return 0;
}

static int peek_fork(struct subject *subject, uint64_t page_idx, uint8_t *byte, uint64_t *entry)
{
	struct answer answer;
	int r;

	if (write(subject->ask_fd, &page_idx, sizeof(page_idx)) != sizeof(page_idx))
		return err_raise_errno("the forked child does not listen");
	r = read_answer(subject, &answer);
	if (r)
		return r;
	*byte = answer.byte;
	*entry = answer.entry;
	return 0;
}

static void thaw_fork(struct subject *subject)
{
	subject->ask_fd = fd_close(subject->ask_fd);
	subject->answer_fd = fd_close(subject->answer_fd);
	if (subject->child > 0)
		while (waitpid(subject->child, NULL, 0) < 0 && errno == EINTR)
			continue;
	subject->child = -1;
}

/* --- the table -------------------------------------------------------------------------------- */

const struct bench_mode bench_modes[] = {
	{"fork", true, false, false, open_anonymous, freeze_fork, view_fork, peek_fork, thaw_fork,
	 close_anonymous},
	{"scoot", true, true, false, open_scoot, freeze_snapshot, view_snapshot, peek_view,
	 thaw_snapshot, close_region},
	{"uffd", true, true, true, open_uffd, freeze_snapshot, view_snapshot, peek_view,
	 thaw_snapshot, close_region},
	{"mmapcopy", true, true, false, open_mmapcopy, freeze_mmapcopy, view_copy, peek_view,
	 thaw_nothing, close_region},
	{"memcpy", false, false, false, open_anonymous, freeze_memcpy, view_copy, peek_view,
	 thaw_nothing, close_anonymous},
};
const size_t n_bench_modes = ARRAY_SIZE(bench_modes);

/* Whether the library has nothing left to do, as dropping old page tables in mode uffd. */
static bool is_ready(const struct subject *subject)
{
	struct cowi_progress progress;

	cowi_region_progress(subject->region, &progress);
	if (subject->mode->needs_device)
		return progress.is_idle;
	return progress.is_settled && progress.is_populated;
}

int subject_warm(struct subject *subject, const struct bench_mode *mode)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	int r = mode->freeze(subject);

	if (r)
		return r;
	mode->thaw(subject);
	while (mode->freeze == freeze_snapshot && !is_ready(subject))
		nanosleep(&pause, NULL);
	return 0;
}

const struct bench_mode *bench_mode_find(const char *name)
{
	for (size_t i = 0; i < n_bench_modes; i++)
		if (!strcmp(bench_modes[i].name, name))
			return &bench_modes[i];
	return NULL;
}

int subject_open(struct subject *subject, const struct bench_mode *mode, const char *address,
		 uint64_t size_bytes, bool is_populated)
{
	int r;

	*subject = (struct subject){
		.mode = mode,
		.address = address,
		.size_bytes = size_bytes,
		.is_populated = is_populated,
		.child = -1,
		.ask_fd = -1,
		.answer_fd = -1,
	};
	r = mode->open(subject);
	if (r)
		subject_close(subject);
	return r;
}

void subject_close(struct subject *subject)
{
	subject->mode->thaw(subject);
	subject->mode->close(subject);
}

pid_t bench_private_cowd(struct cow_client *client, const char *address)
{
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__Status call = COW__V1__STATUS__INIT;
	Cow__V1__Reply *reply = NULL;
	pid_t pid;

	if (!client || strncmp(address, "exec:", strlen("exec:")) != 0)
		return 0;
	request.call_case = COW__V1__REQUEST__CALL_STATUS;
	request.status = &call;
	if (cowi_call(client, &request, NULL, 0, &reply, NULL))
		return 0;
	pid = reply->status ? (pid_t)reply->status->pid : 0;
	cow__v1__reply__free_unpacked(reply, NULL);
	return pid;
}

void subject_fill(struct subject *subject)
{
	size_t page_size = page_size_bytes();

	/* Not zero, so that no page is one that could be shared or left out. */
	for (uint64_t off = 0; off < subject->size_bytes; off += page_size)
		*(volatile uint64_t *)(void *)(subject->addr + off) = off / page_size + 1;
}
