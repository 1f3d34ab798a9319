/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which pages of a private file mapping are private: those written since it was mapped.
 *
 * Such a page is anonymous memory: present or swapped, and not of the file. The kernel's zero page
 * is one too: a read never maps it into a mapping of a file, KSM does (use_zero_pages in
 * Documentation/admin-guide/mm/ksm.rst), in place of a page that the program had cleared. Two ways
 * to ask, with the same answer: the PAGEMAP_SCAN ioctl (since 6.7), which skips empty page tables
 * and gives runs, and reading 8 bytes a page from /proc/self/pagemap, which any process may do for
 * itself (bits 61 to 63 are not hidden from it; proc_pid_pagemap(5)).
 */
#ifndef COW_BACKENDS_PAGEMAP_H
#define COW_BACKENDS_PAGEMAP_H

#include "common/util.h"

/**
 * struct pagemap
 * @fd:       /proc/self/pagemap, lent: the process has one, which stays open
 * @has_scan: PAGEMAP_SCAN works; may be set to false to have the other way tried
 */
struct pagemap {
	int fd;
	bool has_scan;
};

struct page_run {
	uint64_t addr;
	uint64_t len;
};

/**
 * pagemap_init() - open this process's pagemap, if it is not open yet, and find out what the kernel
 * can
 *
 * The kernel lets a process open it only while it is dumpable, which ends with setuid(2): a program
 * that gives up its privileges opens it before, by making its client. A fork child opens its own.
 * No lock, no malloc().
 *
 * Return: 0; -errno with a sentence.
 */
int pagemap_init(struct pagemap *pagemap);

/** pagemap_check() - whether the program has left it open. 0; -EBADF with a sentence */
int pagemap_check(const struct pagemap *pagemap);

/**
 * pagemap_private() - find runs of private pages
 * @at:     first address to look at; advanced to where the search ended, so that it can go on
 * @end:    where to end; both page aligned
 * @runs:   gets them, in order, neighbours merged
 * @max:    at most that many, at least 2
 * @n_runs: how many were found
 *
 * Return: 0 or -errno.
 */
int pagemap_private(const struct pagemap *pagemap, uint64_t *at, uint64_t end,
		    struct page_run *runs, size_t max, size_t *n_runs);

/**
 * pagemap_not_zero() - the same for anonymous memory
 *
 * There a read of a page that was never written maps the zero page. PAGEMAP_SCAN leaves such pages
 * out; the other way finds them, and the caller copies zeroes.
 */
int pagemap_not_zero(const struct pagemap *pagemap, uint64_t *at, uint64_t end,
		     struct page_run *runs, size_t max, size_t *n_runs);

/**
 * pagemap_present() - for each of @n_pages from @addr on: whether a page is mapped there
 * @is_there: gets 1 or 0
 *
 * mincore(2) would tell which pages of the file are in memory, but only a user who may write to the
 * file: for others it reports all pages (since 5.2). cowd's user owns a memfd of cowd's, whichever
 * process has descriptors of it. Return: 0 or -errno.
 */
int pagemap_present(const struct pagemap *pagemap, const char *addr, size_t n_pages,
		    unsigned char *is_there);

#endif
