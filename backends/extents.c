// SPDX-License-Identifier: LGPL-2.1-or-later
// Runs of backing memory; see extents.h.
#include "config.h"

#include "backends/extents.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "common/err.h"
#include "common/own-fd.h"

static pthread_mutex_t maps_lock = PTHREAD_MUTEX_INITIALIZER;
static struct extents *maps;

int memfile_new(struct memfile **out, int *fd, int *ro_fd, uint64_t size_bytes)
{
	struct memfile *backing = malloc(sizeof(*backing));

	if (!backing)
		return err_oom(sizeof(*backing), "a backing");
	*backing = (struct memfile){
		.n_refs = 1,
		.fd = own_fd_note(fd_steal(fd)),
		.ro_fd = own_fd_note(fd_steal(ro_fd)),
		.size_bytes = size_bytes,
	};
	*out = backing;
	return 0;
}

struct memfile *memfile_ref(struct memfile *backing)
{
	atomic_fetch_add(&backing->n_refs, 1);
	return backing;
}

struct memfile *memfile_unref(struct memfile *backing)
{
	if (!backing || atomic_fetch_sub(&backing->n_refs, 1) > 1)
		return NULL;
	backing->ro_fd = own_fd_close(backing->ro_fd);
	backing->fd = own_fd_close(backing->fd);
	free(backing);
	return NULL;
}

int memfile_read_fd(const struct memfile *backing)
{
	const int fd = backing->ro_fd >= 0 ? backing->ro_fd : backing->fd;

	if (own_fd_is(fd))
		return fd;
	errno = EBADF;
	return -1;
}

int memfile_check(const struct memfile *backing)
{
	if (own_fd_is(backing->fd) && own_fd_is(backing->ro_fd))
		return 0;
	return own_fd_raise();
}

/* A limit on the size of files (ulimit -f) counts for what is written to a memfd by descriptor. */
bool memfile_is_past_limit(uint64_t end)
{
	struct rlimit limit;

	return !getrlimit(RLIMIT_FSIZE, &limit) && limit.rlim_cur != RLIM_INFINITY &&
	       end > limit.rlim_cur;
}

static int write_mapped(const struct memfile *backing, const void *buf, size_t len, uint64_t off)
{
	const uint64_t start = align_down(off, page_size_bytes());
	const size_t skew = off - start;
	int r = 0;
	char *to;

	to = mmap(NULL, skew + len, PROT_READ | PROT_WRITE, MAP_SHARED, backing->fd, (off_t)start);
	if (to == MAP_FAILED)
		return err_raise_errno("cannot map %zu bytes of changed pages", len);
	/* If there is no memory for it, this fails; memcpy() would raise a signal. */
	if (madvise(to, skew + len, MADV_POPULATE_WRITE) && errno != EINVAL)
		r = err_raise_errno("cannot keep %zu bytes of changed pages", len);
	else
		memcpy(to + skew, buf, len);
	(void)munmap(to, skew + len);
	return r;
}

int memfile_write_within(const struct memfile *backing, const void *buf, size_t len, uint64_t off)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = pwrite(backing->fd, (const char *)buf + done, len - done,
				   (off_t)(off + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_raise_errno("cannot keep %zu bytes of changed pages", len);
		if (!n)
			return err_raise(-EIO, "cannot keep %zu bytes: end of memory file", len);
		done += (size_t)n;
	}
	return 0;
}

int memfile_write(const struct memfile *backing, const void *buf, size_t len, uint64_t off)
{
	if (memfile_is_past_limit(off + len))
		return write_mapped(backing, buf, len, off);
	return memfile_write_within(backing, buf, len, off);
}

