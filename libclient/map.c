// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Address space for regions.
 *
 * mremap() moves whole page-table pages when source and target are aligned to what such a page maps
 * (2 MiB; 1 GiB for the next level): 20 us for any size, against a walk over every entry. So
 * regions lie at addresses aligned to 1 GiB when they are that large, and to 2 MiB otherwise.
 *
 * Huge pages are left to the system's setting for shared memory
 * (/sys/kernel/mm/transparent_hugepage/shmem_enabled): a program that wants them can say so itself
 * by madvise(2) on the region.
 */
#include "config.h"

#include <sys/mman.h>

#include "libclient/internal.h"

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

static uint64_t alignment_of(uint64_t n_bytes)
{
	if (n_bytes >= GIB)
		return GIB;
	return n_bytes >= 2 * MIB ? 2 * MIB : page_size_bytes();
}

int cowi_reserve(char **addr, uint64_t n_bytes)
{
	uint64_t align = alignment_of(n_bytes), total_bytes = n_bytes + align;
	uint64_t head_bytes, tail_bytes;
	char *start;

	if (total_bytes < n_bytes || total_bytes > SIZE_MAX / 2)
		return err_raise(-ENOMEM, "%llu bytes are more than an address space holds",
				 (unsigned long long)n_bytes);
	start = mmap(NULL, total_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		     0);
	if (start == MAP_FAILED)
		return err_raise_errno("cannot reserve %llu bytes of address space",
				       (unsigned long long)total_bytes);
	head_bytes = align_up((uintptr_t)start, align) - (uintptr_t)start;
	tail_bytes = total_bytes - head_bytes - n_bytes;
	if (head_bytes)
		(void)munmap(start, head_bytes);
	if (tail_bytes)
		(void)munmap(start + head_bytes + n_bytes, tail_bytes);
	*addr = start + head_bytes;
	return 0;
}

/*
 * Every byte of a mapping past the end of its file raises SIGBUS, and the file is empty for ever.
 * Without a descriptor left, memory that raises SIGSEGV is the next best: no wrong byte is read.
 */
int cowi_map_broken(void *addr, uint64_t n_bytes)
{
	AUTO_FD int fd = memfd_create("cow-lost", MFD_CLOEXEC);
	void *p = MAP_FAILED;

	if (fd >= 0)
		p = mmap(addr, n_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
	if (p == MAP_FAILED)
		p = mmap(addr, n_bytes, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	if (p == MAP_FAILED)
		return err_raise_errno("cannot take the mapping of a lost snapshot away");
	return 0;
}
