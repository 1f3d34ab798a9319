/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A backing is a memfd that holds the memory of a region, or of pages that a snapshot has apart.
 *
 * cowd makes it, so it knows what it is: seals keep its size as it is (F_SEAL_SHRINK, F_SEAL_GROW,
 * F_SEAL_SEAL), so that no read of it can meet an end that moved. The seals say nothing about its
 * content: whoever has the writable descriptor can change every byte, behind write protection too.
 * That is the client's own memory; others get the second descriptor, which can only be read, and
 * cannot be opened again for writing by anyone but the owner of the inode and root.
 */
#ifndef COWD_BACKING_H
#define COWD_BACKING_H

#include <assert.h>
#include <stdbool.h>
#include <sys/types.h>

#include "daemon/base/hash.h"
#include "daemon/base/quota.h"

struct daemon;
struct session;

/* Which file memory is. Padding is part of a key: it has none. */
struct memory_key {
	dev_t dev;
	ino_t ino;
};
static_assert(sizeof(struct memory_key) == sizeof(dev_t) + sizeof(ino_t), "no padding");

struct snapshot_extent;

/**
 * struct memory - a file that one or more backings are of: a client hands its memory over again on
 *                 each of its connections
 * @uses: one extent of each snapshot that has any of it, by backing_use(); a list of utlist.h
 */
struct memory {
	struct memory_key key;
	unsigned int n_backings;
	struct snapshot_extent *uses;
	UT_hash_handle hh; /* in daemon->memories */
};

/**
 * struct backing
 * @n_refs:  its region, its session's interest, and every snapshot made of it; loop thread only
 * @fd:      for reading and writing
 * @ro_fd:   the same memory, for reading only
 * @session: whose interest keeps it, by BackingCreate; NULL for a region's own or once released
 */
struct backing {
	unsigned int n_refs;
	struct daemon *daemon;
	struct session *session;
	uint64_t id;
	uint64_t owner_id; /* id of the session that made it; stays when the session has gone */
	uint64_t size_bytes;
	int fd;
	int ro_fd;
	struct memory *memory; /* which file it is; a reference */
	struct charge bytes_charge;
	struct charge fds_charge;
	struct backing *prev; /* in session->backings, a list of utlist.h */
	struct backing *next;
	UT_hash_handle hh; /* in daemon->backings */
};

/** backing_new() - a fresh one, all zeroes, charged to @session's uid. 0 or -errno */
int backing_new(struct backing **out, struct session *session, uint64_t size_bytes);

/**
 * backing_new_from() - one that an earlier cowd made
 * @fd: gives, on success
 *
 * Checked to be on tmpfs, sealed in size and as large as @size_bytes. 0 or -errno.
 */
int backing_new_from(struct backing **out, struct session *session, uint64_t size_bytes, int *fd);

struct backing *backing_ref(struct backing *backing);
struct backing *backing_unref(struct backing *backing);
DEFINE_CLEANUP(backing_unref, struct backing *)

/** backing_find_memory() - lent, or NULL: cowd has no backing of that file. Loop thread */
struct memory *backing_find_memory(struct daemon *daemon, dev_t dev, ino_t ino);

/** backing_find() - one that @session made, or NULL with a sentence; lent */
struct backing *backing_find(struct session *session, uint64_t id);

/** backing_read() - all of @len bytes from @off on, which are inside. 0 or -errno */
int backing_read(const struct backing *backing, void *buf, size_t len, uint64_t off);

/**
 * backing_find_resident() - the first bytes of [@off, @end) that are in memory
 * @off: gets where they begin; whole pages
 * @len: gets how many, at least a page
 *
 * What is swapped out is passed over, and for a moment what khugepaged has in its hands (before
 * Linux 6.4). So it is for mapping ahead alone, where a page left out is a fault more. Other than
 * SEEK_DATA it does not wait for the lock of the file, which a client may hold for ever. At most
 * BACKING_LOOK_BYTES at a time. Return: whether there are any.
 */
bool backing_find_resident(const struct backing *backing, uint64_t *off, uint64_t *len,
			   uint64_t end);
#define BACKING_LOOK_BYTES ((uint64_t)4 << 20)

/** backing_used_bytes() - memory that it takes now, for people: huge pages make it more than is
 * used */
uint64_t backing_used_bytes(const struct backing *backing);

/** backing_drop_all() - the session's own interest in every backing ends */
void backing_drop_all(struct session *session);

#endif
