// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The library's descriptors in a table that is the program's: how many there are, what becomes of a
 * program that closes them all (closefrom(3), as daemons do) and then opens files of its own, and
 * what may be opened when.
 *
 * Seen to fail on the code before common/own-fd.h: the program's own files were written to and
 * closed, and takes of mode uffd never returned.
 */
#include "config.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "system/proof.h"

enum {
	REGION_BYTES = 4 << 20,
	N_OWN = 40,
};

/* For children that have closed libcheck's own descriptors, by which it hears of its assertions. */
#define want(condition)                                                                            \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			(void)fprintf(stderr, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__,      \
				      #condition, cow_last_error());                               \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static unsigned int n_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* What the program opens after closefrom(3), with the lowest
 * numbers: those of the library before. */
struct own {
	enum {
		A_FILE,
		A_SOCKET,
		AN_EVENTFD
	} kind;
	int fd;
	int peer_fd; /* of a socket */
};

static const char text[] = "a file of the program's own";

static void open_own(struct own *own, int i)
{
	int socks[2];

	*own = (struct own){.kind = i % 3, .fd = -1, .peer_fd = -1};
	if (own->kind == A_FILE) {
		own->fd = memfd_create("own", 0);
		want(pwrite(own->fd, text, sizeof(text), 0) == sizeof(text));
	} else if (own->kind == A_SOCKET) {
		want(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks) == 0);
		own->fd = socks[0];
		own->peer_fd = socks[1];
	} else {
		own->fd = eventfd(0, EFD_NONBLOCK);
		want(own->fd >= 0);
	}
}

static void check_own(const struct own *own)
{
	char buf[2 * sizeof(text)];
	struct stat st;

	want(!fstat(own->fd, &st));
	if (own->kind == A_FILE) {
		want(st.st_size == sizeof(text));
		want(pread(own->fd, buf, sizeof(buf), 0) == sizeof(text));
		want(!strcmp(buf, text));
	} else if (own->kind == A_SOCKET) {
		want(recv(own->peer_fd, buf, sizeof(buf), MSG_DONTWAIT) == -1);
		want(errno == EAGAIN);
	}
}

static void expect_ebadf(int result, const char *what)
{
	if (result == -EBADF && strstr(cow_last_error(), "closed descriptors"))
		return;
	(void)fprintf(stderr, "%s: %d: %s\n", what, result, cow_last_error());
	_exit(1);
}

static void expect_all_ebadf(struct cow_region *region, struct cow_client *client,
			     struct cow_snapshot *snap, uint32_t mode)
{
	const struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = mode};
	struct cow_snapshot *none = NULL;
	struct cow_region *other = NULL;
	AUTO_FD int fd = memfd_create("saved", 0);
	char byte;
	int r;

	expect_ebadf(cow_snapshot_new(&none, region), "cow_snapshot_new");
	expect_ebadf(cow_region_new(&other, client, &params), "cow_region_new");
	if (mode != COW_MODE_UFFD)
		expect_ebadf(cow_region_discard(region, 0, REGION_BYTES / 2), "cow_region_discard");
	/* What was held is lost, and says so; it never shows what another file has. */
	r = cow_snapshot_read(snap, &byte, 1, 0);
	want(r == -ESTALE || r == -EBADF);
	r = cow_snapshot_save(snap, fd, NULL, NULL);
	want(r == -ESTALE || r == -EBADF);
	r = cow_region_rollback(region, snap);
	want(r == -ESTALE || r == -EBADF);
}

static void check_snapshot(struct cow_snapshot *snap, uint64_t seed)
{
	static char buf[REGION_BYTES];

	want(!cow_snapshot_read(snap, buf, sizeof(buf), 0));
	want(proof_is_filled(buf, sizeof(buf), seed, 0));
}

static void close_all_and_go_on(uint32_t mode)
{
	const struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = mode};
	char address[128];
	CLEANUP(cow_client_unrefp) struct cow_client *fresh = NULL;
	struct cow_client *client = proof_client();
	struct cow_region *region = NULL;
	struct cow_snapshot *snap = NULL;
	struct own own[N_OWN];

	(void)snprintf(address, sizeof(address), "%s", proof_address());
	want(!cow_region_new(&region, client, &params));
	proof_fill(cow_region_address(region), REGION_BYTES, 1);
	want(!cow_snapshot_new(&snap, region));
	want(cow_snapshot_id(snap) != 0);
	proof_fill(cow_region_address(region), REGION_BYTES, 2);
	want((int)syscall(SYS_close_range, 3, ~0U, 0) == 0);
	for (int i = 0; i < N_OWN; i++)
		open_own(&own[i], i);

	want(proof_is_filled(cow_region_address(region), REGION_BYTES, 2, 0));
	expect_all_ebadf(region, client, snap, mode);
	proof_fill(cow_region_address(region), REGION_BYTES, 3);
	want(proof_is_filled(cow_region_address(region), REGION_BYTES, 3, 0));
	cow_snapshot_unref(snap);
	cow_region_unref(region);
	cow_client_unref(client);

	/* Whoever makes a new client goes on as if nothing had been. */
	want(!cow_client_new(&fresh, address));
	region = NULL;
	want(!cow_region_new(&region, fresh, &params));
	proof_fill(cow_region_address(region), REGION_BYTES, 4);
	snap = NULL;
	want(!cow_snapshot_new(&snap, region));
	proof_fill(cow_region_address(region), REGION_BYTES, 5);
	check_snapshot(snap, 4);
	cow_snapshot_unref(snap);
	cow_region_unref(region);
	for (int i = 0; i < N_OWN; i++)
		check_own(&own[i]);
}

