// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Frozen bytes that another process can read stay as they are, whatever becomes of cowd, of
 * connections and of regions; and they stay so no longer than that (libclient/scoot/lease.c).
 *
 * What settles in vain is waited for by another region of the same client, which is made after it
 * and settles many times: its background work is in the same thread and takes turns.
 */
#include "config.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "libclient/conn/conn.h"
#include "libclient/scoot/mode.h"
#include "system/proof.h"
#include "system/raw.h"

enum {
	REGION_BYTES = 4 << 20,
	SEED = 3,
	OTHER_SEED = 5,
	N_SETTLED = 10,
};

static uint32_t mode_of(int i)
{
	return i ? COW_MODE_MMAPCOPY : COW_MODE_SCOOT;
}

static struct cow_region *region_of(struct cow_client *client, uint32_t mode, uint32_t flags)
{
	const struct cow_region_params params = {
		.size_bytes = REGION_BYTES, .mode = mode, .flags = flags};
	struct cow_region *region = NULL;

	proof_ok(cow_region_new(&region, client, &params));
	return region;
}

/* cowd goes on, and sees that this client's connection has ended. */
static void cut(struct cow_client *client)
{
	pthread_mutex_lock(&client->lock);
	ck_assert_int_eq(shutdown(client->conn->sock, SHUT_RDWR), 0);
	pthread_mutex_unlock(&client->lock);
}

/* The owner has a connection, and time for all that it has to settle. */
static void let_settle(struct cow_region *other)
{
	for (int i = 0; i < N_SETTLED; i++) {
		struct cow_snapshot *snap = NULL;

		proof_fill(cow_region_address(other), REGION_BYTES, SEED);
		proof_ok(cow_snapshot_new(&snap, other));
		proof_fill(cow_region_address(other), REGION_BYTES, OTHER_SEED);
		cow_snapshot_unref(snap);
		proof_wait_until_settled(other);
	}
}

/*
 * A region is freed whose bytes another one shares, by mmapcopy, and another process reads, as a
 * snapshot. Nobody hands those bytes over on the owner's next connection, so cowd cannot know that
 * they are to change. Seen to fail where the owner took cowd's word for who reads what it hands
 * over: all bytes of the reader's snapshot were those of the sharing region.
 */
START_TEST(a_freed_regions_bytes_stay_while_they_are_read)
{
	const uint32_t mode = mode_of(_i);
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_client_unrefp) struct cow_client *reader = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *sharing = region_of(client, mode, 0);
	CLEANUP(cow_region_unrefp) struct cow_region *other = region_of(client, mode, 0);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *opened = NULL;
	struct cow_region *region = region_of(client, mode, 0);
	struct cow_snapshot *snap = NULL, *witness = NULL;
	const void *view = NULL;

	proof_fill(cow_region_address(region), REGION_BYTES, SEED);
	cow_mmapcopy(cow_region_address(sharing), cow_region_address(region), REGION_BYTES);
	ck_assert(!proof_is_settled(sharing));
	proof_ok(cow_snapshot_new(&snap, region));
	proof_ok(cow_snapshot_open(&opened, reader, cow_snapshot_id(snap)));
	proof_ok(cow_snapshot_map(opened, &view));
	snap = cow_snapshot_unref(snap);
	region = cow_region_unref(region);
	proof_fill(cow_region_address(sharing), REGION_BYTES, OTHER_SEED);
	proof_ok(cow_snapshot_new(&witness, other));
	cut(client);
	proof_await_lost(witness);
	witness = cow_snapshot_unref(witness);
	let_settle(other);
	proof_check_snapshot(opened, SEED);
	ck_assert(proof_is_filled(view, REGION_BYTES, SEED, 0));

	opened = cow_snapshot_unref(opened);
	proof_wait_until_settled(sharing);
	ck_assert(proof_is_filled(cow_region_address(sharing), REGION_BYTES, OTHER_SEED, 0));
}
END_TEST

/* --- a reader that is stopped ----------------------------------------------------------------- */

static sigjmp_buf on_bus;

static void handle_bus(int signal)
{
	(void)signal;
	siglongjmp(on_bus, 1);
}

