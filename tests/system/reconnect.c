// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * cowd dies under its clients: their writes go on, their snapshots are lost and say so, and with
 * the next cowd the same regions can be frozen again.
 *
 * Seen to fail: without cowi_regions_restore() in connect.c (no further snapshot is taken); without
 * cowi_snapshots_lost() in cowi_disconnect() (they are never lost, until the test's time is over);
 * with the generation ignored in check_connection() (the release of a lost snapshot is that of
 * another one).
 */
#include "config.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "libclient/conn/conn.h"
#include "libclient/scoot/mode.h"
#include "system/proof.h"

enum {
	REGION_BYTES = 4 << 20,
	SEED = 3,
	OTHER_SEED = 5,
};

struct writer {
	_Atomic uint64_t *counters; /* one for each page */
	size_t n_counters;
	size_t step;
	_Atomic uint64_t n_written;
	_Atomic bool is_ending;
	pthread_t thread;
};

static void *write_on(void *arg)
{
	struct writer *writer = arg;

	for (uint64_t n = 0; !atomic_load(&writer->is_ending); n++) {
		atomic_fetch_add(&writer->counters[n % writer->n_counters * writer->step], 1);
		atomic_store(&writer->n_written, n + 1);
	}
	return NULL;
}

static void writer_start(struct writer *writer, struct cow_region *region)
{
	writer->counters = cow_region_address(region);
	writer->step = page_size_bytes() / sizeof(uint64_t);
	writer->n_counters = cow_region_size(region) / page_size_bytes();
	ck_assert(!pthread_create(&writer->thread, NULL, write_on, writer));
}

/* Until as many writes more went through as there are pages. */
static void writer_await_round(struct writer *writer)
{
	uint64_t n = atomic_load(&writer->n_written);

	while (atomic_load(&writer->n_written) < n + writer->n_counters)
		(void)sched_yield();
}

static void writer_end(struct writer *writer)
{
	uint64_t total = 0;

	atomic_store(&writer->is_ending, true);
	ck_assert(!pthread_join(writer->thread, NULL));
	for (size_t i = 0; i < writer->n_counters; i++)
		total += atomic_load(&writer->counters[i * writer->step]);
	ck_assert_uint_eq(total, atomic_load(&writer->n_written));
}

static void check_lost(struct cow_snapshot *snap)
{
	AUTO_FD int fd = proof_file();
	const void *view;
	char byte;

	ck_assert_uint_eq(cow_snapshot_id(snap), 0);
	ck_assert_int_eq(cow_snapshot_read(snap, &byte, 1, 0), -ESTALE);
	ck_assert_int_eq(cow_snapshot_map(snap, &view), -ESTALE);
	ck_assert_int_eq(cow_snapshot_save(snap, fd, NULL, NULL), -ESTALE);
}

START_TEST(writes_go_on_and_the_next_cowd_serves)
{
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = proof_mode(_i)};
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *next = NULL;
	struct cow_region *no_region = NULL;
	struct writer writer = {.n_written = 0};

	proof_ok(cow_region_new(&region, client, &params));
	writer_start(&writer, region);
	proof_ok(cow_snapshot_new(&snap, region));
	ck_assert_uint_ne(cow_snapshot_id(snap), 0);
	for (int i = 0; i < 3; i++) {
		proof_cowd_kill();
		writer_await_round(&writer);
		proof_await_lost(snap);
		check_lost(snap);
		ck_assert_int_eq(cow_region_new(&no_region, client, &params), -ENOTCONN);
		ck_assert_ptr_nonnull(strstr(cow_last_error(), "is cowd running"));
		ck_assert_int_eq(cow_snapshot_new(&next, region), -ENOTCONN);
		ck_assert_ptr_null(next);

		proof_cowd_start(NULL);
		proof_ok(cow_snapshot_new(&next, region));
		ck_assert_uint_ne(cow_snapshot_id(next), 0);
		check_lost(snap);
		snap = cow_snapshot_unref(snap);
		snap = steal_ptr(&next);
	}
	writer_end(&writer);
}
END_TEST

