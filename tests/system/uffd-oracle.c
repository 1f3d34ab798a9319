/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mode uffd against an oracle: random steps of writing (several threads at once), taking snapshots,
 * reading, mapping, saving and releasing them in any order, rolling back and freezing from outside,
 * while memcpy'd copies say what each of them must hold. Snapshots are read while the threads
 * write.
 *
 * COW_ORACLE_STEPS sets the number of steps (default 600), COW_ORACLE_SEED the sequence,
 * COW_ORACLE_THREADS how many threads write at once (default 4, at most 64). COW_ORACLE_SECONDS
 * goes on for so long instead, hours if need be, each round of steps with a seed of its own, which
 * is said, and with which a round that fails can be had again; COWD_TEST_SECONDS (run-test.sh) has
 * to allow for it.
 *
 * Seen to fail when the chain is broken: with store_hand_down() dropping every page on release
 * (daemon/uffd/store.c), with overlay() looking at the snapshot's own store only
 * (daemon/uffd/chain-read.c), and with fault.c lifting protection before store_put().
 */
#include "config.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "libclient/internal.h"
#include "system/proof.h"

enum {
	N_THREADS_DEFAULT = 4,
	N_THREADS_MAX = 64,
	N_ALIVE_MAX = 12,
	N_PAGES_MAX = 24, /* written by a thread in a step */
};

/*
 * Neither a multiple of a huge page nor of a bitmap's word. The smaller region is frozen eagerly,
 * the larger one by moving its page tables where the kernel can.
 */
static const size_t sizes_pages[] = {700, 2501};
static size_t region_pages;
static size_t n_threads;

struct shot {
	struct cow_snapshot *snap;
	char *want;
	const char *view; /* NULL: not mapped */
};

struct writer {
	pthread_t thread;
	struct oracle *oracle;
	unsigned int number;
	uint64_t seed;
};

struct oracle {
	struct cow_region *region;
	struct cow_client *other; /* freezes the region from outside */
	char *memory;
	char *now; /* what memory holds */
	struct shot shots[N_ALIVE_MAX];
	size_t n_shots;
	uint64_t seed;
	size_t n_bytes;
};

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* The pages that thread @number writes with @seed, into @base. Threads have pages of their own. */
static void scribble(char *base, unsigned int number, uint64_t seed)
{
	size_t size = page_size_bytes();
	size_t n = 1 + next_random(&seed) % N_PAGES_MAX;
	bool is_sequential = next_random(&seed) & 1;
	size_t at = next_random(&seed) % (region_pages / n_threads);

	for (size_t i = 0; i < n; i++) {
		size_t page = at * n_threads + number;
		size_t off = next_random(&seed) % (size / sizeof(uint64_t)) * sizeof(uint64_t);
		/* Zeroes too: a page may become all zero again. */
		uint64_t value = next_random(&seed) % 4 ? next_random(&seed) : 0;

		if (value)
			memcpy(base + page * size + off, &value, sizeof(value));
		else
			memset(base + page * size, 0, size);
		at = is_sequential ? (at + 1) % (region_pages / n_threads)
				   : next_random(&seed) % (region_pages / n_threads);
	}
}

/* One thread goes through every page in order: the pattern that is kept several pages at a time. */
static void sweep(char *base, uint64_t seed)
{
	size_t size = page_size_bytes();
	size_t first = next_random(&seed) % region_pages;

	for (size_t i = first; i < region_pages; i++)
		memcpy(base + i * size, &seed, sizeof(seed));
}

static void *writer_thread(void *arg)
{
	struct writer *writer = arg;

	scribble(writer->oracle->memory, writer->number, writer->seed);
	return NULL;
}

static size_t pick(struct oracle *oracle, size_t n)
{
	return next_random(&oracle->seed) % n;
}

static void check_bytes(const struct shot *shot, const char *got, size_t off, size_t len)
{
	size_t i = 0;

	if (!memcmp(got, shot->want + off, len))
		return;
	while (got[i] == shot->want[off + i])
		i++;
	ck_abort_msg("snapshot %" PRIu64 ", page %zu: byte %zu is %#x, not %#x",
		     cow_snapshot_id(shot->snap), (off + i) / page_size_bytes(),
		     (off + i) % page_size_bytes(), (unsigned char)got[i],
		     (unsigned char)shot->want[off + i]);
}

