// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowctl status, clients, regions, snapshots, stats: one call to cowd each, its reply turned into a
 * JSON document, which is printed or shown as a table.
 */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "libclient/internal.h"
#include "tools/cli.h"
#include "tools/cowctl.h"
#include "tools/report.h"

static void put_text(struct json_object *object, const char *key, const char *text)
{
	json_object_object_add(object, key, report_text(text));
}

/* Words that blanks separate, as an array. */
static void put_words(struct json_object *object, const char *key, const char *text)
{
	struct json_object *words = json_object_new_array();

	while (*(text += strspn(text, " "))) {
		size_t n = strcspn(text, " ");
		CLEANUP(freep) char *word = strndup(text, n);

		json_object_array_add(words, report_text(word));
		text += n;
	}
	json_object_object_add(object, key, words);
}

static void put_number(struct json_object *object, const char *key, uint64_t value)
{
	json_object_object_add(object, key, json_object_new_uint64(value));
}

static const char *mode_name(Cow__V1__Mode mode)
{
	switch (mode) {
	case COW__V1__MODE__MODE_UFFD:
		return "uffd";
	case COW__V1__MODE__MODE_SCOOT:
		return "scoot";
	case COW__V1__MODE__MODE_MMAPCOPY:
		return "mmapcopy";
	default:
		return "unknown";
	}
}

static const char *snapshot_state_name(Cow__V1__SnapshotState state)
{
	switch (state) {
	case COW__V1__SNAPSHOT_STATE__SNAPSHOT_LIVE:
		return "live";
	case COW__V1__SNAPSHOT_STATE__SNAPSHOT_LOST:
		return "lost";
	default:
		return "unknown";
	}
}

/* Sends a request that carries nothing; @reply is owned by the caller. CLI_OK or a status, said. */
static int query(struct ctl *ctl, Cow__V1__Request *request, Cow__V1__Reply__ResultCase wanted,
		 Cow__V1__Reply **reply)
{
	int r;

	r = cowi_call(ctl->client, request, NULL, 0, reply, NULL);
	if (r)
		return cli_fail(r, cow_last_error(), ctl->address);
	if ((*reply)->result_case != wanted) {
		cow__v1__reply__free_unpacked(*reply, NULL);
		cli_say("%s: the daemon answered something else than was asked", ctl->address);
		return CLI_FAILED;
	}
	return CLI_OK;
}

static const struct report_column status_fields[] = {
	{"server", "Server", REPORT_TEXT},
	{"pid", "PID", REPORT_NUMBER},
	{"uptime_usec", "Up for", REPORT_USEC},
	{"socket", "Socket", REPORT_TEXT},
	{"kernel", "Kernel", REPORT_TEXT},
	{"uffd_features", "Userfaultfd features", REPORT_HEX},
	{"mechanisms", "Mechanisms", REPORT_WORDS},
	{"lend", "Lends userfaultfd", REPORT_TEXT},
	{"clients", "Clients", REPORT_NUMBER},
	{"regions", "Regions", REPORT_NUMBER},
	{"snapshots", "Snapshots", REPORT_NUMBER},
	{"region_bytes", "Charged for regions", REPORT_BYTES},
	{"kept_bytes", "Kept for snapshots", REPORT_BYTES},
	{"memory_bytes", "Daemon's own memory", REPORT_BYTES},
	{"workers", "Fault workers", REPORT_NUMBER},
};

int ctl_status(struct ctl *ctl, char **args)
{
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__Status call = COW__V1__STATUS__INIT;
	struct json_object *document;
	Cow__V1__Reply *reply = NULL;
	Cow__V1__StatusReply *s;
	int r;

	(void)args;
	request.call_case = COW__V1__REQUEST__CALL_STATUS;
	request.status = &call;
	r = query(ctl, &request, COW__V1__REPLY__RESULT_STATUS, &reply);
	if (r)
		return r;
	s = reply->status;
	document = json_object_new_object();
	put_text(document, "server", s->server);
	put_number(document, "pid", s->pid);
	put_number(document, "uptime_usec", s->uptime_usec);
	put_text(document, "socket", s->socket);
	put_text(document, "kernel", s->kernel);
	put_number(document, "uffd_features", s->uffd_features);
	put_words(document, "mechanisms", s->mechanisms);
	put_text(document, "lend", s->lend);
	put_text(document, "lend_hint", s->lend_hint);
	put_number(document, "clients", s->n_clients);
	put_number(document, "regions", s->n_regions);
	put_number(document, "snapshots", s->n_snapshots);
	put_number(document, "region_bytes", s->region_bytes);
	put_number(document, "kept_bytes", s->kept_bytes);
	put_number(document, "memory_bytes", s->memory_bytes);
	put_number(document, "workers", s->n_workers);
	r = ctl->is_json ? report_json(document)
			 : report_fields(document, status_fields, ARRAY_SIZE(status_fields));
	if (!ctl->is_json && *s->lend_hint)
		printf("\n%s\n", s->lend_hint);
	json_object_put(document);
	cow__v1__reply__free_unpacked(reply, NULL);
	return r ? cli_fail(r, err_sentence(), "status") : CLI_OK;
}

