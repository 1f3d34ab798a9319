// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What this kernel can do, found by doing it once on a page or two; contract in probe.h.
 *
 * Bits of UFFDIO_API are believed for what they name. What has no bit (CONTINUE with write
 * protection came with 6.4 but shares MINOR_SHMEM's) is tried. --without-feature takes away
 * afterwards.
 */
#include "config.h"

#include "daemon/probe.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>

#include "backends/uffdio.h"
#include "common/err.h"
#include "daemon/options.h"

/* Two pages of a memfd, mapped shared, the first one with data. */
struct sample {
	int fd;
	char *addr;
	size_t n_bytes;
};

static void sample_deinit(struct sample *sample)
{
	if (sample->addr)
		(void)munmap(sample->addr, sample->n_bytes);
	sample->addr = NULL;
	sample->fd = fd_close(sample->fd);
}

static bool sample_init(struct sample *sample)
{
	void *addr;

	*sample = (struct sample){.fd = memfd_create("cowd-probe", MFD_CLOEXEC),
				  .n_bytes = 2 * page_size_bytes()};
	if (sample->fd < 0 || ftruncate(sample->fd, (off_t)sample->n_bytes) < 0 ||
	    pwrite(sample->fd, "x", 1, 0) != 1)
		return false;
	addr = mmap(NULL, sample->n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, sample->fd, 0);
	if (addr == MAP_FAILED)
		return false;
	sample->addr = addr;
	return true;
}

static int new_uffd(int *uffd, int device_fd)
{
	int r;

	r = uffdio_new_by_device(uffd, device_fd, true);
	/* Without the device the syscall tells as much: for faults of user mode it needs no
	 * privilege. */
	return r ? uffdio_new_by_syscall(uffd, true) : 0;
}

static uint64_t find_features(int device_fd)
{
	AUTO_FD int uffd = -1;
	uint64_t can = 0;

	if (new_uffd(&uffd, device_fd) || uffdio_api(uffd, 0, &can))
		return 0;
	return can;
}

static bool can_protect_shmem(int device_fd, uint64_t features)
{
	CLEANUP(sample_deinit) struct sample sample = {.fd = -1};
	AUTO_FD int uffd = -1;

	if (!(features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM) || !sample_init(&sample) ||
	    new_uffd(&uffd, device_fd) || uffdio_api(uffd, UFFD_FEATURE_WP_HUGETLBFS_SHMEM, NULL))
		return false;
	return !uffdio_register(uffd, (uintptr_t)sample.addr, sample.n_bytes,
				UFFDIO_REGISTER_MODE_WP) &&
	       !uffdio_protect(uffd, (uintptr_t)sample.addr, sample.n_bytes);
}

static bool can_continue_protected(int device_fd, uint64_t features)
{
	const uint64_t wanted = UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_MINOR_SHMEM |
				UFFD_FEATURE_WP_UNPOPULATED;
	CLEANUP(sample_deinit) struct sample sample = {.fd = -1};
	AUTO_FD int uffd = -1;

	if ((features & wanted) != wanted || !sample_init(&sample) || new_uffd(&uffd, device_fd) ||
	    uffdio_api(uffd, wanted, NULL))
		return false;
	return !uffdio_register(uffd, (uintptr_t)sample.addr, sample.n_bytes,
				UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR |
					UFFDIO_REGISTER_MODE_MISSING) &&
	       !uffdio_continue(uffd, (uintptr_t)sample.addr, page_size_bytes(),
				UFFDIO_CONTINUE_MODE_WP, NULL);
}

static bool can_move_shared(void)
{
	CLEANUP(sample_deinit) struct sample sample = {.fd = -1};
	void *moved;

	if (!sample_init(&sample))
		return false;
	/* glibc reads the address with DONTUNMAP too: NULL, no hint, has to be there. */
	moved = mremap(sample.addr, sample.n_bytes, sample.n_bytes,
		       MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	if (moved == MAP_FAILED)
		return false;
	(void)munmap(moved, sample.n_bytes);
	return true;
}

static bool can_scan_pagemap(void)
{
	CLEANUP(sample_deinit) struct sample sample = {.fd = -1};
	AUTO_FD int pagemap_fd = -1;
	struct page_region region;
	struct pm_scan_arg arg;

	pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pagemap_fd < 0 || !sample_init(&sample))
		return false;
	arg = (struct pm_scan_arg){.size = sizeof(arg),
				   .start = (uintptr_t)sample.addr,
				   .end = (uintptr_t)sample.addr + sample.n_bytes,
				   .vec = (uintptr_t)&region,
				   .vec_len = 1,
				   .category_mask = PAGE_IS_PRESENT,
				   .return_mask = PAGE_IS_PRESENT};
	return ioctl(pagemap_fd, PAGEMAP_SCAN, &arg) >= 0;
}

void probe_uffd(struct probe *probe, const struct options *options, int device_fd)
{
	uint64_t features;

	features = find_features(device_fd) & ~options->without_features;
	probe->uffd_features = features;
	probe->has_uffd = can_protect_shmem(device_fd, features);
	probe->has_lazy = probe->has_uffd && !(options->without & WITHOUT_CONTINUE_WP) &&
			  can_continue_protected(device_fd, features);
	probe->has_poison = features & UFFD_FEATURE_POISON;
}

void probe_kernel(struct probe *probe, const struct options *options, int device_fd)
{
	struct utsname name;

	*probe = (struct probe){0};
	if (!uname(&name))
		(void)snprintf(probe->release, sizeof(probe->release), "%s", name.release);
	probe_uffd(probe, options, device_fd);
	probe->has_dontunmap = !(options->without & WITHOUT_DONTUNMAP) && can_move_shared();
	probe->has_pagemap_scan = !(options->without & WITHOUT_PAGEMAP_SCAN) && can_scan_pagemap();
}

const char *probe_mechanisms(const struct probe *probe, bool with_uffd, char *buf, size_t size)
{
	(void)snprintf(buf, size, "%s%s", with_uffd ? "uffd " : "",
		       probe->has_dontunmap ? "scoot mmapcopy" : "");
	if (*buf && buf[strlen(buf) - 1] == ' ')
		buf[strlen(buf) - 1] = '\0';
	return buf;
}
