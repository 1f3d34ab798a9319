/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ioctls of userfaultfd(2), each as a function whose outcomes a caller can act on.
 *
 * Three things make the bare ioctls easy to get wrong, and are settled here once:
 *  - A long operation may stop half way. It then fails with EAGAIN and returns the number of bytes
 *    done in its argument, or -EAGAIN if it did nothing because the address space is changing. The
 *    functions go on from there, and give up with UFFDIO_E_AGAIN if nothing moves.
 *  - EEXIST from COPY, ZEROPAGE or CONTINUE means that a page is there already. It does not say
 *    that the threads waiting for it were woken, so the functions skip the page and wake the range
 *    themselves.
 *  - ESRCH means that the process is gone; ENOENT, EFAULT and EINVAL that the range is no longer
 *    mapped the way it was registered. For a process that serves others these are ordinary
 *    outcomes.
 *
 * Ranges are in bytes and page aligned. Return of all unless said otherwise: 0; UFFDIO_E_*, without
 * a sentence; -errno with one.
 */
#ifndef COW_BACKENDS_UFFDIO_H
#define COW_BACKENDS_UFFDIO_H

#include <stdint.h>

#include "backends/kernel.h"
#include "common/util.h"

/* The address space is being changed, and nothing more is done until the event that says so, if
 * there is one, has been read. Who waits for what is not done yet is not woken. */
#define UFFDIO_E_AGAIN    1
/* The process has ended. */
#define UFFDIO_E_GONE     2
/* Part of the range is not mapped, or not registered, as it was. */
#define UFFDIO_E_UNMAPPED 3
/* uffdio_continue(): the file has a hole there; pages before it are mapped. */
#define UFFDIO_E_HOLE     4

/**
 * uffdio_new_by_device() - a userfaultfd on the calling process
 * @uffd:      set on success; CLOEXEC, non-blocking
 * @device_fd: /dev/userfaultfd, lent (Linux >= 6.1)
 * @user_only: serve faults of user mode only
 */
int uffdio_new_by_device(int *uffd, int device_fd, bool user_only) MUST_CHECK;

/** uffdio_new_by_syscall() - the same by userfaultfd(2), which may need a privilege */
int uffdio_new_by_syscall(int *uffd, bool user_only) MUST_CHECK;

/**
 * uffdio_api() - handshake; possible once for each userfaultfd
 * @features: exactly those to be switched on
 * @can:      gets all features of this kernel; may be NULL
 *
 * Return: 0; -EINVAL with a sentence: it was used before, or the kernel lacks one of @features.
 */
int uffdio_api(int uffd, uint64_t features, uint64_t *can) MUST_CHECK;

/** uffdio_register() - @mode is of UFFDIO_REGISTER_MODE_*; replaces an earlier mode of ours */
int uffdio_register(int uffd, uint64_t addr, uint64_t n_bytes, uint64_t mode) MUST_CHECK;
int uffdio_unregister(int uffd, uint64_t addr, uint64_t n_bytes) MUST_CHECK;

/** uffdio_wake() - wake the threads that wait in the range; a fault that an earlier daemon has read
 * comes again */
int uffdio_wake(int uffd, uint64_t addr, uint64_t n_bytes) MUST_CHECK;

/** uffdio_protect() - from now on writes to the range fault */
int uffdio_protect(int uffd, uint64_t addr, uint64_t n_bytes) MUST_CHECK;

/** uffdio_unprotect() - let writes through; wakes unless @is_quiet, then uffdio_wake() is owed */
int uffdio_unprotect(int uffd, uint64_t addr, uint64_t n_bytes, bool is_quiet) MUST_CHECK;

/**
 * uffdio_copy() - fill what is missing in the range with bytes of @src, and wake
 * @mode: 0, or UFFDIO_COPY_MODE_WP
 *
 * Pages that are there already stay as they are.
 */
int uffdio_copy(int uffd, uint64_t addr, const void *src, uint64_t n_bytes,
		uint64_t mode) MUST_CHECK;

/** uffdio_zeropage() - the same with zeroes; anonymous and shmem mappings */
int uffdio_zeropage(int uffd, uint64_t addr, uint64_t n_bytes) MUST_CHECK;

/**
 * uffdio_continue() - map what the file has, and wake; Linux >= 5.14 for shmem
 * @mode:       0, or UFFDIO_CONTINUE_MODE_WP (Linux >= 6.4)
 * @done_bytes: gets the length of the part that is mapped now; may be NULL
 *
 * Return: as above, or UFFDIO_E_HOLE.
 */
int uffdio_continue(int uffd, uint64_t addr, uint64_t n_bytes, uint64_t mode,
		    uint64_t *done_bytes) MUST_CHECK;

/** uffdio_poison() - make touching what is missing in the range raise SIGBUS, and wake; >= 6.6 */
int uffdio_poison(int uffd, uint64_t addr, uint64_t n_bytes) MUST_CHECK;

/** uffdio_set_nonblock() - of a descriptor that somebody else made. 0 or -errno */
int uffdio_set_nonblock(int uffd) MUST_CHECK;

/**
 * uffdio_read() - take waiting messages
 * @n_msgs: gets how many; 0 when none waits
 *
 * Does not wait, even if another process that has the descriptor has made it blocking again (Linux
 * >= 6.10; on older kernels there is a moment in which it can). Return: 0; -errno with a sentence.
 */
int uffdio_read(int uffd, struct uffd_msg *msgs, size_t max, size_t *n_msgs) MUST_CHECK;

/**
 * uffdio_is_uffd() - whether a foreign descriptor is a userfaultfd at all
 * @proc_self_fd: /proc/self/fd opened O_PATH, lent; works after /proc is out of reach
 *
 * Nothing is called on @fd itself: an ioctl on a descriptor of another kind may do anything.
 */
bool uffdio_is_uffd(int proc_self_fd, int fd);

#endif
