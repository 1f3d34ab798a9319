// SPDX-License-Identifier: GPL-2.0-or-later
/* Memfds that hold clients' memory; contracts and what the seals are worth are in backing.h. */
#include "config.h"

#include "daemon/region/backing.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <utlist.h>

#include "common/err.h"
#include "daemon/base/closer.h"
#include "daemon/daemon.h"
#include "daemon/session.h"

#define BACKING_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* A memfd with the right size and seals. */
static int make_memfd(int *fd, uint64_t size_bytes)
{
	AUTO_FD int memfd = -1;

	memfd = memfd_create("cowd-region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (memfd < 0)
		return err_raise_errno("cannot make a memfd for a region");
	if (ftruncate(memfd, (off_t)size_bytes) < 0)
		return err_raise_errno("cannot make a memfd of %llu bytes",
				       (unsigned long long)size_bytes);
	if (fcntl(memfd, F_ADD_SEALS, BACKING_SEALS) < 0)
		return err_raise_errno("cannot seal the size of a memfd");
	/* Anybody who has a descriptor could open it anew for writing: a memfd's mode is 0777. */
	if (fchmod(memfd, S_IRUSR | S_IWUSR) < 0)
		return err_raise_errno("cannot set the mode of a memfd");
	*fd = fd_steal(&memfd);
	return 0;
}

/*
 * A second file description of the same memory that never was writable. Reading through it notes no
 * time of access, which is a tenth of what reading a page takes, where the file is cowd's own.
 */
static int open_read_only(int *ro_fd, const struct daemon *daemon, int fd)
{
	char name[16];
	int ro;

	(void)snprintf(name, sizeof(name), "%d", fd);
	ro = openat(daemon->proc_self_fd_fd, name, O_RDONLY | O_CLOEXEC | O_NOATIME);
	if (ro < 0 && errno == EPERM)
		ro = openat(daemon->proc_self_fd_fd, name, O_RDONLY | O_CLOEXEC);
	if (ro < 0)
		return err_raise_errno("cannot open a memfd for reading only");
	*ro_fd = ro;
	return 0;
}

static int check_foreign(int fd, uint64_t size_bytes)
{
	struct statfs fs;
	struct stat st;
	int seals;

	/* First, as what else is asked of a file could wait for
	 * whoever serves it, and all with us. */
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0)
		return err_raise(-EINVAL, "the descriptor of a region's memory is no memfd");
	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
		return err_raise_errno("cannot look at the descriptor of a region's memory");
	if (!S_ISREG(st.st_mode) || fs.f_type != TMPFS_MAGIC)
		return err_raise(-EINVAL, "the descriptor of a region's memory is no memfd");
	if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
		return err_raise(-EINVAL, "the size of a region's memory is not sealed");
	if (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
		return err_raise(-EINVAL, "a region's memory is sealed against writing");
	if ((uint64_t)st.st_size != size_bytes)
		return err_raise(-EINVAL, "a region's memory has %lld bytes, not %llu",
				 (long long)st.st_size, (unsigned long long)size_bytes);
	if ((fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR)
		return err_raise(-EBADF, "a region's memory is not open for reading and writing");
	return 0;
}

static int check_size(uint64_t size_bytes)
{
	if (!size_bytes || size_bytes % page_size_bytes() || size_bytes > INT64_MAX / 2)
		return err_raise(-EINVAL,
				 "%llu bytes are no size for a region: it has to be a "
				 "multiple of %zu",
				 (unsigned long long)size_bytes, page_size_bytes());
	return 0;
}

static int charge(struct backing *backing, struct quota_user *user)
{
	int r;

	r = quota_charge(&backing->fds_charge, user, QUOTA_FDS, 2);
	if (!r)
		r = quota_charge(&backing->bytes_charge, user, QUOTA_REGION_BYTES,
				 backing->size_bytes);
	return quota_error(r);
}

static int memory_ref(struct memory **out, struct daemon *daemon, const struct stat *st)
{
	const struct memory_key key = {.dev = st->st_dev, .ino = st->st_ino};
	struct memory *memory = backing_find_memory(daemon, key.dev, key.ino);
	int r;

	if (!memory) {
		memory = calloc(1, sizeof(*memory));
		if (!memory)
			return err_oom(sizeof(*memory), "a region");
		memory->key = key;
		HASH_ADD(hh, daemon->memories, key, sizeof(memory->key), memory);
		r = hash_check(&memory->hh, "a region");
		if (r) {
			free(memory);
			return r;
		}
	}
	memory->n_backings++;
	*out = memory;
	return 0;
}

static void memory_unref(struct daemon *daemon, struct memory *memory)
{
	if (!memory || --memory->n_backings)
		return;
	HASH_DEL(daemon->memories, memory);
	free(memory);
}

struct memory *backing_find_memory(struct daemon *daemon, dev_t dev, ino_t ino)
{
	const struct memory_key key = {.dev = dev, .ino = ino};
	struct memory *memory;

	HASH_FIND(hh, daemon->memories, &key, sizeof(key), memory);
	return memory;
}

/* @fd: -1 to have one made, else given on success */
static int backing_make(struct backing **out, struct session *session, uint64_t size_bytes, int *fd)
{
	CLEANUP(backing_unrefp) struct backing *backing = NULL;
	struct daemon *daemon = session->daemon;
	struct stat st;
	int r;

	backing = malloc(sizeof(*backing));
	if (!backing)
		return err_oom(sizeof(*backing), "a region");
	*backing = (struct backing){.n_refs = 1, .daemon = daemon, .fd = -1, .ro_fd = -1};
	backing->size_bytes = size_bytes;
	backing->owner_id = session->id;

	r = charge(backing, session->user);
	if (r)
		return r;
	if (*fd < 0) {
		r = make_memfd(&backing->fd, size_bytes);
		if (r)
			return r;
	}
	r = open_read_only(&backing->ro_fd, daemon, *fd < 0 ? backing->fd : *fd);
	if (r)
		return r;
	if (fstat(backing->ro_fd, &st) < 0)
		return err_raise_errno("cannot look at a memfd");
	r = memory_ref(&backing->memory, daemon, &st);
	if (r)
		return r;
	backing->id = daemon_new_id(daemon);
	HASH_ADD(hh, daemon->backings, id, sizeof(backing->id), backing);
	r = hash_check(&backing->hh, "a region");
	if (r) {
		backing->id = 0;
		return r;
	}
	if (*fd >= 0)
		backing->fd = fd_steal(fd);
	*out = steal_ptr(&backing);
	return 0;
}

int backing_new(struct backing **out, struct session *session, uint64_t size_bytes)
{
	int fd = -1;
	int r = check_size(size_bytes);

	return r ? r : backing_make(out, session, size_bytes, &fd);
}

int backing_new_from(struct backing **out, struct session *session, uint64_t size_bytes, int *fd)
{
	int r;

	r = check_size(size_bytes);
	if (!r)
		r = check_foreign(*fd, size_bytes);
	return r ? r : backing_make(out, session, size_bytes, fd);
}

struct backing *backing_ref(struct backing *backing)
{
	backing->n_refs++;
	return backing;
}

/* Of a client that has ended they are the last descriptors, with which the pages go. */
static void close_memory(struct backing *backing)
{
	int fds[] = {backing->ro_fd, backing->fd};
	struct charge charges[] = {backing->bytes_charge, backing->fds_charge};
	/* One that could not be made may have nothing of either. */
	bool is_made = backing->id;

	closer_give(is_made ? backing->daemon->closer : NULL, charges[1].user, fds, ARRAY_SIZE(fds),
		    charges, ARRAY_SIZE(charges));
}

struct backing *backing_unref(struct backing *backing)
{
	if (!backing || --backing->n_refs)
		return NULL;
	if (backing->id)
		HASH_DEL(backing->daemon->backings, backing);
	memory_unref(backing->daemon, backing->memory);
	close_memory(backing);
	free(backing);
	return NULL;
}

struct backing *backing_find(struct session *session, uint64_t id)
{
	struct backing *backing;

	HASH_FIND(hh, session->daemon->backings, &id, sizeof(id), backing);
	if (backing && backing->owner_id == session->id)
		return backing;
	(void)err_raise(-ENOENT, "there is no backing %llu of this client", (unsigned long long)id);
	return NULL;
}

uint64_t backing_used_bytes(const struct backing *backing)
{
	struct stat st;

	return fstat(backing->fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

int backing_read(const struct backing *backing, void *buf, size_t len, uint64_t off)
{
	size_t n_done = 0;

	while (n_done < len) {
		ssize_t n = pread(backing->ro_fd, (char *)buf + n_done, len - n_done,
				  (off_t)(off + n_done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? err_raise_errno("cannot read a region's memory")
				 : err_raise(-EIO, "a region's memory has become shorter");
		n_done += (size_t)n;
	}
	return 0;
}

/* By a mapping that nobody touches. */
bool backing_find_resident(const struct backing *backing, uint64_t *off, uint64_t *len,
			   uint64_t end)
{
	unsigned char is_there[BACKING_LOOK_BYTES >> 12];
	const size_t page = page_size_bytes();
	const uint64_t n_bytes = min_u64(end - *off, BACKING_LOOK_BYTES);
	size_t first = 0, n = n_bytes / page, last;
	void *map = mmap(NULL, n_bytes, PROT_READ, MAP_SHARED, backing->ro_fd, (off_t)*off);

	if (map == MAP_FAILED)
		return false;
	if (mincore(map, n_bytes, is_there))
		n = 0;
	(void)munmap(map, n_bytes);
	while (first < n && !(is_there[first] & 1))
		first++;
	for (last = first; last < n && is_there[last] & 1;)
		last++;
	*off += first * page;
	*len = (last - first) * page;
	return first < n;
}

void backing_drop_all(struct session *session)
{
	while (session->backings) {
		struct backing *backing = session->backings;

		DL_DELETE(session->backings, backing);
		backing->session = NULL;
		backing_unref(backing);
	}
}
