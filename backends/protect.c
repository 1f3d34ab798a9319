// SPDX-License-Identifier: LGPL-2.1-or-later
// Protections that outlive an exchange of mappings; see protect.h.
#include "config.h"

#include "backends/protect.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backends/kernel.h"
#include "backends/own-proc.h"
#include "backends/space.h"
#include "common/err.h"

#define PLAIN (PROT_READ | PROT_WRITE)

/* A line is shorter up to its protections, which is as far as it is looked at. */
#define LINE_BYTES 64

static atomic_bool is_by_reading;

void protect_by_reading(bool is_set)
{
	atomic_store(&is_by_reading, is_set);
}

/* A mapping: [@start, @end). */
struct part {
	uint64_t start, end;
	int prot;
};

/**
 * struct walk - from mapping to mapping, in order
 * @query_fd: /proc/self/maps, to be asked by PROCMAP_QUERY; lent; -1: that does not work
 * @fd:    the same, to be read; -1: not opened
 * @ahead: the last mapping that was read; @end is 0 before the first, UINT64_MAX behind the last
 */
struct walk {
	int query_fd;
	int fd;
	struct part ahead;
	char text[1024];
	size_t n_text, at;
};

static int ask(int fd, uint64_t addr, struct part *part)
{
	struct procmap_query query = {
		.size = sizeof(query),
		.query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA,
		.query_addr = addr,
	};

	if (ioctl(fd, PROCMAP_QUERY, &query))
		return -errno;
	*part = (struct part){
		.start = query.vma_start,
		.end = query.vma_end,
		.prot = (query.vma_flags & PROCMAP_QUERY_VMA_READABLE ? PROT_READ : 0) |
			(query.vma_flags & PROCMAP_QUERY_VMA_WRITABLE ? PROT_WRITE : 0) |
			(query.vma_flags & PROCMAP_QUERY_VMA_EXECUTABLE ? PROT_EXEC : 0),
	};
	return 0;
}

static struct own_proc own = {.path = "/proc/self/maps"};
static atomic_bool has_no_query; /* ENOTTY before 6.11 */

void protect_prepare(void)
{
	const int fd = own_proc_fd(&own);
	struct part part;

	if (fd >= 0 && ask(fd, 0, &part) == -ENOTTY)
		atomic_store(&has_no_query, true);
}

static void walk_begin(struct walk *walk)
{
	const bool reads = atomic_load(&is_by_reading) || atomic_load(&has_no_query);

	walk->query_fd = reads ? -1 : own_proc_fd(&own);
	walk->fd = -1;
	walk->ahead = (struct part){.start = 0};
	walk->n_text = walk->at = 0;
}

static void walk_end(struct walk *walk)
{
	walk->fd = fd_close(walk->fd);
}

/* The next character, or -1. */
static int next_char(struct walk *walk)
{
	if (walk->at == walk->n_text) {
		ssize_t n;

		do {
			n = read(walk->fd, walk->text, sizeof(walk->text));
		} while (n < 0 && errno == EINTR);
		walk->at = 0;
		walk->n_text = n > 0 ? (size_t)n : 0;
		if (n <= 0)
			return -1;
	}
	return (unsigned char)walk->text[walk->at++];
}

/* Read one line of the file: the next mapping. False at the end. */
static bool read_line(struct walk *walk)
{
	char line[LINE_BYTES], perms[5];
	size_t n = 0;
	int c;

	while ((c = next_char(walk)) >= 0 && c != '\n') {
		if (n + 1 < sizeof(line))
			line[n++] = (char)c;
	}
	line[n] = 0;
	if (c < 0 || sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &walk->ahead.start,
			    &walk->ahead.end, perms) != 3)
		return false;
	walk->ahead.prot = (perms[0] == 'r' ? PROT_READ : 0) | (perms[1] == 'w' ? PROT_WRITE : 0) |
			   (perms[2] == 'x' ? PROT_EXEC : 0);
	return true;
}

/* Return: 0; -ENOENT: nothing is mapped from @addr on; -ENOTTY: the kernel does not say it so. */
static int query(struct walk *walk, uint64_t addr, struct part *part)
{
	int r = walk->query_fd < 0 ? -ENOTTY : ask(walk->query_fd, addr, part);

	if (!r || r == -ENOENT)
		return r;
	if (r == -ENOTTY && walk->query_fd >= 0)
		atomic_store(&has_no_query, true);
	walk->query_fd = -1;
	return -ENOTTY;
}

/* The mapping that @addr lies in, or the first one behind it. False if there is none. */
static bool find(struct walk *walk, uint64_t addr, struct part *part)
{
	int r = query(walk, addr, part);

	if (r != -ENOTTY)
		return !r;
	if (walk->fd < 0)
		walk->fd = open(own.path, O_RDONLY | O_CLOEXEC);
	if (walk->fd < 0)
		return false;
	while (walk->ahead.end <= addr) {
		if (!read_line(walk))
			walk->ahead = (struct part){.start = UINT64_MAX, .end = UINT64_MAX};
	}
	*part = walk->ahead;
	return part->start != UINT64_MAX;
}

