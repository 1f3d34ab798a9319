/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What this kernel can do, found by doing it once on a page or two of the calling process.
 *
 * Bits of UFFDIO_API are believed for what they name. A feature without a bit of its own is tried
 * (CONTINUE with write protection came with 6.4 but shares MINOR_SHMEM's).
 *
 * @device_fd: /dev/userfaultfd, lent, or -1: then userfaultfd(2) for faults of user mode tells as
 *             much, since that needs no privilege
 * @features:  those to be tried with, of trial_features()
 */
#ifndef COW_BACKENDS_TRIAL_H
#define COW_BACKENDS_TRIAL_H

#include <stdbool.h>
#include <stdint.h>

/** trial_features() - all bits of UFFDIO_API; 0 where no userfaultfd can be had */
uint64_t trial_features(int device_fd);

/** trial_protect() - can shared memory be write-protected (Linux >= 5.19)? */
bool trial_protect(int device_fd, uint64_t features);

/**
 * trial_catch() - is a write to protected shared memory reported and let go, as it has to be?
 *
 * Makes a thread that writes; takes a second at most where nothing is reported.
 */
bool trial_catch(int device_fd, uint64_t features);

/** trial_continue() - can a page be mapped protected as it is touched (Linux >= 6.4)? */
bool trial_continue(int device_fd, uint64_t features);

/** trial_move() - can page tables of shared memory be moved aside (Linux >= 5.13)? */
bool trial_move(void);

/** trial_scan() - does PAGEMAP_SCAN (Linux >= 6.7) find pages? */
bool trial_scan(void);

#endif
