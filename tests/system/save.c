/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cow_snapshot_save(): what arrives is the snapshot, wherever it goes; whatever goes wrong, the
 * error names it, and snapshot and region are as before.
 *
 * Seen to fail with: a read that looks into no store, holes written as zeroes, a saver that waits
 * for a reader in write(2), progress told only when something moved (a stalled save could not be
 * cancelled), a descriptor left open.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "system/proof.h"
#include "tests/skip.h"

#define REGION_BYTES proof_size((size_t)8 << 20)

enum {
	SEED = 7,
	OTHER_SEED = 11,
};

/* A region filled with SEED when its snapshot was taken, and rewritten since. */
struct scene {
	struct cow_region *region;
	struct cow_snapshot *snap;
};

static void scene_init(struct scene *scene, uint32_t mode)
{
	scene->region = proof_region(mode, REGION_BYTES);
	proof_fill(cow_region_address(scene->region), REGION_BYTES, SEED);
	proof_ok(cow_snapshot_new(&scene->snap, scene->region));
	proof_fill(cow_region_address(scene->region), REGION_BYTES, OTHER_SEED);
}

/* Snapshot and region as before: both read right, and both can be used again. */
static void scene_end(struct scene *scene)
{
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *next = NULL;
	char *base = cow_region_address(scene->region);

	proof_check_snapshot(scene->snap, SEED);
	ck_assert(proof_is_filled(base, REGION_BYTES, OTHER_SEED, 0));
	scene->snap = cow_snapshot_unref(scene->snap);
	proof_ok(cow_snapshot_new(&next, scene->region));
	proof_fill(base, REGION_BYTES, SEED);
	proof_check_snapshot(next, OTHER_SEED);
	next = cow_snapshot_unref(next);
	scene->region = cow_region_unref(scene->region);
}

static void check_file(int fd, off_t from)
{
	CLEANUP(freep) char *saved = proof_alloc(REGION_BYTES);
	struct stat st;

	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_int_eq(st.st_size, from + REGION_BYTES);
	ck_assert_int_eq(pread(fd, saved, REGION_BYTES, from), REGION_BYTES);
	ck_assert(proof_is_filled(saved, REGION_BYTES, SEED, 0));
}

START_TEST(file_is_identical)
{
	AUTO_FD int fd = proof_file();
	struct scene scene;

	scene_init(&scene, proof_mode(_i));
	proof_ok(cow_snapshot_save(scene.snap, fd, NULL, NULL));
	check_file(fd, 0);
	scene_end(&scene);
}
END_TEST

/* Also an offset that is no multiple of a page, and what stands before it stays. */
START_TEST(file_is_written_from_its_offset_on)
{
	AUTO_FD int fd = proof_file();
	struct scene scene;
	char head[5];

	scene_init(&scene, proof_mode(_i));
	ck_assert_int_eq(write(fd, "head", 5), 5);
	proof_ok(cow_snapshot_save(scene.snap, fd, NULL, NULL));
	check_file(fd, 5);
	ck_assert_int_eq(pread(fd, head, 5, 0), 5);
	ck_assert_str_eq(head, "head");
	scene_end(&scene);
}
END_TEST

/* One page in 64 was ever written: the file has the size of all and the blocks of those. */
START_TEST(holes_stay_holes)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	CLEANUP(freep) char *saved = proof_alloc(REGION_BYTES), *want = proof_alloc(REGION_BYTES);
	AUTO_FD int fd = proof_file();
	size_t step = 64 * page_size_bytes();
	struct stat st;
	char *base;

	region = proof_region(proof_mode(_i), REGION_BYTES);
	base = cow_region_address(region);
	memset(want, 0, REGION_BYTES);
	for (size_t off = 0; off < REGION_BYTES; off += step) {
		base[off] = 'a';
		want[off] = 'a';
	}
	proof_ok(cow_snapshot_new(&snap, region));
	memset(base, 'b', REGION_BYTES);
	proof_ok(cow_snapshot_save(snap, fd, NULL, NULL));
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_int_eq(st.st_size, REGION_BYTES);
	ck_assert_msg((uint64_t)st.st_blocks * 512 <= REGION_BYTES / 4,
		      "%lld blocks for one page in 64", (long long)st.st_blocks);
	ck_assert_int_eq(pread(fd, saved, REGION_BYTES, 0), REGION_BYTES);
	ck_assert(!memcmp(saved, want, REGION_BYTES));
}
END_TEST

