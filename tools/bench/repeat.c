// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowbench repeat: copies again and again, with a client that works all the while and writes
 * between them: by scoot, uffd and cow_mmapcopy(), and by fork() beside them in the same run.
 *
 * Each mode has its turn in a process and with memory of its own (repeat-turn.c), then the next; of
 * many takes there are several rounds of turns, so that a machine that gets slower or faster
 * meanwhile does so for all modes.
 *
 * Of each copy: the stall; the longest that a write took during the take, while the copy lived, and
 * while the region settled after its release; how many operations were done in the first 10 ms,
 * 100 ms and second after the take, by themselves and against the time before, which is not the
 * same for all: after a fork() pages that the child shared fault once more when it has gone; what
 * it took the library's thread to settle; and how much the take settled and kept by itself. Without
 * a userfaultfd only a program that is alone settles, in the take: --threads 0. Or one whose
 * threads may be stopped: --stop-threads. With --hold copies are held when others are taken: then
 * the region never settles, and each take bears what was written since the one before.
 */
#include "config.h"

#include "tools/bench/repeat.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/err.h"
#include "tools/bench/bench.h"
#include "tools/bench/options.h"
#include "tools/samples.h"

#define TURN_TAKES 5             /* at least, if there are as many */
#define TURN_NSEC  (5000 * MSEC) /* at least, of takes that count */

const char *const repeat_mode_names[N_REPEAT_MODES] = {
	[REPEAT_SCOOT] = "scoot",
	[REPEAT_FORK] = "fork",
	[REPEAT_UFFD] = "uffd",
	[REPEAT_MMAPCOPY] = "mmapcopy",
};

const char *const repeat_spread_names[N_SPREADS] = {
	[SPREAD_RANDOM] = "random",
	[SPREAD_HOT] = "hot",
	[SPREAD_SEQUENTIAL] = "sequential",
};

static size_t figures_bytes(const struct repeat *repeat)
{
	return sizeof(struct figures) + repeat->n_snapshots * sizeof(uint64_t);
}

