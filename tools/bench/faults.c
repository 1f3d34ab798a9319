// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowbench faults: measure the cost of first writes to a page that cowd, another process, serves.
 *
 * Clients of cowd and two bare loops (writer-kinds.c) exist all the time and write in turn:
 * clients all together, the loop with its handler on the writer's CPU, the loop with its handler on
 * another one, clients again, and so on. So other work of the machine affects all of them alike,
 * and the ratio means something even if the microseconds do not.
 *
 * With --storm the question is another one: how much one client that faults without end delays
 * clients that write now and then. These write in turn alone and beside the storm.
 *
 * Reading the clock is part of each latency (20 to 40 ns).
 */
#include "config.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/err.h"
#include "common/format.h"
#include "tools/bench/bench.h"
#include "tools/bench/options.h"
#include "tools/bench/writer.h"
#include "tools/report.h"
#include "tools/samples.h"

#define CLIENTS_MAX       1000
#define CALM_SIZE_BYTES   ((uint64_t)1 << 20)
#define CALM_PAUSE_USEC   5000
#define CALM_CLIENTS      50
#define ADDRESS_MAX_BYTES (PATH_MAX + 256)

/* One row of the result. */
struct served {
	struct samples latency; /* nanoseconds */
	uint64_t n_written;
	uint64_t busy_nsec;
};

enum {
	ROW_COWD, /* with --storm: the clients without it */
	ROW_BARE_SAME,
	ROW_BARE_OTHER,
	ROW_BESIDE,
	N_ROWS,
};

/**
 * struct faults - what was asked for, and what came of it
 * @writers:  first clients of cowd, then with --storm the one that storms, else the bare loops
 * @keeper:   connection by which a private cowd lives; NULL with --socket
 * @dir:      of a private cowd's socket
 */
struct faults {
	const char *socket;
	uint64_t size_bytes;
	uint64_t n_runs;
	uint64_t n_clients; /* 0: not said */
	uint64_t n_threads;
	bool is_random;
	bool is_json;
	bool is_storm;
	char address[ADDRESS_MAX_BYTES];
	char dir[64];
	struct cow_client *keeper;
	struct writer *writers;
	size_t n_writers;
	size_t n_started;
	struct served rows[N_ROWS];
	uint64_t storm_n_written;
	uint64_t storm_nsec;
};

/* --- a cowd for several processes ------------------------------------------------------------- */

/*
 * A private cowd serves the connection it was started with, and ends with it; told to, it listens
 * as well. The writers are there already when it starts, for they must not inherit anything of it.
 */
static int choose_address(struct faults *faults)
{
	const char *tmp = getenv("TMPDIR");

	if (!strncmp(bench_address(faults->socket), "exec:", strlen("exec:"))) {
		snprintf(faults->dir, sizeof(faults->dir), "%s/cowbench-XXXXXX",
			 tmp && *tmp && strlen(tmp) < sizeof(faults->dir) - 20 ? tmp : "/tmp");
		if (!mkdtemp(faults->dir)) {
			int r = err_raise_errno("%s cannot be made", faults->dir);

			faults->dir[0] = '\0';
			return r;
		}
		snprintf(faults->address, sizeof(faults->address), "%s/cowd.sock", faults->dir);
		return 0;
	}
	snprintf(faults->address, sizeof(faults->address), "%s", bench_address(faults->socket));
	return 0;
}

static int start_cowd(struct faults *faults)
{
	char with_socket[2 * ADDRESS_MAX_BYTES];
	int r;

	if (!faults->dir[0])
		return 0;
	snprintf(with_socket, sizeof(with_socket), "%s --socket=%s", bench_address(faults->socket),
		 faults->address);
	r = cow_client_new(&faults->keeper, with_socket);
	return r && r != -EACCES && r != -EPERM ? -ENOTCONN : r;
}

static void end_cowd(struct faults *faults)
{
	faults->keeper = cow_client_unref(faults->keeper);
	if (!faults->dir[0])
		return;
	(void)unlink(faults->address); /* cowd does so too, when it comes to it */
	(void)rmdir(faults->dir);
}

/* --- writers ---------------------------------------------------------------------------------- */

static struct writer_spec client_spec(const struct faults *faults, uint64_t idx)
{
	struct writer_spec spec = {
		.kind = &writer_cowd,
		.address = faults->address,
		.size_bytes = faults->size_bytes,
		.n_threads = (unsigned int)faults->n_threads,
		.is_random = faults->is_random,
		.first_cpu = (unsigned int)(idx * faults->n_threads),
	};

