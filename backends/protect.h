/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Access that the program took away from parts of a region, or gave, with mprotect(2).
 *
 * Protection belongs to the mapping, and a take, settling and rolling back exchange the mapping. So
 * they give the new mapping the protections of the old one, part by part, before any thread can
 * touch it. To copy pages that the program may not touch (guard pages of a heap are ordinary), they
 * copy them aside, after giving access to that mapping, which nobody else knows.
 *
 * PROCMAP_QUERY (since 6.11), by a descriptor that the process keeps, tells the protections: one
 * call if a range is one mapping. Without it they are read from /proc/self/maps. If neither works
 * (the process is not dumpable any more) parts count as readable and writable, as regions are made.
 *
 * If another thread calls mprotect() between the query and the exchange of the mapping, two system
 * calls later, the exchange undoes it.
 *
 * Nothing here allocates memory.
 */
#ifndef COW_BACKENDS_PROTECT_H
#define COW_BACKENDS_PROTECT_H

#include "common/util.h"

/** protect_prepare() - find out what the kernel can, and open it while the process may:
 * own-proc.h */
void protect_prepare(void);
/** protect_is_plain() - whether all of a range is for reading and writing, and nothing else */
bool protect_is_plain(const char *addr, uint64_t len);
/**
 * protect_is_plain_or_whole() - the same in less time before 6.11, where another protection of all
 * of the range goes unnoticed, but not one of a part
 */
bool protect_is_plain_or_whole(const char *addr, uint64_t len);
/** protect_allows() - whether a range may be accessed in all the ways that @prot says */
bool protect_allows(const char *addr, uint64_t len, int prot);

/* Some of the pages could not be read before. */
#define PROTECT_E_SHOWN 1

/** protect_show() - let pages that lie aside be read. 0; PROTECT_E_SHOWN; -errno with a sentence */
int protect_show(char *aside, uint64_t len);
/** protect_copy() - give pages that lie aside the protection of @like: they go back there */
void protect_copy(const char *like, char *aside, uint64_t len);

/**
 * protect_map() - space_map() for a range whose protections stay
 * @done: how many bytes from the start are mapped, also after an error
 *
 * Return: 0; -errno with a sentence.
 */
int protect_map(char *addr, uint64_t len, int flags, int fd, uint64_t off, uint64_t *done);
/**
 * protect_move() - space_move() of a mapping for reading and writing to a range whose protections
 * stay
 * @done: how many bytes from the start were moved, also after an error
 *
 * Return: 0; -errno with a sentence.
 */
int protect_move(char *from, uint64_t len, char *to, uint64_t *done);

/**
 * protect_fill() - write to memory in place, whatever its protection
 * @fill: writes @len bytes to @addr, which is @off behind the start. 0 or -errno with a sentence
 *
 * The call makes parts that are not writable writable while it runs. Return: 0 or -errno.
 */
int protect_fill(char *addr, uint64_t len,
		 int (*fill)(void *arg, char *addr, uint64_t off, uint64_t len), void *arg);

/** protect_by_reading() - have the way of kernels before 6.11 tried, or not any more */
void protect_by_reading(bool is_set);

#endif
