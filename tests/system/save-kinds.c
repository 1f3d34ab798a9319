/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What can be saved to, and what is refused with a sentence: by the library, which knows the
 * program's number of the descriptor, and by cowd, whose client may be no library.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "libclient/internal.h"
#include "system/proof.h"

#define REGION_BYTES ((size_t)1 << 20)

enum {
	SEED = 7,
};

static struct cow_region *region;
static struct cow_snapshot *snap;

static void take(void)
{
	region = proof_region(COW_MODE_SCOOT, REGION_BYTES);
	proof_fill(cow_region_address(region), REGION_BYTES, SEED);
	proof_ok(cow_snapshot_new(&snap, region));
	ck_assert_uint_ne(cow_snapshot_id(snap), 0);
}

static void drop(void)
{
	snap = cow_snapshot_unref(snap);
	region = cow_region_unref(region);
}

/* As a client does that looks at nothing first. */
static int save_unasked(int fd)
{
	Cow__V1__SnapshotSave save = COW__V1__SNAPSHOT_SAVE__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;

	save.snapshot_id = cow_snapshot_id(snap);
	request.call_case = COW__V1__REQUEST__CALL_SNAPSHOT_SAVE;
	request.snapshot_save = &save;
	return cowi_call(region->client, &request, &fd, 1, NULL, NULL);
}

/* --- refused ---------------------------------------------------------------------------------- */

static int end_of_pipe(int which)
{
	int fds[2];

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	fd_close(fds[!which]);
	return fds[which];
}

static int new_read_end(void)
{
	return end_of_pipe(0);
}