#define MIXED_BYTES proof_size((size_t)256 << 20)

/*
 * Every second page is all zero in the snapshot, and was written since: cowd has kept none of them,
 * but knows of each. That the save is not done within the test's limit is the failure.
 *
 * Seen to fail: with a save that asked the region's file where data ends (SEEK_HOLE), which walks
 * over the rest of the region for each page.
 */
START_TEST(zeroes_between_data_take_no_longer)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	CLEANUP(freep) char *saved = proof_alloc(MIXED_BYTES);
	AUTO_FD int fd = proof_file();
	size_t page = page_size_bytes();
	char *base;

	region = proof_region(COW_MODE_UFFD, MIXED_BYTES);
	base = cow_region_address(region);
	proof_fill(base, MIXED_BYTES, SEED);
	for (size_t off = 0; off < MIXED_BYTES; off += 2 * page)
		memset(base + off, 0, page);
	proof_ok(cow_snapshot_new(&snap, region));
	for (size_t off = 0; off < MIXED_BYTES; off += 2 * page)
		base[off] = 'b';
	proof_ok(cow_snapshot_save(snap, fd, NULL, NULL));
	ck_assert_int_eq(pread(fd, saved, MIXED_BYTES, 0), MIXED_BYTES);
	for (size_t off = 0; off < MIXED_BYTES; off += 2 * page) {
		ck_assert(!saved[off] && !memcmp(saved + off, saved + off + 1, page - 1));
		ck_assert(proof_is_filled(saved + off + page, page, SEED, off + page));
	}
}
END_TEST

struct reader {
	pthread_t thread;
	int fd;
	char *bytes;
	size_t n_bytes;
};

static void *read_all(void *user)
{
	struct reader *reader = user;
	ssize_t n;

	while ((n = read(reader->fd, reader->bytes + reader->n_bytes,
			 REGION_BYTES + 1 - reader->n_bytes)) > 0)
		reader->n_bytes += (size_t)n;
	return NULL;
}

static void reader_start(struct reader *reader, int fd)
{
	*reader = (struct reader){.fd = fd, .bytes = proof_alloc(REGION_BYTES + 1)};
	ck_assert_int_eq(pthread_create(&reader->thread, NULL, read_all, reader), 0);
}

static void reader_check(struct reader *reader)
{
	ck_assert_int_eq(pthread_join(reader->thread, NULL), 0);
	ck_assert_uint_eq(reader->n_bytes, REGION_BYTES);
	ck_assert(proof_is_filled(reader->bytes, REGION_BYTES, SEED, 0));
	free(reader->bytes);
}

static void save_to_stream(int i, int fds[2])
{
	struct reader reader;
	struct scene scene;

	scene_init(&scene, proof_mode(i));
	reader_start(&reader, fds[0]);
	proof_ok(cow_snapshot_save(scene.snap, fds[1], NULL, NULL));
	fds[1] = fd_close(
		fds[1]); /* cowd must hold no copy, or the reader would never see the end */
	reader_check(&reader);
	fds[0] = fd_close(fds[0]);
	scene_end(&scene);
}

START_TEST(pipe_gets_all)
{
	int fds[2];

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	save_to_stream(_i, fds);
}
END_TEST

START_TEST(socket_gets_all)
{
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	save_to_stream(_i, fds);
}
END_TEST

