/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A thousand clients, each with a connection and a uffd region of its own: what an idle one costs
 * cowd, that all of them are served, by more than one worker, that nothing stays when they go; that
 * one which faults without end does not keep others from being served; and that cowd says so when
 * it can take no more.
 *
 * The thousand are in ten processes. That changes nothing for cowd, which knows connections: each
 * has its socket, process descriptor, userfaultfd and memfd.
 *
 * Seen to fail with: one worker that everything is given to; 100 KB that every session allocates
 * and touches; memory made ready for 64 pages where there are four; workers that look around every
 * millisecond; first writes that are let through without being kept; a refusal that the library
 * does not read because its greeting could not be sent any more.
 */
#include "config.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include "libclient/internal.h"
#include "system/proof.h"

#ifdef COW_SANITIZED
enum {
	N_PER_PROCESS = 10
};
#else
enum {
	N_PER_PROCESS = 100
};
#endif

enum {
	N_PROCESSES = 10,
	N_CLIENTS = N_PROCESSES * N_PER_PROCESS,
	REGION_PAGES = 4,
	CLIENT_MAX_BYTES = 64 * 1024,
	N_CALM = 50,
	CALM_ROUNDS = 8,
	STORM_PAGES = 1024,
};

static size_t region_bytes(void)
{
	return REGION_PAGES * page_size_bytes();
}

/* --- processes that do one step at a time ----------------------------------------------------- */

struct crew {
	pid_t pid;
	int sock; /* this test's end; the process's end in the process */
};

/* Processes end when the test does: then their sockets do. */
static void await_step(int sock)
{
	char byte;

	if (recv(sock, &byte, 1, 0) != 1)
		_exit(EXIT_FAILURE);
}

static void say_done(int sock)
{
	ck_assert_int_eq(send(sock, "", 1, MSG_NOSIGNAL), 1);
}

static void start_crew(struct crew *crew, size_t n, void (*run)(void *user))
{
	for (size_t i = 0; i < n; i++) {
		struct crew there;
		int socks[2];

		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks), 0);
		there.sock = socks[1];
		crew[i].sock = socks[0];
		crew[i].pid = fork();
		ck_assert_int_ge(crew[i].pid, 0);
		if (!crew[i].pid) {
			for (size_t j = 0; j <= i; j++)
				(void)close(crew[j].sock);
			run(&there);
			_exit(EXIT_SUCCESS);
		}
		(void)close(socks[1]);
	}
}

static void tell_crew(const struct crew *crew, size_t n)
{
	for (size_t i = 0; i < n; i++)
		say_done(crew[i].sock);
}

static void await_crew(const struct crew *crew, size_t n)
{
	char byte;

	for (size_t i = 0; i < n; i++)
		ck_assert_msg(recv(crew[i].sock, &byte, 1, 0) == 1, "process %zu has failed", i);
}

static void reap_crew(struct crew *crew, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		proof_reap(crew[i].pid, 0);
		(void)close(crew[i].sock);
	}
}

/* --- what cowd costs -------------------------------------------------------------------------- */

static uint64_t number_in(const char *path, const char *key)
{
	char line[256];
	FILE *file = fopen(path, "re");
	uint64_t number = 0;

	if (!file)
		return 0; /* a thread that has ended meanwhile */
	while (fgets(line, sizeof(line), file)) {
		if (!strncmp(line, key, strlen(key)))
			number += strtoull(line + strlen(key), NULL, 10);
	}
	(void)fclose(file);
	return number;
}

static uint64_t cowd_bytes(void)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/status", (int)proof_cowd());
	return number_in(path, "VmRSS:") * 1024;
}

/* Nanoseconds that cowd was on a CPU. */
static uint64_t cowd_cpu_nsec(void)
{
	struct timespec ts;
	clockid_t clock_id;

	ck_assert_int_eq(clock_getcpuclockid(proof_cowd(), &clock_id), 0);
	ck_assert_int_eq(clock_gettime(clock_id, &ts), 0);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* What cowd says of its regions: how many there are, their faults, and who serves them. */
struct regions_seen {
	uint64_t n_regions;
	uint64_t n_faulted;
	uint64_t n_by_cpu[1024];
};

static void look_at_regions(struct regions_seen *seen)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__ListRegions call = COW__V1__LIST_REGIONS__INIT;
	bool has_more = true;

	memset(seen, 0, sizeof(*seen));
	request.call_case = COW__V1__REQUEST__CALL_LIST_REGIONS;
	request.list_regions = &call;
	while (has_more) {
		Cow__V1__Reply *reply = NULL;
		const Cow__V1__RegionList *list;

		proof_ok(cowi_call(client, &request, NULL, 0, &reply, NULL));
		list = reply->regions;
		for (size_t i = 0; i < list->n_regions; i++) {
			seen->n_regions++;
			seen->n_faulted += list->regions[i]->n_faults > 0;
			seen->n_by_cpu[list->regions[i]->cpu % ARRAY_SIZE(seen->n_by_cpu)]++;
			call.after_id = list->regions[i]->region_id;
		}
		has_more = list->has_more;
		cow__v1__reply__free_unpacked(reply, NULL);
	}
}