/*
 * Return: number of bytes from @addr on, up to @end, with one protection, which @prot is set to. A
 * range without a mapping counts as plain, and so does one whose protection cannot be read.
 */
static uint64_t next_run(struct walk *walk, uint64_t addr, uint64_t end, int *prot)
{
	uint64_t at = addr;
	struct part part;

	*prot = PLAIN;
	while (at < end && find(walk, at, &part)) {
		if (part.start > at)
			part = (struct part){.start = at, .end = part.start, .prot = PLAIN};
		if (at > addr && part.prot != *prot)
			break;
		*prot = part.prot;
		at = part.end;
	}
	if (at < end && at > addr)
		return at - addr;
	return end - addr;
}

static bool is_all_in(struct walk *walk, const char *addr, uint64_t len, int wanted, int unwanted)
{
	const uint64_t start = (uint64_t)(uintptr_t)addr;
	bool is_so = true;
	int prot;

	for (uint64_t off = 0; is_so && off < len;) {
		off += next_run(walk, start + off, start + len, &prot);
		is_so = (prot & wanted) == wanted && !(prot & unwanted);
	}
	return is_so;
}

static bool is_all(const char *addr, uint64_t len, int wanted, int unwanted)
{
	struct walk walk;
	bool is_so;

	walk_begin(&walk);
	is_so = is_all_in(&walk, addr, len, wanted, unwanted);
	walk_end(&walk);
	return is_so;
}

bool protect_is_plain(const char *addr, uint64_t len)
{
	return is_all(addr, len, PLAIN, PROT_EXEC);
}

bool protect_allows(const char *addr, uint64_t len, int prot)
{
	return is_all(addr, len, prot, 0);
}

bool protect_is_plain_or_whole(const char *addr, uint64_t len)
{
	struct walk walk;
	bool is_so;

	walk_begin(&walk);
	is_so = walk.query_fd < 0 && space_is_one_mapping((char *)(uintptr_t)addr, len);
	if (!is_so)
		is_so = is_all_in(&walk, addr, len, PLAIN, PROT_EXEC);
	walk_end(&walk);
	return is_so;
}

int protect_show(char *aside, uint64_t len)
{
	const uint64_t start = (uint64_t)(uintptr_t)aside;
	struct walk walk;
	int prot, r = 0;

	walk_begin(&walk);
	for (uint64_t off = 0, n; r >= 0 && off < len; off += n) {
		n = next_run(&walk, start + off, start + len, &prot);
		if (prot & PROT_READ)
			continue;
		r = PROTECT_E_SHOWN;
		if (mprotect(aside + off, n, prot | PROT_READ))
			r = err_raise_errno("cannot read pages that mprotect() took access from");
	}
	walk_end(&walk);
	return r;
}

void protect_copy(const char *like, char *aside, uint64_t len)
{
	const uint64_t start = (uint64_t)(uintptr_t)like;
	struct walk walk;
	int prot;

	walk_begin(&walk);
	for (uint64_t off = 0, n; off < len; off += n) {
		n = next_run(&walk, start + off, start + len, &prot);
		(void)mprotect(aside + off, n, prot);
	}
	walk_end(&walk);
}

int protect_map(char *addr, uint64_t len, int flags, int fd, uint64_t off, uint64_t *done)
{
	const uint64_t start = (uint64_t)(uintptr_t)addr;
	struct walk walk;
	int prot, r = 0;

	walk_begin(&walk);
	for (*done = 0; !r && *done < len;) {
		uint64_t n = next_run(&walk, start + *done, start + len, &prot);

		if (space_map(addr + *done, n, prot, flags, fd, off + *done))
			r = err_raise_errno("cannot map %llu bytes anew", (unsigned long long)n);
		else
			*done += n;
	}
	walk_end(&walk);
	return r;
}

int protect_move(char *from, uint64_t len, char *to, uint64_t *done)
{
	const uint64_t start = (uint64_t)(uintptr_t)to;
	struct walk walk;
	int prot, r = 0;

	walk_begin(&walk);
	for (*done = 0; !r && *done < len;) {
		uint64_t n = next_run(&walk, start + *done, start + len, &prot);

		if ((prot != PLAIN && mprotect(from + *done, n, prot)) ||
		    space_move(from + *done, n, to + *done))
			r = err_raise_errno("cannot move a mapping into place");
		else
			*done += n;
	}
	walk_end(&walk);
	return r;
}

int protect_fill(char *addr, uint64_t len,
		 int (*fill)(void *arg, char *addr, uint64_t off, uint64_t len), void *arg)
{
	const uint64_t start = (uint64_t)(uintptr_t)addr;
	struct walk walk;
	int prot, r = 0;

	walk_begin(&walk);
	for (uint64_t off = 0, n; !r && off < len; off += n) {
		bool is_closed;

		n = next_run(&walk, start + off, start + len, &prot);
		is_closed = (prot & PLAIN) != PLAIN;
		if (is_closed && mprotect(addr + off, n, prot | PLAIN))
			r = err_raise_errno("cannot write to pages that mprotect() took access "
					    "from");
		if (!r)
			r = fill(arg, addr + off, off, n);
		if (is_closed)
			(void)mprotect(addr + off, n, prot);
	}
	walk_end(&walk);
	return r;
}
