/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Find out what this kernel can do, by trying it once on a page or two of the calling process.
 *
 * A bit of UFFDIO_API is enough proof of the feature that it names. Features without a bit of their
 * own are tried (CONTINUE with write protection came with 6.4 but shares MINOR_SHMEM's).
 *
 * @device_fd: /dev/userfaultfd, lent, or -1: then a userfaultfd(2) for faults of user mode tells as
 *             much, since that needs no privilege
 * @features:  features to try with, of trial_features()
 */
#ifndef COW_BACKENDS_TRIAL_H
#define COW_BACKENDS_TRIAL_H

#include <stdbool.h>
#include <stdint.h>

/** trial_features() - all bits of UFFDIO_API; 0 if this process gets no userfaultfd */
uint64_t trial_features(int device_fd);

/** trial_protect() - can shared memory be write-protected (Linux >= 5.19)? */
bool trial_protect(int device_fd, uint64_t features);

/**
 * trial_catch() - is a write to protected shared memory reported and let go, as it has to be?
 *
 * Makes a thread that writes; takes a second at most if the kernel reports nothing.
 */
bool trial_catch(int device_fd, uint64_t features);

/** trial_continue() - can a page be mapped protected as it is touched (Linux >= 6.4)? */
bool trial_continue(int device_fd, uint64_t features);

/** trial_move() - can page tables of shared memory be moved aside (Linux >= 5.13)? */
bool trial_move(void);

/** trial_scan() - does PAGEMAP_SCAN (Linux >= 6.7) find pages? */
bool trial_scan(void);

#endif
