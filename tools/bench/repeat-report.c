// SPDX-License-Identifier: GPL-2.0-or-later
/* cowbench repeat: the output. */
#include "config.h"

#include <assert.h>
#include <stdio.h>

#include "common/util.h"
#include "tools/bench/repeat.h"
#include "tools/report.h"
#include "tools/samples.h"

static const char *const window_names[] = {"10ms", "100ms", "1s"};
static_assert(ARRAY_SIZE(window_names) == N_WINDOWS, "a name for each");

static double usec(uint64_t nsec)
{
	return (double)nsec / 1000;
}

static double settle_usec(const struct figures *figures)
{
	return figures->n_settled ? usec(figures->settle_cpu_nsec) / (double)figures->n_settled : 0;
}

/* Null if no thread worked beside the snapshots, as the next. */
static struct json_object *worst_of(const struct repeat *repeat, const struct figures *figures)
{
	static const char *const names[] = {"quiet", "take", "live", "settle"};
	struct json_object *part;

	static_assert(ARRAY_SIZE(names) == N_PHASES, "a name for each");
	if (!repeat->n_threads)
		return NULL;
	part = json_object_new_object();
	for (size_t i = 0; i < N_PHASES; i++)
		json_object_object_add(part, names[i],
				       json_object_new_double(usec(figures->worst_nsec[i])));
	return part;
}

static struct json_object *dip_of(const struct repeat *repeat, const struct figures *figures)
{
	struct json_object *part;

	if (!repeat->n_threads)
		return NULL;
	part = json_object_new_object();
	for (size_t i = 0; i < N_WINDOWS; i++)
		json_object_object_add(
			part, window_names[i],
			json_object_new_double(figures->dip[i] / (double)repeat->n_snapshots));
	return part;
}

/* In a second; a mean of all snapshots. */
static double per_s(const struct repeat *repeat, double rates)
{
	return rates * 1e9 / (double)repeat->n_snapshots;
}

static struct json_object *ops_of(const struct repeat *repeat, const struct figures *figures)
{
	struct json_object *part;

	if (!repeat->n_threads)
		return NULL;
	part = json_object_new_object();
	report_put_real(part, "before", per_s(repeat, figures->before_rate));
	for (size_t i = 0; i < N_WINDOWS; i++)
		report_put_real(part, window_names[i], per_s(repeat, figures->rate[i]));
	return part;
}

/* A mean of all snapshots. */
static double each(const struct repeat *repeat, uint64_t sum)
{
	return (double)sum / (double)repeat->n_snapshots;
}

static void put_cost(const struct repeat *repeat, const struct figures *figures,
		     struct json_object *mode)
{
	struct json_object *part = json_object_new_object();

	report_put_real(part, "settled_bytes", each(repeat, figures->cost.settled_bytes));
	report_put_real(part, "kept_bytes", each(repeat, figures->cost.kept_bytes));
	json_object_object_add(mode, "take", part);
}

/* Of all writes, whenever, since the first take that counts. */
static struct json_object *waits_of(const struct repeat *repeat, const struct figures *figures)
{
	struct json_object *part;

	if (!repeat->n_threads)
		return NULL;
	part = json_object_new_object();
	report_put_real(part, "p999", usec(waits_quantile(&figures->waits, 0.999)));
	report_put_real(part, "max", usec(figures->waits.max_nsec));
	return part;
}

static double msec_each(const struct repeat *repeat, uint64_t nsec)
{
	return each(repeat, nsec) / 1e6;
}

static struct json_object *cpu_of(const struct repeat *repeat, const struct figures *figures)
{
	struct json_object *part = json_object_new_object();

	report_put_real(part, "take", msec_each(repeat, figures->cpu.take_nsec));
	report_put_real(part, "library", msec_each(repeat, figures->cpu.library_nsec));
	report_put_real(part, "cowd", msec_each(repeat, figures->cpu.cowd_nsec));
	report_put_real(part, "children", msec_each(repeat, figures->cpu.children_nsec));
	return part;
}

static double written_mib_per_s(const struct figures *figures)
{
	if (!figures->measured_nsec)
		return 0;
	return (double)figures->written_bytes / (1 << 20) / ((double)figures->measured_nsec / 1e9);
}

static struct json_object *stalls_of(const struct figures *figures, struct samples *stalls)
{
	struct json_object *part = json_object_new_object();