START_TEST(a_snapshot_of_the_next_cowd_is_right)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(proof_mode(_i), REGION_BYTES);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *old = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	char *base = cow_region_address(region);

	proof_fill(base, REGION_BYTES, SEED);
	proof_ok(cow_snapshot_new(&old, region));
	/* Half of the pages are changed when cowd dies, and half are not. */
	proof_fill(base, REGION_BYTES / 2, OTHER_SEED);
	proof_cowd_kill();
	proof_cowd_start(NULL);
	proof_fill(base, REGION_BYTES, OTHER_SEED);
	proof_ok(cow_snapshot_new(&snap, region));
	proof_fill(base, REGION_BYTES, SEED);
	proof_check_snapshot(snap, OTHER_SEED);
	ck_assert(proof_is_filled(base, REGION_BYTES, SEED, 0));
}
END_TEST

/*
 * The next cowd gives the old numbers to other things: a lost snapshot does not become one of
 * those, and its release does not release one.
 */
START_TEST(a_number_is_not_an_identity)
{
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = proof_mode(_i)};
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	struct cow_snapshot *others[64] = {NULL};
	uint64_t id, other_id = 0;
	size_t n = 0;
	char byte;

	proof_ok(cow_region_new(&region, client, &params));
	/* Far enough up that the next cowd gets there by snapshots alone. */
	for (int i = 0; i < 16; i++) {
		snap = cow_snapshot_unref(snap);
		proof_ok(cow_snapshot_new(&snap, region));
	}
	id = cow_snapshot_id(snap);
	proof_cowd_kill();
	proof_await_lost(snap);
	proof_cowd_start(NULL);
	while (other_id < id) {
		ck_assert_uint_lt(n, ARRAY_SIZE(others));
		proof_ok(cow_snapshot_new(&others[n], region));
		other_id = cow_snapshot_id(others[n++]);
	}
	ck_assert_uint_eq(other_id, id);
	check_lost(snap);
	snap = cow_snapshot_unref(snap);
	/* Asked of cowd, not of what the library knows. */
	proof_ok(cow_snapshot_open(&snap, client, id));
	proof_ok(cow_snapshot_read(snap, &byte, 1, 0));
	while (n)
		cow_snapshot_unref(others[--n]);
}
END_TEST

static sigjmp_buf on_bus;

static void handle_bus(int signal)
{
	(void)signal;
	siglongjmp(on_bus, 1);
}

START_TEST(the_view_of_a_lost_snapshot_raises_sigbus)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(proof_mode(_i), REGION_BYTES);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	struct sigaction action = {.sa_handler = handle_bus}, saved;
	const volatile char *view = NULL;
	const void *mapped;

	proof_fill(cow_region_address(region), REGION_BYTES, SEED);
	proof_ok(cow_snapshot_new(&snap, region));
	proof_ok(cow_snapshot_map(snap, &mapped));
	view = mapped;
	ck_assert(proof_is_filled(mapped, page_size_bytes(), SEED, 0));
	proof_cowd_kill();
	proof_await_lost(snap);
	ck_assert(!sigaction(SIGBUS, &action, &saved));
	/* A page that was read before, and one that was not. */
	for (size_t off = 0; off < REGION_BYTES; off += REGION_BYTES / 2) {
		if (!sigsetjmp(on_bus, 1))
			ck_abort_msg("read %d from a lost snapshot", view[off]);
	}
	ck_assert(!sigaction(SIGBUS, &saved, NULL));
	proof_cowd_start(NULL);
}
END_TEST

static void *make_regions(void *arg)
{
	struct cow_client *client = arg;
	int r = 0;

	/* Each is a call under way, or about to be, when cowd dies. */
	while (!r) {
		struct cow_region_params params = {.size_bytes = 1 << 16, .mode = COW_MODE_SCOOT};
		struct cow_region *region = NULL;

		r = cow_region_new(&region, client, &params);
		cow_region_unref(region);
	}
	return (void *)(intptr_t)r;
}