int memfile_read(const struct memfile *backing, void *buf, size_t len, uint64_t off)
{
	const int fd = memfile_read_fd(backing);

	if (fd < 0)
		return memfile_check(backing);
	for (size_t done = 0; done < len;) {
		ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(off + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_raise_errno("cannot read %zu bytes of a snapshot", len);
		if (!n)
			return err_raise(-EIO, "cannot read %zu bytes: end of memory file", len);
		done += (size_t)n;
	}
	return 0;
}

static void map_link(struct extents *map)
{
	pthread_mutex_lock(&maps_lock);
	map->prev = NULL;
	map->next = maps;
	if (maps)
		maps->prev = map;
	maps = map;
	map->is_linked = true;
	pthread_mutex_unlock(&maps_lock);
}

static void map_unlink(struct extents *map)
{
	if (!map->is_linked)
		return;
	pthread_mutex_lock(&maps_lock);
	if (map->prev)
		map->prev->next = map->next;
	else
		maps = map->next;
	if (map->next)
		map->next->prev = map->prev;
	map->is_linked = false;
	pthread_mutex_unlock(&maps_lock);
}

int extents_init(struct extents *map, struct memfile *backing, uint64_t size_bytes, bool owned)
{
	int r;

	*map = (struct extents){.size_bytes = size_bytes};
	r = extents_reserve(map, 1);
	if (r)
		return r;
	map->runs[0] = (struct extent){
		.len = size_bytes,
		.backing = memfile_ref(backing),
		.owned = owned,
	};
	map->n_runs = 1;
	map_link(map);
	return 0;
}

/* Whether @b goes on where @a ends, in the map and in the backing. */
static bool run_continues(const struct extent *a, const struct extent *b)
{
	return a->backing == b->backing && a->owned == b->owned && a->off + a->len == b->off &&
	       a->backing_off + a->len == b->backing_off;
}

/* Append @run, whose reference is given; there is room. */
static void run_push(struct extents *map, struct extent run)
{
	struct extent *last = map->n_runs ? &map->runs[map->n_runs - 1] : NULL;

	if (last && run_continues(last, &run)) {
		last->len += run.len;
		memfile_unref(run.backing);
	} else {
		map->runs[map->n_runs++] = run;
	}
}

int extents_init_frozen(struct extents *map, const struct extents *from, uint64_t off, uint64_t len)
{
	int r;

	*map = (struct extents){.size_bytes = len};
	r = extents_reserve(map, from->n_runs);
	if (r)
		return r;
	for (size_t i = extents_find(from, off); i < from->n_runs; i++) {
		const struct extent *run = &from->runs[i];
		uint64_t start = max_u64(run->off, off);
		uint64_t end = min_u64(run->off + run->len, off + len);

		if (start >= end)
			break;
		run_push(map, (struct extent){
				      .off = start - off,
				      .len = end - start,
				      .backing = memfile_ref(run->backing),
				      .backing_off = run->backing_off + (start - run->off),
			      });
	}
	map_link(map);
	return 0;
}

void extents_move(struct extents *to, struct extents *from)
{
	map_unlink(from);
	*to = *from;
	*from = (struct extents){0};
	map_link(to);
}

void extents_deinit(struct extents *map)
{
	map_unlink(map);
	for (size_t i = 0; i < map->n_runs; i++)
		memfile_unref(map->runs[i].backing);
	free(map->runs);
	*map = (struct extents){0};
}

int extents_reserve(struct extents *map, size_t n_sets)
{
	size_t want = map->n_runs + 2 * n_sets; /* a set in the middle of a run makes two more */
	struct extent *runs;

	if (want <= map->n_alloc)
		return 0;
	runs = calloc(want, sizeof(*runs));
	if (!runs)
		return err_oom(want * sizeof(*runs), "an extent map");
	pthread_mutex_lock(&maps_lock);
	if (map->n_runs)
		memcpy(runs, map->runs, map->n_runs * sizeof(*runs));
	free(map->runs);
	map->runs = runs;
	map->n_alloc = want;
	pthread_mutex_unlock(&maps_lock);
	return 0;
}

size_t extents_find(const struct extents *map, uint64_t off)
{
	size_t low = 0, high = map->n_runs;

	while (high - low > 1) {
		size_t mid = low + (high - low) / 2;

		if (map->runs[mid].off <= off)
			low = mid;
		else
			high = mid;
	}
	return low;
}

/* Let run @idx join its predecessor if it continues it. */
static void run_merge(struct extents *map, size_t idx)
{
	if (!idx || idx >= map->n_runs || !run_continues(&map->runs[idx - 1], &map->runs[idx]))
		return;
	map->runs[idx - 1].len += map->runs[idx].len;
	memfile_unref(map->runs[idx].backing);
	memmove(&map->runs[idx], &map->runs[idx + 1], (map->n_runs - idx - 1) * sizeof(*map->runs));
	map->n_runs--;
}

/* Make sure that a run begins at @off, splitting the one that holds it. Return: its index. */
static size_t run_split(struct extents *map, uint64_t off)
{
	struct extent *run;
	uint64_t head;
	size_t idx;

	if (off >= map->size_bytes)
		return map->n_runs;
	idx = extents_find(map, off);
	run = &map->runs[idx];
	head = off - run->off;
	if (!head)
		return idx;
	memmove(run + 1, run, (map->n_runs - idx) * sizeof(*run));
	map->n_runs++;
	memfile_ref(run->backing);
	run[0].len = head;
	run[1].off = off;
	run[1].len -= head;
	run[1].backing_off += head;
	return idx + 1;
}

void extents_set(struct extents *map, uint64_t off, uint64_t len, struct memfile *backing,
		 uint64_t backing_off, bool owned)
{
	struct extent run = {
		.off = off,
		.len = len,
		.backing = memfile_ref(backing),
		.backing_off = backing_off,
		.owned = owned,
	};
	size_t first, end;

	pthread_mutex_lock(&maps_lock);
	first = run_split(map, off);
	end = run_split(map, off + len);
	for (size_t i = first; i < end; i++)
		memfile_unref(map->runs[i].backing);
	memmove(&map->runs[first + 1], &map->runs[end], (map->n_runs - end) * sizeof(run));
	map->n_runs -= end - first - 1;
	map->runs[first] = run;
	run_merge(map, first + 1);
	run_merge(map, first);
	pthread_mutex_unlock(&maps_lock);
}

bool extents_is_owned(const struct extents *map)
{
	return map->n_runs == 1 && map->runs[0].owned;
}

/* How many runs of @map refer to any of those bytes. */
static size_t count_users(const struct extents *map, const struct memfile *backing, uint64_t start,
			  uint64_t end)
{
	size_t n = 0;

	for (size_t i = 0; i < map->n_runs; i++) {
		const struct extent *run = &map->runs[i];

		n += run->backing == backing && run->backing_off < end &&
		     start < run->backing_off + run->len;
	}
	return n;
}

bool extents_is_shared(const struct memfile *backing, uint64_t backing_off, uint64_t len,
		       const struct extents *except)
{
	bool is_shared = false;

	pthread_mutex_lock(&maps_lock);
	for (const struct extents *map = maps; map && !is_shared; map = map->next)
		is_shared =
			count_users(map, backing, backing_off, backing_off + len) > (map == except);
	pthread_mutex_unlock(&maps_lock);
	return is_shared;
}

/* If a run of @map holds byte *@off, go to its end; else let
 * *@end be no later than the next run. */
static bool skip_used(const struct extents *map, const struct memfile *backing, uint64_t *off,
		      uint64_t *end)
{
	for (size_t i = 0; i < map->n_runs; i++) {
		const struct extent *run = &map->runs[i];

		if (run->backing != backing || run->backing_off + run->len <= *off)
			continue;
		if (run->backing_off <= *off) {
			*off = run->backing_off + run->len;
			return true;
		}
		*end = min_u64(*end, run->backing_off);
	}
	return false;
}

bool extents_next_unused(const struct memfile *backing, uint64_t *off, uint64_t *len)
{
	uint64_t end = 0;
	bool is_used = true;

	pthread_mutex_lock(&maps_lock);
	while (is_used && *off < backing->size_bytes) {
		is_used = false;
		end = backing->size_bytes;
		for (const struct extents *map = maps; map && !is_used; map = map->next)
			is_used = skip_used(map, backing, off, &end);
	}
	pthread_mutex_unlock(&maps_lock);
	*len = is_used ? 0 : end - *off;
	return !is_used && *off < backing->size_bytes;
}

void extents_fork_prepare(void)
{
	pthread_mutex_lock(&maps_lock);
}

void extents_fork_done(void)
{
	pthread_mutex_unlock(&maps_lock);
}