/* --- lists: cowd gives them in parts ---------------------------------------------------------- */

union list_call {
	Cow__V1__ListClients clients;
	Cow__V1__ListRegions regions;
	Cow__V1__ListSnapshots snapshots;
};

/**
 * struct list - one kind of thing that cowd lists
 * @key:     name of the array in the JSON document
 * @columns: of the table; the JSON rows may hold more
 * @ask:     have @request ask for those after @after_id; @call is memory for it
 * @add:     put a part's entries on @rows. Return: whether there are more after *@last_id
 */
struct list {
	const char *key;
	Cow__V1__Reply__ResultCase result;
	const struct report_column *columns;
	size_t n_columns;
	void (*ask)(Cow__V1__Request *request, union list_call *call, uint64_t after_id);
	bool (*add)(struct json_object *rows, const Cow__V1__Reply *reply, uint64_t *last_id);
};

static int collect(struct ctl *ctl, const struct list *list, struct json_object *rows)
{
	uint64_t last_id = 0;
	bool has_more = true;

	while (has_more) {
		Cow__V1__Request request = COW__V1__REQUEST__INIT;
		Cow__V1__Reply *reply = NULL;
		uint64_t after_id = last_id;
		union list_call call;
		int r;

		list->ask(&request, &call, after_id);
		r = query(ctl, &request, list->result, &reply);
		if (r)
			return r;
		/* An id that does not rise would have us ask for ever. */
		has_more = list->add(rows, reply, &last_id) && last_id > after_id;
		cow__v1__reply__free_unpacked(reply, NULL);
	}
	return CLI_OK;
}

/* @what: the name of the rows, for the sentence that is printed if there are none. */
static int print_table(const struct ctl *ctl, struct json_object *rows, const char *what,
		       const struct report_column *columns, size_t n_columns)
{
	if (!json_object_array_length(rows)) {
		cli_say("there are no %s, or none that this user may see", what);
		return 0;
	}
	return report_table_within(rows, columns, n_columns, ctl->is_wide ? 0 : report_width());
}

static int print_list(struct ctl *ctl, const struct list *list)
{
	struct json_object *document = json_object_new_object();
	struct json_object *rows = json_object_new_array();
	int r, status;

	json_object_object_add(document, list->key, rows);
	status = collect(ctl, list, rows);
	if (!status) {
		r = ctl->is_json
			    ? report_json(document)
			    : print_table(ctl, rows, list->key, list->columns, list->n_columns);
		if (r)
			status = cli_fail(r, err_sentence(), list->key);
	}
	json_object_put(document);
	return status;
}

static const struct report_column client_columns[] = {
	{"client", "CLIENT", REPORT_NUMBER},
	{"pid", "PID", REPORT_NUMBER},
	{"uid", "UID", REPORT_NUMBER, 3},
	{"program", "PROGRAM", REPORT_TEXT},
	{"regions", "REGIONS", REPORT_NUMBER, 1},
	{"snapshots", "SNAPSHOTS", REPORT_NUMBER, 1},
	{"region_bytes", "IN REGIONS", REPORT_BYTES, 2},
	{"kept_bytes", "KEPT", REPORT_BYTES, 2},
	{"connected_usec", "SINCE", REPORT_USEC, 2},
};

static void ask_clients(Cow__V1__Request *request, union list_call *call, uint64_t after_id)
{
	cow__v1__list_clients__init(&call->clients);
	call->clients.after_id = after_id;
	request->call_case = COW__V1__REQUEST__CALL_LIST_CLIENTS;
	request->list_clients = &call->clients;
}

