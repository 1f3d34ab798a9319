/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Address space that nothing is mapped in yet: where page tables are moved aside to.
 *
 * Moving page tables costs tens of microseconds at any size where source and destination lie alike
 * within 1 GiB (whole PUD entries move) or 2 MiB (PMD entries), so reservations are aligned as
 * regions are.
 *
 * Huge pages are left to the system's setting for shared memory
 * (/sys/kernel/mm/transparent_hugepage/shmem_enabled): a program that wants them can say so itself
 * by madvise(2) on the region.
 */
#ifndef COW_BACKENDS_SPACE_H
#define COW_BACKENDS_SPACE_H

#include "backends/pagemap.h"

/** space_reserve() - @len bytes that cannot be touched, aligned to 1 GiB or 2 MiB if that large.
 * 0 or -errno with a sentence */
int space_reserve(char **addr, uint64_t len);
/** space_release() - give a reservation back, whatever was mapped there since */
void space_release(char *addr, uint64_t len);
/**
 * space_reserve_at() - reserve a range against other mappings, if it has none
 *
 * For use after a failed move, which may have left a gap, and in a fork child for the addresses of
 * its parent's memory.
 * Return: 0, or -EEXIST if there is a mapping in part of it, which stays as it is.
 */
int space_reserve_at(char *addr, uint64_t len);
/** space_clear() - make it a bare reservation again at once. 0 or -errno */
int space_clear(char *addr, uint64_t len);

/**
 * space_map() - mmap(2) with MAP_FIXED over memory that other threads are using
 *
 * The bare system call: to the thread sanitizer the function of the C library is a write to the
 * whole range, and it would report every access of another thread. Return: 0, or -1 with errno set.
 */
int space_map(char *addr, uint64_t len, int prot, int flags, int fd, uint64_t off);

/** space_is_one_mapping() - whether all of a range is one mapping to the kernel */
bool space_is_one_mapping(char *addr, uint64_t len);

/**
 * space_move() - move a mapping with its page tables, and leave the same mapping empty in its place
 * @to: its old mapping goes
 *
 * mremap(2) gives @to up before it finds that it cannot move several mappings at once (before 6.17)
 * or moves some and not others (since). So that is asked first: a request to grow in place, by more
 * than there is room for, changes nothing and is refused for that reason only if there is no other.
 *
 * Return: 0; -1: errno is EFAULT if @from is several mappings, and then nothing was changed.
 */
int space_move(char *from, uint64_t len, char *to);

/**
 * space_populate() - fill the page tables of a mapping of a memfd, for reading
 *
 * @is_there: for each of @n_pages, whether it is in memory: touching a hole would allocate it
 *
 * One page of 16 is asked for: the kernel maps those around it with it, whereas all of a range
 * would be looked up one by one. Best effort; Linux >= 5.14.
 */
void space_populate(char *addr, size_t n_pages, const unsigned char *is_there);

/**
 * space_populate_known() - the same if all pages are known to be in memory
 * Return: the end of the filled page tables, which may be beyond the range.
 */
uint64_t space_populate_known(char *addr, uint64_t len);

/**
 * space_drop() - forget the pages of a range
 *
 * Works for locked pages too, for which the kernel refuses MADV_DONTNEED with EINVAL. The lock
 * stays, and holds for the next pages there. Return: 0 or -errno without a sentence.
 */
int space_drop(char *addr, uint64_t len);

/**
 * space_drop_runs() - forget the pages of each of @runs
 *
 * space_drop() by process_madvise(2), which a process may do to itself since Linux 6.13: other
 * CPUs are interrupted once for many ranges. Return: 0; -1 if it could not, and some may be
 * forgotten.
 */
int space_drop_runs(const struct page_run *runs, size_t n_runs);

/**
 * space_drop_step() - forget part of the pages mapped at @addr
 * @done: bytes dropped so far; advanced
 *
 * Page tables of a large mapping take long to drop (about 40 ms per GiB); in steps, and by
 * MADV_DONTNEED, which does not keep other threads from faulting or mapping.
 * Return: whether there is more to do.
 */
bool space_drop_step(char *addr, uint64_t len, uint64_t *done);

#endif
