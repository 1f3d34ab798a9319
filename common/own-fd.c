// SPDX-License-Identifier: LGPL-2.1-or-later
/* A table of notes by descriptor number; own-fd.h says what for. */
#include "config.h"

#include "common/own-fd.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/err.h"
#include "common/util.h"

/* Numbers up to a million are noted: fs.nr_open allows no more by default. */
#define LEAF_BITS 10
#define LEAF_SIZE (1 << LEAF_BITS)
#define N_LEAVES  1024

/* An identity: the file's, which is never 0, and above it the kind's, or 0; 0: not noted. */
struct leaf {
	_Atomic uint64_t notes[LEAF_SIZE];
};

static _Atomic(struct leaf *) leaves[N_LEAVES];

static uint64_t mix(uint64_t sum, uint64_t value)
{
	/* FNV-1a's prime over whole words */
	return (sum ^ value) * 0x100000001b3ULL;
}

static uint32_t fold(uint64_t sum)
{
	uint32_t id = (uint32_t)(sum ^ sum >> 32);

	return id ? id : 1;
}

/*
 * Return: an identity, the same for two anonymous inodes of one kind; 0: there is no such
 * descriptor. The kind is 0 for a file without one, and if the process cannot see /proc
 * (chroot(2)).
 */
static uint64_t identify(int fd)
{
	char path[64], text[64];
	uint64_t id, kind = 0;
	struct statx st;
	ssize_t n;

	/* Not fstat(): to the thread sanitizer that is a use of a number that may be the
	 * program's by now, and so a race with the call that made it. */
	if (statx(fd, "", AT_EMPTY_PATH, STATX_TYPE | STATX_INO, &st))
		return 0;
	id = mix(mix(0xcbf29ce484222325ULL, (uint64_t)st.stx_dev_major << 32 | st.stx_dev_minor),
		 st.stx_ino);
	if (!(st.stx_mode & S_IFMT)) { /* an anonymous inode has no type */
		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, text, sizeof(text));
		for (ssize_t i = 0; i < n; i++)
			kind = mix(kind, (unsigned char)text[i]);
		kind = n > 0 ? fold(kind) : 0;
	}
	return kind << 32 | fold(id);
}

/* A kind that cannot be seen now, or could not be when it was noted, is no difference. */
static bool is_same(uint64_t noted, uint64_t found)
{
	return (uint32_t)noted == (uint32_t)found &&
	       (noted >> 32 == found >> 32 || !(noted >> 32) || !(found >> 32));
}

/* NULL: none is there, and if it @is_wanted there is no memory
 * for it or the number is too large. */
static _Atomic uint64_t *find_note(int fd, bool is_wanted)
{
	struct leaf *leaf, *none = NULL;

	if (fd < 0 || fd >> LEAF_BITS >= N_LEAVES)
		return NULL;
	leaf = atomic_load(&leaves[fd >> LEAF_BITS]);
	if (!leaf && is_wanted) {
		leaf = mmap(NULL, sizeof(*leaf), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (leaf == MAP_FAILED)
			return NULL;
		if (!atomic_compare_exchange_strong(&leaves[fd >> LEAF_BITS], &none, leaf)) {
			(void)munmap(leaf, sizeof(*leaf));
			leaf = none;
		}
	}
	return leaf ? &leaf->notes[fd & (LEAF_SIZE - 1)] : NULL;
}

int own_fd_note(int fd)
{
	const int saved_errno = errno;
	_Atomic uint64_t *note = find_note(fd, true);

	if (note)
		atomic_store(note, identify(fd));
	errno = saved_errno;
	return fd;
}

bool own_fd_is(int fd)
{
	const int saved_errno = errno;
	_Atomic uint64_t *note = find_note(fd, false);
	uint64_t id = note ? atomic_load(note) : 0;
	bool is_own = !id || is_same(id, identify(fd));

	errno = saved_errno;
	return is_own;
}

int own_fd_raise(void)
{
	return err_raise(
		-EBADF,
		"this program has closed descriptors that belong to libcowclient, with "
		"closefrom(3) perhaps: its regions are memory, but cannot be frozen any more");
}

int own_fd_close(int fd)
{
	_Atomic uint64_t *note = find_note(fd, false);
	bool is_own = own_fd_is(fd);

	/* Forgotten before it is closed: from then on the number may be another thread's. */
	if (note)
		atomic_store(note, 0);
	return is_own ? fd_close(fd) : -1;
}

int own_fd_forget(int fd)
{
	_Atomic uint64_t *note = find_note(fd, false);

	if (note)
		atomic_store(note, 0);
	return -1;
}
