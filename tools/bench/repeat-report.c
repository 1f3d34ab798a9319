// SPDX-License-Identifier: GPL-2.0-or-later
/* cowbench repeat: the output. */
#include "config.h"

#include <assert.h>
#include <stdio.h>

#include "common/util.h"
#include "tools/bench/repeat.h"
#include "tools/report.h"

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

static void put_cost(const struct repeat *repeat, struct figures *figures, struct json_object *mode)
{
	struct json_object *part = json_object_new_object();

	report_put_real(part, "settled_bytes", each(repeat, figures->cost.settled_bytes));
	report_put_real(part, "kept_bytes", each(repeat, figures->cost.kept_bytes));
	json_object_object_add(mode, "take", part);
}

static struct json_object *document_of(const struct repeat *repeat, struct figures *figures)
{
	struct json_object *mode = json_object_new_object();
	struct json_object *part = json_object_new_object();

	json_object_object_add(
		part, "p50", json_object_new_double(usec(samples_quantile(&figures->stall, 0.5))));
	json_object_object_add(
		part, "p99", json_object_new_double(usec(samples_quantile(&figures->stall, 0.99))));
	json_object_object_add(part, "max",
			       json_object_new_double(usec(samples_quantile(&figures->stall, 1))));
	json_object_object_add(part, "first",
			       json_object_new_double(usec(figures->first_stall_nsec)));
	json_object_object_add(part, "last",
			       json_object_new_double(usec(figures->last_stall_nsec)));
	json_object_object_add(mode, "stall_us", part);
	json_object_object_add(mode, "worst_write_us", worst_of(repeat, figures));
	json_object_object_add(mode, "ops_per_s", ops_of(repeat, figures));
	json_object_object_add(mode, "dip", dip_of(repeat, figures));
	json_object_object_add(mode, "settle_cpu_us_per_page",
			       json_object_new_double(settle_usec(figures)));
	json_object_object_add(mode, "extra_bytes", json_object_new_uint64(figures->extra_bytes));
	return mode;
}

static int print_json(struct repeat *repeat)
{
	struct json_object *document = json_object_new_object();
	struct json_object *modes = json_object_new_object();
	int r;

	json_object_object_add(document, "size_bytes", json_object_new_uint64(repeat->size_bytes));
	json_object_object_add(document, "dirty_percent", json_object_new_uint64(repeat->percent));
	json_object_object_add(document, "snapshots", json_object_new_uint64(repeat->n_snapshots));
	json_object_object_add(document, "threads", json_object_new_uint64(repeat->n_threads));
	if (repeat->is_held)
		json_object_object_add(document, "is_held", json_object_new_boolean(true));
	json_object_object_add(document, "memcpy_us_per_page",
			       json_object_new_double(repeat->copy_usec));
	json_object_object_add(modes, "scoot", document_of(repeat, &repeat->figures[0]));
	put_cost(repeat, &repeat->figures[0], json_object_object_get(modes, "scoot"));
	json_object_object_add(modes, "fork", document_of(repeat, &repeat->figures[1]));
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
	printf("  operations, million/s        before %.2f, 10 ms %.2f, 100 ms %.2f, 1 s %.2f\n",
	       per_s(repeat, figures->before_rate) / 1e6, per_s(repeat, figures->rate[0]) / 1e6,
	       per_s(repeat, figures->rate[1]) / 1e6, per_s(repeat, figures->rate[2]) / 1e6);
	printf("  operations, of those before  10 ms %.2f, 100 ms %.2f, 1 s %.2f\n",
	       figures->dip[0] / n, figures->dip[1] / n, figures->dip[2] / n);
}

static void print_mode(const struct repeat *repeat, const char *name, struct figures *figures)
{
	printf("%s\n", name);
	printf("  stall, us                    p50 %.1f, p99 %.1f; first %.1f, last %.1f\n",
	       usec(samples_quantile(&figures->stall, 0.5)),
	       usec(samples_quantile(&figures->stall, 0.99)), usec(figures->first_stall_nsec),
	       usec(figures->last_stall_nsec));
	if (repeat->n_threads)
		print_work(repeat, figures);
	printf("  extra memory, MiB            %.1f\n", (double)figures->extra_bytes / (1 << 20));
	if (figures->n_settled)
		printf("  CPU to settle a page, us     %.2f (memcpy: %.2f)\n", settle_usec(figures),
		       repeat->copy_usec);
}

int bench_repeat_report(struct repeat *repeat)
{
	if (repeat->is_json)
		return print_json(repeat);
	printf("%llu MiB, %llu %% written between %llu snapshots, %llu threads%s\n",
	       (unsigned long long)(repeat->size_bytes >> 20), (unsigned long long)repeat->percent,
	       (unsigned long long)repeat->n_snapshots, (unsigned long long)repeat->n_threads,
	       repeat->is_held ? ", each held until the next was taken" : "");
	print_mode(repeat, "scoot", &repeat->figures[0]);
	printf("  in the take itself, MiB      settled %.2f, kept %.2f\n",
	       each(repeat, repeat->figures[0].cost.settled_bytes) / (1 << 20),
	       each(repeat, repeat->figures[0].cost.kept_bytes) / (1 << 20));
	print_mode(repeat, "fork", &repeat->figures[1]);
	return 0;
}