/* --- a thousand ------------------------------------------------------------------------------- */

struct member {
	struct cow_region *region;
	struct cow_snapshot *snap;
};

static void crowd_main(void *user)
{
	const struct crew *crew = user;
	struct member members[N_PER_PROCESS] = {0};

	for (size_t i = 0; i < N_PER_PROCESS; i++) {
		members[i].region = proof_region(COW_MODE_UFFD, region_bytes());
		proof_fill(cow_region_address(members[i].region), region_bytes(), i);
	}
	say_done(crew->sock);
	await_step(crew->sock);
	for (size_t i = 0; i < N_PER_PROCESS; i++)
		proof_ok(cow_snapshot_new(&members[i].snap, members[i].region));
	say_done(crew->sock);
	await_step(crew->sock);
	for (size_t i = 0; i < N_PER_PROCESS; i++)
		proof_fill(cow_region_address(members[i].region), region_bytes(), i + 1000);
	for (size_t i = 0; i < N_PER_PROCESS; i++) {
		proof_check_snapshot(members[i].snap, i);
		ck_assert(proof_is_filled(cow_region_address(members[i].region), region_bytes(),
					  i + 1000, 0));
	}
	say_done(crew->sock);
	await_step(crew->sock);
	for (size_t i = 0; i < N_PER_PROCESS; i++) {
		members[i].snap = cow_snapshot_unref(members[i].snap);
		members[i].region = cow_region_unref(members[i].region);
	}
}

/* Nothing is to be awaited: that nothing happens is what has to be seen. */
static uint64_t cpu_nsec_of_idle_second(void)
{
	const struct timespec second = {.tv_sec = 1};
	uint64_t before = cowd_cpu_nsec();

	nanosleep(&second, NULL);
	return cowd_cpu_nsec() - before;
}

static void check_idle(uint64_t bytes_before)
{
	uint64_t per_client = (cowd_bytes() - bytes_before) / N_CLIENTS;
	uint64_t cpu_nsec = cpu_nsec_of_idle_second();

	printf("%d clients, idle: %" PRIu64 " bytes of cowd for each, %" PRIu64
	       " us of CPU in a second for all\n",
	       N_CLIENTS, per_client, cpu_nsec / 1000);
#ifndef COW_SANITIZED /* whose own thread is not idle, nor small */
	ck_assert_uint_lt(per_client, CLIENT_MAX_BYTES);
	/* Waking up once for each of them would take more than a microsecond each. */
	ck_assert_uint_lt(cpu_nsec, N_CLIENTS * 1000u);
#endif
}

static void check_workers(void)
{
	struct regions_seen seen;
	unsigned int n_cpus = 0;

	look_at_regions(&seen);
	ck_assert_uint_eq(seen.n_regions, N_CLIENTS);
	ck_assert_uint_eq(seen.n_faulted, N_CLIENTS);
	for (size_t i = 0; i < ARRAY_SIZE(seen.n_by_cpu); i++) {
		if (!seen.n_by_cpu[i])
			continue;
		n_cpus++;
		printf("worker of CPU %zu: %" PRIu64 " regions\n", i, seen.n_by_cpu[i]);
	}
	ck_assert_uint_ge(n_cpus, sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1);
}

/* A snapshot of which all is kept takes a page for each page,
 * and not a stock for a large region. */
static void check_served(uint64_t bytes_before)
{
	uint64_t per_client = (cowd_bytes() - bytes_before) / N_CLIENTS;

	printf("after faults, with a snapshot each: %" PRIu64 " bytes of cowd for each\n",
	       per_client);
#ifndef COW_SANITIZED
	ck_assert_uint_lt(per_client, CLIENT_MAX_BYTES + region_bytes());
#endif
}

START_TEST(a_thousand_clients_are_served)
{
	struct crew crew[N_PROCESSES];
	struct proof_holdings before;
	uint64_t bytes_before;

	proof_holdings(&before);
	bytes_before = cowd_bytes();
	start_crew(crew, N_PROCESSES, crowd_main);
	await_crew(crew, N_PROCESSES);
	check_idle(bytes_before);
	tell_crew(crew, N_PROCESSES);
	await_crew(crew, N_PROCESSES);
	tell_crew(crew, N_PROCESSES);
	await_crew(crew, N_PROCESSES);
	check_workers();
	check_served(bytes_before);
	tell_crew(crew, N_PROCESSES);
	reap_crew(crew, N_PROCESSES);
	proof_wait_for_holdings(&before);
}
END_TEST

