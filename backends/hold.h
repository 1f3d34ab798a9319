/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Make every thread wait that touches a range, and have its pages to oneself meanwhile.
 *
 * The range is registered for missing and minor faults with a userfaultfd of this process, then its
 * page tables are moved aside with mremap(MREMAP_DONTUNMAP). The range is empty now, so a thread
 * that touches it faults, and waits: nobody reads the userfaultfd, it serves for UFFDIO_WAKE only.
 * The pages lie aside as they were at one instant, at an address that nobody else knows. That
 * instant is one for the whole range even if it takes several mremap() calls: a thread that writes
 * to a part already moved aside waits until the end, so nothing that happens after that write can
 * come before the end.
 *
 * The alternative, write protection, lets readers go on, but walks every page table entry, 17-40 ms
 * per GiB. This takes 3 ms (Linux >= 6.13 moves entries one by one if the range is registered) or
 * less than 0.1. Write protection also leaves markers in page tables that /proc/self/pagemap cannot
 * tell from swapped pages. Threads wait half as long here, readers too.
 *
 * A userfaultfd that serves user-mode faults only will not do: a system call that touches the range
 * would fail with EFAULT instead of waiting.
 *
 * No code of the program may run on the thread that keeps others out, not even glibc's handler for
 * setuid(): its stack may lie in the range. So between hold_signals_block() and
 * hold_signals_restore() the kernel delivers no signal but SIGSYS, which seccomp(2) makes of a
 * system call of this very thread, and the thread waits for nothing but the kernel: it takes no
 * lock and calls no malloc(), because another thread may be in malloc() and wait with its stack in
 * the range.
 *
 * A caller that knows that no other thread runs needs no userfaultfd: @uffd may be -1 in all calls
 * but hold_init(), and then no thread is made to wait.
 *
 * Linux >= 5.14 (minor faults of shmem).
 */
#ifndef COW_BACKENDS_HOLD_H
#define COW_BACKENDS_HOLD_H

#include "backends/pagemap.h"
#include "common/util.h"

/** hold_signals_block() - before others are kept out. Return: for hold_signals_restore() */
uint64_t hold_signals_block(void);
void hold_signals_restore(uint64_t saved);

/** hold_init() - make a fresh @uffd fit for the calls below. 0 or -errno */
int hold_init(int uffd);

/**
 * hold_begin() - from now on a thread that touches an absent page of the range waits
 * @is_anonymous: the range is private anonymous memory, not a mapping of a memfd
 *
 * Return: 0 or -errno with a sentence, and then nobody waits.
 */
int hold_begin(int uffd, char *addr, uint64_t len, bool is_anonymous);

/**
 * hold_take() - move the pages of a part of a held range aside
 * @side: reserved address space, @len bytes, lying like @addr within 2 MiB, or 1 GiB if large
 *
 * Return: 0; -errno with a sentence, and then the part is as it was.
 */
int hold_take(int uffd, const struct pagemap *pagemap, char *addr, uint64_t len, char *side);

/**
 * hold_give_back() - move them back; the part of the range is mapped as before
 *
 * Cannot fail: if the kernel cannot move the mapping (vm.max_map_count), the call copies private
 * pages into the mapping that is still there. @side stays mapped, for space_clear().
 */
void hold_give_back(int uffd, const struct pagemap *pagemap, char *addr, uint64_t len, char *side);

/** hold_end() - let everybody go on; for a part of the held range too */
void hold_end(int uffd, char *addr, uint64_t len);

#endif
