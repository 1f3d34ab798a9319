// SPDX-License-Identifier: GPL-2.0-or-later
/* The Stats call: every counter and histogram with the words of base/stats.h. */
#include "config.h"

#include "daemon/base/stats.h"

#include <stddef.h>

#include "common/err.h"
#include "daemon/daemon.h"
#include "daemon/rpc/rpc.h"
#include "daemon/rpc/session.h"

static const struct {
	const char *name;
	const char *help;
	size_t offset;
} counters[] = {
#define X(name, help) {#name, help, offsetof(struct stats, name)},
	STATS_COUNTERS(X)
#undef X
};

static const struct {
	const char *name;
	const char *unit;
	const char *help;
	size_t offset;
} histograms[] = {
#define X(name, unit, help) {#name, unit, help, offsetof(struct stats, name)},
	STATS_HISTOGRAMS(X)
#undef X
};

static int add_counters(struct rpc_call *call, Cow__V1__StatsReply *reply)
{
	char *base = (char *)&call->session->daemon->stats;

	reply->counters = rpc_alloc(call, ARRAY_SIZE(counters) * sizeof(void *));
	if (!reply->counters)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
		_Atomic uint64_t *value = (void *)(base + counters[i].offset);
		Cow__V1__Counter *counter = rpc_alloc(call, sizeof(*counter));

		if (!counter)
			return -ENOMEM;
		cow__v1__counter__init(counter);
		counter->name = rpc_strdup(call, counters[i].name);
		counter->help = rpc_strdup(call, counters[i].help);
		counter->value = atomic_load_explicit(value, memory_order_relaxed);
		if (!counter->name || !counter->help)
			return -ENOMEM;
		reply->counters[reply->n_counters++] = counter;
	}
	return 0;
}

static int add_histograms(struct rpc_call *call, Cow__V1__StatsReply *reply)
{
	char *base = (char *)&call->session->daemon->stats;

	reply->histograms = rpc_alloc(call, ARRAY_SIZE(histograms) * sizeof(void *));
	if (!reply->histograms)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(histograms); i++) {
		const struct hist *hist = (void *)(base + histograms[i].offset);
		Cow__V1__Histogram *row = rpc_alloc(call, sizeof(*row));

		if (!row)
			return -ENOMEM;
		cow__v1__histogram__init(row);
		row->name = rpc_strdup(call, histograms[i].name);
		row->unit = rpc_strdup(call, histograms[i].unit);
		row->help = rpc_strdup(call, histograms[i].help);
		if (!row->name || !row->unit || !row->help)
			return -ENOMEM;
		row->count = hist_count(hist);
		row->min = hist_min(hist);
		row->p50 = hist_quantile(hist, 0.5);
		row->p90 = hist_quantile(hist, 0.9);
		row->p99 = hist_quantile(hist, 0.99);
		row->p999 = hist_quantile(hist, 0.999);
		row->max = hist_max(hist);
		reply->histograms[reply->n_histograms++] = row;
	}
	return 0;
}

int rpc_stats(struct rpc_call *call)
{
	Cow__V1__StatsReply *reply = rpc_alloc(call, sizeof(*reply));
	int r;

	if (!reply)
		return -ENOMEM;
	cow__v1__stats_reply__init(reply);
	r = add_counters(call, reply);
	if (!r)
		r = add_histograms(call, reply);
	if (r)
		return r;
	call->reply.result_case = COW__V1__REPLY__RESULT_STATS;
	call->reply.stats = reply;
	return 0;
}
