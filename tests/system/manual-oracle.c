// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Random steps against plain copies, written from the manual pages alone: what libcowclient(3) and
 * the pages of its calls promise is what is checked here, byte by byte, and nothing that only the
 * code knows. It shares no line and no idea with the other oracles, so that one mistake in thinking
 * is not in all of them.
 *
 * Each way, a mode with and without a lent userfaultfd, has rounds until $COW_ORACLE_SECONDS (5)
 * have passed. A round has a client of its own, a second one, another process that opens snapshots,
 * up to four regions, eight handles, two fork children and, mostly, three threads that write and
 * read while calls are made; in some a timer's handler writes to a region every millisecond. Every
 * step is chosen by a seed and writes a line; a failure prints the seed and the last lines. To have
 * a round again:
 *
 *	COW_ORACLE_SEED=0x… COW_ORACLE_WAY=3 make check TESTS=tests/system/manual-oracle
 *
 * makes it the first one, in that way alone; what threads do between two barriers differs.
 * $COW_ORACLE_KSM=1 switches the kernel's samepage merging on meanwhile, for the whole machine.
 *
 * Left out: page-outs do nothing on a machine without swap, which is said; snapshots from outside
 * and COW_SNAPSHOT_WAIT, which `outside` and `budget` test.
 *
 * Seen to fail, each within ten seconds: with scoot_keep_run() that leaves out the first of several
 * runs of private pages ("new snapshot 23: byte 0x200a1 of 0x1fd000 compared is 0x23, has to be
 * 0x6a; 1 pages are wrong"); with roll_run_back() that leaves the first page of a run ("memory of
 * region 19: byte 0 of 0x1ff000 compared is 0xe4, has to be 0"); with a check_not_lost() of the
 * library that says no now and then ("snapshot 19: error -107", where a lost one has ESTALE for
 * ever); and, in modes scoot and mmapcopy, when the taking thread's signals were not blocked: its
 * handler waited for itself. Within a minute, with settling in chunks that end at multiples of 2
 * MiB of a region instead of its address: SIGSEGV in memory beside the region.
 */
#include "config.h"

#include "system/manual-oracle.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#ifdef COW_STOP_THREADS
#define CAN_STOP_THREADS true
#else
#define CAN_STOP_THREADS false
#endif

enum {
	N_WAYS = 2 * PROOF_MODES_MAX,
	N_STEPS = 400, /* of a round */
	N_BETWEEN_CHECKS = 40,
	SECONDS_MORE = 60, /* for the last round of a way, on a busy machine */
};

static const struct {
	const char *name;
	oracle_step *step;
	unsigned int weight;
} steps[] = {
	{"write", step_write, 50},
	{"write together", step_write_together, 10},
	{"take", step_take, 20},
	{"take quietly", step_take_quietly, 10},
	{"read", step_read, 20},
	{"save", step_save, 6},
	{"map", step_map, 8},
	{"open", step_open, 6},
	{"other process", step_ask_reader, 8},
	{"release", step_release, 22},
	{"roll back", step_roll_back, 8},
	{"discard", step_discard, 6},
	{"copy", step_copy, 10},
	{"advise", step_advise, 8},
	{"fork", step_fork, 4},
	{"ask child", step_ask_child, 8},
	{"end child", step_end_child, 3},
	{"new", step_new, 6},
	{"adopt", step_adopt, 3},
	{"free", step_free, 4},
	{"kill cowd", step_kill, 1},
	{"beat", step_beat, 10},
};

/* The line of the step that begins. */
static void begin_line(struct oracle *oracle, const char *name)
{
	struct common *common = oracle->common;

	common->n_steps++;
	(void)snprintf(common->lines[common->n_steps % N_LINES], sizeof(common->lines[0]), "%u %s",
		       common->n_steps, name);
}

static void one_step(struct oracle *oracle)
{
	unsigned int sum = 0, at;
	size_t i = 0;

	for (size_t k = 0; k < ARRAY_SIZE(steps); k++)
		sum += steps[k].weight;
	at = (unsigned int)oracle_below(oracle, sum);
	while (at >= steps[i].weight)
		at -= steps[i++].weight;
	begin_line(oracle, steps[i].name);
	steps[i].step(oracle);
}

static void show_lines(const struct common *common)
{
	unsigned int n = common->n_steps;

	for (unsigned int i = n >= N_LINES ? n - N_LINES + 1 : 0; i <= n; i++)
		(void)fprintf(stderr, "%s\n", common->lines[i % N_LINES]);
}

/*
 * A process that shows the last steps of a test that is stuck, before its time limit ends it. It is
 * no thread, which could be stuck as well, and would be another that snapshots have to mind.
 * Return: a descriptor whose close ends it.
 */
static int watch(const struct common *common, uint64_t n_seconds)
{
	int fds[2];
	pid_t pid;

	ck_assert(!pipe2(fds, O_CLOEXEC));
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		struct pollfd end = {.fd = fds[0]};

		(void)close(fds[1]);
		if (!poll(&end, 1, (int)n_seconds * 1000)) {
			(void)fprintf(stderr, "stuck in the last of these steps:\n");
			show_lines(common);
		}
		_exit(EXIT_SUCCESS);
	}
	(void)close(fds[0]);
	return fds[1];
}

