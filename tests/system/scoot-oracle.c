// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Modes scoot and mmapcopy against an oracle: random steps of several threads writing, snapshots
 * taken, read, mapped and released in any order while they write, rolling back, discarding,
 * copying, fork children that check what they have, and now and then a wait until all is settled.
 * Plain copies say what the region, each snapshot and each child must hold.
 *
 * Nothing is left to chance but timing. A thread has pages of its own and writes single words, in
 * an order that its seed decides, after having read there what it wrote last. So whatever was
 * frozen while the threads wrote must be, page for page of a thread, what it had after some number
 * of its words, and that number is between those counted before and after the call.
 *
 *   COW_ORACLE_STEPS    steps of each variant (default: about a hundred)
 *   COW_ORACLE_SECONDS  stop after that time instead, whatever the steps, hours if need be;
 *                       COWD_TEST_SECONDS (run-test.sh) has to allow for it, for each variant
 *   COW_ORACLE_SEED     the sequence; the one used is in the log
 *   COW_ORACLE_VERBOSE  say each step
 *
 * Seen to fail: when settling leaves out the first run of a chunk's pages (write_back() in
 * backends/settle.c), holds no writer (settle_chunk() without hold_begin()), or brings discarded
 * pages home without punching (scoot_settle_step()); when a fork's guard keeps nothing frozen
 * (freeze() in libclient/fork/fork.c).
 */
#include "config.h"

#include "system/scoot-oracle.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

/*
 * What stops them has no threads, and shares memory: the thread sanitizer cannot follow that.
 * Without them these ways are two more of those before.
 */
#if defined(__SANITIZE_THREAD__) || !defined(COW_STOP_THREADS)
#define STOPS 0
#else
#define STOPS COW_REGION_STOP_THREADS
#endif

/*
 * Sizes are no multiples of a huge page. The larger one is settled in several chunks. With several
 * regions there are copies between them.
 */
static const struct variant variants[] = {
	{"scoot", COW_MODE_SCOOT, NULL, 1, 700, 240},
	{"scoot, several chunks", COW_MODE_SCOOT, NULL, 1, 2501, 60},
	{"scoot, two regions", COW_MODE_SCOOT, NULL, 2, 701, 80},
	{"scoot without userfaultfd", COW_MODE_SCOOT, "[daemon]\nlend = no\n", 1, 700, 80},
	{"mmapcopy", COW_MODE_MMAPCOPY, NULL, 2, 701, 80},
	{"mmapcopy without userfaultfd", COW_MODE_MMAPCOPY, "[daemon]\nlend = no\n", 2, 700, 50},
	{"scoot, threads stopped", COW_MODE_SCOOT, "[daemon]\nlend = no\n", 1, 700, 80, STOPS},
	{"mmapcopy, threads stopped", COW_MODE_MMAPCOPY, "[daemon]\nlend = no\n", 2, 700, 50,
	 STOPS},
};

/* It does not follow a program that has threads into its children. */
#ifdef __SANITIZE_THREAD__
#define CAN_FORK false
#else
#define CAN_FORK true
#endif

/* --- snapshots -------------------------------------------------------------------------------- */

static void check_words(const struct shot *shot, const void *got, size_t off, size_t len)
{
	const char *want = (const char *)shot->want + off, *found = got;
	size_t i = 0;

	if (!memcmp(found, want, len))
		return;
	while (found[i] == want[i])
		i++;
	ck_abort_msg("snapshot %" PRIu64 ", page %zu: byte %zu is %#x, not %#x",
		     cow_snapshot_id(shot->snap), (off + i) / page_size_bytes(),
		     (off + i) % page_size_bytes(), (unsigned char)found[i],
		     (unsigned char)want[i]);
}