/* Until the view is taken away; no page of it is anything but what it was. */
static void scan_until_lost(const char *view)
{
	struct sigaction action = {.sa_handler = handle_bus};

	ck_assert(!sigaction(SIGBUS, &action, NULL));
	while (!sigsetjmp(on_bus, 1))
		ck_assert_msg(proof_is_filled(view, REGION_BYTES, SEED, 0), "the view changed");
}

static void reader_main(void *user)
{
	const int sock = *(const int *)user;
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	const void *view = NULL;
	uint64_t id;

	ck_assert_int_eq(recv(sock, &id, sizeof(id), MSG_WAITALL), sizeof(id));
	proof_ok(cow_snapshot_open(&snap, client, id));
	proof_ok(cow_snapshot_map(snap, &view));
	ck_assert(proof_is_filled(view, REGION_BYTES, SEED, 0));
	ck_assert_int_eq(send(sock, "", 1, MSG_NOSIGNAL), 1);
	scan_until_lost(view);
}

/* What of the region's memory lies in its memfd: nothing is written there while it is frozen. */
static bool is_frozen_as_filled(const struct cow_region *region, uint64_t seed)
{
	CLEANUP(freep) void *bytes = proof_alloc(REGION_BYTES);

	ck_assert_int_eq(pread(region->backing->fd, bytes, REGION_BYTES, 0), REGION_BYTES);
	return proof_is_filled(bytes, REGION_BYTES, seed, 0);
}

static void stop_process(pid_t pid)
{
	int status;

	ck_assert_int_eq(kill(pid, SIGSTOP), 0);
	ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
	ck_assert(WIFSTOPPED(status));
}

/*
 * cowd dies while a reader is stopped, and the next cowd knows of no reader. Seen to fail where the
 * owner settles what nobody on its new connection reads: the memfd has changed by then, and so has
 * the view that the reader goes on to look at.
 */
START_TEST(a_stopped_readers_view_stays_when_cowd_dies)
{
	const uint32_t mode = mode_of(_i);
	CLEANUP(cow_client_unrefp) struct cow_client *client = NULL;
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_region_unrefp) struct cow_region *other = NULL;
	struct cow_snapshot *snap = NULL;
	int socks[2];
	uint64_t id;
	pid_t pid;
	char byte;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), 0);
	pid = proof_fork(reader_main, &socks[1]);
	client = proof_client();
	region = region_of(client, mode, 0);
	other = region_of(client, mode, 0);
	proof_fill(cow_region_address(region), REGION_BYTES, SEED);
	proof_ok(cow_snapshot_new(&snap, region));
	id = cow_snapshot_id(snap);
	ck_assert_int_eq(send(socks[0], &id, sizeof(id), 0), sizeof(id));
	ck_assert_int_eq(recv(socks[0], &byte, 1, 0), 1);
	stop_process(pid);
	proof_fill(cow_region_address(region), REGION_BYTES, OTHER_SEED);
	proof_cowd_kill();
	proof_await_lost(snap);
	snap = cow_snapshot_unref(snap);
	proof_cowd_start(NULL);
	let_settle(other);
	ck_assert(is_frozen_as_filled(region, SEED));

	ck_assert_int_eq(kill(pid, SIGCONT), 0);
	proof_reap(pid, 0);
	proof_wait_until_settled(region);
	ck_assert(is_frozen_as_filled(region, OTHER_SEED));
	ck_assert(proof_is_filled(cow_region_address(region), REGION_BYTES, OTHER_SEED, 0));
	fd_close(socks[0]);
	fd_close(socks[1]);
}
END_TEST

/* --- no longer than that ---------------------------------------------------------------------- */

/*
 * A reader's fork child can neither read the snapshot nor see its view, however long it lives. Seen
 * to fail, by never coming to an end, with a close_snapshot() that leaves the lease open.
 */