/* The file is in a file system of 256 KiB that nobody else sees. */
START_TEST(full_disk_is_enospc)
{
	char dir[] = "/tmp/cowd-full-XXXXXX";
	char path[64];
	AUTO_FD int fd = -1;
	struct scene scene;

	if (geteuid())
		test_skip("a small file system can only be mounted by root");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(mount("none", dir, "tmpfs", 0, "size=256k"), 0);
	(void)snprintf(path, sizeof(path), "%s/file", dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_eq(umount2(dir, MNT_DETACH), 0); /* the descriptor keeps it */
	ck_assert_int_eq(rmdir(dir), 0);
	ck_assert_int_ge(fd, 0);

	scene_init(&scene, proof_mode(_i));
	ck_assert_int_eq(cow_snapshot_save(scene.snap, fd, NULL, NULL), -ENOSPC);
	ck_assert_msg(strstr(cow_last_error(), "space"), "%s", cow_last_error());
	scene_end(&scene);
}
END_TEST

/* The limit is cowd's own, so the write would raise SIGXFSZ there. */
START_TEST(file_too_large_is_efbig_and_cowd_lives)
{
	struct rlimit old, small = {.rlim_cur = 1 << 18, .rlim_max = RLIM_INFINITY};
	AUTO_FD int fd = proof_file();
	struct scene scene;

	scene_init(&scene, proof_mode(_i));
	ck_assert_int_eq(prlimit(proof_cowd(), RLIMIT_FSIZE, NULL, &old), 0);
	small.rlim_max = old.rlim_max;
	ck_assert_int_eq(prlimit(proof_cowd(), RLIMIT_FSIZE, &small, NULL), 0);
	ck_assert_int_eq(cow_snapshot_save(scene.snap, fd, NULL, NULL), -EFBIG);
	ck_assert_int_eq(prlimit(proof_cowd(), RLIMIT_FSIZE, &old, NULL), 0);
	scene_end(&scene);
}
END_TEST

START_TEST(closed_pipe_is_epipe)
{
	struct scene scene;
	int fds[2];

	scene_init(&scene, proof_mode(_i));
	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	fd_close(fds[0]);
	ck_assert_int_eq(cow_snapshot_save(scene.snap, fds[1], NULL, NULL), -EPIPE);
	fd_close(fds[1]);
	scene_end(&scene);
}
END_TEST

/* The reader goes away in the middle. */
static void *read_some_and_close(void *user)
{
	int *fd = user;
	char buf[100000];
	size_t left = REGION_BYTES / 4;
	ssize_t n;

	while (left && (n = read(*fd, buf, min_u64(sizeof(buf), left))) > 0)
		left -= (size_t)n;
	*fd = fd_close(*fd);
	return NULL;
}

START_TEST(pipe_closed_midway_is_epipe)
{
	struct scene scene;
	pthread_t thread;
	int fds[2];

	scene_init(&scene, proof_mode(_i));
	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, read_some_and_close, &fds[0]), 0);
	ck_assert_int_eq(cow_snapshot_save(scene.snap, fds[1], NULL, NULL), -EPIPE);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	fd_close(fds[1]);
	scene_end(&scene);
}
END_TEST

static int cancel(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
	int *n_calls = user;

	(*n_calls)++;
	ck_assert_uint_le(done_bytes, total_bytes);
	ck_assert_uint_eq(total_bytes, REGION_BYTES);
	return 1;
}

/* Nobody reads the pipe, so the save cannot end but by being cancelled. */
START_TEST(cancelled_is_ecanceled)
{
	struct scene scene;
	int fds[2], n_calls = 0;

	scene_init(&scene, proof_mode(_i));
	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	ck_assert_int_eq(cow_snapshot_save(scene.snap, fds[1], cancel, &n_calls), -ECANCELED);
	ck_assert_int_ge(n_calls, 1);
	fd_close(fds[0]);
	fd_close(fds[1]);
	scene_end(&scene);
}
END_TEST

/*
 * A file takes all of it at once, so that the save is over before cowd hears of the end.
 *
 * Seen to fail: 0, without note_cancelled() (libclient/conn/call.c).
 */