static void step_take(struct oracle *oracle)
{
	struct shot *shot = &oracle->shots[oracle->n_shots];
	CLEANUP(freep) uint64_t *got = NULL;
	struct bounds bounds;
	size_t n_bytes;

	if (oracle->n_shots == N_SHOTS_MAX)
		return;
	*shot = (struct shot){.region = pick(oracle, oracle->variant->n_regions)};
	count_done(oracle, bounds.before);
	proof_ok(cow_snapshot_new(&shot->snap, oracle->regions[shot->region]));
	count_done(oracle, bounds.after);
	n_bytes = cow_snapshot_size(shot->snap);
	shot->want = proof_alloc(n_bytes);
	got = proof_alloc(n_bytes);
	proof_ok(cow_snapshot_read(shot->snap, got, n_bytes, 0));
	ck_assert_msg(is_one_cut(oracle, shot->region, &bounds, shot->want, got),
		      "a snapshot is not one instant of the region");
	oracle->n_shots++;
}

static struct shot *any_shot(struct oracle *oracle)
{
	return oracle->n_shots ? &oracle->shots[pick(oracle, oracle->n_shots)] : NULL;
}

static void step_read(struct oracle *oracle)
{
	CLEANUP(freep) char *buf = NULL;
	struct shot *shot = any_shot(oracle);
	size_t off, len;

	if (!shot)
		return;
	off = pick(oracle, cow_snapshot_size(shot->snap));
	len = 1 + pick(oracle, cow_snapshot_size(shot->snap) - off);
	if (pick(oracle, 4) == 0) {
		off = 0;
		len = cow_snapshot_size(shot->snap);
	}
	buf = proof_alloc(len);
	proof_ok(cow_snapshot_read(shot->snap, buf, len, off));
	check_words(shot, buf, off, len);
	if (shot->view)
		check_words(shot, shot->view + off, off, len);
}

static void step_map(struct oracle *oracle)
{
	struct shot *shot = any_shot(oracle);
	const void *view = NULL;

	if (!shot)
		return;
	proof_ok(cow_snapshot_map(shot->snap, &view));
	shot->view = view;
	check_words(shot, shot->view, 0, cow_snapshot_size(shot->snap));
}

static void step_release(struct oracle *oracle)
{
	struct shot *shot = any_shot(oracle);

	if (!shot)
		return;
	cow_snapshot_unref(shot->snap);
	free(shot->want);
	*shot = oracle->shots[--oracle->n_shots];
}

static void step_save(struct oracle *oracle)
{
	CLEANUP(freep) char *buf = NULL;
	struct shot *shot = any_shot(oracle);
	AUTO_FD int fd = -1;
	size_t n_bytes;

	if (!shot)
		return;
	n_bytes = cow_snapshot_size(shot->snap);
	fd = proof_file();
	proof_ok(cow_snapshot_save(shot->snap, fd, NULL, NULL));
	buf = proof_alloc(n_bytes);
	ck_assert_int_eq(pread(fd, buf, n_bytes, 0), (ssize_t)n_bytes);
	check_words(shot, buf, 0, n_bytes);
}

/* --- fork children ---------------------------------------------------------------------------- */

static int check_child(const struct oracle *oracle, const struct bounds *bounds, int go_fd)
{
	char byte;

	for (size_t i = 0; i < oracle->variant->n_regions; i++) {
		if (!is_one_cut(oracle, i, bounds, oracle->scratch + i * oracle->region_words,
				region_memory(oracle, i)))
			return 10;
	}
	if (read(go_fd, &byte, 1) != 1)
		return 11;
	for (size_t i = 0; i < oracle->variant->n_regions; i++) {
		uint64_t *want = oracle->scratch + i * oracle->region_words;

		if (memcmp(region_memory(oracle, i), want,
			   oracle->region_words * sizeof(uint64_t)) != 0)
			return 12;
	}
	memset(region_memory(oracle, 0), 0x3c, oracle->region_words * sizeof(uint64_t));
	return 0;
}

