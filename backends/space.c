// SPDX-License-Identifier: LGPL-2.1-or-later
// Reserved address space; see space.h.
#include "config.h"

#include "backends/space.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "common/err.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#define DROP_STEP_BYTES ((uint64_t)16 << 20)

static uint64_t alignment_for(uint64_t len)
{
	if (len >= (uint64_t)1 << 30)
		return (uint64_t)1 << 30;
	if (len >= (uint64_t)2 << 20)
		return (uint64_t)2 << 20;
	return page_size_bytes();
}

int space_reserve(char **addr, uint64_t len)
{
	const uint64_t align = alignment_for(len);
	uint64_t got, start, total = len + align;
	void *p;

	if (total < len || total > SIZE_MAX / 2)
		return err_raise(-ENOMEM, "%llu bytes are more than an address space holds",
				 (unsigned long long)len);
	p = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return err_raise_errno("cannot reserve %llu bytes of address space",
				       (unsigned long long)total);
	got = (uint64_t)(uintptr_t)p;
	start = align_up(got, align);
	if (start > got)
		(void)munmap(p, start - got);
	if (got + total > start + len)
		(void)munmap((char *)p + (start - got) + len, got + total - start - len);
	*addr = (char *)p + (start - got);
	return 0;
}

void space_release(char *addr, uint64_t len)
{
	if (addr)
		(void)munmap(addr, len);
}

int space_plug(char *addr, uint64_t len)
{
	void *p = mmap(addr, len, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

	return p == MAP_FAILED ? -errno : 0;
}

int space_clear(char *addr, uint64_t len)
{
	void *p = mmap(addr, len, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

	return p == MAP_FAILED ? err_raise_errno("cannot clear address space set aside") : 0;
}

int space_map(char *addr, uint64_t len, int flags, int fd, uint64_t off)
{
	long p = syscall(SYS_mmap, addr, len, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, off);

	return p == -1 ? -1 : 0;
}

/* Nothing behind it, it does grow; then it is cut again. */
static bool is_one_mapping(char *addr, uint64_t len)
{
	const uint64_t more = len + page_size_bytes();

	if (mremap(addr, len, more, 0) == MAP_FAILED)
		return errno == ENOMEM || errno == EAGAIN;
	(void)munmap(addr + len, more - len);
	return true;
}

int space_move(char *from, uint64_t len, char *to)
{
	if (!is_one_mapping(from, len)) {
		errno = EFAULT;
		return -1;
	}
	return mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) ==
			       MAP_FAILED
		       ? -1
		       : 0;
}

void space_populate(char *addr, uint64_t len)
{
	const size_t page = page_size_bytes();
	unsigned char is_there[512];

	for (uint64_t off = 0, n; off < len; off += n) {
		size_t first = 0, end, n_pages;

		n = min_u64(len - off, ARRAY_SIZE(is_there) * page);
		n_pages = n / page;
		if (mincore(addr + off, n, is_there))
			return;
		for (; first < n_pages; first = end) {
			for (end = first; end < n_pages && is_there[end] & 1; end++)
				;
			if (end > first && madvise(addr + off + first * page, (end - first) * page,
						   MADV_POPULATE_READ))
				return;
			for (; end < n_pages && !(is_there[end] & 1); end++)
				;
		}
	}
}

bool space_drop_step(char *addr, uint64_t len, uint64_t *done)
{
	uint64_t step = min_u64(DROP_STEP_BYTES, len - *done);

	if (step)
		(void)madvise(addr + *done, step, MADV_DONTNEED);
	*done += step;
	return *done < len;
}