START_TEST(closefrom_harms_no_file_and_hangs_no_call)
{
	pid_t pid = fork();

	/* In a child: the test itself needs what it would close. */
	if (!pid) {
		close_all_and_go_on(proof_mode(_i));
		_exit(0);
	}
	proof_reap(pid, 0);
}
END_TEST

/* The same after fork children were watched: their sockets and pidfds have numbers as well. */
static void fork_after_closing(void)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_SCOOT, REGION_BYTES);
	struct own own[N_OWN];
	int pipes[2], status;
	pid_t pid, second;
	char byte;

	proof_fill(cow_region_address(region), REGION_BYTES, 1);
	want(pipe(pipes) == 0);
	pid = fork();
	if (!pid) {
		(void)close(pipes[1]);
		_exit(read(pipes[0], &byte, 1) != 0); /* until its parent closes the pipe */
	}
	want((int)syscall(SYS_close_range, 3, ~0U, 0) == 0);
	for (int i = 0; i < N_OWN; i++)
		open_own(&own[i], i);
	want(waitpid(pid, &status, 0) == pid);
	want(status == 0);
	second = fork();
	if (!second)
		_exit(0);
	want(waitpid(second, &status, 0) == second);
	want(status == 0);
	want(proof_is_filled(cow_region_address(region), REGION_BYTES, 1, 0));
	for (int i = 0; i < N_OWN; i++)
		check_own(&own[i]);
}

START_TEST(closefrom_beside_fork_children_harms_no_file)
{
	pid_t pid = fork();

	if (!pid) {
		fork_after_closing();
		_exit(0);
	}
	proof_reap(pid, 0);
}
END_TEST

/* Seen to fail with a second pair of descriptors in the extent map and a pagemap for each region:
 * six. */
START_TEST(a_region_costs_three_descriptors)
{
	enum {
		N_REGIONS = 8,
	};
	const struct cow_region_params params = {.size_bytes = 1 << 20, .mode = COW_MODE_SCOOT};
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	struct cow_region *regions[N_REGIONS] = {NULL};
	unsigned int n_before;

	proof_ok(cow_region_new(&regions[0], client, &params));
	n_before = n_descriptors();
	for (int i = 1; i < N_REGIONS; i++)
		proof_ok(cow_region_new(&regions[i], client, &params));
	ck_assert_uint_le(n_descriptors() - n_before, 3 * (N_REGIONS - 1));
	for (int i = 0; i < N_REGIONS; i++)
		cow_region_unref(regions[i]);
}
END_TEST

/* setuid(2) does to a root program what prctl(2) does to any: it cannot open what is /proc/self's
 * any more. */
static void become_undumpable(void)
{
	if (getuid() == 0)
		ck_assert_int_eq(setuid(65534), 0);
	ck_assert_int_eq(prctl(PR_SET_DUMPABLE, 0), 0);
}

static void make_region_undumpable(void *user)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = NULL;
	const struct cow_region_params params = {.size_bytes = REGION_BYTES,
						 .mode = COW_MODE_SCOOT};
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	const bool client_first = user != NULL;
	int r;

	if (client_first)
		client = proof_client();
	become_undumpable();
	if (!client_first)
		client = proof_client();
	r = cow_region_new(&region, client, &params);
	if (client_first) {
		proof_ok(r);
		return;
	}
	ck_assert_msg(r == -EACCES || r == -EPERM, "%d: %s", r, cow_last_error());
	ck_assert_msg(strstr(cow_last_error(), "not dumpable") != NULL, "%s", cow_last_error());
}

START_TEST(privileges_may_go_once_the_client_is_there)
{
	ck_assert_int_eq(chmod(proof_address(), 0666), 0);
	proof_reap(proof_fork(make_region_undumpable, &(int){1}), 0);
	proof_reap(proof_fork(make_region_undumpable, NULL), 0);
}
END_TEST

static void end_client_in_chroot(void *user)
{
	struct cow_client *client = proof_client();

	(void)user;
	ck_assert_int_eq(chroot("/proc/self/fdinfo"), 0); /* where there is no proc */
	ck_assert_int_eq(chdir("/"), 0);
	ck_assert_ptr_null(cow_client_unref(client));
}

/* Seen to fail: the client's thread slept on, and cow_client_unref() with it. */
START_TEST(a_client_ends_where_proc_is_not_seen)
{
	proof_reap(proof_fork(end_client_in_chroot, NULL), 0);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("descriptors", 60);

	tcase_add_loop_test(tcase, closefrom_harms_no_file_and_hangs_no_call, 0, PROOF_N_MODES);
	tcase_add_test(tcase, closefrom_beside_fork_children_harms_no_file);
	tcase_add_test(tcase, a_region_costs_three_descriptors);
	if (getuid() == 0) /* chroot() is root's */
		tcase_add_test(tcase, a_client_ends_where_proc_is_not_seen);
	tcase_add_test(tcase, privileges_may_go_once_the_client_is_there);
	return proof_run(tcase);
}
