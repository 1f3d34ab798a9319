/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ioctls of userfaultfd(2) with their partial results and races settled: see uffdio.h. */
#include "config.h"

#include "backends/uffdio.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "common/err.h"

int uffdio_new_by_device(int *uffd, int device_fd, bool user_only)
{
	int flags = O_CLOEXEC | O_NONBLOCK | (user_only ? UFFD_USER_MODE_ONLY : 0);
	int fd;

	fd = ioctl(device_fd, USERFAULTFD_IOC_NEW, flags);
	if (fd < 0)
		return err_raise_errno("/dev/userfaultfd gave no userfaultfd");
	*uffd = fd;
	return 0;
}

int uffdio_new_by_syscall(int *uffd, bool user_only)
{
	int flags = O_CLOEXEC | O_NONBLOCK | (user_only ? UFFD_USER_MODE_ONLY : 0);
	int fd;

	fd = (int)syscall(SYS_userfaultfd, flags);
	if (fd < 0)
		return err_raise_errno("userfaultfd(2) failed");
	*uffd = fd;
	return 0;
}

/* Turn an errno of an ioctl on a range into its meaning for a process that serves another one. */
static int fold_range_error(const char *what, uint64_t addr, uint64_t n_bytes)
{
	switch (errno) {
	case ESRCH:
		return UFFDIO_E_GONE;
	case ENOENT:
	case EFAULT:
	case EINVAL:
		return UFFDIO_E_UNMAPPED;
	case EAGAIN:
		return UFFDIO_E_AGAIN;
	default:
		return err_raise_errno("%s of %#llx+%#llx failed", what, (unsigned long long)addr,
				       (unsigned long long)n_bytes);
	}
}

int uffdio_api(int uffd, uint64_t features, uint64_t *can)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};

	if (ioctl(uffd, UFFDIO_API, &api) < 0)
		return err_raise_errno("UFFDIO_API with features %#llx failed: the userfaultfd was "
				       "used before, or this kernel lacks one of them",
				       (unsigned long long)features);
	if (can)
		*can = api.features;
	return 0;
}

int uffdio_register(int uffd, uint64_t addr, uint64_t n_bytes, uint64_t mode)
{
	struct uffdio_register reg = {.range = {addr, n_bytes}, .mode = mode};

	if (ioctl(uffd, UFFDIO_REGISTER, &reg) == 0)
		return 0;
	if (errno == ESRCH)
		return UFFDIO_E_GONE;
	return err_raise_errno("cannot register %#llx+%#llx with a userfaultfd",
			       (unsigned long long)addr, (unsigned long long)n_bytes);
}

int uffdio_unregister(int uffd, uint64_t addr, uint64_t n_bytes)
{
	struct uffdio_range range = {addr, n_bytes};

	if (ioctl(uffd, UFFDIO_UNREGISTER, &range) == 0)
		return 0;
	return fold_range_error("UFFDIO_UNREGISTER", addr, n_bytes);
}

int uffdio_wake(int uffd, uint64_t addr, uint64_t n_bytes)
{
	struct uffdio_range range = {addr, n_bytes};

	if (ioctl(uffd, UFFDIO_WAKE, &range) == 0)
		return 0;
	return fold_range_error("UFFDIO_WAKE", addr, n_bytes);
}

/* WRITEPROTECT does all or nothing as far as EAGAIN goes; protecting twice is harmless. */
static int writeprotect(int uffd, uint64_t addr, uint64_t n_bytes, uint64_t mode)
{
	struct uffdio_writeprotect wp = {.range = {addr, n_bytes}, .mode = mode};

	while (ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) < 0)
		if (errno != EINTR)
			return fold_range_error("UFFDIO_WRITEPROTECT", addr, n_bytes);
	return 0;
}

int uffdio_protect(int uffd, uint64_t addr, uint64_t n_bytes)
{
	return writeprotect(uffd, addr, n_bytes, UFFDIO_WRITEPROTECT_MODE_WP);
}

int uffdio_unprotect(int uffd, uint64_t addr, uint64_t n_bytes, bool is_quiet)
{
	return writeprotect(uffd, addr, n_bytes, is_quiet ? UFFDIO_WRITEPROTECT_MODE_DONTWAKE : 0);
}

/*
 * One step of filling a range: sets *@done to the bytes that are now there, 0 if the first page is
 * there already. Returns 0 or a positive errno.
 */
typedef int fill_fn(int uffd, uint64_t addr, uint64_t src, uint64_t n_bytes, uint64_t mode,
		    bool quiet, int64_t *done);

static int fill_copy(int uffd, uint64_t addr, uint64_t src, uint64_t n_bytes, uint64_t mode,
		     bool quiet, int64_t *done)
{
	struct uffdio_copy op = {
		.dst = addr,
		.src = src,
		.len = n_bytes,
		.mode = mode | (quiet ? UFFDIO_COPY_MODE_DONTWAKE : 0),
	};
	int r = ioctl(uffd, UFFDIO_COPY, &op);

	*done = op.copy;
	return r < 0 ? errno : 0;
}

static int fill_zero(int uffd, uint64_t addr, uint64_t src, uint64_t n_bytes, uint64_t mode,
		     bool quiet, int64_t *done)
{
	struct uffdio_zeropage op = {
		.range = {addr, n_bytes},
		.mode = mode | (quiet ? UFFDIO_ZEROPAGE_MODE_DONTWAKE : 0),
	};
	int r = ioctl(uffd, UFFDIO_ZEROPAGE, &op);

	(void)src;
	*done = op.zeropage;
	return r < 0 ? errno : 0;
}

