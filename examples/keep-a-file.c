// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * keep-a-file: take snapshots of memory that four threads change without pause, and check each of
 * them byte for byte.
 *
 *	keep-a-file MODE FILE FOLDER [COMMAND]
 *
 *   MODE     uffd, scoot or mmapcopy, with the daemon of $COWD_ADDRESS; or fork, for comparison:
 *            then the memory is a plain mapping, the frozen copy is a child process, which writes
 *            the file itself, and no daemon is used
 *   FILE     the first bytes of the region
 *   FOLDER   the directory that snapshots are saved to
 *   COMMAND  the shell runs it while the second snapshot is alive
 *
 * Steps:
 *  1. The program reads FILE into a region and takes a first snapshot.
 *  2. The threads start to scramble the region.
 *  3. While they go on, the program saves the snapshot as FOLDER/kept-0: it has to be FILE again.
 *  4. The threads still go on, and the program takes and saves further snapshots, one by one.
 *
 * The check of a later snapshot:
 *  - Every page belongs to one thread. A thread makes a series of steps; the thread's number and k
 *    alone determine the page that step k changes, and the values that it XORs onto its words.
 *  - In a page of its own, the mark, a thread writes k before step k into `begun` and after it into
 *    `done`. Marks are part of the region, so a snapshot has the progress of each thread.
 *  - Steps 1 to `done` are whole. Step `begun`, if it is another, is under way, and has changed its
 *    words from the first one on.
 * So FILE and the marks determine all bytes of a snapshot, except for the number of changed words
 * in each of four pages. If one write is lost, or one page is from a moment before or after the
 * others, a snapshot does not have these bytes.
 */
#include <cowclient.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define N_THREADS   4
#define N_SNAPSHOTS 4
#define PAGE        4096 /* of this program: one step changes one */
#define N_WORDS     (PAGE / sizeof(uint64_t))

/* Written by one thread, at the end of the region. */
struct mark {
	_Atomic uint64_t begun;
	_Atomic uint64_t done;
	char rest[PAGE - 2 * sizeof(uint64_t)];
};

struct region {
	char *addr;
	uint64_t n_pages;          /* of FILE */
	struct cow_region *memory; /* NULL: mode fork */
};

/* A frozen copy: a snapshot, or a child that has one and writes it to a file. */
struct copy {
	struct cow_snapshot *snap;
	pid_t child;
};

struct scrambler {
	pthread_t thread;
	struct region *region;
	uint64_t idx;
	atomic_bool *is_over;
};

static void say(const char *what, const char *why)
{
	fprintf(stderr, "keep-a-file: %s: %s\n", what, why);
}

/* splitmix64: a number that depends on @x only and looks random. */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

static uint64_t step_key(uint64_t thread_idx, uint64_t step)
{
	return mix(step * N_THREADS + thread_idx);
}

/* The page that a step changes: any of those whose number is the thread's modulo N_THREADS. */
static uint64_t step_page(uint64_t n_pages, uint64_t thread_idx, uint64_t step)
{
	uint64_t n_own = (n_pages - thread_idx + N_THREADS - 1) / N_THREADS;

	return step_key(thread_idx, step) % n_own * N_THREADS + thread_idx;
}

static struct mark *marks_of(char *addr, uint64_t n_pages)
{
	return (struct mark *)(void *)(addr + n_pages * PAGE);
}

static uint64_t *words_of(char *addr, uint64_t page)
{
	return (uint64_t *)(void *)(addr + page * PAGE);
}

/* --- scrambling ------------------------------------------------------------------------------- */

static void *scramble(void *user)
{
	struct scrambler *self = user;
	struct region *region = self->region;
	struct mark *mark = &marks_of(region->addr, region->n_pages)[self->idx];

	for (uint64_t step = 1; !atomic_load_explicit(self->is_over, memory_order_relaxed);
	     step++) {
		uint64_t page = step_page(region->n_pages, self->idx, step);
		_Atomic uint64_t *words = (void *)words_of(region->addr, page);
		uint64_t key = step_key(self->idx, step);

		/* Each store is a release: a thread that sees it sees all stores before it. */
		atomic_store_explicit(&mark->begun, step, memory_order_release);
		for (size_t i = 0; i < N_WORDS; i++) {
			uint64_t word = atomic_load_explicit(&words[i], memory_order_relaxed);

			atomic_store_explicit(&words[i], word ^ mix(key + i), memory_order_release);
		}
		atomic_store_explicit(&mark->done, step, memory_order_release);
	}
	return NULL;
}

