// SPDX-License-Identifier: LGPL-2.1-or-later
/* See trial.h. */
#include "config.h"

#include "backends/trial.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backends/uffdio.h"
#include "common/err.h"

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

uint64_t trial_features(int device_fd)
{
	AUTO_FD int uffd = -1;
	uint64_t can = 0;

	if (new_uffd(&uffd, device_fd) || uffdio_api(uffd, 0, &can))
		return 0;
	return can;
}

bool trial_protect(int device_fd, uint64_t features)
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

static void *store(void *addr)
{
	__atomic_store_n((char *)addr, 'y', __ATOMIC_RELAXED);
	return NULL;
}

/* Whether the write by another thread is reported; the
 * userfaultfd is closed then, which ends it. */
static bool hears_of_store(int *uffd, char *addr)
{
	struct pollfd poll_fd = {.fd = *uffd, .events = POLLIN};
	struct uffd_msg msg = {.event = 0};
	bool is_reported;
	pthread_t thread;

	if (pthread_create(&thread, NULL, store, addr))
		return false;
	is_reported = poll(&poll_fd, 1, 1000) == 1 && poll_fd.revents == POLLIN &&
		      read(*uffd, &msg, sizeof(msg)) == sizeof(msg) &&
		      msg.event == UFFD_EVENT_PAGEFAULT &&
		      (msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) &&
		      __atomic_load_n(addr, __ATOMIC_RELAXED) == 'x';
	*uffd = fd_close(*uffd);
	(void)pthread_join(thread, NULL);
	return is_reported && *addr == 'y';
}

bool trial_catch(int device_fd, uint64_t features)
{
	CLEANUP(sample_deinit) struct sample sample = {.fd = -1};
	AUTO_FD int uffd = -1;

	if (!(features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM) || !sample_init(&sample) ||
	    new_uffd(&uffd, device_fd) || uffdio_api(uffd, UFFD_FEATURE_WP_HUGETLBFS_SHMEM, NULL) ||
	    uffdio_register(uffd, (uintptr_t)sample.addr, sample.n_bytes,
			    UFFDIO_REGISTER_MODE_WP) ||
	    uffdio_protect(uffd, (uintptr_t)sample.addr, sample.n_bytes))
		return false;
	return hears_of_store(&uffd, sample.addr);
}

bool trial_continue(int device_fd, uint64_t features)
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

bool trial_move(void)
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

bool trial_scan(void)
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