static int fill_continue(int uffd, uint64_t addr, uint64_t src, uint64_t n_bytes, uint64_t mode,
			 bool quiet, int64_t *done)
{
	struct uffdio_continue op = {
		.range = {addr, n_bytes},
		.mode = mode | (quiet ? UFFDIO_CONTINUE_MODE_DONTWAKE : 0),
	};
	int r = ioctl(uffd, UFFDIO_CONTINUE, &op);

	(void)src;
	*done = op.mapped;
	return r < 0 ? errno : 0;
}

static int fill_poison(int uffd, uint64_t addr, uint64_t src, uint64_t n_bytes, uint64_t mode,
		       bool quiet, int64_t *done)
{
	struct uffdio_poison op = {
		.range = {addr, n_bytes},
		.mode = mode | (quiet ? UFFDIO_POISON_MODE_DONTWAKE : 0),
	};
	int r = ioctl(uffd, UFFDIO_POISON, &op);

	(void)src;
	*done = op.updated;
	return r < 0 ? errno : 0;
}

/*
 * Go over the range with @fill, skip what is there, and see to it that all of it is woken, or with
 * UFFDIO_E_AGAIN all that is there.
 * *@done, which may be NULL, gets how many bytes from the start on are there.
 */
static int fill_range(fill_fn *fill, const char *what, int uffd, uint64_t addr, uint64_t src,
		      uint64_t n_bytes, uint64_t mode, uint64_t *done)
{
	uint64_t done_bytes = 0;
	int result = 0, r = 0;
	int64_t step = 0;
	bool is_woken;

	/* As a rule one call fills all, and wakes the waiting threads. */
	(void)fill(uffd, addr, src, n_bytes, mode, false, &step);
	if (step > 0)
		done_bytes = (uint64_t)step;
	is_woken = done_bytes == n_bytes;
	while (done_bytes < n_bytes && !result) {
		int error;

		step = 0;
		error = fill(uffd, addr + done_bytes, src + done_bytes, n_bytes - done_bytes, mode,
			     true, &step);

		if (step > 0) {
			done_bytes += (uint64_t)step;
		} else if (error == EEXIST) {
			done_bytes += page_size_bytes();
		} else if (error == EINTR) {
			continue;
		} else if (error == EFAULT && fill == fill_continue) {
			result = UFFDIO_E_HOLE;
		} else {
			errno = error;
			result = fold_range_error(what, addr + done_bytes, n_bytes - done_bytes);
		}
	}
	if (result == UFFDIO_E_AGAIN)
		n_bytes = done_bytes;
	if (!is_woken && n_bytes)
		r = uffdio_wake(uffd, addr, n_bytes);
	if (done)
		*done = done_bytes;
	return result ? result : r;
}

int uffdio_copy(int uffd, uint64_t addr, const void *src, uint64_t n_bytes, uint64_t mode)
{
	return fill_range(fill_copy, "UFFDIO_COPY", uffd, addr, (uintptr_t)src, n_bytes, mode,
			  NULL);
}

int uffdio_zeropage(int uffd, uint64_t addr, uint64_t n_bytes)
{
	return fill_range(fill_zero, "UFFDIO_ZEROPAGE", uffd, addr, 0, n_bytes, 0, NULL);
}

int uffdio_continue(int uffd, uint64_t addr, uint64_t n_bytes, uint64_t mode, uint64_t *done_bytes)
{
	return fill_range(fill_continue, "UFFDIO_CONTINUE", uffd, addr, 0, n_bytes, mode,
			  done_bytes);
}

int uffdio_poison(int uffd, uint64_t addr, uint64_t n_bytes)
{
	return fill_range(fill_poison, "UFFDIO_POISON", uffd, addr, 0, n_bytes, 0, NULL);
}

int uffdio_set_nonblock(int uffd)
{
	int flags = fcntl(uffd, F_GETFL);

	if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(uffd, F_SETFL, flags | O_NONBLOCK) < 0))
		return err_raise_errno("cannot make a userfaultfd non-blocking");
	return 0;
}

/* O_NONBLOCK is of the open file, which its sender shares; RWF_NOWAIT is of this call alone. */
static ssize_t read_nowait(int uffd, void *buf, size_t n_bytes)
{
	struct iovec iov = {buf, n_bytes};
	ssize_t n;

	n = preadv2(uffd, &iov, 1, -1, RWF_NOWAIT);
	if (n >= 0 || errno != EOPNOTSUPP)
		return n;
	if (uffdio_set_nonblock(uffd) < 0)
		return -1;
	return read(uffd, buf, n_bytes);
}

int uffdio_read(int uffd, struct uffd_msg *msgs, size_t max, size_t *n_msgs)
{
	ssize_t n;

	n = read_nowait(uffd, msgs, max * sizeof(*msgs));
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		*n_msgs = 0;
		return 0;
	}
	if (n < 0)
		return err_raise_errno("cannot read a userfaultfd");
	*n_msgs = (size_t)n / sizeof(*msgs);
	return 0;
}

bool uffdio_is_uffd(int proc_self_fd, int fd)
{
	static const char want[] = "anon_inode:[userfaultfd]";
	char name[16], target[64];
	ssize_t n;

	(void)snprintf(name, sizeof(name), "%d", fd);
	n = readlinkat(proc_self_fd, name, target, sizeof(target));
	return n == (ssize_t)sizeof(want) - 1 && !memcmp(target, want, sizeof(want) - 1);
}