/* --- a storm ---------------------------------------------------------------------------------- */

/* Writes to all pages of one snapshot after another until it is told to end. */
static void storm_main(void *user)
{
	size_t n_bytes = STORM_PAGES * page_size_bytes();
	const struct crew *crew = user;
	struct cow_region *region = proof_region(COW_MODE_UFFD, n_bytes);
	bool is_first = true;
	char byte;

	for (uint64_t round = 0; recv(crew->sock, &byte, 1, MSG_DONTWAIT) != 1; round++) {
		struct cow_snapshot *snap = NULL;

		proof_ok(cow_snapshot_new(&snap, region));
		if (is_first)
			say_done(crew->sock);
		is_first = false;
		proof_fill(cow_region_address(region), n_bytes, round);
		cow_snapshot_unref(snap);
	}
	cow_region_unref(region);
}

static void calm_main(void *user)
{
	const struct crew *crew = user;
	struct cow_region *region = proof_region(COW_MODE_UFFD, region_bytes());

	for (uint64_t round = 0; round < CALM_ROUNDS; round++) {
		struct cow_snapshot *snap = NULL;

		proof_fill(cow_region_address(region), region_bytes(), round);
		proof_ok(cow_snapshot_new(&snap, region));
		proof_fill(cow_region_address(region), region_bytes(), round + 100);
		proof_check_snapshot(snap, round);
		ck_assert(proof_is_filled(cow_region_address(region), region_bytes(), round + 100,
					  0));
		cow_snapshot_unref(snap);
	}
	cow_region_unref(region);
	say_done(crew->sock);
}

START_TEST(a_storm_keeps_nobody_from_being_served)
{
	struct crew calm[N_CALM], storm;
	struct proof_holdings before;

	proof_holdings(&before);
	start_crew(&storm, 1, storm_main);
	await_crew(&storm, 1);
	start_crew(calm, N_CALM, calm_main);
	await_crew(calm, N_CALM);
	tell_crew(&storm, 1);
	reap_crew(calm, N_CALM);
	reap_crew(&storm, 1);
	proof_wait_for_holdings(&before);
}
END_TEST

/* --- no more ---------------------------------------------------------------------------------- */

static void allow_fds(uint64_t n_more)
{
	struct proof_holdings now;
	struct rlimit limit;

	proof_holdings(&now); /* by a connection that has ended when the next one is made */
	ck_assert_int_eq(prlimit(proof_cowd(), RLIMIT_NOFILE, NULL, &limit), 0);
	limit.rlim_cur = now.n_fds + n_more;
	ck_assert_int_eq(prlimit(proof_cowd(), RLIMIT_NOFILE, &limit, NULL), 0);
}

START_TEST(what_there_are_no_descriptors_for_is_refused_with_a_sentence)
{
	CLEANUP(cow_client_unrefp) struct cow_client *first = NULL;
	struct cow_client *clients[64] = {NULL};
	struct cow_region *regions[64] = {NULL};
	struct proof_holdings before;
	size_t n_clients = 0, n_regions = 0;
	struct cow_region_params params = {.size_bytes = region_bytes(), .mode = COW_MODE_UFFD};
	int r = 0;

	proof_holdings(&before);
	first = proof_client();
	allow_fds(20);
	while (n_regions < ARRAY_SIZE(regions) && !r)
		r = cow_region_new(&regions[n_regions++], first, &params);
	ck_assert_int_lt(r, 0);
	ck_assert_msg(strstr(cow_last_error(), "cowd may have"), "no sentence: %s",
		      cow_last_error());
	ck_assert_ptr_nonnull(strstr(cow_last_error(), "descriptors (ulimit -n"));
	printf("region %zu: %s\n", n_regions, cow_last_error());
	for (size_t i = 0; i < n_regions; i++)
		cow_region_unref(regions[i]);

	r = 0;
	while (n_clients < ARRAY_SIZE(clients) && !r)
		r = cow_client_new(&clients[n_clients++], proof_address());
	ck_assert_msg(r == -EMFILE, "%d: %s", r, cow_last_error());
	ck_assert_ptr_nonnull(strstr(cow_last_error(), "descriptors (ulimit -n"));
	printf("connection %zu: %s\n", n_clients, cow_last_error());
	for (size_t i = 0; i < n_clients; i++)
		cow_client_unref(clients[i]);

	/* Who was there all the time is served on, and so is who comes when there is room. */
	first = cow_client_unref(first);
	proof_wait_for_holdings(&before);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("a thousand clients", 60);

	proof_need_uffd();
	tcase_add_test(tcase, a_thousand_clients_are_served);
	tcase_add_test(tcase, a_storm_keeps_nobody_from_being_served);
	tcase_add_test(tcase, what_there_are_no_descriptors_for_is_refused_with_a_sentence);
	return proof_run(tcase);
}