/* Often it is a child's child that has the memory. */
static _Noreturn void child_main(const struct oracle *oracle, struct bounds *bounds, int go_fd)
{
	bool is_grand = oracle->seed & 1024;
	int status = 0;
	pid_t pid = 0;

	/* What the threads counted when they were copied is at least what memory has. */
	count_done(oracle, bounds->after);
	if (is_grand)
		pid = fork();
	if (!pid)
		_exit(check_child(oracle, bounds, go_fd));
	close(go_fd);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		_exit(20);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 21);
}

static void *fork_child(void *arg)
{
	struct oracle *oracle = arg;
	struct child *child = &oracle->children[oracle->n_children];
	bool is_plain = pick(oracle, 2);
	struct bounds bounds;
	int go[2];

	ck_assert_int_eq(pipe2(go, O_CLOEXEC), 0);
	count_done(oracle, bounds.before);
	child->pid = is_plain ? fork() : cow_fork(oracle->client);
	if (!child->pid) {
		close(go[1]);
		child_main(oracle, &bounds, go[0]);
	}
	close(go[0]);
	child->go_fd = go[1];
	return NULL;
}

/* From this thread or from one that is there for this only. */
static void step_fork(struct oracle *oracle)
{
	pthread_t thread;

	if (!CAN_FORK || oracle->n_children == N_CHILDREN_MAX)
		return;
	if (pick(oracle, 2)) {
		(void)fork_child(oracle);
	} else {
		ck_assert_int_eq(pthread_create(&thread, NULL, fork_child, oracle), 0);
		pthread_join(thread, NULL);
	}
	ck_assert_msg(oracle->children[oracle->n_children].pid > 0, "%s", cow_last_error());
	oracle->n_children++;
}

static void step_reap(struct oracle *oracle)
{
	struct child *child;
	int status;

	if (!oracle->n_children)
		return;
	child = &oracle->children[pick(oracle, oracle->n_children)];
	ck_assert_int_eq(write(child->go_fd, "", 1), 1);
	ck_assert_int_eq(waitpid(child->pid, &status, 0), child->pid);
	close(child->go_fd);
	ck_assert_msg(WIFEXITED(status) && !WEXITSTATUS(status),
		      "a fork child ended with status %#x", (unsigned int)status);
	*child = oracle->children[--oracle->n_children];
}

/* --- changing much at once, while nobody writes ----------------------------------------------- */

static void step_rollback(struct oracle *oracle)
{
	struct shot *shot = any_shot(oracle);

	if (!shot)
		return;
	proof_ok(cow_region_rollback(oracle->regions[shot->region], shot->snap));
	memcpy(oracle->now + shot->region * oracle->region_words, shot->want,
	       oracle->region_words * sizeof(uint64_t));
}

static void step_discard(struct oracle *oracle)
{
	size_t region = pick(oracle, oracle->variant->n_regions);
	size_t at = pick(oracle, oracle->variant->n_pages);
	size_t n = 1 + pick(oracle, oracle->variant->n_pages - at);

	if (pick(oracle, 2))
		n = min_u64(n, 1 + pick(oracle, 16));
	proof_ok(cow_region_discard(oracle->regions[region], at * page_size_bytes(),
				    n * page_size_bytes()));
	memset(oracle->now + region * oracle->region_words + at * words_per_page(), 0,
	       n * page_size_bytes());
}

/* Pages of no thread as well. */
static void step_sweep(struct oracle *oracle)
{
	size_t at = pick(oracle, oracle->n_words);
	size_t n = 1 + pick(oracle, oracle->n_words - at);

	for (size_t i = at; i < at + n; i += 1 + words_per_page() / 2) {
		oracle->now[i] = i ^ oracle->seed;
		*word_at(oracle, i) = oracle->now[i];
	}
}