static int new_datagram_socket(void)
{
	return socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

static int new_packet_socket(void)
{
	return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
}

static int new_eventfd(void)
{
	return eventfd(0, EFD_CLOEXEC);
}

static int new_epoll(void)
{
	return epoll_create1(EPOLL_CLOEXEC);
}

static int none(void)
{
	return -1;
}

static const struct refused {
	const char *path; /* to be opened, or */
	int flags;
	int (*make)(void);
	int error;
	const char *words;
} refused[] = {
	{"/proc/self/mem", O_RDWR, NULL, -EINVAL, "a file of the kernel's (proc)"},
	{"/proc/self/comm", O_WRONLY, NULL, -EINVAL, "a file of the kernel's (proc)"},
	{"/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY, NULL, -EINVAL, "(sysfs)"},
	{"/proc/self/exe", O_RDONLY, NULL, -EBADF, "not open for writing"},
	{"/dev/null", O_RDONLY, NULL, -EBADF, "not open for writing"},
	{"/dev/null", O_PATH, NULL, -EBADF, "not open for writing"},
	{"/dev/zero", O_WRONLY, NULL, -EINVAL, "a character device"},
	{"/", O_RDONLY | O_DIRECTORY, NULL, -EINVAL, "a directory"},
	{NULL, 0, new_read_end, -EBADF, "not open for writing"},
	{NULL, 0, new_datagram_socket, -EINVAL, "a socket that is no stream"},
	{NULL, 0, new_packet_socket, -EINVAL, "a socket that is no stream"},
	{NULL, 0, new_eventfd, -EINVAL, "of another kind"},
	{NULL, 0, new_epoll, -EINVAL, "of another kind"},
	{NULL, 0, none, -EBADF, "not open"},
};

/* cowd's loop looks at that first, since it needs no call that a
 * file system may take its time for. */
static const struct refused read_only = {.error = -EBADF, .words = "not open for writing"};

static bool is_read_only(int fd)
{
	return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
}

static int open_refused(const struct refused *row)
{
	int fd;

	if (row->make)
		return row->make();
	fd = open(row->path, row->flags | O_CLOEXEC);
	ck_assert_msg(fd >= 0, "%s: %s", row->path, strerror(errno));
	return fd;
}

static void check_refusal(int r, const struct refused *row)
{
	ck_assert_msg(r == row->error, "%d, not %d: %s", r, row->error, cow_last_error());
	ck_assert_msg(strstr(cow_last_error(), row->words), "not \"%s\": %s", row->words,
		      cow_last_error());
}

/*
 * Seen to fail: without check_file_system() (common/savable.c), where cowd wrote to /proc/self/mem
 * at its offset, EIO for 0; by cowd's answers, without savable_check() in sink_open().
 */
START_TEST(what_takes_no_snapshot_is_refused)
{
	const struct refused *row = &refused[_i];
	AUTO_FD int fd = open_refused(row);
	char number[32];

	take();
	check_refusal(cow_snapshot_save(snap, fd, NULL, NULL), row);
	(void)snprintf(number, sizeof(number), "descriptor %d ", fd);
	ck_assert_msg(strstr(cow_last_error(), number), "no number: %s", cow_last_error());
	if (fd >= 0)
		check_refusal(save_unasked(fd), is_read_only(fd) ? &read_only : row);
	drop();
}
END_TEST

/* --- taken ------------------------------------------------------------------------------------ */

static void check_file(int fd, off_t from)
{
	CLEANUP(freep) char *saved = proof_alloc(REGION_BYTES);

	ck_assert_int_eq(pread(fd, saved, REGION_BYTES, from), REGION_BYTES);
	ck_assert(proof_is_filled(saved, REGION_BYTES, SEED, 0));
}

START_TEST(the_null_device_takes_all)
{
	AUTO_FD int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

	take();
	proof_ok(cow_snapshot_save(snap, fd, NULL, NULL));
	drop();
}
END_TEST

START_TEST(a_memfd_takes_all)
{
	AUTO_FD int fd = memfd_create("save", MFD_CLOEXEC);

	take();
	proof_ok(cow_snapshot_save(snap, fd, NULL, NULL));
	check_file(fd, 0);
	drop();
}
END_TEST

START_TEST(a_sealed_memfd_is_eperm)
{
	AUTO_FD int fd = memfd_create("save", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0);
	take();
	ck_assert_int_eq(cow_snapshot_save(snap, fd, NULL, NULL), -EPERM);
	ck_assert_msg(strstr(cow_last_error(), "cannot save"), "%s", cow_last_error());
	drop();
}
END_TEST

START_TEST(a_file_for_appending_takes_all_at_its_end)
{
	AUTO_FD int fd = proof_file();

	ck_assert_int_eq(write(fd, "head", 4), 4);
	ck_assert_int_eq(fcntl(fd, F_SETFL, O_APPEND), 0);
	ck_assert_int_eq(lseek(fd, 0, SEEK_SET), 0);
	take();
	proof_ok(cow_snapshot_save(snap, fd, NULL, NULL));
	check_file(fd, 4);
	drop();
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

	while (reader->n_bytes < REGION_BYTES &&
	       (n = read(reader->fd, reader->bytes + reader->n_bytes,
			 REGION_BYTES - reader->n_bytes)) > 0)
		reader->n_bytes += (size_t)n;
	return NULL;
}

static void save_to_reader(int read_fd, int write_fd)
{
	struct reader reader = {.fd = read_fd, .bytes = proof_alloc(REGION_BYTES)};

	take();
	ck_assert_int_eq(pthread_create(&reader.thread, NULL, read_all, &reader), 0);
	proof_ok(cow_snapshot_save(snap, write_fd, NULL, NULL));
	ck_assert_int_eq(pthread_join(reader.thread, NULL), 0);
	ck_assert_uint_eq(reader.n_bytes, REGION_BYTES);
	ck_assert(proof_is_filled(reader.bytes, REGION_BYTES, SEED, 0));
	free(reader.bytes);
	drop();
}

/* Flags of an open pipe: its own, packets, never to wait. */
START_TEST(any_pipe_takes_all)
{
	static const int flags[] = {0, O_DIRECT, O_NONBLOCK};
	int fds[2];

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC | flags[_i]), 0);
	if (flags[_i] & O_NONBLOCK)
		ck_assert_int_eq(fcntl(fds[0], F_SETFL, 0), 0);
	save_to_reader(fds[0], fds[1]);
	ck_assert_int_eq(fcntl(fds[1], F_GETFL) & (O_DIRECT | O_NONBLOCK), flags[_i]);
	fd_close(fds[0]);
	fd_close(fds[1]);
}
END_TEST

START_TEST(a_fifo_open_both_ways_takes_all)
{
	char dir[] = "/tmp/cowd-kinds-XXXXXX", path[64];
	AUTO_FD int fd = -1;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/fifo", dir);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	fd = open(path, O_RDWR | O_CLOEXEC);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(rmdir(dir), 0);
	ck_assert_int_ge(fd, 0);
	save_to_reader(fd, fd);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("kinds of descriptors", 60);

	tcase_add_loop_test(tcase, what_takes_no_snapshot_is_refused, 0, ARRAY_SIZE(refused));
	tcase_add_test(tcase, the_null_device_takes_all);
	tcase_add_test(tcase, a_memfd_takes_all);
	tcase_add_test(tcase, a_sealed_memfd_is_eperm);
	tcase_add_test(tcase, a_file_for_appending_takes_all_at_its_end);
	tcase_add_loop_test(tcase, any_pipe_takes_all, 0, 3);
	tcase_add_test(tcase, a_fifo_open_both_ways_takes_all);
	return proof_run(tcase);
}