static void step_read(struct oracle *oracle)
{
	CLEANUP(freep) char *buf = NULL;
	size_t off = pick(oracle, oracle->n_bytes);
	size_t len = 1 + pick(oracle, oracle->n_bytes - off);
	struct shot *shot;

	if (!oracle->n_shots)
		return;
	shot = &oracle->shots[pick(oracle, oracle->n_shots)];
	buf = proof_alloc(len);
	proof_ok(cow_snapshot_read(shot->snap, buf, len, off));
	check_bytes(shot, buf, off, len);
	if (shot->view)
		check_bytes(shot, shot->view + off, off, min_u64(len, 3 * page_size_bytes()));
}

/* Threads write, snapshots are read meanwhile. */
static void step_write(struct oracle *oracle)
{
	struct writer writers[N_THREADS_MAX];

	for (unsigned int i = 0; i < n_threads; i++) {
		writers[i] = (struct writer){.oracle = oracle, .number = i};
		writers[i].seed = next_random(&oracle->seed) | 1;
		ck_assert_int_eq(
			pthread_create(&writers[i].thread, NULL, writer_thread, &writers[i]), 0);
	}
	step_read(oracle);
	for (unsigned int i = 0; i < n_threads; i++) {
		pthread_join(writers[i].thread, NULL);
		scribble(oracle->now, i, writers[i].seed);
	}
}

static void step_sweep(struct oracle *oracle)
{
	uint64_t seed = next_random(&oracle->seed) | 1;

	sweep(oracle->memory, seed);
	sweep(oracle->now, seed);
}

static void step_take(struct oracle *oracle)
{
	struct shot *shot = &oracle->shots[oracle->n_shots];

	if (oracle->n_shots == N_ALIVE_MAX)
		return;
	*shot = (struct shot){.want = proof_alloc(oracle->n_bytes)};
	memcpy(shot->want, oracle->now, oracle->n_bytes);
	if (pick(oracle, 4) == 0)
		proof_ok(cow_snapshot_new_outside(&shot->snap, oracle->other, oracle->region->id));
	else
		proof_ok(cow_snapshot_new(&shot->snap, oracle->region));
	oracle->n_shots++;
}

/*
 * To any snapshot that the region's owner took; all others stay what they are. At times twice: the
 * second finds pages that were not written in between.
 */
static void step_rollback(struct oracle *oracle)
{
	struct shot *shot;

	if (!oracle->n_shots)
		return;
	shot = &oracle->shots[pick(oracle, oracle->n_shots)];
	if (!shot->snap->region)
		return;
	for (size_t n = 1 + pick(oracle, 2); n > 0; n--)
		proof_ok(cow_region_rollback(oracle->region, shot->snap));
	memcpy(oracle->now, shot->want, oracle->n_bytes);
	ck_assert(!memcmp(oracle->memory, oracle->now, oracle->n_bytes));
}

static void step_release(struct oracle *oracle)
{
	struct shot *shot;

	if (!oracle->n_shots)
		return;
	shot = &oracle->shots[pick(oracle, oracle->n_shots)];
	cow_snapshot_unref(shot->snap);
	free(shot->want);
	*shot = oracle->shots[--oracle->n_shots];
}

static void step_map(struct oracle *oracle)
{
	const void *view = NULL;
	struct shot *shot;

	if (!oracle->n_shots)
		return;
	shot = &oracle->shots[pick(oracle, oracle->n_shots)];
	proof_ok(cow_snapshot_map(shot->snap, &view));
	shot->view = view;
}

static void step_save(struct oracle *oracle)
{
	CLEANUP(freep) char *buf = NULL;
	AUTO_FD int fd = -1;
	struct shot *shot;

	if (!oracle->n_shots)
		return;
	shot = &oracle->shots[pick(oracle, oracle->n_shots)];
	fd = proof_file();
	proof_ok(cow_snapshot_save(shot->snap, fd, NULL, NULL));
	buf = proof_alloc(oracle->n_bytes);
	ck_assert_int_eq(pread(fd, buf, oracle->n_bytes, 0), (ssize_t)oracle->n_bytes);
	check_bytes(shot, buf, 0, oracle->n_bytes);
}

