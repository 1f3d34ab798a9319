// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * From packet to handler and back to a reply; contracts are in rpc.h.
 *
 * Three kinds of failure, and where each goes:
 *  - What no correct client of any version sends (an undecodable packet, id 0 or one that is in
 *    use, a number of descriptors other than said or other than the call takes, anything before
 *    Hello, Hello twice): RPC_E_FATAL, the connection ends.
 *  - What a correct client may meet (a call that this version does not know, too many calls at
 *    once, a quota, a wrong argument): an error in the reply, with a sentence.
 *  - What goes wrong in cowd itself (no memory): an error in the reply too; the client decides.
 */
#include "config.h"

#include "daemon/rpc/rpc.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "common/clock.h"
#include "common/err.h"
#include "daemon/base/closer.h"
#include "daemon/daemon.h"
#include "daemon/rpc/session.h"

struct rpc_chunk {
	struct rpc_chunk *next;
	max_align_t bytes[];
};

struct rpc_method {
	const char *name;
	int (*call)(struct rpc_call *call);
	uint8_t min_fds;
	uint8_t max_fds;
	bool before_hello;
};

#define METHOD(id, fn, ...)                                                                        \
	[COW__V1__REQUEST__CALL_##id] = {.name = #fn, .call = rpc_##fn, __VA_ARGS__}

static const struct rpc_method methods[] = {
	METHOD(HELLO, hello, .before_hello = true),
	METHOD(REGION_CREATE, region_create),
	METHOD(REGION_ATTACH, region_attach, .max_fds = 1), /* one in mode uffd, else none */
	METHOD(REGION_RESTORE, region_restore, .min_fds = 1, .max_fds = 1),
	METHOD(REGION_FREE, region_free),
	METHOD(REGION_CHILD, region_child, .min_fds = 1, .max_fds = 1),
	METHOD(REGION_CHILD_END, region_child_end),
	METHOD(BACKING_CREATE, backing_create),
	METHOD(BACKING_RELEASE, backing_release),
	METHOD(SNAPSHOT_TAKE, snapshot_take, .max_fds = 1), /* none in mode uffd, else one */
	METHOD(SNAPSHOT_OPEN, snapshot_open),
	METHOD(SNAPSHOT_ROLLBACK, snapshot_rollback),
	METHOD(SNAPSHOT_RELEASE, snapshot_release),
	METHOD(SNAPSHOT_READ, snapshot_read),
	METHOD(SNAPSHOT_MAP, snapshot_map, .min_fds = 1, .max_fds = 1),
	METHOD(SNAPSHOT_UNMAP, snapshot_unmap),
	METHOD(SNAPSHOT_SAVE, snapshot_save, .min_fds = 1, .max_fds = 1),
	METHOD(SAVE_CANCEL, save_cancel),
	METHOD(STATUS, status),
	METHOD(LIST_CLIENTS, list_clients),
	METHOD(LIST_REGIONS, list_regions),
	METHOD(LIST_SNAPSHOTS, list_snapshots),
	METHOD(STATS, stats),
};

void *rpc_alloc(struct rpc_call *call, size_t n_bytes)
{
	struct rpc_chunk *chunk = calloc(1, sizeof(*chunk) + n_bytes);

	if (!chunk) {
		(void)err_oom(n_bytes, "a reply");
		return NULL;
	}
	chunk->next = call->chunks;
	call->chunks = chunk;
	return chunk->bytes;
}

char *rpc_strdup(struct rpc_call *call, const char *text)
{
	size_t n_bytes = strlen(text ? text : "") + 1;
	char *copy = rpc_alloc(call, n_bytes);

	if (copy)
		memcpy(copy, text ? text : "", n_bytes);
	return copy;
}

int rpc_charge(struct rpc_call *call, size_t n_bytes)
{
	int r;

	r = call->charge.user
		    ? quota_charge_more(&call->charge, n_bytes)
		    : quota_charge(&call->charge, call->session->user, QUOTA_QUEUED_BYTES, n_bytes);
	return quota_error(r);
}

static void free_request(struct rpc_call *call)
{
	if (call->request)
		cow__v1__request__free_unpacked(call->request, NULL);
	call->request = NULL;
}

static void call_free(struct rpc_call *call)
{
	if (call->link) {
		*call->link = call->next;
		if (call->next)
			call->next->link = call->link;
		call->session->n_calls--;
	}
	while (call->chunks) {
		struct rpc_chunk *chunk = call->chunks;

		call->chunks = chunk->next;
		free(chunk);
	}
	closer_give_set(call->session->daemon->closer, call->session->user, &call->fds);
	free_request(call);
	charge_deinit(&call->charge);
	session_unref(call->session);
	free(call);
}

static int call_new(struct rpc_call **out, struct session *session)
{
	struct rpc_call *call = malloc(sizeof(*call));

	if (!call)
		return err_oom(sizeof(*call), "a request");
	*call = (struct rpc_call){.session = session_ref(session), .received_nsec = now_nsec()};
	cow__v1__reply__init(&call->reply);
	*out = call;
	return 0;
}

/* From here on the client's id is taken, and the call counts against RPC_CALLS_MAX. */
static void link_call(struct rpc_call *call)
{
	struct session *session = call->session;

	call->next = session->calls;
	call->link = &session->calls;
	if (call->next)
		call->next->link = &call->next;
	session->calls = call;
	session->n_calls++;
}

static void set_error(struct rpc_call *call, int error, const char *sentence)
{
	call->reply.result_case = COW__V1__REPLY__RESULT__NOT_SET;
	call->reply.error = (uint32_t)-error;
	call->reply.sentence = (char *)(uintptr_t)sentence; /* packed before anybody raises again */
	call->n_reply_fds = 0;
}

void rpc_finish(struct rpc_call *call, int error)
{
	struct session *session = call->session;
	size_t n_bytes;

	call->reply.id = call->id;
	if (error)
		set_error(call, error, err_sentence());
	n_bytes = session->has_ended ? 0 : cow__v1__reply__get_packed_size(&call->reply);
	if (n_bytes > WIRE_PACKET_MAX_BYTES)
		set_error(call,
			  err_raise(-EMSGSIZE, "the answer has %zu bytes; %zu fit into a packet",
				    n_bytes, WIRE_PACKET_MAX_BYTES),
			  err_sentence());
	call->reply.n_fds = (uint32_t)call->n_reply_fds;
	charge_deinit(&call->charge); /* if the reply has to wait, it is charged for that */
	session_send(session, &call->reply, call->reply_fds, call->n_reply_fds);
	stats_add(&session->daemon->stats, requests, 1);
	hist_add(&session->daemon->stats.request_latency, now_nsec() - call->received_nsec);
	call_free(call);
}

static const struct rpc_method *find_method(Cow__V1__Request__CallCase which)
{
	if ((size_t)which >= ARRAY_SIZE(methods) || !methods[which].call)
		return NULL;
	return &methods[which];
}

static bool is_id_in_use(const struct session *session, uint64_t id)
{
	for (const struct rpc_call *call = session->calls; call; call = call->next) {
		if (call->id == id)
			return true;
	}
	return false;
}

/* 0, or RPC_E_FATAL with a sentence. */
static int check_call(const struct rpc_call *call, const struct rpc_method *method)
{
	const struct session *session = call->session;

	if (!call->id)
		return err_raise(RPC_E_FATAL, "a request with id 0");
	if (is_id_in_use(session, call->id))
		return err_raise(RPC_E_FATAL, "request id %" PRIu64 " is in use already", call->id);
	if (call->request->n_fds != call->fds.n_fds)
		return err_raise(RPC_E_FATAL, "a request names %u descriptors and carries %zu",
				 call->request->n_fds, call->fds.n_fds);
	if (!session->has_hello && (!method || !method->before_hello))
		return err_raise(RPC_E_FATAL, "%s before hello",
				 method ? method->name : "an unknown call");
	if (method && (call->fds.n_fds < method->min_fds || call->fds.n_fds > method->max_fds))
		return err_raise(RPC_E_FATAL, "%s carries %zu descriptors; it takes %s%u",
				 method->name, call->fds.n_fds,
				 method->min_fds < method->max_fds ? "at most " : "",
				 method->max_fds);
	return 0;
}

static int run_call(struct rpc_call *call, const struct rpc_method *method)
{
	if (!method)
		return err_raise(-ENOSYS, "cowd %s does not know this call; is the client newer?",
				 PACKAGE_VERSION);
	if (call->session->n_calls > RPC_CALLS_MAX)
		return err_raise(-EBUSY, "%u requests of this connection are under way already",
				 RPC_CALLS_MAX);
	return method->call(call);
}

static void *alloc_part(void *has_failed, size_t n_bytes)
{
	void *part = malloc(n_bytes);

	if (!part)
		*(bool *)has_failed = true;
	return part;
}

static void free_part(void *has_failed, void *part)
{
	(void)has_failed;
	free(part);
}

/* 0; RPC_E_FATAL: it is none; -ENOMEM. protobuf-c does not tell them apart. */
static int unpack(Cow__V1__Request **request, const void *packet, size_t n_bytes)
{
	bool has_failed = false;
	ProtobufCAllocator allocator = {
		.alloc = alloc_part, .free = free_part, .allocator_data = &has_failed};

	*request = cow__v1__request__unpack(&allocator, n_bytes, packet);
	if (has_failed)
		return err_oom(n_bytes, "a request");
	return *request ? 0
			: err_raise(RPC_E_FATAL, "a packet of %zu bytes is no request", n_bytes);
}

int rpc_dispatch(struct session *session, const void *packet, size_t n_bytes, struct fdset *fds)
{
	const struct rpc_method *method;
	struct rpc_call *call = NULL;
	int r;

	r = call_new(&call, session);
	if (r) { /* no memory for an answer, and nobody may wait for one in vain */
		closer_give_set(session->daemon->closer, session->user, fds);
		return -ENOMEM;
	}
	call->fds = *fds;
	*fds = (struct fdset){.n_fds = 0};
	r = unpack(&call->request, packet, n_bytes);
	if (r) {
		call_free(call);
		return r;
	}
	call->id = call->request->id;
	method = find_method(call->request->call_case);
	r = check_call(call, method);
	if (r) {
		call_free(call);
		return r;
	}
	link_call(call);
	r = run_call(call, method);
	if (r == RPC_E_DEFERRED) {
		free_request(call);
		return 0;
	}
	if (r == RPC_E_FATAL) {
		call_free(call);
		return r;
	}
	assert(r <= 0);
	rpc_finish(call, r);
	return 0;
}