/* --- checking --------------------------------------------------------------------------------- */

/* The bytes that the region must have had, as far as they are computed. */
struct replay {
	char *bytes;
	uint64_t n_pages;
	uint64_t done[N_THREADS];
};

static void replay_to(struct replay *replay, uint64_t thread_idx, uint64_t step)
{
	while (replay->done[thread_idx] < step) {
		uint64_t next = ++replay->done[thread_idx];
		uint64_t key = step_key(thread_idx, next);
		uint64_t *words =
			words_of(replay->bytes, step_page(replay->n_pages, thread_idx, next));

		for (size_t i = 0; i < N_WORDS; i++)
			words[i] ^= mix(key + i);
	}
}

/*
 * The page of the step under way: its first words may be changed, the others not yet. Puts the
 * expected words into the replay's page, so that the whole can be compared; undo restores the other
 * words.
 */
static size_t words_under_way(struct replay *replay, char *snapshot, uint64_t thread_idx,
			      uint64_t step)
{
	uint64_t page = step_page(replay->n_pages, thread_idx, step);
	uint64_t *expected = words_of(replay->bytes, page), *found = words_of(snapshot, page);
	uint64_t key = step_key(thread_idx, step);
	size_t i;

	for (i = 0; i < N_WORDS && found[i] == (expected[i] ^ mix(key + i)); i++)
		expected[i] = found[i];
	return i;
}

static void undo_words(struct replay *replay, uint64_t thread_idx, uint64_t step, size_t n_words)
{
	uint64_t *words = words_of(replay->bytes, step_page(replay->n_pages, thread_idx, step));
	uint64_t key = step_key(thread_idx, step);

	for (size_t i = 0; i < n_words; i++)
		words[i] ^= mix(key + i);
}

static bool check_snapshot(struct replay *replay, char *snapshot, unsigned int number)
{
	struct mark *marks = marks_of(snapshot, replay->n_pages);
	size_t n_words[N_THREADS] = {0};
	uint64_t n_steps = 0;
	bool is_same = true;

	for (uint64_t t = 0; t < N_THREADS; t++) {
		uint64_t begun = marks[t].begun, done = marks[t].done;

		if ((begun != done && begun != done + 1) || done < replay->done[t]) {
			fprintf(stderr,
				"keep-a-file: kept-%u: thread %llu began step %llu, did %llu, "
				"and "
				"had done %llu in the one before\n",
				number, (unsigned long long)t, (unsigned long long)begun,
				(unsigned long long)done, (unsigned long long)replay->done[t]);
			return false;
		}
		replay_to(replay, t, done);
		if (begun != done)
			n_words[t] = words_under_way(replay, snapshot, t, begun);
		n_steps += done;
	}
	for (uint64_t page = 0; is_same && page < replay->n_pages; page++) {
		is_same = !memcmp(replay->bytes + page * PAGE, snapshot + page * PAGE, PAGE);
		if (!is_same)
			fprintf(stderr, "keep-a-file: kept-%u: page %llu is of another moment\n",
				number, (unsigned long long)page);
	}
	for (uint64_t t = 0; t < N_THREADS; t++)
		undo_words(replay, t, marks[t].begun, n_words[t]);
	if (is_same)
		printf("kept-%u: every byte is that of one moment, after %llu steps\n", number,
		       (unsigned long long)n_steps);
	return is_same;
}

/* Maps a whole file, private: writes do not reach it. Return: NULL after printing an error. */
static char *map_file(const char *path, uint64_t *n_bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *bytes = MAP_FAILED;
	struct stat st;

	if (fd >= 0 && !fstat(fd, &st) && st.st_size > 0)
		bytes = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (bytes == MAP_FAILED)
		say(path, errno ? strerror(errno) : "it is empty");
	else
		*n_bytes = (uint64_t)st.st_size;
	if (fd >= 0)
		close(fd);
	return bytes == MAP_FAILED ? NULL : bytes;
}

static bool check_all(const char *path, const char *folder, uint64_t n_pages, uint64_t file_bytes)
{
	struct replay replay = {.n_pages = n_pages};
	bool is_right = true;
	char *original;
	uint64_t n_bytes;

	original = map_file(path, &n_bytes);
	replay.bytes = calloc(n_pages, PAGE);
	if (!original || !replay.bytes)
		return false;
	memcpy(replay.bytes, original, file_bytes);
	for (unsigned int i = 0; is_right && i < N_SNAPSHOTS; i++) {
		char kept_path[4096], *kept;

		snprintf(kept_path, sizeof(kept_path), "%s/kept-%u", folder, i);
		kept = map_file(kept_path, &n_bytes);
		if (!kept)
			return false;
		if (i) {
			is_right = check_snapshot(&replay, kept, i);
		} else {
			is_right = n_bytes == file_bytes && !memcmp(kept, original, file_bytes);
			printf("kept-0: %s\n", is_right ? "the file as it was, byte for byte"
							: "NOT the file as it was");
		}
		munmap(kept, n_bytes);
	}
	munmap(original, file_bytes);
	free(replay.bytes);
	return is_right;
}

