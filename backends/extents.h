/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extent maps: the backing of a range of memory, as runs of (range -> memfd, offset, owned or
 * frozen).
 *
 * scoot and mmapcopy share this one description. A region's map has the mappings that the region
 * has now; a snapshot is a map too, all of it frozen.
 *
 *   owned    mapped MAP_SHARED: a write goes to the backing. Nobody else may refer to those bytes.
 *   frozen   mapped MAP_PRIVATE: a write makes a private page, the backing's bytes never change.
 *            Any number of maps may refer to them.
 *
 * Bytes of a backing may be changed again once one map alone refers to them. There is no count to
 * be kept right for that: every map is in one list, and extents_is_shared() looks. Maps have few
 * runs (adjacent ones merge), and the question is asked once for each run to be settled, never in a
 * fault.
 *
 * Locks: one mutex of the process guards the list and the runs of every map, so that
 * extents_is_shared() can look at a map while its owner changes it. A thread that changes a map
 * holds the region's lock, which keeps others from changing the same map. It may then read its own
 * map without the mutex.
 */
#ifndef COW_BACKENDS_EXTENTS_H
#define COW_BACKENDS_EXTENTS_H

#include <stdatomic.h>

#include "common/util.h"

/**
 * struct memfile - a memfd that holds pages
 * @fd:    for reading and writing, or -1: opened by somebody else, only for reading
 * @ro_fd: only for reading, or -1
 * @id:    what cowd calls it; 0 while cowd does not know it; for the owner of the map to use
 */
struct memfile {
	_Atomic int n_refs;
	int fd;
	int ro_fd;
	_Atomic uint64_t id;
	uint64_t size_bytes;
};

/**
 * memfile_new() - takes both descriptors, of which one may be -1, and notes them (common/own-fd.h)
 *
 * Return: 0 or -ENOMEM.
 */
int memfile_new(struct memfile **out, int *fd, int *ro_fd, uint64_t size_bytes);
struct memfile *memfile_ref(struct memfile *backing);
struct memfile *memfile_unref(struct memfile *backing);
DEFINE_CLEANUP(memfile_unref, struct memfile *)
/**
 * memfile_read_fd() - a descriptor to read or map @backing by, lent; the read-only one if there is
 * one
 *
 * -1, with errno EBADF, if the program has closed it.
 */
int memfile_read_fd(const struct memfile *backing);
/** memfile_check() - whether the program has left it its descriptors. 0; -EBADF with a sentence */
int memfile_check(const struct memfile *backing);
/** memfile_write() - all of @len bytes of @buf to @off, after memfile_check(). 0 or -errno */
int memfile_write(const struct memfile *backing, const void *buf, size_t len, uint64_t off);
/** memfile_is_past_limit() - whether write(2) up to @end would end the program with SIGXFSZ */
bool memfile_is_past_limit(uint64_t end);
/** memfile_write_within() - memfile_write(), after memfile_is_past_limit() has returned false */
int memfile_write_within(const struct memfile *backing, const void *buf, size_t len, uint64_t off);
/** memfile_read() - all of @len bytes from @off into @buf. 0 or -errno */
int memfile_read(const struct memfile *backing, void *buf, size_t len, uint64_t off);

struct extent {
	uint64_t off; /* bytes from the start of the map */
	uint64_t len;
	struct memfile *backing; /* a reference */
	uint64_t backing_off;
	bool owned;
};

/**
 * struct extents - a map; embedded in its owner
 * @runs: in order, without gaps, from 0 to @size_bytes; neighbours that could be one are one
 */
struct extents {
	struct extent *runs;
	size_t n_runs;
	size_t n_alloc;
	uint64_t size_bytes;
	struct extents *prev;
	struct extents *next;
	bool is_linked;
};

/** extents_init() - all of @size_bytes is @backing from 0 on. 0 or -ENOMEM */
int extents_init(struct extents *map, struct memfile *backing, uint64_t size_bytes, bool owned);
/** extents_init_frozen() - a frozen copy of [@off, @off + @len) of @from. 0 or -ENOMEM */
int extents_init_frozen(struct extents *map, const struct extents *from, uint64_t off,
			uint64_t len);
/** extents_move() - @to, not initialised, becomes what @from was; @from is as if deinited */
void extents_move(struct extents *to, struct extents *from);
/** extents_deinit() - idempotent, and right for a zeroed map */
void extents_deinit(struct extents *map);

/** extents_reserve() - make sure that the next @n_sets calls of extents_set() find memory. 0,
 * -ENOMEM */
int extents_reserve(struct extents *map, size_t n_sets);
/** extents_set() - [@off, @off + @len) is now @backing from @backing_off on; after
 * extents_reserve() */
void extents_set(struct extents *map, uint64_t off, uint64_t len, struct memfile *backing,
		 uint64_t backing_off, bool owned);

/** extents_find() - index of the run that holds @off, which is inside the map */
size_t extents_find(const struct extents *map, uint64_t off);
/** extents_is_owned() - whether one owned run is all there is */
bool extents_is_owned(const struct extents *map);

/**
 * extents_is_shared() - whether anything but one run of @except refers to those bytes of @backing
 * @except: the map whose run they are; NULL: whether anything refers to them
 *
 * Only the owner of an unshared run can make it shared, so a `false` stays true while the lock of
 * @except's region is held.
 */
bool extents_is_shared(const struct memfile *backing, uint64_t backing_off, uint64_t len,
		       const struct extents *except);

/**
 * extents_next_unused() - bytes of @backing, from *@off on, that no map refers to
 * @off: set to their offset
 * @len: set to their number, up to @backing's size
 *
 * Return: whether there are any.
 */
bool extents_next_unused(const struct memfile *backing, uint64_t *off, uint64_t *len);

/** extents_fork_prepare() - hold the mutex over a fork; no other
 * function here may be called then */
void extents_fork_prepare(void);
/** extents_fork_done() - in parent and child */
void extents_fork_done(void);

#endif