static int new_figures(struct repeat *repeat)
{
	for (size_t i = 0; i < N_REPEAT_MODES; i++) {
		void *figures = mmap(NULL, figures_bytes(repeat), PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

		if (figures == MAP_FAILED)
			return err_oom(figures_bytes(repeat), "what is measured");
		repeat->figures[i] = figures;
	}
	return 0;
}

static void free_figures(struct repeat *repeat)
{
	for (size_t i = 0; i < N_REPEAT_MODES; i++) {
		if (repeat->figures[i])
			(void)munmap(repeat->figures[i], figures_bytes(repeat));
	}
}

static int run_turn(struct repeat *repeat, enum repeat_mode mode, uint64_t n)
{
	char *left_out = repeat->left_out[mode];
	char sentence[512];
	int r;

	if (*left_out)
		return 0;
	r = repeat_turn(repeat, mode, n);
	if (!r)
		return 0;
	(void)snprintf(sentence, sizeof(sentence), "%s", err_sentence());
	/* The device is missing, or is not lent. */
	if (mode == REPEAT_UFFD && (r == -ENODEV || r == -ENOSYS || r == -EPERM)) {
		(void)snprintf(left_out, sizeof(repeat->left_out[mode]), "%s", sentence);
		cli_say("mode uffd is left out: %s", left_out);
		return 0;
	}
	/* Whether there is a daemon at all is not a matter of one mode. */
	if (r == -ENOTCONN || r == -EACCES)
		return r;
	return err_raise(r, "%s: %s", repeat_mode_names[mode], sentence);
}

static int measure(struct repeat *repeat)
{
	uint64_t per_turn = TURN_TAKES, n_turns, n_left = repeat->n_snapshots;
	int r = 0;

	if (repeat->period_nsec)
		per_turn = max_u64(per_turn, TURN_NSEC / repeat->period_nsec);
	n_turns = (n_left + per_turn - 1) / per_turn;
	for (; !r && n_turns; n_turns--) {
		uint64_t n = n_left / n_turns;

		for (unsigned int i = 0; !r && i < N_REPEAT_MODES; i++)
			r = run_turn(repeat, i, n);
		n_left -= n;
	}
	return r;
}

/* Copies of the memory that exist at the same time, and the memory itself. */
static unsigned int n_copies_of(const struct repeat *repeat)
{
	uint64_t n_alive = max_u64(repeat->n_held + (repeat->period_nsec ? 1 : 0), 1);

	/* Without --period the workers write wherever they come. */
	if (repeat->period_nsec && repeat->spread != SPREAD_HOT)
		n_alive = (n_alive * repeat->percent + 99) / 100;
	return 1 + (unsigned int)max_u64(n_alive, 1);
}

/* --- arguments ------------------------------------------------------------------------------ */

struct words {
	const char *hold;
	const char *spread;
	uint64_t period_msec;
};

static int parse_hold(struct repeat *repeat, const char *word)
{
	if (!word || !strcmp(word, "none"))
		return CLI_OK;
	/* Alone it is what it was before it took a number. */
	repeat->n_held = 1;
	if (!*word || !strcmp(word, "newest"))
		return CLI_OK;
	if (!cli_parse_u64(&repeat->n_held, word, 0, HOLD_MAX))
		return cli_usage("--hold wants none, newest or how many, up to %d, not '%s'",
				 HOLD_MAX, word);
	return CLI_OK;
}

static int parse_spread(struct repeat *repeat, const char *word)
{
	if (!word)
		return CLI_OK;
	for (unsigned int i = 0; i < N_SPREADS; i++) {
		if (!strcmp(word, repeat_spread_names[i])) {
			repeat->spread = i;
			return CLI_OK;
		}
	}
	return cli_usage("--spread wants random, hot or sequential, not '%s'", word);
}

static int parse_options(struct repeat *repeat, int argc, char **argv)
{
	struct words words = {0};
	const struct bench_option options[] = {
		{"s", BENCH_SIZE, &repeat->size_bytes, .wants = BENCH_SIZE_WANTS},
		{"n", BENCH_NUMBER, &repeat->n_snapshots, 1, 100000,
		 "a number of snapshots from 1 on"},
		{"dirty", BENCH_NUMBER, &repeat->percent, 0, 100, "0 to 100 percent"},
		{"threads", BENCH_NUMBER, &repeat->n_threads, 0, THREADS_MAX, "0 to 64"},
		{"stop-threads", BENCH_FLAG, &repeat->stops_threads},
		{"hold", BENCH_MAYBE_TEXT, &words.hold},
		{"period", BENCH_NUMBER, &words.period_msec, 10, 600000,
		 "10 to 600000 milliseconds"},
		{"spread", BENCH_TEXT, &words.spread},
		{"json", BENCH_FLAG, &repeat->is_json},
		{"socket", BENCH_TEXT, &repeat->socket},
	};
	int r;

	r = bench_parse_options(options, ARRAY_SIZE(options), argc, argv);
	if (!r)
		r = parse_hold(repeat, words.hold);
	if (!r)
		r = parse_spread(repeat, words.spread);
	repeat->period_nsec = words.period_msec * MSEC;
	repeat->stride = samples_stride(repeat->size_bytes / page_size_bytes());
	return r;
}

int bench_repeat(int argc, char **argv)
{
	struct repeat repeat = {
		.size_bytes = 1ULL << 30, .percent = 10, .n_snapshots = 10, .n_threads = 1};
	int r;

	r = parse_options(&repeat, argc, argv);
	if (r)
		return r;
	r = memory_check(repeat.size_bytes, n_copies_of(&repeat));
	if (!r)
		r = new_figures(&repeat);
	if (!r)
		r = measure(&repeat);
	if (!r)
		r = bench_repeat_report(&repeat);
	free_figures(&repeat);
	return r ? cli_fail(r, err_sentence(), "repeat") : CLI_OK;
}