/* --- keeping ---------------------------------------------------------------------------------- */

static int read_whole(const char *path, char *addr, uint64_t n_bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	for (uint64_t off = 0; fd >= 0 && off < n_bytes;) {
		ssize_t n = read(fd, addr + off, n_bytes - off);

		if (n <= 0) {
			say(path, n ? strerror(errno) : "it became shorter");
			close(fd);
			return -1;
		}
		off += (uint64_t)n;
	}
	if (fd >= 0)
		close(fd);
	return fd < 0 ? -1 : 0;
}

/* Opens FOLDER/kept-NUMBER, empty, for writing. Return: -1 after printing an error. */
static int open_kept(char path[static PATH_MAX], const char *folder, unsigned int number)
{
	int fd;

	snprintf(path, PATH_MAX, "%s/kept-%u", folder, number);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		say(path, strerror(errno));
	return fd;
}

/* Saves @copy as FOLDER/kept-NUMBER, cut to @n_bytes, and frees @copy. */
static int keep(struct copy *copy, const char *folder, unsigned int number, uint64_t n_bytes)
{
	char path[PATH_MAX];
	int fd, r, status;

	if (copy->child) {
		r = waitpid(copy->child, &status, 0) == copy->child && !status ? 0 : -1;
		copy->child = 0;
		return r;
	}
	fd = open_kept(path, folder, number);
	if (fd < 0)
		return -1;
	r = cow_snapshot_save(copy->snap, fd, NULL, NULL);
	if (r)
		say(path, cow_last_error());
	else if (ftruncate(fd, (off_t)n_bytes))
		r = -errno;
	close(fd);
	copy->snap = cow_snapshot_unref(copy->snap);
	return r;
}

/* Runs in the child of mode fork. Return: the child's exit status. */
static int write_kept(const char *addr, const char *folder, unsigned int number, uint64_t n_bytes)
{
	char path[PATH_MAX];
	int fd = open_kept(path, folder, number);

	for (uint64_t off = 0; fd >= 0 && off < n_bytes;) {
		ssize_t n = write(fd, addr + off, n_bytes - off);

		if (n < 0)
			return 1;
		off += (uint64_t)n;
	}
	return fd < 0;
}