START_TEST(a_readers_child_keeps_nothing_frozen)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_client_unrefp) struct cow_client *reader = proof_client();
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = region_of(client, mode_of(_i), COW_REGION_NO_FORK);
	struct cow_snapshot *snap = NULL, *opened = NULL;
	const void *view = NULL;
	int pipe_fds[2];
	pid_t pid;

	ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
	proof_fill(cow_region_address(region), REGION_BYTES, SEED);
	proof_ok(cow_snapshot_new(&snap, region));
	proof_ok(cow_snapshot_open(&opened, reader, cow_snapshot_id(snap)));
	proof_ok(cow_snapshot_map(opened, &view));
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		char byte;

		fd_close(pipe_fds[1]);
		_exit(read(pipe_fds[0], &byte, 1) ? EXIT_FAILURE : EXIT_SUCCESS);
	}
	proof_fill(cow_region_address(region), REGION_BYTES, OTHER_SEED);
	cow_snapshot_unref(snap);
	proof_check_snapshot(opened, SEED);
	cow_snapshot_unref(opened);
	proof_wait_until_settled(region);
	fd_close(pipe_fds[1]);
	proof_reap(pid, 0);
	fd_close(pipe_fds[0]);
}
END_TEST

/* What cowd refuses it has not: the memory is the program's again, and no descriptor is left. */
START_TEST(a_refused_snapshot_keeps_nothing_frozen)
{
	struct proof_holdings at_first;
	CLEANUP(cow_client_unrefp) struct cow_client *client = NULL;
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_region_unrefp) struct cow_region *other = NULL;
	struct cow_snapshot *only = NULL, *snap = NULL;

	proof_cowd_kill();
	proof_cowd_start("[limits]\nsnapshots = 1\n");
	client = proof_client();
	region = region_of(client, mode_of(_i), 0);
	other = region_of(client, mode_of(_i), 0);
	proof_ok(cow_snapshot_new(&only, other));
	ck_assert_uint_ne(cow_snapshot_id(only), 0);
	proof_holdings(&at_first);
	proof_fill(cow_region_address(region), REGION_BYTES, SEED);
	for (int i = 0; i < N_SETTLED; i++) {
		proof_ok(cow_snapshot_new(&snap, region));
		proof_fill(cow_region_address(region), REGION_BYTES, OTHER_SEED);
		ck_assert_uint_eq(cow_snapshot_id(snap), 0);
		snap = cow_snapshot_unref(snap);
		proof_wait_until_settled(region);
	}
	proof_wait_for_holdings(&at_first);
	cow_snapshot_unref(only);
}
END_TEST

/* --- another user's --------------------------------------------------------------------------- */

enum {
	NOBODY = 65534,
};

struct owner_args {
	int sock;
	uint32_t mode;
};

/* As another user: a snapshot, and its memory changed; then a
 * new connection, when asked for one. */
static void owner_main(void *user)
{
	const struct owner_args *args = user;
	CLEANUP(cow_client_unrefp) struct cow_client *client = NULL;
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	struct cow_snapshot *snap = NULL;
	uint64_t id;
	char byte;

	/* Its own /proc, which the library looks at, is to be its own again. */
	ck_assert(!setgid(NOBODY) && !setuid(NOBODY) && !prctl(PR_SET_DUMPABLE, 1));
	client = proof_client();
	region = region_of(client, args->mode, 0);
	proof_fill(cow_region_address(region), REGION_BYTES, SEED);
	proof_ok(cow_snapshot_new(&snap, region));
	proof_fill(cow_region_address(region), REGION_BYTES, OTHER_SEED);
	id = cow_snapshot_id(snap);
	ck_assert_int_eq(send(args->sock, &id, sizeof(id), 0), sizeof(id));
	ck_assert_int_eq(recv(args->sock, &byte, 1, 0), 1);
	cut(client);
	proof_await_lost(snap);
	cow_snapshot_unref(snap);
	proof_wait_until_settled(region);
	ck_assert_int_eq(send(args->sock, "", 1, MSG_NOSIGNAL), 1);
}

/*
 * An administrator reads another user's snapshot through cowd, is handed none of its descriptors,
 * and keeps nothing frozen that is lost. Seen to fail with a gets_memory() that does not ask whose
 * it is, and, without an end, with an end_lease() that waits for the last who holds what is lost.
 */