	if (faults->is_storm && idx < faults->n_clients) {
		spec.size_bytes = CALM_SIZE_BYTES;
		spec.pause_usec = CALM_PAUSE_USEC;
		spec.n_threads = 1;
		spec.first_cpu = (unsigned int)idx;
	}
	return spec;
}

static struct writer_spec bare_spec(const struct faults *faults, unsigned int handler_cpu)
{
	struct writer_spec spec = client_spec(faults, 0);

	spec.kind = &writer_bare;
	spec.n_threads = 1;
	spec.handler_cpu = handler_cpu;
	return spec;
}

static int start_writers(struct faults *faults)
{
	size_t n_extra = faults->is_storm ? 1 : bench_n_cpus() > 1 ? 2 : 1;
	int r = 0;

	faults->n_writers = faults->n_clients + n_extra;
	faults->writers = calloc(faults->n_writers, sizeof(*faults->writers));
	if (!faults->writers)
		return err_oom(faults->n_writers * sizeof(*faults->writers), "writers");
	while (!r && faults->n_started < faults->n_writers) {
		size_t idx = faults->n_started;
		struct writer_spec spec =
			idx < faults->n_clients || faults->is_storm
				? client_spec(faults, idx)
				: bare_spec(faults, (unsigned int)(idx - faults->n_clients));

		/* One that could not be made whole has to be ended too. */
		r = writer_start(&faults->writers[faults->n_started++], &spec);
	}
	return r;
}

static int init_rows(struct faults *faults)
{
	uint64_t n_pages = faults->size_bytes / page_size_bytes();
	uint64_t n_calm = CALM_SIZE_BYTES / page_size_bytes();
	uint64_t n_values = (faults->is_storm ? n_calm : n_pages) * faults->n_clients;
	int r;

	r = samples_init(&faults->rows[ROW_COWD].latency, n_values * faults->n_runs);
	if (!r && faults->is_storm)
		r = samples_init(&faults->rows[ROW_BESIDE].latency, n_values * faults->n_runs);
	for (int i = ROW_BARE_SAME; !r && !faults->is_storm && i <= ROW_BARE_OTHER; i++)
		r = samples_init(&faults->rows[i].latency, n_pages * faults->n_runs);
	return r;
}

static int check_memory(const struct faults *faults)
{
	uint64_t n_bytes = faults->size_bytes, n_samples;

	n_bytes *= faults->is_storm ? 1 : faults->n_clients + 2;
	if (faults->is_storm)
		n_bytes += CALM_SIZE_BYTES * faults->n_clients;
	n_samples = n_bytes / page_size_bytes() * (sizeof(uint32_t) * 2 + 8 * faults->n_runs);
	return memory_check(n_bytes + n_samples / 2, 2);
}

/* --- measuring -------------------------------------------------------------------------------- */

/* All of @writers write every page once, at the same time; to @row, unless that is NULL. */
static int write_round(struct writer *writers, size_t n_writers, struct served *row)
{
	uint64_t begin_nsec = UINT64_MAX, end_nsec = 0;
	int r;

	r = writer_all(writers, n_writers, WRITER_FREEZE);
	if (!r)
		r = writer_all(writers, n_writers, WRITER_WRITE);
	if (!r)
		r = writer_all(writers, n_writers, WRITER_THAW);
	if (r || !row)
		return r;
	for (size_t i = 0; i < n_writers; i++) {
		const struct writer_lane *lane = writers[i].lane;

		begin_nsec = min_u64(begin_nsec, lane->begin_nsec);
		end_nsec = max_u64(end_nsec, lane->end_nsec);
		row->n_written += lane->n_written;
		for (uint64_t j = 0; j < lane->n_written; j++)
			samples_add(&row->latency, lane->latency_nsec[j]);
	}
	row->busy_nsec += end_nsec - begin_nsec;
	return 0;
}

static int storm_round(struct faults *faults, struct served *row)
{
	struct writer *storm = &faults->writers[faults->n_clients];
	int r, r2;

	r = writer_ask(storm, WRITER_STORM);
	if (r)
		return r;
	r = write_round(faults->writers, faults->n_clients, row);
	r2 = writer_ask(storm, WRITER_CALM);
	if (!r2)
		r2 = writer_await(storm);
	if (row) {
		faults->storm_n_written += storm->lane->n_written;
		faults->storm_nsec += storm->lane->end_nsec - storm->lane->begin_nsec;
	}
	return r ? r : r2;
}

