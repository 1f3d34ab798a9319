// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who serves a writer's faults: cowd, or the least that could. The latter is a measure of what the
 * kernel asks of anybody: one process, one userfaultfd, one thread that reads a message, copies the
 * page and lifts its protection. The memory is of the same kind as a region's, a shared mapping of
 * a memfd, and the copy goes to memory that is there already.
 */
#include "config.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "backends/uffdio.h"
#include "common/err.h"
#include "libclient/cowclient.h"
#include "tools/bench/writer.h"

static void fill(struct writer *writer)
{
	for (uint64_t off = 0; off < writer->spec.size_bytes; off += page_size_bytes())
		*(volatile char *)(writer->addr + off) = 1;
}

/* --- cowd ------------------------------------------------------------------------------------- */

static int open_cowd(struct writer *writer)
{
	int r;

	r = cow_client_new(&writer->client, writer->spec.address);
	/* Whatever it was, there is no daemon; only a lack of rights is another matter. */
	if (r)
		return r == -EACCES || r == -EPERM ? r : -ENOTCONN;
	r = cow_region_new(&writer->region, writer->client,
			   &(struct cow_region_params){
				   .size_bytes = writer->spec.size_bytes,
				   .mode = COW_MODE_UFFD,
				   .flags = COW_REGION_POPULATE,
				   .name = "cowbench faults",
			   });
	if (r)
		return r;
	writer->addr = cow_region_address(writer->region);
	fill(writer);
	return 0;
}

static int freeze_cowd(struct writer *writer)
{
	return cow_snapshot_new(&writer->snap, writer->region);
}

static void thaw_cowd(struct writer *writer)
{
	writer->snap = cow_snapshot_unref(writer->snap);
}

const struct writer_kind writer_cowd = {open_cowd, freeze_cowd, thaw_cowd};

/* --- bare ------------------------------------------------------------------------------------- */

static void *serve_bare(void *arg)
{
	struct writer *writer = arg;
	size_t page_size = page_size_bytes();
	struct uffd_msg msg;

	bench_pin(writer->spec.handler_cpu);
	while (read(writer->uffd, &msg, sizeof(msg)) == sizeof(msg)) {
		uint64_t addr = align_down(msg.arg.pagefault.address, page_size);
		uint64_t off = addr - (uintptr_t)writer->addr;

		memcpy(writer->store + off, writer->addr + off, page_size);
		if (uffdio_unprotect(writer->uffd, addr, page_size, false))
			break;
	}
	/* No thread stays waiting: a writer goes on when the last descriptor is closed. */
	writer->uffd = fd_close(writer->uffd);
	return NULL;
}

static int map_bare(struct writer *writer)
{
	AUTO_FD int fd = memfd_create("cowbench", MFD_CLOEXEC);
	uint64_t n_bytes = writer->spec.size_bytes;

	if (fd < 0 || ftruncate(fd, (off_t)n_bytes))
		return err_raise_errno("no memfd of %llu bytes", (unsigned long long)n_bytes);
	writer->addr = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	writer->store = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (writer->addr == MAP_FAILED || writer->store == MAP_FAILED)
		return err_raise_errno("%llu bytes of memory cannot be mapped",
				       (unsigned long long)n_bytes);
	fill(writer);
	return 0;
}

static int new_uffd(struct writer *writer)
{
	AUTO_FD int device_fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int r;

	r = device_fd >= 0 ? uffdio_new_by_device(&writer->uffd, device_fd, false)
			   : uffdio_new_by_syscall(&writer->uffd, true);
	if (r)
		return r;
	r = uffdio_api(writer->uffd,
		       UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM, NULL);
	/* Blocking: waiting for a fault is then the read itself. */
	if (!r && fcntl(writer->uffd, F_SETFL, 0))
		r = err_raise_errno("a userfaultfd cannot be made blocking");
	return r;
}

static int open_bare(struct writer *writer)
{
	pthread_t thread;
	int r;

	r = map_bare(writer);
	if (!r)
		r = new_uffd(writer);
	if (!r)
		r = uffdio_register(writer->uffd, (uintptr_t)writer->addr, writer->spec.size_bytes,
				    UFFDIO_REGISTER_MODE_WP);
	if (r)
		return r < 0 ? r : err_raise(-EIO, "the memory cannot be registered");
	if (pthread_create(&thread, NULL, serve_bare, writer))
		return err_raise(-EAGAIN, "no thread can be made");
	pthread_detach(thread);
	return 0;
}

static int freeze_bare(struct writer *writer)
{
	int r = uffdio_protect(writer->uffd, (uintptr_t)writer->addr, writer->spec.size_bytes);

	return r > 0 ? err_raise(-EIO, "the memory cannot be protected") : r;
}

static void thaw_bare(struct writer *writer)
{
	(void)writer; /* every page was written, so none is protected */
}

const struct writer_kind writer_bare = {open_bare, freeze_bare, thaw_bare};