static bool add_clients(struct json_object *rows, const Cow__V1__Reply *reply, uint64_t *last_id)
{
	for (size_t i = 0; i < reply->clients->n_clients; i++) {
		const Cow__V1__ClientInfo *c = reply->clients->clients[i];
		struct json_object *row = json_object_new_object();

		put_number(row, "client", c->client_id);
		put_number(row, "pid", c->pid);
		put_number(row, "uid", c->uid);
		put_text(row, "program", c->program);
		put_number(row, "regions", c->n_regions);
		put_number(row, "snapshots", c->n_snapshots);
		put_number(row, "region_bytes", c->region_bytes);
		put_number(row, "kept_bytes", c->kept_bytes);
		put_number(row, "connected_usec", c->connected_usec);
		json_object_array_add(rows, row);
		*last_id = c->client_id;
	}
	return reply->clients->has_more;
}

int ctl_clients(struct ctl *ctl, char **args)
{
	static const struct list list = {"clients",      COW__V1__REPLY__RESULT_CLIENTS,
					 client_columns, ARRAY_SIZE(client_columns),
					 ask_clients,    add_clients};

	(void)args;
	return print_list(ctl, &list);
}

static const struct report_column region_columns[] = {
	{"region", "REGION", REPORT_NUMBER},     {"client", "CLIENT", REPORT_NUMBER, 5},
	{"pid", "PID", REPORT_NUMBER},           {"uid", "UID", REPORT_NUMBER, 4},
	{"name", "NAME", REPORT_TEXT},           {"mode", "MODE", REPORT_TEXT},
	{"address", "ADDRESS", REPORT_HEX, 6},   {"size_bytes", "SIZE", REPORT_BYTES},
	{"used_bytes", "USED", REPORT_BYTES, 1}, {"snapshots", "SNAPSHOTS", REPORT_NUMBER, 1},
	{"faults", "FAULTS", REPORT_NUMBER, 3},  {"cpu", "CPU", REPORT_NUMBER, 7},
	{"moves", "MOVES", REPORT_NUMBER, 7},    {"state", "STATE", REPORT_TEXT},
};

/* The state that an operator has to know first. */
static const char *region_state(const Cow__V1__RegionInfo *g)
{
	if (g->is_waiting)
		return "waiting";
	if (g->is_ownerless)
		return "ownerless";
	return g->n_snapshots ? "frozen" : "idle";
}

/* Only regions of mode uffd are served; those without a worker have no CPU. */
static void put_service(struct json_object *row, const Cow__V1__RegionInfo *g)
{
	bool has_faults = g->mode == COW__V1__MODE__MODE_UFFD;

	json_object_object_add(row, "cpu", g->is_served ? json_object_new_uint64(g->cpu) : NULL);
	json_object_object_add(row, "moves",
			       has_faults ? json_object_new_uint64(g->n_moves) : NULL);
}

static void ask_regions(Cow__V1__Request *request, union list_call *call, uint64_t after_id)
{
	cow__v1__list_regions__init(&call->regions);
	call->regions.after_id = after_id;
	request->call_case = COW__V1__REQUEST__CALL_LIST_REGIONS;
	request->list_regions = &call->regions;
}

static bool add_regions(struct json_object *rows, const Cow__V1__Reply *reply, uint64_t *last_id)
{
	for (size_t i = 0; i < reply->regions->n_regions; i++) {
		const Cow__V1__RegionInfo *g = reply->regions->regions[i];
		struct json_object *row = json_object_new_object();

		put_number(row, "region", g->region_id);
		put_number(row, "client", g->client_id);
		put_number(row, "pid", g->pid);
		put_number(row, "uid", g->uid);
		put_text(row, "name", g->name);
		put_text(row, "mode", mode_name(g->mode));
		put_number(row, "address", g->addr);
		put_number(row, "size_bytes", g->size_bytes);
		put_number(row, "used_bytes", g->used_bytes);
		put_number(row, "snapshots", g->n_snapshots);
		put_number(row, "children", g->n_children);
		put_number(row, "faults", g->n_faults);
		put_service(row, g);
		put_text(row, "state", region_state(g));
		json_object_array_add(rows, row);
		*last_id = g->region_id;
	}
	return reply->regions->has_more;
}