/* Within a region or between two, to the same offset within a page or not, overlapping or not. */
static void step_copy(struct oracle *oracle)
{
	size_t n_bytes = oracle->region_words * sizeof(uint64_t);
	size_t to = pick(oracle, oracle->variant->n_regions);
	size_t from = pick(oracle, oracle->variant->n_regions);
	size_t len = pick(oracle, n_bytes);
	size_t dst = pick(oracle, n_bytes - len), src = pick(oracle, n_bytes - len);
	char *now = (char *)oracle->now;

	if (oracle->variant->mode != COW_MODE_MMAPCOPY)
		return; /* what is in two places is not settled */
	if (pick(oracle, 4))
		src = align_down(src, page_size_bytes()) + dst % page_size_bytes();
	len = min_u64(len, n_bytes - max_u64(src, dst));
	cow_mmapcopy((char *)region_memory(oracle, to) + dst,
		     (char *)region_memory(oracle, from) + src, len);
	memmove(now + to * n_bytes + dst, now + from * n_bytes + src, len);
}

/* An assertion for each word would be a message to libcheck for each. */
static void check_memory(const struct oracle *oracle)
{
	for (size_t i = 0; i < oracle->n_words; i++) {
		uint64_t found = *word_at(oracle, i);

		if (found != oracle->now[i])
			ck_abort_msg(
				"the region's page %zu, word %zu is %#" PRIx64 ", not %#" PRIx64,
				i / words_per_page(), i % words_per_page(), found, oracle->now[i]);
	}
}

/* --- now and then ----------------------------------------------------------------------------- */

static bool is_settled(struct cow_region *region)
{
	bool is_owned;

	pthread_mutex_lock(&region->take_lock);
	is_owned = region->scoot->uffd < 0 || extents_is_owned(&region->scoot->map);
	pthread_mutex_unlock(&region->take_lock);
	return is_owned;
}

static void wait_until_settled(struct cow_region *region)
{
	const struct timespec pause = {.tv_nsec = 1000000};

	while (!is_settled(region))
		nanosleep(&pause, NULL);
}

/* All is gone at once, and the background comes to its end. */
static void step_settle(struct oracle *oracle)
{
	while (oracle->n_shots)
		step_release(oracle);
	while (oracle->n_children)
		step_reap(oracle);
	for (size_t i = 0;
	     oracle->variant->mode == COW_MODE_SCOOT && i < oracle->variant->n_regions; i++)
		wait_until_settled(oracle->regions[i]);
	check_memory(oracle);
}

/* All is settled while threads write. */
static void step_settle_busy(struct oracle *oracle)
{
	if (oracle->variant->mode != COW_MODE_SCOOT)
		return;
	while (oracle->n_shots)
		step_release(oracle);
	while (oracle->n_children)
		step_reap(oracle);
	begin_writing(oracle, N_WORDS_BUSY);
	step_take(oracle);
	step_release(oracle);
	for (size_t i = 0; i < oracle->variant->n_regions; i++)
		wait_until_settled(oracle->regions[i]);
	end_writing(oracle);
}

struct step {
	const char *name;
	void (*run)(struct oracle *oracle);
};

static void run_any(struct oracle *oracle, const struct step *steps, size_t n_steps)
{
	const struct step *step = &steps[pick(oracle, n_steps)];

	if (oracle->is_verbose)
		(void)fprintf(stderr, "%s (%zu snapshots, %zu children)\n", step->name,
			      oracle->n_shots, oracle->n_children);
	step->run(oracle);
}

static const struct step steps_while_writing[] = {
	{"take meanwhile", step_take},       {"take meanwhile", step_take},
	{"take meanwhile", step_take},       {"read meanwhile", step_read},
	{"release meanwhile", step_release}, {"release meanwhile", step_release},
	{"map meanwhile", step_map},         {"fork meanwhile", step_fork},
	{"reap meanwhile", step_reap},       {"save meanwhile", step_save},
};