/* The very first round warms up the memory that is written and the workers that serve it. */
static int measure(struct faults *faults)
{
	struct writer *bare = faults->writers + faults->n_clients;
	size_t n_bare = faults->is_storm ? 0 : faults->n_writers - faults->n_clients;
	int r = 0;

	for (uint64_t run = 0; !r && run <= faults->n_runs; run++) {
		struct served *rows = run ? faults->rows : NULL;

		r = write_round(faults->writers, faults->n_clients, rows ? &rows[ROW_COWD] : NULL);
		for (size_t i = 0; !r && i < n_bare; i++)
			r = write_round(&bare[i], 1, rows ? &rows[ROW_BARE_SAME + i] : NULL);
		if (!r && faults->is_storm)
			r = storm_round(faults, rows ? &rows[ROW_BESIDE] : NULL);
	}
	return r;
}

/* --- output ----------------------------------------------------------------------------------- */

static double quantile_usec(struct served *row, double q)
{
	return (double)samples_quantile(&row->latency, q) / 1e3;
}

static void put_rate(struct json_object *object, uint64_t n_written, uint64_t nsec)
{
	uint64_t per_s = nsec ? (uint64_t)((double)n_written * 1e9 / (double)nsec) : 0;

	json_object_object_add(object, "served_per_s", json_object_new_uint64(per_s));
}

static struct json_object *put_served(struct json_object *object, struct served *row)
{
	struct json_object *latency = json_object_new_object();

	put_rate(object, row->n_written, row->busy_nsec);
	report_put_real(latency, "p50", quantile_usec(row, 0.5));
	report_put_real(latency, "p99", quantile_usec(row, 0.99));
	report_put_real(latency, "p999", quantile_usec(row, 0.999));
	json_object_object_add(object, "latency_us", latency);
	return object;
}

static void put_ratio(struct json_object *object, double value, double base)
{
	report_put_real(object, "ratio", base > 0 ? value / base : 0);
}

static struct json_object *storm_document(struct faults *faults)
{
	struct served *alone = &faults->rows[ROW_COWD], *beside = &faults->rows[ROW_BESIDE];
	struct json_object *document = json_object_new_object();
	struct json_object *storm = json_object_new_object();

	put_rate(storm, faults->storm_n_written, faults->storm_nsec);
	json_object_object_add(document, "alone", put_served(json_object_new_object(), alone));
	json_object_object_add(document, "beside_storm",
			       put_served(json_object_new_object(), beside));
	json_object_object_add(document, "storm", storm);
	put_ratio(document, quantile_usec(beside, 0.99), quantile_usec(alone, 0.99));
	return document;
}

static struct json_object *faults_document(struct faults *faults)
{
	struct served *other = &faults->rows[ROW_BARE_OTHER];
	struct json_object *document = json_object_new_object();

	put_served(document, &faults->rows[ROW_COWD]);
	json_object_object_add(document, "bare_same_cpu",
			       put_served(json_object_new_object(), &faults->rows[ROW_BARE_SAME]));
	json_object_object_add(document, "bare_other_cpu",
			       other->n_written ? put_served(json_object_new_object(), other)
						: NULL);
	put_ratio(document, quantile_usec(&faults->rows[ROW_COWD], 0.5),
		  quantile_usec(&faults->rows[ROW_BARE_SAME], 0.5));
	return document;
}

static void add_row(struct json_object *rows, const char *who, struct served *row, double base)
{
	struct json_object *object = json_object_new_object();

	if (row->n_written) {
		json_object_object_add(object, "who", json_object_new_string(who));
		put_served(object, row);
		put_ratio(object, quantile_usec(row, 0.5), base);
		json_object_array_add(rows, object);
	} else {
		json_object_put(object);
	}
}

static const struct report_column columns[] = {
	{"who", "SERVED BY", REPORT_TEXT},           {"served_per_s", "WRITES/s", REPORT_NUMBER},
	{"latency_us.p50", "us p50", REPORT_NUMBER}, {"latency_us.p99", "p99", REPORT_NUMBER},
	{"latency_us.p999", "p99.9", REPORT_NUMBER}, {"ratio", "p50 to bare", REPORT_RATIO},
};

static const struct report_column storm_columns[] = {
	{"who", "CALM CLIENTS", REPORT_TEXT},        {"served_per_s", "WRITES/s", REPORT_NUMBER},
	{"latency_us.p50", "us p50", REPORT_NUMBER}, {"latency_us.p99", "p99", REPORT_NUMBER},
	{"latency_us.p999", "p99.9", REPORT_NUMBER},
};