/* Every byte of everything. */
static void check_all(struct oracle *oracle)
{
	for (size_t i = 0; i < N_AREAS; i++)
		if (oracle->areas[i].region)
			oracle_check_area(oracle, &oracle->areas[i]);
	for (size_t i = 0; i < N_HELD; i++) {
		struct held *held = &oracle->held[i];

		if (!held->snap)
			continue;
		oracle_check_held(oracle, held, 0, held->shadow->n_bytes);
		if (held->view)
			oracle_check_view(oracle, held);
	}
}

static void fail_if_wrong(struct oracle *oracle, uint64_t seed, int way)
{
	char *log;
	size_t n;

	if (!atomic_load(&oracle->common->is_wrong))
		return;
	show_lines(oracle->common);
	log = proof_cowd_log();
	n = log ? strlen(log) : 0;
	(void)fprintf(stderr, "cowd said last:\n%s", log ? log + (n > 1000 ? n - 1000 : 0) : "");
	free(log);
	ck_abort_msg("COW_ORACLE_SEED=%#llx COW_ORACLE_WAY=%d, step %u: %s",
		     (unsigned long long)seed, way, oracle->common->n_steps, oracle->common->text);
}

static uint64_t number_of(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value && *value ? strtoull(value, NULL, 0) : otherwise;
}

static void begin(struct oracle *oracle, uint64_t seed)
{
	memset(oracle->common->lines, 0, sizeof(oracle->common->lines));
	oracle->common->n_steps = 0;
	oracle->random = seed;
	oracle->page = (size_t)sysconf(_SC_PAGESIZE);
	oracle->n_workers = oracle_one_in(oracle, 4) ? 0 : N_WORKERS;
	oracle->has_signals = oracle_one_in(oracle, 3);
	oracle->may_stop_threads = oracle_one_in(oracle, 2) && CAN_STOP_THREADS;
	oracle_note(oracle, "begin: %u threads%s%s", oracle->n_workers,
		    oracle->has_signals ? ", signals" : "",
		    oracle->may_stop_threads ? ", may stop threads" : "");
	oracle->source_fd = proof_file();
	oracle_fill(oracle->common->bytes, MAX_BYTES, seed);
	ck_assert_int_eq(pwrite(oracle->source_fd, oracle->common->bytes, MAX_BYTES, 0), MAX_BYTES);
	reader_start(oracle);
	oracle->client = proof_client();
	oracle->second = proof_client();
	company_start(oracle);
	heart_start(oracle);
	step_new(oracle);
}

static void end(struct oracle *oracle)
{
	children_stop(oracle);
	while (oracle_one_in(oracle, 2) ? oracle_held(oracle) != NULL
					: oracle_area(oracle) != NULL) {
		struct held *held = oracle_held(oracle);

		if (held)
			oracle_release(oracle, held);
		else
			oracle_area_end(oracle, oracle_area(oracle));
	}
	for (size_t i = 0; i < N_HELD; i++)
		if (oracle->held[i].snap)
			oracle_release(oracle, &oracle->held[i]);
	for (size_t i = 0; i < N_AREAS; i++)
		if (oracle->areas[i].region)
			oracle_area_end(oracle, &oracle->areas[i]);
	heart_stop(oracle);
	company_stop(oracle);
	cow_client_unref(oracle->second);
	cow_client_unref(oracle->client);
	reader_stop(oracle);
	(void)close(oracle->source_fd);
}