START_TEST(calls_under_way_fail)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	pthread_t threads[4];

	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		ck_assert(!pthread_create(&threads[i], NULL, make_regions, client));
	/* Without cowd's help no reply comes any more: what waits
	 * then is woken by its death alone. */
	ck_assert(!kill(proof_cowd(), SIGSTOP));
	proof_cowd_kill();
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		void *result;

		ck_assert(!pthread_join(threads[i], &result));
		ck_assert_int_eq((int)(intptr_t)result, -ENOTCONN);
	}
	proof_cowd_start(NULL);
}
END_TEST

/* One client, used by many threads while cowd comes and goes. */
struct user {
	struct cow_client *client;
	_Atomic bool *is_ending;
	uint32_t mode;
	uint64_t n_right;
	pthread_t thread;
};

static bool is_of_a_restart(int r)
{
	return r == -ENOTCONN || r == -ESTALE || r == -EAGAIN || r == -ECONNREFUSED;
}

/* A region, a snapshot, a changed region, a read. Return: 0, or what a restart makes of it. */
static int use_once(struct user *user, uint64_t seed)
{
	struct cow_region_params params = {.size_bytes = 1 << 16, .mode = user->mode};
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	char *base, copy[1 << 13];
	const void *view;
	int r;

	r = cow_region_new(&region, user->client, &params);
	if (r)
		return r;
	base = cow_region_address(region);
	proof_fill(base, 1 << 16, seed);
	r = cow_snapshot_new(&snap, region);
	if (r)
		return r;
	proof_fill(base, 1 << 16, seed + 1);
	ck_assert(proof_is_filled(base, 1 << 16, seed + 1, 0));
	for (uint64_t off = 0; off < 1 << 16; off += sizeof(copy)) {
		r = cow_snapshot_read(snap, copy, sizeof(copy), off);
		if (r)
			return r;
		ck_assert(proof_is_filled(copy, sizeof(copy), seed, off));
	}
	r = cow_snapshot_id(snap) ? 0 : -ESTALE;
	if (!r && seed % 4 == 0)
		r = cow_snapshot_map(snap, &view);
	user->n_right += !r;
	return r;
}

static void *use_on(void *arg)
{
	struct user *user = arg;
	int r;

	for (uint64_t seed = 1; !atomic_load(user->is_ending); seed++) {
		r = use_once(user, seed);
		ck_assert_msg(!r || is_of_a_restart(r), "%d: %s", r, cow_last_error());
	}
	/* cowd is there now and stays. */
	do {
		r = use_once(user, 4);
	} while (is_of_a_restart(r));
	proof_ok(r);
	return NULL;
}

START_TEST(many_threads_and_many_restarts)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = proof_mode(_i)};
	_Atomic bool is_ending = false;
	struct writer writer = {.n_written = 0};
	struct user users[6];

	proof_ok(cow_region_new(&region, client, &params));
	writer_start(&writer, region);
	for (size_t i = 0; i < ARRAY_SIZE(users); i++) {
		users[i] = (struct user){
			.client = client, .is_ending = &is_ending, .mode = params.mode};
		ck_assert(!pthread_create(&users[i].thread, NULL, use_on, &users[i]));
	}
	for (int i = 0; i < 4; i++) {
		CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
		int r;

		do {
			r = cow_snapshot_new(&snap, region);
		} while (is_of_a_restart(r));
		proof_ok(r);
		writer_await_round(&writer);
		proof_cowd_kill();
		proof_cowd_start(NULL);
	}
	atomic_store(&is_ending, true);
	for (size_t i = 0; i < ARRAY_SIZE(users); i++) {
		ck_assert(!pthread_join(users[i].thread, NULL));
		ck_assert_uint_gt(users[i].n_right, 0);
	}
	writer_end(&writer);
}
END_TEST

