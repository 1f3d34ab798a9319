// SPDX-License-Identifier: LGPL-2.1-or-later
// Reserved address space; see space.h.
#include "config.h"

#include "backends/space.h"

#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "backends/kernel.h"
#include "common/err.h"

/* fault_around_bytes, mm/memory.c: 64 KiB, aligned, unless set otherwise in debugfs. */
#define WINDOW_PAGES    16
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

int space_reserve_at(char *addr, uint64_t len)
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

int space_map(char *addr, uint64_t len, int prot, int flags, int fd, uint64_t off)
{
	long p = syscall(SYS_mmap, addr, len, prot, flags | MAP_FIXED, fd, off);

	return p == -1 ? -1 : 0;
}

/* More bytes than any address space has free behind a mapping. */
#define TOO_MUCH (((uint64_t)1 << 47) - ((uint64_t)1 << 16))

/* If the mapping grows all the same, cut it again. */
static int try_to_grow(char *addr, uint64_t len, uint64_t new_len)
{
	if (mremap(addr, len, new_len, 0) == MAP_FAILED)
		return errno;
	(void)munmap(addr + len, new_len - len);
	return 0;
}

bool space_is_one_mapping(char *addr, uint64_t len)
{
	int error = try_to_grow(addr, len, TOO_MUCH);

	if (error == EINVAL) /* more than there are addresses at all */
		error = try_to_grow(addr, len, len + page_size_bytes());
	return !error || error == ENOMEM || error == EAGAIN;
}

int space_move(char *from, uint64_t len, char *to)
{
	if (!space_is_one_mapping(from, len)) {
		errno = EFAULT;
		return -1;
	}
	return mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) ==
			       MAP_FAILED
		       ? -1
		       : 0;
}

/* The first page of a window that is in memory has the kernel map those around it. */
void space_populate(char *addr, size_t n_pages, const unsigned char *is_there)
{
	const size_t page = page_size_bytes();
	const size_t skew = (uintptr_t)addr / page % WINDOW_PAGES;
	size_t idx = 0;

	while (idx < n_pages) {
		if (!is_there[idx]) {
			idx++;
			continue;
		}
		if (madvise(addr + idx * page, page, MADV_POPULATE_READ))
			return;
		idx = align_down(idx + skew, WINDOW_PAGES) + WINDOW_PAGES - skew;
	}
}

uint64_t space_populate_known(char *addr, uint64_t len)
{
	const uint64_t window = WINDOW_PAGES * page_size_bytes();
	uint64_t at = (uint64_t)(uintptr_t)addr;
	const uint64_t end = at + len;

	while (at < end) {
		if (madvise((char *)(uintptr_t)at, page_size_bytes(), MADV_POPULATE_READ))
			return end;
		at = align_down(at, window) + window;
	}
	return at;
}

int space_drop(char *addr, uint64_t len)
{
	return madvise(addr, len, MADV_DONTNEED_LOCKED) ? -errno : 0;
}

int space_drop_runs(const struct page_run *runs, size_t n_runs)
{
	static atomic_bool is_unknown;
	AUTO_FD int pidfd = -1;
	struct iovec parts[64];

	if (atomic_load(&is_unknown))
		return -1;
	pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (pidfd < 0)
		return -1;
	for (size_t done = 0, n; done < n_runs; done += n) {
		long n_bytes = 0, r;

		n = min_u64(n_runs - done, ARRAY_SIZE(parts));
		for (size_t i = 0; i < n; i++) {
			parts[i].iov_base = (void *)(uintptr_t)runs[done + i].addr;
			parts[i].iov_len = runs[done + i].len;
			n_bytes += (long)runs[done + i].len;
		}
		r = syscall(SYS_process_madvise, pidfd, parts, n, MADV_DONTNEED_LOCKED, 0);
		if (r < 0 && (errno == EINVAL || errno == ENOSYS || errno == EPERM))
			atomic_store(&is_unknown, true);
		if (r != n_bytes)
			return -1;
	}
	return 0;
}

bool space_drop_step(char *addr, uint64_t len, uint64_t *done)
{
	uint64_t step = min_u64(DROP_STEP_BYTES, len - *done);

	if (step)
		(void)space_drop(addr + *done, step);
	*done += step;
	return *done < len;
}