static void run_round(struct oracle *oracle, uint64_t seed, int way)
{
	begin(oracle, seed);
	for (unsigned int i = 1; i <= N_STEPS; i++) {
		one_step(oracle);
		if (i % N_BETWEEN_CHECKS == 0)
			check_all(oracle);
		fail_if_wrong(oracle, seed, way);
	}
	begin_line(oracle, "end");
	end(oracle);
	fail_if_wrong(oracle, seed, way);
}

/* --- environment ------------------------------------------------------------------------------ */

static void say_what_is_left_out(void)
{
	char line[128] = "";
	FILE *swaps = fopen("/proc/swaps", "re");

	if (!swaps || !fgets(line, sizeof(line), swaps) || !fgets(line, sizeof(line), swaps))
		(void)fprintf(stderr, "no swap: MADV_PAGEOUT writes nothing out; and so a memory "
				      "cgroup's limit is left out\n");
	if (swaps)
		(void)fclose(swaps);
}

static void switch_ksm(const char *value)
{
	AUTO_FD int fd = -1;

	if (!number_of("COW_ORACLE_KSM", 0))
		return;
	fd = open("/sys/kernel/mm/ksm/run", O_WRONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, value, strlen(value)), (ssize_t)strlen(value));
}

/* Without a device to lend, mode uffd has no regions; the sentence is its error's. */
static void check_uffd_refused(void)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	const struct cow_region_params params = {.size_bytes = 1 << 20, .mode = COW_MODE_UFFD};
	struct cow_region *region = NULL;

	ck_assert_int_eq(cow_region_new(&region, client, &params), -EPERM);
	ck_assert_ptr_null(region);
}

START_TEST(what_the_manual_says_holds)
{
	uint64_t n_seconds = number_of("COW_ORACLE_SECONDS", 5), seed;
	time_t until = time(NULL) + (time_t)n_seconds;
	struct oracle *oracle = proof_alloc(sizeof(*oracle));
	unsigned int n_rounds = 0, n_again = 0;
	struct common *common;
	int watch_fd;

	if (number_of("COW_ORACLE_WAY", (uint64_t)_i) != (uint64_t)_i)
		return;
	ck_assert_int_eq(getrandom(&seed, sizeof(seed), 0), sizeof(seed));
	seed = number_of("COW_ORACLE_SEED", seed);
	common = mmap(NULL, sizeof(*common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	ck_assert_ptr_ne(common, MAP_FAILED);
	watch_fd = watch(common, n_seconds + SECONDS_MORE - 10);
	oracle_catch_touches();
	say_what_is_left_out();
	do {
		*oracle = (struct oracle){
			.mode = proof_mode(_i / 2), .lends = _i % 2 == 0, .common = common};
		if (!n_rounds && !oracle->lends) {
			proof_cowd_kill();
			proof_cowd_start(oracle_config(oracle));
		}
		if (!oracle->lends && oracle->mode == COW_MODE_UFFD) {
			check_uffd_refused();
			break;
		}
		(void)fprintf(stderr, "way %d, seed %#llx\n", _i, (unsigned long long)seed);
		switch_ksm("1");
		run_round(oracle, seed++, _i);
		switch_ksm("0");
		n_again += oracle->n_again;
		n_rounds++;
	} while (time(NULL) < until);
	(void)fprintf(stderr, "%u rounds; %u calls said EAGAIN\n", n_rounds, n_again);
	(void)close(watch_fd);
	(void)munmap(common, sizeof(*common));
	free(oracle);
}
END_TEST

int main(void)
{
	double n_seconds = (double)number_of("COW_ORACLE_SECONDS", 5);
	TCase *tcase;

#ifdef __SANITIZE_THREAD__
	(void)puts(
		"children of children use the library: the thread sanitizer does not follow them");
	return 77;
#endif
	tcase = proof_tcase("manual", n_seconds + SECONDS_MORE);
	tcase_add_loop_test(tcase, what_the_manual_says_holds, 0, 2 * PROOF_N_MODES);
	return proof_run(tcase);
}
