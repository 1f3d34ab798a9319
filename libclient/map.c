// SPDX-License-Identifier: LGPL-2.1-or-later
// What is mapped where there is nothing to be read any more.
#include "config.h"

#include <sys/mman.h>

#include "libclient/internal.h"

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