START_TEST(cancelled_too_late_is_ecanceled)
{
	AUTO_FD int fd = proof_file();
	struct scene scene;
	int n_calls = 0;

	scene_init(&scene, proof_mode(_i));
	ck_assert_int_eq(cow_snapshot_save(scene.snap, fd, cancel, &n_calls), -ECANCELED);
	ck_assert_int_ge(n_calls, 1);
	ck_assert_msg(strstr(cow_last_error(), "cancelled"), "%s", cow_last_error());
	scene_end(&scene);
}
END_TEST

static int note_progress(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
	uint64_t *last = user;

	ck_assert_uint_ge(done_bytes, *last);
	ck_assert_uint_le(done_bytes, total_bytes);
	*last = done_bytes;
	return 0;
}

START_TEST(progress_grows_to_the_whole)
{
	AUTO_FD int fd = proof_file();
	uint64_t last = 0;
	struct scene scene;

	scene_init(&scene, proof_mode(_i));
	proof_ok(cow_snapshot_save(scene.snap, fd, note_progress, &last));
	ck_assert_uint_eq(last, REGION_BYTES);
	scene_end(&scene);
}
END_TEST

struct stalled {
	struct cow_snapshot *snap;
	int fd;
	int result;
};

static void *save_it(void *user)
{
	struct stalled *stalled = user;

	stalled->result = cow_snapshot_save(stalled->snap, stalled->fd, NULL, NULL);
	return NULL;
}

/*
 * Several saves whose readers stall, as many as a saver pool may have threads and more: everything
 * else goes on, another client's save too; then the readers read, and all is there.
 */
START_TEST(stalled_readers_hinder_nobody)
{
	enum {
		N_STALLED = 6
	};
	struct stalled stalled[N_STALLED];
	struct reader readers[N_STALLED];
	pthread_t threads[N_STALLED];
	int fds[N_STALLED][2], queued;
	struct scene scene, other;
	AUTO_FD int fd = proof_file();

	scene_init(&scene, proof_mode(_i));
	for (int i = 0; i < N_STALLED; i++) {
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds[i]), 0);
		stalled[i] = (struct stalled){.snap = scene.snap, .fd = fds[i][1], .result = -1};
		ck_assert_int_eq(pthread_create(&threads[i], NULL, save_it, &stalled[i]), 0);
	}
	/* under way: the first has bytes in it */
	ck_assert_int_eq(recv(fds[0][0], &queued, sizeof(queued), MSG_PEEK | MSG_WAITALL),
			 sizeof(queued));

	scene_init(&other, proof_mode(_i));
	proof_ok(cow_snapshot_save(other.snap, fd, NULL, NULL));
	check_file(fd, 0);
	scene_end(&other);

	for (int i = 0; i < N_STALLED; i++)
		reader_start(&readers[i], fds[i][0]);
	for (int i = 0; i < N_STALLED; i++) {
		ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
		ck_assert_int_eq(stalled[i].result, 0);
		fd_close(fds[i][1]);
		reader_check(&readers[i]);
		fd_close(fds[i][0]);
	}
	scene_end(&scene);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("save", 60);

	tcase_add_loop_test(tcase, file_is_identical, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, file_is_written_from_its_offset_on, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, holes_stay_holes, 0, PROOF_N_MODES);
	if (proof_has_uffd())
		tcase_add_test(tcase, zeroes_between_data_take_no_longer);
	tcase_add_loop_test(tcase, pipe_gets_all, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, socket_gets_all, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, full_disk_is_enospc, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, file_too_large_is_efbig_and_cowd_lives, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, closed_pipe_is_epipe, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, pipe_closed_midway_is_epipe, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, cancelled_is_ecanceled, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, cancelled_too_late_is_ecanceled, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, progress_grows_to_the_whole, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, stalled_readers_hinder_nobody, 0, PROOF_N_MODES);
	return proof_run(tcase);
}