	json_object_object_add(part, "p50",
			       json_object_new_double(usec(samples_quantile(stalls, 0.5))));
	json_object_object_add(part, "p99",
			       json_object_new_double(usec(samples_quantile(stalls, 0.99))));
	json_object_object_add(part, "max",
			       json_object_new_double(usec(samples_quantile(stalls, 1))));
	json_object_object_add(part, "first",
			       json_object_new_double(usec(figures->first_stall_nsec)));
	json_object_object_add(part, "last",
			       json_object_new_double(usec(figures->last_stall_nsec)));
	return part;
}

static struct json_object *document_of(const struct repeat *repeat, const struct figures *figures,
				       struct samples *stalls)
{
	struct json_object *mode = json_object_new_object();

	json_object_object_add(mode, "stall_us", stalls_of(figures, stalls));
	json_object_object_add(mode, "worst_write_us", worst_of(repeat, figures));
	json_object_object_add(mode, "write_us", waits_of(repeat, figures));
	json_object_object_add(mode, "ops_per_s", ops_of(repeat, figures));
	json_object_object_add(mode, "dip", dip_of(repeat, figures));
	json_object_object_add(mode, "settle_cpu_us_per_page",
			       json_object_new_double(settle_usec(figures)));
	json_object_object_add(mode, "cpu_ms", cpu_of(repeat, figures));
	json_object_object_add(mode, "extra_bytes", json_object_new_uint64(figures->extra_bytes));
	if (repeat->period_nsec && repeat->n_threads)
		report_put_real(mode, "written_mib_per_s", written_mib_per_s(figures));
	return mode;
}

static void put_asked(const struct repeat *repeat, struct json_object *document)
{
	json_object_object_add(document, "size_bytes", json_object_new_uint64(repeat->size_bytes));
	json_object_object_add(document, "dirty_percent", json_object_new_uint64(repeat->percent));
	json_object_object_add(document, "snapshots", json_object_new_uint64(repeat->n_snapshots));
	json_object_object_add(document, "threads", json_object_new_uint64(repeat->n_threads));
	json_object_object_add(document, "hold", json_object_new_uint64(repeat->n_held));
	json_object_object_add(document, "spread",
			       report_text(repeat_spread_names[repeat->spread]));
	if (repeat->n_held)
		json_object_object_add(document, "is_held", json_object_new_boolean(true));
	if (repeat->period_nsec)
		json_object_object_add(document, "period_ms",
				       json_object_new_uint64(repeat->period_nsec / MSEC));
	json_object_object_add(document, "memcpy_us_per_page",
			       json_object_new_double(repeat->figures[REPEAT_FORK]->copy_usec));
}

static int print_json(const struct repeat *repeat, struct samples *stalls)
{
	struct json_object *document = json_object_new_object();
	struct json_object *modes = json_object_new_object();
	struct json_object *left_out = json_object_new_object();
	int r;

	put_asked(repeat, document);
	for (size_t i = 0; i < N_REPEAT_MODES; i++) {
		struct json_object *mode;

		if (*repeat->left_out[i]) {
			json_object_object_add(left_out, repeat_mode_names[i],
					       report_text(repeat->left_out[i]));
			continue;
		}
		mode = document_of(repeat, repeat->figures[i], &stalls[i]);
		if (i == REPEAT_SCOOT)
			put_cost(repeat, repeat->figures[i], mode);
		json_object_object_add(modes, repeat_mode_names[i], mode);
	}
	if (json_object_object_length(left_out))
		json_object_object_add(document, "left_out", json_object_get(left_out));
	json_object_put(left_out);
	json_object_object_add(document, "modes", modes);
	r = report_json(document);
	json_object_put(document);
	return r;
}