static pid_t private_cowd(struct cow_client *client)
{
	Cow__V1__Status status = COW__V1__STATUS__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__Reply *reply = NULL;
	pid_t pid;

	request.call_case = COW__V1__REQUEST__CALL_STATUS;
	request.status = &status;
	proof_ok(cowi_call(client, &request, NULL, 0, &reply, NULL));
	pid = (pid_t)reply->status->pid;
	cow__v1__reply__free_unpacked(reply, NULL);
	return pid;
}

START_TEST(a_private_cowd_is_started_again)
{
	struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = proof_mode(_i)};
	CLEANUP(cow_client_unrefp) struct cow_client *client = NULL;
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *next = NULL;
	pid_t first;

	proof_ok(cow_client_new(&client, "exec:"));
	first = private_cowd(client);
	/* It is not a child of this process: wait() finds nothing
	 * that the program did not start. */
	ck_assert_int_eq(waitpid(first, NULL, WNOHANG), -1);
	ck_assert_int_eq(errno, ECHILD);
	proof_ok(cow_region_new(&region, client, &params));
	proof_ok(cow_snapshot_new(&snap, region));
	ck_assert(!kill(first, SIGKILL));
	proof_await_lost(snap);
	proof_fill(cow_region_address(region), REGION_BYTES, SEED);
	proof_ok(cow_snapshot_new(&next, region));
	ck_assert_int_ne(private_cowd(client), first);
	proof_fill(cow_region_address(region), REGION_BYTES, OTHER_SEED);
	proof_check_snapshot(next, SEED);
}
END_TEST

/*
 * The program that took a snapshot loses its connection, but neither it nor cowd goes. Who has
 * opened the snapshot reads right bytes or is told that it is lost. Broken by settling while there
 * is no connection, and by a cowd that does not lose what is made of memory that is handed over.
 */
START_TEST(what_others_opened_does_not_change_when_the_connection_ends)
{
	const uint32_t mode = _i ? COW_MODE_MMAPCOPY : COW_MODE_SCOOT;
	CLEANUP(cow_region_unrefp) struct cow_region *region = proof_region(mode, REGION_BYTES);
	CLEANUP(cow_client_unrefp) struct cow_client *other = proof_client();
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *opened = NULL;
	CLEANUP(freep) void *bytes = proof_alloc(REGION_BYTES);
	struct cow_snapshot *snap = NULL;
	bool was_settled = false;
	int r = 0;

	proof_fill(cow_region_address(region), REGION_BYTES, SEED);
	proof_ok(cow_snapshot_new(&snap, region));
	proof_ok(cow_snapshot_open(&opened, other, cow_snapshot_id(snap)));
	proof_fill(cow_region_address(region), REGION_BYTES, OTHER_SEED);
	pthread_mutex_lock(&region->client->lock);
	ck_assert(!shutdown(region->client->conn->sock, SHUT_RDWR));
	pthread_mutex_unlock(&region->client->lock);
	proof_await_lost(snap);
	snap = cow_snapshot_unref(snap);
	while (!r) {
		/* Once it is settled cowd has told everybody. */
		was_settled = proof_is_settled(region);
		r = cow_snapshot_save(opened, proof_file(), NULL, NULL);
		if (was_settled)
			ck_assert_int_eq(r, -ESTALE);
		if (!r)
			r = cow_snapshot_read(opened, bytes, REGION_BYTES, 0);
		if (!r)
			ck_assert(proof_is_filled(bytes, REGION_BYTES, SEED, 0));
	}
	ck_assert_int_eq(r, -ESTALE);
	proof_wait_until_settled(region);
	ck_assert(proof_is_filled(cow_region_address(region), REGION_BYTES, OTHER_SEED, 0));
}
END_TEST

/* Whether the byte at @p can be read; it is then @byte. */
static bool can_see(const volatile char *p, char *byte)
{
	if (sigsetjmp(on_bus, 1))
		return false;
	*byte = *p;
	return true;
}