/* Lets the threads work until each has done at least @n_steps steps more. */
static void await_steps(struct region *region, uint64_t n_steps)
{
	struct mark *marks = marks_of(region->addr, region->n_pages);
	uint64_t wanted[N_THREADS];

	for (int t = 0; t < N_THREADS; t++)
		wanted[t] = atomic_load(&marks[t].done) + n_steps;
	for (int t = 0; t < N_THREADS; t++)
		while (atomic_load(&marks[t].done) < wanted[t])
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static double milliseconds_since(const struct timespec *begin)
{
	struct timespec end;

	clock_gettime(CLOCK_MONOTONIC, &end);
	return (double)(end.tv_sec - begin->tv_sec) * 1e3 +
	       (double)(end.tv_nsec - begin->tv_nsec) / 1e6;
}

/* Asks for the number that cowctl shows after the measurement: it waits until cowd has answered. */
static int take(struct copy *copy, const struct region *region, const char *folder,
		unsigned int number, uint64_t n_bytes)
{
	struct timespec begin;
	char name[64] = "a child process";
	double stall;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	if (region->memory)
		r = cow_snapshot_new(&copy->snap, region->memory);
	else
		copy->child = fork();
	if (!region->memory && !copy->child)
		_exit(write_kept(region->addr, folder, number, n_bytes));
	stall = milliseconds_since(&begin);
	if (r || copy->child < 0) {
		say("no copy", r ? cow_last_error() : strerror(errno));
		return -1;
	}
	if (region->memory)
		snprintf(name, sizeof(name), "snapshot %llu of cowd",
			 (unsigned long long)cow_snapshot_id(copy->snap));
	printf("kept-%u: %s, taken in %.3f ms%s\n", number, name, stall,
	       number ? ", four threads writing" : "");
	fflush(stdout);
	return 0;
}

static int keep_all(struct region *region, const char *folder, uint64_t file_bytes,
		    const char *command)
{
	const uint64_t all_bytes = (region->n_pages + N_THREADS) * PAGE;
	struct scrambler scramblers[N_THREADS];
	atomic_bool is_over = false;
	struct copy copy = {.snap = NULL};
	unsigned int n_started = 0;
	int r;

	r = take(&copy, region, folder, 0, file_bytes);
	for (; !r && n_started < N_THREADS; n_started++) {
		scramblers[n_started] =
			(struct scrambler){.region = region, .idx = n_started, .is_over = &is_over};
		if (pthread_create(&scramblers[n_started].thread, NULL, scramble,
				   &scramblers[n_started]))
			break;
	}
	if (n_started == N_THREADS)
		await_steps(region, 100);
	for (unsigned int i = 0; !r && i < N_SNAPSHOTS; i++) {
		if (i)
			r = take(&copy, region, folder, i, all_bytes);
		if (!r && i == 1 && command && system(command))
			fprintf(stderr, "keep-a-file: the command failed\n");
		if (!r)
			r = keep(&copy, folder, i, i ? all_bytes : file_bytes);
		if (!r)
			await_steps(region, 100);
	}
	atomic_store(&is_over, true);
	for (unsigned int i = 0; i < n_started; i++)
		pthread_join(scramblers[i].thread, NULL);
	(void)cow_snapshot_unref(copy.snap);
	return r ? -1 : 0;
}

#define MODE_FORK 0xf0u /* none of enum cow_mode */

static uint32_t parse_mode(const char *name)
{
	if (!strcmp(name, "uffd"))
		return COW_MODE_UFFD;
	if (!strcmp(name, "scoot"))
		return COW_MODE_SCOOT;
	if (!strcmp(name, "fork"))
		return MODE_FORK;
	return !strcmp(name, "mmapcopy") ? COW_MODE_MMAPCOPY : 0;
}

/* Makes memory of @mode for FILE and the marks. Return: 0; exit status after printing an error. */
static int make_memory(struct region *region, struct cow_client **client, uint32_t mode)
{
	struct cow_region_params params = {
		.size_bytes = (region->n_pages + N_THREADS) * PAGE,
		.mode = mode,
		.name = "keep-a-file",
	};

	if (mode == MODE_FORK) {
		region->addr = mmap(NULL, params.size_bytes, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (region->addr == MAP_FAILED) {
			say("no memory", strerror(errno));
			return 1;
		}
		/* Pages of the same size as in a region, for a fair comparison. */
		(void)madvise(region->addr, params.size_bytes, MADV_NOHUGEPAGE);
		return 0;
	}
	if (cow_client_new(client, NULL)) {
		say("no cowd", cow_last_error());
		return 3;
	}
	if (cow_region_new(&region->memory, *client, &params)) {
		say("no region", cow_last_error());
		return 1;
	}
	region->addr = cow_region_address(region->memory);
	return 0;
}

int main(int argc, char **argv)
{
	struct cow_client *client = NULL;
	struct region region = {.addr = NULL};
	struct stat st;
	bool is_right;
	int status;

	if (argc < 4 || argc > 5 || !parse_mode(argv[1])) {
		fprintf(stderr,
			"Usage: keep-a-file {uffd|scoot|mmapcopy|fork} FILE FOLDER [COMMAND]\n");
		return 2;
	}
	if (stat(argv[2], &st) || st.st_size < N_THREADS * PAGE) {
		say(argv[2],
		    "there is no such file, or it is too short to be shared by four threads");
		return 1;
	}
	region.n_pages = ((uint64_t)st.st_size + PAGE - 1) / PAGE;
	status = make_memory(&region, &client, parse_mode(argv[1]));
	if (status) {
		cow_client_unref(client);
		return status;
	}
	printf("%s: %.1f MiB in %s %s\n", argv[2], (double)st.st_size / (1 << 20),
	       region.memory ? "a region of mode" : "plain memory, to be frozen by", argv[1]);
	fflush(stdout);
	is_right = !read_whole(argv[2], region.addr, (uint64_t)st.st_size) &&
		   !keep_all(&region, argv[3], (uint64_t)st.st_size, argc == 5 ? argv[4] : NULL);
	cow_region_unref(region.memory);
	cow_client_unref(client);
	is_right = is_right && check_all(argv[2], argv[3], region.n_pages, (uint64_t)st.st_size);
	return fflush(stdout) || !is_right;
}