int ctl_regions(struct ctl *ctl, char **args)
{
	static const struct list list = {"regions",      COW__V1__REPLY__RESULT_REGIONS,
					 region_columns, ARRAY_SIZE(region_columns),
					 ask_regions,    add_regions};

	(void)args;
	return print_list(ctl, &list);
}

static const struct report_column snapshot_columns[] = {
	{"snapshot", "SNAPSHOT", REPORT_NUMBER},
	{"region", "REGION", REPORT_NUMBER},
	{"pid", "PID", REPORT_NUMBER, 1},
	{"uid", "UID", REPORT_NUMBER, 4},
	{"region_name", "NAME", REPORT_TEXT},
	{"mode", "MODE", REPORT_TEXT, 2},
	{"state", "STATE", REPORT_TEXT},
	{"size_bytes", "SIZE", REPORT_BYTES},
	{"kept_bytes", "KEPT", REPORT_BYTES, 1},
	{"age_usec", "AGE", REPORT_USEC, 1},
	{"budget_bytes", "BUDGET", REPORT_BYTES, 6},
	{"saved_bytes", "SAVED", REPORT_BYTES, 3},
	{"holders", "HOLDERS", REPORT_NUMBER, 5},
	{"lost_because", "LOST BECAUSE", REPORT_TEXT, 7},
};

static void ask_snapshots(Cow__V1__Request *request, union list_call *call, uint64_t after_id)
{
	cow__v1__list_snapshots__init(&call->snapshots);
	call->snapshots.after_id = after_id;
	request->call_case = COW__V1__REQUEST__CALL_LIST_SNAPSHOTS;
	request->list_snapshots = &call->snapshots;
}

static bool add_snapshots(struct json_object *rows, const Cow__V1__Reply *reply, uint64_t *last_id)
{
	for (size_t i = 0; i < reply->snapshots->n_snapshots; i++) {
		const Cow__V1__SnapshotInfo *s = reply->snapshots->snapshots[i];
		struct json_object *row = json_object_new_object();

		put_number(row, "snapshot", s->snapshot_id);
		put_number(row, "region", s->region_id);
		put_number(row, "pid", s->pid);
		put_number(row, "uid", s->uid);
		put_text(row, "region_name", s->region_name);
		put_text(row, "name", s->name);
		put_text(row, "mode", mode_name(s->mode));
		put_text(row, "state", snapshot_state_name(s->state));
		put_number(row, "size_bytes", s->size_bytes);
		put_number(row, "kept_bytes", s->kept_bytes);
		put_number(row, "age_usec", s->age_usec);
		json_object_object_add(row, "budget_bytes",
				       s->budget_bytes ? json_object_new_uint64(s->budget_bytes)
						       : NULL);
		put_text(row, "over_budget", s->wait ? "wait" : "lose");
		json_object_object_add(row, "once", json_object_new_boolean(s->once));
		put_number(row, "saves", s->n_saves);
		json_object_object_add(row, "saved_bytes",
				       s->n_saves ? json_object_new_uint64(s->saved_bytes) : NULL);
		put_number(row, "holders", s->n_holders);
		put_text(row, "lost_because", s->lost_because);
		json_object_array_add(rows, row);
		*last_id = s->snapshot_id;
	}
	return reply->snapshots->has_more;
}

int ctl_snapshots(struct ctl *ctl, char **args)
{
	static const struct list list = {"snapshots",      COW__V1__REPLY__RESULT_SNAPSHOTS,
					 snapshot_columns, ARRAY_SIZE(snapshot_columns),
					 ask_snapshots,    add_snapshots};

	(void)args;
	return print_list(ctl, &list);
}

/* --- counters and latencies ------------------------------------------------------------------- */

static const struct report_column counter_columns[] = {
	{"name", "COUNTER", REPORT_TEXT},
	{"value", "VALUE", REPORT_NUMBER},
	{"help", "MEANING", REPORT_TEXT, 1},
};

static const struct report_column histogram_columns[] = {
	{"name", "LATENCY", REPORT_TEXT},     {"unit", "UNIT", REPORT_TEXT},
	{"count", "COUNT", REPORT_NUMBER, 1}, {"min", "MIN", REPORT_NUMBER, 3},
	{"p50", "P50", REPORT_NUMBER},        {"p90", "P90", REPORT_NUMBER, 2},
	{"p99", "P99", REPORT_NUMBER},        {"p999", "P99.9", REPORT_NUMBER, 2},
	{"max", "MAX", REPORT_NUMBER},        {"help", "MEANING", REPORT_TEXT, 4},
};