static void step_write(struct oracle *oracle)
{
	size_t n = pick(oracle, 5);

	begin_writing(oracle, N_WORDS_MAX);
	for (size_t i = 0; i < n; i++)
		run_any(oracle, steps_while_writing, ARRAY_SIZE(steps_while_writing));
	end_writing(oracle);
}

static const struct step steps[] = {
	{"write", step_write},     {"write", step_write},     {"write", step_write},
	{"write", step_write},     {"write", step_write},     {"write", step_write},
	{"take", step_take},       {"release", step_release}, {"roll back", step_rollback},
	{"discard", step_discard}, {"sweep", step_sweep},     {"copy", step_copy},
	{"read", step_read},       {"map", step_map},         {"fork", step_fork},
	{"reap", step_reap},       {"write", step_write},
};

static const struct step settling[] = {
	{"settle", step_settle},
	{"settle meanwhile", step_settle_busy},
};

static void step(struct oracle *oracle)
{
	if (pick(oracle, 16) == 0)
		run_any(oracle, settling, ARRAY_SIZE(settling));
	else
		run_any(oracle, steps, ARRAY_SIZE(steps));
	if (pick(oracle, 4) == 0)
		check_memory(oracle);
}

/* --- a run ------------------------------------------------------------------------------------ */

static uint64_t number_from_env(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

static void start(struct oracle *oracle, const struct variant *variant)
{
	*oracle = (struct oracle){.variant = variant, .client = proof_client()};
	oracle->region_words = variant->n_pages * words_per_page();
	oracle->n_words = oracle->region_words * variant->n_regions;
	oracle->is_verbose = getenv("COW_ORACLE_VERBOSE");
	oracle->seed = number_from_env("COW_ORACLE_SEED", 0x9e3779b97f4a7c15u) | 1;
	oracle->now = calloc(oracle->n_words, sizeof(uint64_t));
	oracle->base = proof_alloc(oracle->n_words * sizeof(uint64_t));
	oracle->scratch = proof_alloc(oracle->n_words * sizeof(uint64_t));
	ck_assert_ptr_nonnull(oracle->now);
	for (size_t i = 0; i < variant->n_regions; i++)
		proof_ok(cow_region_new(
			&oracle->regions[i], oracle->client,
			&(struct cow_region_params){.size_bytes =
							    oracle->region_words * sizeof(uint64_t),
						    .mode = variant->mode,
						    .flags = variant->flags,
						    .name = "oracle"}));
	(void)fprintf(stderr, "%s: COW_ORACLE_SEED=%#" PRIx64 "\n", variant->name, oracle->seed);
}

static void end(struct oracle *oracle)
{
	step_settle(oracle);
	for (size_t i = 0; i < oracle->variant->n_regions; i++)
		cow_region_unref(oracle->regions[i]);
	cow_client_unref(oracle->client);
	free(oracle->now);
	free(oracle->base);
	free(oracle->scratch);
}

START_TEST(every_copy_is_its_own_instant)
{
	const struct variant *variant = &variants[_i];
	uint64_t n_steps = number_from_env("COW_ORACLE_STEPS", variant->n_steps);
	time_t seconds = (time_t)number_from_env("COW_ORACLE_SECONDS", 0);
	time_t until = time(NULL) + seconds;
	struct oracle oracle;

	if (variant->config) {
		proof_cowd_kill();
		proof_cowd_start(variant->config);
	}
	start(&oracle, variant);
	for (uint64_t i = 0; seconds ? time(NULL) < until : i < n_steps; i++)
		step(&oracle);
	end(&oracle);
}
END_TEST

int main(void)
{
	double seconds = (double)number_from_env("COW_ORACLE_SECONDS", 0);
	TCase *tcase = proof_tcase("scoot-oracle", 300 + 2 * seconds);

	(void)signal(SIGPIPE, SIG_IGN); /* of a child that has ended its status says more */
	tcase_add_loop_test(tcase, every_copy_is_its_own_instant, 0, ARRAY_SIZE(variants));
	return proof_run(tcase);
}