static void step(struct oracle *oracle)
{
	switch (pick(oracle, 16)) {
	case 0:
	case 1:
	case 2:
		step_take(oracle);
		break;
	case 3:
	case 4:
		step_release(oracle);
		break;
	case 5:
		step_map(oracle);
		break;
	case 6:
		step_save(oracle);
		break;
	case 7:
		step_sweep(oracle);
		break;
	case 8:
		step_rollback(oracle);
		break;
	case 9:
		step_read(oracle);
		break;
	default:
		step_write(oracle);
	}
}

static uint64_t number_from_env(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

/* A region of its own, so that any round can be had again alone. */
static void one_round(struct cow_client *other, size_t n_pages, uint64_t seed)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	struct oracle oracle = {.other = other, .seed = seed};
	uint64_t n_steps = number_from_env("COW_ORACLE_STEPS", 600);

	region_pages = n_pages;
	n_threads = max_u64(
		min_u64(number_from_env("COW_ORACLE_THREADS", N_THREADS_DEFAULT), N_THREADS_MAX),
		1);
	oracle.n_bytes = region_pages * page_size_bytes();
	region = proof_region(COW_MODE_UFFD, oracle.n_bytes);
	oracle.region = region;
	oracle.memory = cow_region_address(region);
	oracle.now = proof_alloc(oracle.n_bytes);
	memset(oracle.now, 0, oracle.n_bytes);
	for (uint64_t i = 0; i < n_steps; i++)
		step(&oracle);
	ck_assert_int_eq(memcmp(oracle.memory, oracle.now, oracle.n_bytes), 0);
	while (oracle.n_shots)
		step_release(&oracle);
	free(oracle.now);
}

START_TEST(every_snapshot_reads_its_own_instant)
{
	CLEANUP(cow_client_unrefp) struct cow_client *other = proof_client();
	uint64_t seed = number_from_env("COW_ORACLE_SEED", 0x9e3779b97f4a7c15u) | 1;
	time_t end = time(NULL) + (time_t)number_from_env("COW_ORACLE_SECONDS", 0);

	one_round(other, sizes_pages[_i], seed);
	while (time(NULL) < end) {
		seed = next_random(&seed) | 1;
		fprintf(stderr, "%zu pages, COW_ORACLE_SEED=%#" PRIx64 "\n", sizes_pages[_i], seed);
		one_round(other, sizes_pages[_i], seed);
	}
}
END_TEST

START_TEST(pages_never_touched_are_zero_though_written_first_afterwards)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	CLEANUP(freep) char *buf = NULL;
	size_t n_bytes = sizes_pages[_i] * page_size_bytes();
	char *memory;

	region = proof_region(COW_MODE_UFFD, n_bytes);
	memory = cow_region_address(region);
	proof_ok(cow_snapshot_new(&snap, region));
	memset(memory, 0x5a, n_bytes);
	buf = proof_alloc(n_bytes);
	proof_ok(cow_snapshot_read(snap, buf, n_bytes, 0));
	ck_assert(buf[0] == 0 && !memcmp(buf, buf + 1, n_bytes - 1));
	ck_assert(memory[0] == 0x5a && !memcmp(memory, memory + 1, n_bytes - 1));
}
END_TEST

/*
 * The kernel does not look whose userfaultfd unregisters or protects memory, or did not always:
 * cowd must not touch the addresses of a region that its owner has freed.
 */
START_TEST(the_next_region_at_an_address_is_not_the_last_ones)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_client_unrefp) struct cow_client *other = proof_client();
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	struct cow_region_params params = {.size_bytes = 16 << 20, .mode = COW_MODE_UFFD};
	struct cow_snapshot *last_snap = NULL;
	struct cow_region *region = NULL;
	struct proof_holdings holdings;
	const void *last_addr;

	proof_ok(cow_region_new(&region, client, &params));
	last_addr = cow_region_address(region);
	proof_ok(cow_snapshot_new_outside(&last_snap, other, region->id));
	region = cow_region_unref(region);

	proof_ok(cow_region_new(&region, client, &params));
	if (cow_region_address(region) != last_addr)
		(void)fputs("the address was not used again\n", stderr);
	proof_fill(cow_region_address(region), params.size_bytes, 1);
	proof_ok(cow_snapshot_new(&snap, region));
	last_snap = cow_snapshot_unref(last_snap);
	do
		proof_holdings(&holdings);
	while (holdings.n_snapshots > 1 || holdings.n_regions > 1);
	proof_fill(cow_region_address(region), params.size_bytes, 2);
	proof_check_snapshot(snap, 1);
	cow_region_unref(region);
}
END_TEST