static struct json_object *stats_document(const Cow__V1__StatsReply *stats)
{
	struct json_object *document = json_object_new_object();
	struct json_object *counters = json_object_new_array();
	struct json_object *histograms = json_object_new_array();

	for (size_t i = 0; i < stats->n_counters; i++) {
		struct json_object *row = json_object_new_object();

		put_text(row, "name", stats->counters[i]->name);
		put_number(row, "value", stats->counters[i]->value);
		put_text(row, "help", stats->counters[i]->help);
		json_object_array_add(counters, row);
	}
	for (size_t i = 0; i < stats->n_histograms; i++) {
		const Cow__V1__Histogram *h = stats->histograms[i];
		struct json_object *row = json_object_new_object();

		put_text(row, "name", h->name);
		put_text(row, "unit", h->unit);
		put_number(row, "count", h->count);
		put_number(row, "min", h->min);
		put_number(row, "p50", h->p50);
		put_number(row, "p90", h->p90);
		put_number(row, "p99", h->p99);
		put_number(row, "p999", h->p999);
		put_number(row, "max", h->max);
		put_text(row, "help", h->help);
		json_object_array_add(histograms, row);
	}
	json_object_object_add(document, "counters", counters);
	json_object_object_add(document, "histograms", histograms);
	return document;
}

static const struct report_column service_columns[] = {
	{"region", "REGION", REPORT_NUMBER},  {"pid", "PID", REPORT_NUMBER},
	{"uid", "UID", REPORT_NUMBER, 3},     {"name", "NAME", REPORT_TEXT},
	{"mode", "MODE", REPORT_TEXT, 2},     {"cpu", "CPU", REPORT_NUMBER},
	{"moves", "MOVES", REPORT_NUMBER, 1}, {"faults", "FAULTS", REPORT_NUMBER},
};

static bool add_service(struct json_object *rows, const Cow__V1__Reply *reply, uint64_t *last_id)
{
	for (size_t i = 0; i < reply->regions->n_regions; i++) {
		const Cow__V1__RegionInfo *g = reply->regions->regions[i];
		struct json_object *row = json_object_new_object();

		put_number(row, "region", g->region_id);
		put_number(row, "pid", g->pid);
		put_number(row, "uid", g->uid);
		put_text(row, "name", g->name);
		put_text(row, "mode", mode_name(g->mode));
		put_service(row, g);
		put_number(row, "faults", g->n_faults);
		json_object_array_add(rows, row);
		*last_id = g->region_id;
	}
	return reply->regions->has_more;
}

static int print_stats(const struct ctl *ctl, struct json_object *document)
{
	int r;

	r = print_table(ctl, json_object_object_get(document, "counters"), "counters",
			counter_columns, ARRAY_SIZE(counter_columns));
	putchar('\n');
	if (!r)
		r = print_table(ctl, json_object_object_get(document, "histograms"), "latencies",
				histogram_columns, ARRAY_SIZE(histogram_columns));
	putchar('\n');
	if (!r)
		r = print_table(ctl, json_object_object_get(document, "regions"), "regions",
				service_columns, ARRAY_SIZE(service_columns));
	return r;
}

int ctl_stats(struct ctl *ctl, char **args)
{
	static const struct list served = {"regions",       COW__V1__REPLY__RESULT_REGIONS,
					   service_columns, ARRAY_SIZE(service_columns),
					   ask_regions,     add_service};
	struct json_object *regions = json_object_new_array();
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__Stats call = COW__V1__STATS__INIT;
	Cow__V1__Reply *reply = NULL;
	struct json_object *document;
	int r, status;

	(void)args;
	request.call_case = COW__V1__REQUEST__CALL_STATS;
	request.stats = &call;
	r = query(ctl, &request, COW__V1__REPLY__RESULT_STATS, &reply);
	if (r) {
		json_object_put(regions);
		return r;
	}
	document = stats_document(reply->stats);
	cow__v1__reply__free_unpacked(reply, NULL);
	json_object_object_add(document, "regions", regions);
	status = collect(ctl, &served, regions);
	if (!status)
		r = ctl->is_json ? report_json(document) : print_stats(ctl, document);
	json_object_put(document);
	if (status)
		return status;
	return r ? cli_fail(r, err_sentence(), "stats") : CLI_OK;
}