/*
 * The same for a view, in a program that is slow to hear what cowd tells it: the owner has its next
 * connection, takes snapshots and settles other regions, but what the view shows stays as it was
 * until it is taken away. Broken by settling as soon as the region was handed over (with a
 * cowi_lease_await() that frees at once) and, without an end, by not releasing what is lost
 * (cowi_snapshot_release_lost()) or by keeping its lease (end_lease()).
 */
START_TEST(a_view_does_not_change_when_the_owners_connection_ends)
{
	const uint32_t mode = _i ? COW_MODE_MMAPCOPY : COW_MODE_SCOOT;
	CLEANUP(cow_region_unrefp) struct cow_region *region = proof_region(mode, REGION_BYTES);
	CLEANUP(cow_client_unrefp) struct cow_client *other = proof_client();
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *opened = NULL;
	CLEANUP(cow_region_unrefp) struct cow_region *second = NULL;
	const struct cow_region_params params = {.size_bytes = REGION_BYTES, .mode = mode};
	struct sigaction action = {.sa_handler = handle_bus}, saved;
	struct cow_snapshot *snap = NULL;
	const void *view = NULL;
	char byte;

	proof_fill(cow_region_address(region), REGION_BYTES, SEED);
	proof_ok(cow_region_new(&second, region->client, &params));
	proof_ok(cow_snapshot_new(&snap, region));
	proof_ok(cow_snapshot_open(&opened, other, cow_snapshot_id(snap)));
	proof_ok(cow_snapshot_map(opened, &view));
	proof_fill(cow_region_address(region), REGION_BYTES, OTHER_SEED);

	/* From here on nothing that cowd says to @other is acted upon. */
	pthread_mutex_lock(&other->lock);
	pthread_mutex_lock(&region->client->lock);
	ck_assert(!shutdown(region->client->conn->sock, SHUT_RDWR));
	pthread_mutex_unlock(&region->client->lock);
	proof_await_lost(snap);
	snap = cow_snapshot_unref(snap);
	for (int i = 0; i < 10; i++) {
		proof_fill(cow_region_address(second), REGION_BYTES, SEED);
		proof_ok(cow_snapshot_new(&snap, second));
		proof_fill(cow_region_address(second), REGION_BYTES, OTHER_SEED);
		snap = cow_snapshot_unref(snap);
		proof_wait_until_settled(second);
		ck_assert(proof_is_filled(view, REGION_BYTES, SEED, 0));
	}
	pthread_mutex_unlock(&other->lock);

	/* Once it is told, it is over, and the owner has its memory back. */
	proof_wait_until_settled(region);
	ck_assert(proof_is_filled(cow_region_address(region), REGION_BYTES, OTHER_SEED, 0));
	ck_assert_int_eq(cow_snapshot_read(opened, &byte, 1, 0), -ESTALE);
	ck_assert(!sigaction(SIGBUS, &action, &saved));
	ck_assert(!can_see(view, &byte));
	ck_assert(!sigaction(SIGBUS, &saved, NULL));
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("reconnect", 60);

	tcase_add_loop_test(tcase, writes_go_on_and_the_next_cowd_serves, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, a_snapshot_of_the_next_cowd_is_right, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, a_number_is_not_an_identity, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, the_view_of_a_lost_snapshot_raises_sigbus, 0, PROOF_N_MODES);
	tcase_add_test(tcase, calls_under_way_fail);
	tcase_add_loop_test(tcase, many_threads_and_many_restarts, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, a_private_cowd_is_started_again, 0, PROOF_N_MODES);
	tcase_add_loop_test(tcase, what_others_opened_does_not_change_when_the_connection_ends, 0,
			    2);
	tcase_add_loop_test(tcase, a_view_does_not_change_when_the_owners_connection_ends, 0, 2);
	return proof_run(tcase);
}