/*
 * Each release may find the next take half way through its move: is_frozen() in
 * daemon/uffd/arm.c. The moment is short, and this was not seen to fail without it.
 */
START_TEST(taking_while_the_last_snapshot_goes_is_right)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	size_t n_bytes = sizes_pages[1] * page_size_bytes();

	region = proof_region(COW_MODE_UFFD, n_bytes);
	for (uint64_t i = 1; i < 40; i++) {
		CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
		struct cow_snapshot *last = NULL;

		proof_ok(cow_snapshot_new(&last, region));
		proof_fill(cow_region_address(region), n_bytes, i);
		cow_snapshot_unref(last);
		proof_ok(cow_snapshot_new(&snap, region));
		proof_fill(cow_region_address(region), n_bytes, i + 1000);
		proof_check_snapshot(snap, i);
	}
}
END_TEST

static uint64_t minor_faults_of_cowd(void)
{
	char path[64], text[1024];
	AUTO_FD int fd = -1;
	const char *at;
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)proof_cowd());
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = read(fd, text, sizeof(text) - 1);
	ck_assert_int_gt(n, 0);
	text[n] = 0;
	at = strrchr(text, ')');
	ck_assert_ptr_nonnull(at);
	for (int i = 0; i < 8; i++) /* the tenth of the line; the name was the second */
		at = strchr(at + 1, ' ');
	return strtoull(at, NULL, 10);
}

/* A sanitizer's runtime touches memory of its own for each
 * mapping that the sweep makes meanwhile. */
#ifdef COW_SANITIZED
#define N_FAULTS 8000
#else
#define N_FAULTS 800
#endif

/*
 * Those that kept nothing near a page are passed over by one bit each, and no memory of theirs is
 * touched. Seen to fail, by twelve thousand faults, when their entries are looked at.
 */
START_TEST(reading_an_old_snapshot_does_not_go_through_the_newer_ones)
{
	enum {
		N_NEWER = 800,
		N_READS = 32
	};
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	struct cow_snapshot *snaps[N_NEWER + 1];
	const size_t n_bytes = (size_t)64 << 20;
	uint64_t word = 0, n_before;
	char *memory;

	region = proof_region(COW_MODE_UFFD, n_bytes);
	memory = cow_region_address(region);
	for (uint64_t i = 0; i < N_READS; i++)
		memcpy(memory + i * (n_bytes / N_READS), &i, sizeof(i));
	for (size_t i = 0; i <= N_NEWER; i++)
		proof_ok(cow_snapshot_new(&snaps[i], region));
	memset(memory, 0xff, page_size_bytes()); /* the newest one keeps a page */
	n_before = minor_faults_of_cowd();
	for (uint64_t i = 0; i < N_READS; i++) {
		proof_ok(cow_snapshot_read(snaps[0], &word, sizeof(word), i * (n_bytes / N_READS)));
		ck_assert_uint_eq(word, i);
	}
	ck_assert_uint_lt(minor_faults_of_cowd() - n_before, N_FAULTS);
	for (size_t i = 0; i <= N_NEWER; i++)
		cow_snapshot_unref(snaps[i]);
}
END_TEST

int main(void)
{
	TCase *tcase =
		proof_tcase("uffd-oracle", 3600 + (double)number_from_env("COW_ORACLE_SECONDS", 0));

	proof_need_uffd();
	tcase_add_loop_test(tcase, pages_never_touched_are_zero_though_written_first_afterwards, 0,
			    ARRAY_SIZE(sizes_pages));
	tcase_add_loop_test(tcase, every_snapshot_reads_its_own_instant, 0,
			    ARRAY_SIZE(sizes_pages));
	tcase_add_test(tcase, the_next_region_at_an_address_is_not_the_last_ones);
	tcase_add_test(tcase, taking_while_the_last_snapshot_goes_is_right);
	tcase_add_test(tcase, reading_an_old_snapshot_does_not_go_through_the_newer_ones);
	return proof_run(tcase);
}