static int print_storm(struct faults *faults, struct json_object *document)
{
	struct json_object *rows = json_object_new_array();
	char size[FORMAT_BYTES_MAX];
	int r;

	printf("%llu clients that write now and then; the storm: %s, %llu thread%s, %llu "
	       "writes/s\n",
	       (unsigned long long)faults->n_clients, format_bytes(size, faults->size_bytes),
	       (unsigned long long)faults->n_threads, faults->n_threads == 1 ? "" : "s",
	       (unsigned long long)json_object_get_uint64(json_object_object_get(
		       json_object_object_get(document, "storm"), "served_per_s")));
	add_row(rows, "alone", &faults->rows[ROW_COWD], 0);
	add_row(rows, "beside a storm", &faults->rows[ROW_BESIDE], 0);
	r = report_table(rows, storm_columns, ARRAY_SIZE(storm_columns));
	printf("p99 beside a storm to p99 alone: %.2fx\n",
	       json_object_get_double(json_object_object_get(document, "ratio")));
	json_object_put(rows);
	return r;
}

static int print_faults(struct faults *faults)
{
	struct json_object *rows = json_object_new_array();
	double base = quantile_usec(&faults->rows[ROW_BARE_SAME], 0.5);
	char size[FORMAT_BYTES_MAX];
	int r;

	printf("First writes in %s order, %llu client%s with %llu thread%s and %s each, %llu "
	       "run%s\n",
	       faults->is_random ? "random" : "sequential", (unsigned long long)faults->n_clients,
	       faults->n_clients == 1 ? "" : "s", (unsigned long long)faults->n_threads,
	       faults->n_threads == 1 ? "" : "s", format_bytes(size, faults->size_bytes),
	       (unsigned long long)faults->n_runs, faults->n_runs == 1 ? "" : "s");
	add_row(rows, "cowd", &faults->rows[ROW_COWD], base);
	add_row(rows, "bare loop, same CPU", &faults->rows[ROW_BARE_SAME], base);
	add_row(rows, "bare loop, other CPU", &faults->rows[ROW_BARE_OTHER], base);
	r = report_table(rows, columns, ARRAY_SIZE(columns));
	json_object_put(rows);
	return r;
}

static int print_result(struct faults *faults)
{
	struct json_object *document =
		faults->is_storm ? storm_document(faults) : faults_document(faults);
	int r;

	if (faults->is_json)
		r = report_json(document);
	else if (faults->is_storm)
		r = print_storm(faults, document);
	else
		r = print_faults(faults);
	json_object_put(document);
	return r;
}

/* --- arguments -------------------------------------------------------------------------------- */

static int parse_options(struct faults *faults, int argc, char **argv)
{
	const char *pattern = "random";
	const struct bench_option options[] = {
		{"s", BENCH_SIZE, &faults->size_bytes, .wants = BENCH_SIZE_WANTS},
		{"n", BENCH_NUMBER, &faults->n_runs, 1, 10000, "a number of runs from 1 on"},
		{"clients", BENCH_NUMBER, &faults->n_clients, 1, CLIENTS_MAX,
		 "a number from 1 to 1000"},
		{"threads", BENCH_NUMBER, &faults->n_threads, 1, 256, "a number from 1 to 256"},
		{"pattern", BENCH_TEXT, &pattern},
		{"storm", BENCH_FLAG, &faults->is_storm},
		{"json", BENCH_FLAG, &faults->is_json},
		{"socket", BENCH_TEXT, &faults->socket},
	};
	int r;

	r = bench_parse_options(options, ARRAY_SIZE(options), argc, argv);
	if (r)
		return r;
	faults->is_random = !strcmp(pattern, "random");
	if (!faults->is_random && strcmp(pattern, "sequential") != 0)
		return cli_usage("--pattern wants random or sequential, not '%s'", pattern);
	if (!faults->n_clients)
		faults->n_clients = faults->is_storm ? CALM_CLIENTS : 1;
	return CLI_OK;
}

static int run(struct faults *faults)
{
	int r;

	r = check_memory(faults);
	if (!r)
		r = choose_address(faults);
	if (!r)
		r = init_rows(faults);
	if (!r)
		r = start_writers(faults);
	if (!r)
		r = start_cowd(faults);
	if (!r)
		r = writer_all(faults->writers, faults->n_writers, WRITER_OPEN);
	if (!r)
		r = measure(faults);
	return r ? r : print_result(faults);
}

int bench_faults(int argc, char **argv)
{
	struct faults faults = {.size_bytes = 64 << 20, .n_runs = 5, .n_threads = 1};
	int r;

	r = parse_options(&faults, argc, argv);
	if (r)
		return r;
	r = run(&faults);
	if (r)
		r = cli_fail(r, err_sentence(), "cannot measure faults");
	for (size_t i = 0; i < faults.n_started; i++)
		writer_end(&faults.writers[i]);
	end_cowd(&faults);
	for (size_t i = 0; i < N_ROWS; i++)
		samples_deinit(&faults.rows[i].latency);
	free(faults.writers);
	return r;
}
