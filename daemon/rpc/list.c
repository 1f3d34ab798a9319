// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Status, and the list of clients. Lists of regions and snapshots are in the files that own those.
 *
 * Anybody who may connect may see the totals; the rows of a list are shown to their own uid and to
 * administrators only.
 */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>

#include "common/clock.h"
#include "common/err.h"
#include "daemon/base/worker.h"
#include "daemon/daemon.h"
#include "daemon/process/device.h"
#include "daemon/process/options.h"
#include "daemon/region/region.h"
#include "daemon/rpc/rpc.h"
#include "daemon/rpc/session.h"
#include "daemon/snapshot/snapshot.h"

/* Second field of /proc/self/statm, proc(5); the file was opened before the sandbox closed. */
static uint64_t resident_bytes(const struct daemon *daemon)
{
	char text[128];
	uint64_t pages;
	ssize_t n;

	n = pread(daemon->statm_fd, text, sizeof(text) - 1, 0);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	if (sscanf(text, "%*u %" SCNu64, &pages) != 1)
		return 0;
	return pages * page_size_bytes();
}

static int fill_status(struct rpc_call *call, Cow__V1__StatusReply *reply)
{
	struct daemon *daemon = call->session->daemon;
	char mechanisms[PROBE_MECHANISMS_MAX];
	char hint[DEVICE_HINT_MAX];

	reply->server = rpc_strdup(call, "cowd " PACKAGE_VERSION);
	reply->kernel = rpc_strdup(call, daemon->probe.release);
	reply->mechanisms =
		rpc_strdup(call, probe_mechanisms(&daemon->probe, device_has_mode_uffd(daemon),
						  mechanisms, sizeof(mechanisms)));
	reply->lend = rpc_strdup(call, options_lend_name(device_lend(daemon)));
	reply->lend_hint = rpc_strdup(call, device_hint(daemon, hint, sizeof(hint)));
	reply->socket = rpc_strdup(call, daemon->options.socket_path);
	if (!reply->server || !reply->kernel || !reply->mechanisms || !reply->lend ||
	    !reply->lend_hint || !reply->socket)
		return -ENOMEM;
	reply->pid = (uint32_t)getpid();
	reply->uptime_usec = now_usec() - daemon->started_usec;
	reply->uffd_features = daemon->probe.uffd_features;
	reply->n_clients = daemon->n_sessions;
	reply->n_regions = HASH_COUNT(daemon->regions);
	reply->n_snapshots = HASH_COUNT(daemon->snapshots);
	reply->region_bytes = quota_total(daemon->quota, QUOTA_REGION_BYTES);
	reply->kept_bytes = quota_total(daemon->quota, QUOTA_KEPT_BYTES);
	reply->n_workers = worker_pool_size(daemon->workers);
	reply->memory_bytes = resident_bytes(daemon);
	return 0;
}

int rpc_status(struct rpc_call *call)
{
	Cow__V1__StatusReply *reply = rpc_alloc(call, sizeof(*reply));
	int r;

	if (!reply)
		return -ENOMEM;
	cow__v1__status_reply__init(reply);
	r = fill_status(call, reply);
	if (r)
		return r;
	call->reply.result_case = COW__V1__REPLY__RESULT_STATUS;
	call->reply.status = reply;
	return 0;
}

static void add_up(Cow__V1__ClientInfo *row, const struct session *session)
{
	for (const struct region *region = session->regions; region; region = region->next) {
		row->n_regions++;
		row->region_bytes += region->size_bytes;
		row->kept_bytes += region_kept_bytes(region);
	}
	row->n_snapshots = HASH_COUNT(session->holds);
}

static int add_client(struct rpc_call *call, Cow__V1__ClientList *list,
		      const struct session *session)
{
	Cow__V1__ClientInfo *row = rpc_alloc(call, sizeof(*row));

	if (!row)
		return -ENOMEM;
	cow__v1__client_info__init(row);
	row->program = rpc_strdup(call, session->program);
	if (!row->program)
		return -ENOMEM;
	row->client_id = session->id;
	row->pid = (uint32_t)session->pid;
	row->uid = session->uid;
	row->connected_usec = now_usec() - session->connected_usec;
	add_up(row, session);
	list->clients[list->n_clients++] = row;
	return 0;
}

int rpc_list_clients(struct rpc_call *call)
{
	struct session *asker = call->session;
	uint64_t after_id = call->request->list_clients->after_id;
	struct session *s = NULL;
	Cow__V1__ClientList *list;
	int r;

	list = rpc_alloc(call, sizeof(*list));
	if (!list)
		return -ENOMEM;
	cow__v1__client_list__init(list);
	list->clients = rpc_alloc(call, RPC_LIST_MAX * sizeof(void *));
	if (!list->clients)
		return -ENOMEM;
	/* From the one that was last, as long as it is there. */
	HASH_FIND(hh, asker->daemon->sessions_by_id, &after_id, sizeof(after_id), s);
	for (s = s ? s : asker->daemon->sessions; s; s = s->next) {
		if (s->id <= after_id || !session_may_see(asker, s->uid))
			continue;
		if (list->n_clients == RPC_LIST_MAX) {
			list->has_more = true;
			break;
		}
		r = add_client(call, list, s);
		if (r)
			return r;
	}
	call->reply.result_case = COW__V1__REPLY__RESULT_CLIENTS;
	call->reply.clients = list;
	return 0;
}