START_TEST(another_users_snapshot_is_read_through_cowd)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	struct owner_args args = {.mode = mode_of(_i)};
	const void *view = NULL;
	int socks[2];
	uint64_t id;
	pid_t pid;
	char byte;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), 0);
	args.sock = socks[1];
	pid = proof_fork(owner_main, &args);
	fd_close(socks[1]);
	ck_assert_int_eq(recv(socks[0], &id, sizeof(id), MSG_WAITALL), sizeof(id));
	client = proof_client();
	proof_ok(cow_snapshot_open(&snap, client, id));
	ck_assert_ptr_null(snap->scoot);
	ck_assert_int_lt(snap->lease_fd, 0);
	proof_check_snapshot(snap, SEED);
	proof_ok(cow_snapshot_map(snap, &view));
	ck_assert(proof_is_filled(view, REGION_BYTES, SEED, 0));
	ck_assert_int_eq(send(socks[0], "", 1, 0), 1);
	ck_assert_int_eq(recv(socks[0], &byte, 1, 0), 1);
	ck_assert_int_eq(cow_snapshot_read(snap, &byte, 1, 0), -ESTALE);
	proof_reap(pid, 0);
	fd_close(socks[0]);
}
END_TEST

/* --- many at once ----------------------------------------------------------------------------- */

/* So many as one client may ask at once, and then some are left for others. */
#define N_OPENED 24

/* Keeps a client's thread from receiving anything. */
struct blocker {
	struct cowi_task task;
	sem_t may_go_on;
};

static void block(struct cowi_task *task)
{
	struct blocker *blocker = container_of(task, struct blocker, task);

	while (sem_wait(&blocker->may_go_on))
		ck_assert_int_eq(errno, EINTR);
}

struct opener {
	struct cow_client *client;
	uint64_t id;
	struct cow_snapshot *snap;
	pthread_t thread;
};

static void *open_one(void *arg)
{
	struct opener *opener = arg;

	proof_ok(cow_snapshot_open(&opener->snap, opener->client, opener->id));
	return NULL;
}

static size_t n_held_twice(struct cow_client *client)
{
	Cow__V1__ListSnapshots list = COW__V1__LIST_SNAPSHOTS__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__Reply *reply = NULL;
	size_t n = 0;

	request.call_case = COW__V1__REQUEST__CALL_LIST_SNAPSHOTS;
	request.list_snapshots = &list;
	proof_ok(cowi_call(client, &request, NULL, 0, &reply, NULL));
	for (size_t i = 0; i < reply->snapshots->n_snapshots; i++)
		n += reply->snapshots->snapshots[i]->n_holders == 2;
	cow__v1__reply__free_unpacked(reply, NULL);
	return n;
}

/*
 * The reports that they are lost are received before any of the threads that opened them has gone
 * on. Seen to fail, in that not all handles were ever lost, where the latest 16 such reports were
 * kept for those threads.
 */
START_TEST(every_handle_hears_of_its_loss)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_client_unrefp) struct cow_client *reader = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = region_of(client, mode_of(_i), 0);
	struct blocker blocker = {.task.run = block};
	struct cow_snapshot *snaps[N_OPENED], *next = NULL;
	struct opener openers[N_OPENED];

	ck_assert_int_eq(sem_init(&blocker.may_go_on, 0, 0), 0);
	for (int i = 0; i < N_OPENED; i++) {
		proof_ok(cow_snapshot_new(&snaps[i], region));
		openers[i] = (struct opener){.client = reader, .id = cow_snapshot_id(snaps[i])};
	}
	cowi_post_later(reader, &blocker.task, 0);
	for (int i = 0; i < N_OPENED; i++)
		ck_assert(!pthread_create(&openers[i].thread, NULL, open_one, &openers[i]));
	while (n_held_twice(client) < N_OPENED)
		(void)sched_yield();
	cut(client);
	for (int i = 0; i < N_OPENED; i++) {
		proof_await_lost(snaps[i]);
		cow_snapshot_unref(snaps[i]);
	}
	proof_ok(cow_snapshot_new(&next, region)); /* it is handed over by now */
	cow_snapshot_unref(next);
	ck_assert_int_eq(sem_post(&blocker.may_go_on), 0);
	for (int i = 0; i < N_OPENED; i++) {
		ck_assert(!pthread_join(openers[i].thread, NULL));
		proof_await_lost(openers[i].snap);
	}
	proof_wait_until_settled(region);
	for (int i = 0; i < N_OPENED; i++)
		cow_snapshot_unref(openers[i].snap);
	ck_assert_int_eq(sem_destroy(&blocker.may_go_on), 0);
}
END_TEST

/* --- a client that lies ----------------------------------------------------------------------- */