static void print_work(const struct repeat *repeat, const struct figures *figures)
{
	const double n = (double)repeat->n_snapshots;

	printf("  worst write, us              quiet %.0f, take %.0f, live %.0f, settle %.0f\n",
	       usec(figures->worst_nsec[PHASE_QUIET]), usec(figures->worst_nsec[PHASE_TAKE]),
	       usec(figures->worst_nsec[PHASE_LIVE]), usec(figures->worst_nsec[PHASE_SETTLE]));
	printf("  all writes, us               p99.9 %.1f, max %.0f\n",
	       usec(waits_quantile(&figures->waits, 0.999)), usec(figures->waits.max_nsec));
	printf("  operations, million/s        before %.2f, 10 ms %.2f, 100 ms %.2f, 1 s %.2f\n",
	       per_s(repeat, figures->before_rate) / 1e6, per_s(repeat, figures->rate[0]) / 1e6,
	       per_s(repeat, figures->rate[1]) / 1e6, per_s(repeat, figures->rate[2]) / 1e6);
	printf("  operations, of those before  10 ms %.2f, 100 ms %.2f, 1 s %.2f\n",
	       figures->dip[0] / n, figures->dip[1] / n, figures->dip[2] / n);
	if (repeat->period_nsec)
		printf("  written, MiB/s               %.1f\n", written_mib_per_s(figures));
}

static void print_mode(const struct repeat *repeat, const char *name, const struct figures *figures,
		       struct samples *stalls)
{
	printf("%s\n", name);
	printf("  stall, us                    p50 %.1f, p99 %.1f, max %.1f; first %.1f, last "
	       "%.1f\n",
	       usec(samples_quantile(stalls, 0.5)), usec(samples_quantile(stalls, 0.99)),
	       usec(samples_quantile(stalls, 1)), usec(figures->first_stall_nsec),
	       usec(figures->last_stall_nsec));
	if (repeat->n_threads)
		print_work(repeat, figures);
	printf("  CPU each, ms                 take %.2f, library %.2f, cowd %.2f, children %.2f\n",
	       msec_each(repeat, figures->cpu.take_nsec),
	       msec_each(repeat, figures->cpu.library_nsec),
	       msec_each(repeat, figures->cpu.cowd_nsec),
	       msec_each(repeat, figures->cpu.children_nsec));
	printf("  extra memory, MiB            %.1f\n", (double)figures->extra_bytes / (1 << 20));
	if (figures->n_settled)
		printf("  CPU to settle a page, us     %.2f (memcpy: %.2f)\n", settle_usec(figures),
		       repeat->figures[REPEAT_FORK]->copy_usec);
}

static void print_asked(const struct repeat *repeat)
{
	printf("%llu MiB, %llu %% written between %llu snapshots, %llu threads",
	       (unsigned long long)(repeat->size_bytes >> 20), (unsigned long long)repeat->percent,
	       (unsigned long long)repeat->n_snapshots, (unsigned long long)repeat->n_threads);
	if (repeat->n_held == 1)
		printf(", each held until the next was taken");
	else if (repeat->n_held)
		printf(", the newest %llu held", (unsigned long long)repeat->n_held);
	if (repeat->period_nsec)
		printf(", one each %llu ms", (unsigned long long)(repeat->period_nsec / MSEC));
	printf("%s%s\n", repeat->spread == SPREAD_RANDOM ? "" : ", ",
	       repeat->spread == SPREAD_RANDOM ? "" : repeat_spread_names[repeat->spread]);
}

static void print_text(const struct repeat *repeat, struct samples *stalls)
{
	print_asked(repeat);
	for (size_t i = 0; i < N_REPEAT_MODES; i++) {
		const struct figures *figures = repeat->figures[i];

		if (*repeat->left_out[i])
			continue;
		print_mode(repeat, repeat_mode_names[i], figures, &stalls[i]);
		if (i == REPEAT_SCOOT)
			printf("  in the take itself, MiB      settled %.2f, kept %.2f\n",
			       each(repeat, figures->cost.settled_bytes) / (1 << 20),
			       each(repeat, figures->cost.kept_bytes) / (1 << 20));
	}
}

int bench_repeat_report(struct repeat *repeat)
{
	struct samples stalls[N_REPEAT_MODES] = {0};
	int r = 0;

	for (size_t i = 0; !r && i < N_REPEAT_MODES; i++) {
		const struct figures *figures = repeat->figures[i];

		r = samples_init(&stalls[i], max_u64(figures->n_stalls, 1));
		for (size_t k = 0; !r && k < figures->n_stalls; k++)
			samples_add(&stalls[i], figures->stalls[k]);
	}
	if (!r && repeat->is_json)
		r = print_json(repeat, stalls);
	else if (!r)
		print_text(repeat, stalls);
	for (size_t i = 0; i < N_REPEAT_MODES; i++)
		samples_deinit(&stalls[i]);
	return r;
}