static void make_region(int sock, uint64_t *id, uint64_t *backing_id)
{
	Cow__V1__RegionCreate create = COW__V1__REGION_CREATE__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__Reply *reply;

	create.mode = COW__V1__MODE__MODE_SCOOT;
	create.size_bytes = REGION_BYTES;
	request.id = 2;
	request.call_case = COW__V1__REQUEST__CALL_REGION_CREATE;
	request.region_create = &create;
	reply = raw_ask(sock, &request);
	ck_assert_msg(!reply->error, "%s", reply->sentence);
	*id = reply->region->region_id;
	*backing_id = reply->region->backing_id;
	cow__v1__reply__free_unpacked(reply, NULL);
}

/* @fd: -1: none. Return: whether cowd took it, rather than end the connection. */
static bool is_taken_with(int fd)
{
	Cow__V1__SnapshotTake take = COW__V1__SNAPSHOT_TAKE__INIT;
	Cow__V1__Extent extent = COW__V1__EXTENT__INIT, *extents = &extent;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	AUTO_FD int sock = raw_greet();
	Cow__V1__Reply *reply;
	bool is_taken;

	make_region(sock, &take.region_id, &extent.backing_id);
	extent.size_bytes = REGION_BYTES;
	take.extents = &extents;
	take.n_extents = 1;
	request.id = 3;
	request.n_fds = fd >= 0;
	request.call_case = COW__V1__REQUEST__CALL_SNAPSHOT_TAKE;
	request.snapshot_take = &take;
	ck_assert_int_eq(raw_send(sock, &request, &fd, request.n_fds), 0);
	reply = raw_receive(sock);
	ck_assert_ptr_nonnull(reply);
	is_taken = !reply->error;
	ck_assert_uint_eq(reply->id, is_taken ? 3 : 0);
	ck_assert(is_taken || strstr(reply->sentence, "lease"));
	cow__v1__reply__free_unpacked(reply, NULL);
	return is_taken;
}

/*
 * A pipe's write end it must be, and one without a name: of a named one somebody else may have the
 * file system. Broken by is_lease() that says yes, or that goes by fstat().
 */
START_TEST(what_is_no_lease_ends_the_connection)
{
	struct proof_holdings at_first;
	char dir[] = "/tmp/cowd-lease-XXXXXX", path[64];
	AUTO_FD int file = proof_file();
	AUTO_FD int named = -1;
	AUTO_FD int named_write = -1;
	int pipe_fds[2], socks[2];

	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/pipe:[1]", dir);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	named = open(path, O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(named, 0);
	named_write = open(path, O_WRONLY | O_CLOEXEC);
	ck_assert_int_ge(named_write, 0);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(rmdir(dir), 0);
	ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), 0);
	proof_holdings(&at_first);

	ck_assert(is_taken_with(pipe_fds[1]));
	ck_assert(!is_taken_with(-1));
	ck_assert(!is_taken_with(pipe_fds[0]));
	ck_assert(!is_taken_with(file));
	ck_assert(!is_taken_with(named));
	ck_assert(!is_taken_with(named_write));
	ck_assert(!is_taken_with(socks[0]));
	proof_wait_for_holdings(&at_first);
	for (size_t i = 0; i < ARRAY_SIZE(socks); i++) {
		fd_close(pipe_fds[i]);
		fd_close(socks[i]);
	}
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("leases", 60);

	proof_need_uffd(); /* without one nothing settles */
	tcase_add_loop_test(tcase, a_freed_regions_bytes_stay_while_they_are_read, 0, 2);
	tcase_add_loop_test(tcase, a_stopped_readers_view_stays_when_cowd_dies, 0, 2);
	tcase_add_loop_test(tcase, a_readers_child_keeps_nothing_frozen, 0, 2);
	tcase_add_loop_test(tcase, a_refused_snapshot_keeps_nothing_frozen, 0, 2);
	if (getuid())
		(void)printf("another user's snapshot is not read: that takes root\n");
	else
		tcase_add_loop_test(tcase, another_users_snapshot_is_read_through_cowd, 0, 2);
	tcase_add_loop_test(tcase, every_handle_hears_of_its_loss, 0, 2);
	tcase_add_test(tcase, what_is_no_lease_ends_the_connection);
	return proof_run(tcase);
}
