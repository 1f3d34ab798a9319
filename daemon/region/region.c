// SPDX-License-Identifier: GPL-2.0-or-later
/* Life of a region; contracts, locks and what a region is are in region.h. */
#include "config.h"

#include "daemon/region/region.h"

#include <assert.h>
#include <stdio.h>
#include <utlist.h>

#include "common/err.h"
#include "common/wire.h"
#include "daemon/daemon.h"
#include "daemon/region/backing.h"
#include "daemon/session.h"

static const char *const state_names[REGION_N_STATES] = {
	[REGION_NEW] = "new",           [REGION_ATTACHING] = "attaching",
	[REGION_ATTACHED] = "attached", [REGION_ORPHANED] = "orphaned",
	[REGION_RESUMED] = "resumed",   [REGION_FREED] = "freed",
	[REGION_ENDING] = "ending",
};

static const uint32_t next_states[REGION_N_STATES] = {
	[REGION_NEW] =
		STATE_BIT(REGION_ATTACHING) | STATE_BIT(REGION_ATTACHED) | STATE_BIT(REGION_FREED),
	[REGION_ATTACHING] =
		STATE_BIT(REGION_NEW) | STATE_BIT(REGION_ATTACHED) | STATE_BIT(REGION_FREED),
	[REGION_ATTACHED] = STATE_BIT(REGION_ORPHANED) | STATE_BIT(REGION_FREED),
	[REGION_ORPHANED] = STATE_BIT(REGION_RESUMED) | STATE_BIT(REGION_ENDING),
	[REGION_RESUMED] =
		STATE_BIT(REGION_ATTACHED) | STATE_BIT(REGION_ORPHANED) | STATE_BIT(REGION_FREED),
	[REGION_FREED] = STATE_BIT(REGION_ENDING),
};

const struct state_table region_states = {
	.what = "region", .names = state_names, .next = next_states, .n = REGION_N_STATES};

static bool in_loop(const struct region *region)
{
	return loop_is_mine(region->daemon->loop);
}

void region_set_state(struct region *region, enum region_state state)
{
	assert(in_loop(region));
	state_check(&region_states, region->id, atomic_exchange(&region->state, state), state);
}

static void region_free(struct region *region)
{
	charge_deinit(&region->charge);
	backing_unref(region->backing);
	quota_user_unref(region->user);
	free(region);
}

int region_new(struct region **out, struct session *session, struct backing *backing,
	       const struct region_ops *ops, Cow__V1__Mode mode, const char *name)
{
	struct daemon *daemon = session->daemon;
	struct region *region;
	int r;

	assert(ops->region_bytes >= sizeof(*region));
	region = calloc(1, ops->region_bytes);
	if (!region)
		return err_oom(ops->region_bytes, "a region");
	region->n_refs = 1;
	region->daemon = daemon;
	region->ops = ops;
	region->mode = mode;
	region->user = quota_user_ref(session->user);
	region->backing = backing_ref(backing);
	region->size_bytes = backing->size_bytes;
	region->n_pages = backing->size_bytes / page_size_bytes();
	region->client_id = session->id;
	region->pid = session->pid;
	region->uid = session->uid;
	region->queue_tail = &region->queue;
	(void)snprintf(region->name, sizeof(region->name), "%s", name ? name : "");

	r = quota_charge(&region->charge, region->user, QUOTA_REGIONS, 1);
	if (!r) {
		region->id = daemon_new_id(daemon);
		HASH_ADD(hh, daemon->regions, id, sizeof(region->id), region);
		r = hash_check(&region->hh, "a region");
	}
	if (!r && ops->init) {
		r = ops->init(region);
		if (r)
			HASH_DEL(daemon->regions, region);
	}
	if (r) {
		region_free(region);
		return quota_error(r);
	}
	region->session = session;
	DL_PREPEND(session->regions, region);
	*out = region;
	return 0;
}

struct region *region_ref(struct region *region)
{
	region->n_refs++;
	return region;
}

static void end_run(struct job *job)
{
	struct region *region = container_of(job, struct region, end_job);

	if (region->ops->end)
		region->ops->end(region);
}

static void end_done(struct job *job)
{
	struct region *region = container_of(job, struct region, end_job);

	if (region->ops->deinit)
		region->ops->deinit(region);
	region_free(region);
}

struct region *region_unref(struct region *region)
{
	if (!region || --region->n_refs)
		return NULL;
	region_set_state(region, REGION_ENDING);
	HASH_DEL(region->daemon->regions, region);
	region->end_job.run = end_run;
	region->end_job.done = end_done;
	region->end_job.client_id = region->client_id;
	job_submit(region->daemon->jobs, &region->end_job);
	return NULL;
}

struct region *region_find(struct session *session, uint64_t id)
{
	struct region *region;

	HASH_FIND(hh, session->daemon->regions, &id, sizeof(id), region);
	if (region && region->session == session)
		return region;
	(void)err_raise(-ENOENT, "there is no region %llu of this client", (unsigned long long)id);
	return NULL;
}

/* --- what the mode does; contracts are in ops.h ----------------------------------------------- */

/* An error has a sentence. */
static int checked(int r)
{
	assert(r >= 0 || *err_sentence());
	return r;
}

int region_check_mode(const struct region_ops *ops, const struct daemon *daemon)
{
	int r = ops->check ? checked(ops->check(daemon)) : 0;

	assert(r <= 0);
	return r;
}

int region_check_attach(const struct region *region, const struct fdset *fds)
{
	int r;

	assert(in_loop(region) && region->session && fds->n_fds <= WIRE_FDS_MAX);
	r = checked(region->ops->check_attach(region, fds));
	assert(r <= 0 || r == REGION_E_PROTOCOL);
	return r;
}

bool region_has_to_attach(const struct region *region)
{
	return region->ops->attach;
}

int region_attach(struct region *region, int *fd)
{
	int r;

	assert(!in_loop(region) && region->state != REGION_NEW && region->addr && *fd >= 0);
	r = checked(region->ops->attach(region, fd));
	assert(r <= 0 && (*fd < 0) == !r);
	return r;
}

int region_serve(struct region *region)
{
	int r;

	assert(in_loop(region) && region->state == REGION_ATTACHING);
	r = checked(region->ops->serve(region));
	assert(r <= 0);
	return r;
}

void region_attached(struct region *region)
{
	assert(in_loop(region) && region->state == REGION_ATTACHED && region->session);
	if (region->ops->attached)
		region->ops->attached(region);
}

bool region_can_resume(const struct region *region)
{
	const enum region_state state = region->state;

	assert(in_loop(region));
	return region->ops->can_resume &&
	       (state == REGION_ATTACHED || state == REGION_ORPHANED || state == REGION_RESUMED) &&
	       region->ops->can_resume(region);
}

void region_resumed(struct region *region)
{
	assert(in_loop(region) && region->session && region->state == REGION_RESUMED);
	region->ops->resumed(region);
}

uint64_t region_kept_bytes(const struct region *region)
{
	assert(in_loop(region));
	return region->ops->kept_bytes ? region->ops->kept_bytes(region) : 0;
}

void region_list(const struct region *region, Cow__V1__RegionInfo *row)
{
	assert(in_loop(region));
	if (region->ops->list)
		region->ops->list(region, row);
}

/* --- operations on the chain ------------------------------------------------------------------ */

static void op_run(struct job *job)
{
	struct region_op *op = container_of(job, struct region_op, job);

	op->run(op);
}

static void op_done(struct job *job)
{
	struct region_op *op = container_of(job, struct region_op, job);
	struct region *region = op->region;

	if (op->goes_on) {
		op->goes_on = false;
		job_submit(region->daemon->jobs, &op->job);
		return;
	}
	region->queue = op->next;
	if (!region->queue)
		region->queue_tail = &region->queue;
	else
		job_submit(region->daemon->jobs, &region->queue->job);
	op->region = NULL;
	op->next = NULL;
	if (!op->is_background)
		atomic_fetch_sub(&region->n_urgent, 1);
	op->done(op); /* last use of @op */
	region_unref(region);
}

/* Snapshots leaving at once, beyond which takes wait for them: a client that takes and releases
 * without end does not outrun its own leftovers. */
#define N_LEAVING_MAX 8

bool region_should_yield(const struct region *region)
{
	return atomic_load(&region->n_urgent) && atomic_load(&region->n_leaving) <= N_LEAVING_MAX;
}

/*
 * Where @op goes into the queue, whose first operation is running: behind the last one that
 * somebody waits for, so that those keep their order.
 */
static struct region_op **find_place(struct region *region, const struct region_op *op)
{
	struct region_op **link = region->queue ? &region->queue->next : &region->queue;

	if (op->is_background || atomic_load(&region->n_leaving) > N_LEAVING_MAX)
		return region->queue_tail;
	for (struct region_op **at = link; *at; at = &(*at)->next)
		if (!(*at)->is_background)
			link = &(*at)->next;
	return link;
}

void region_submit(struct region *region, struct region_op *op)
{
	struct region_op **link = find_place(region, op);

	op->region = region_ref(region);
	if (!op->is_background)
		atomic_fetch_add(&region->n_urgent, 1);
	op->job = (struct job){.run = op_run, .done = op_done, .client_id = region->client_id};
	op->next = *link;
	*link = op;
	if (!op->next)
		region->queue_tail = &op->next;
	if (region->queue == op)
		job_submit(region->daemon->jobs, &op->job);
}

/* --- ends ------------------------------------------------------------------------------------- */

void region_disown(struct region *region)
{
	struct session *session = region->session;
	const enum region_state state = region->state;

	DL_DELETE(session->regions, region);
	region->session = NULL;
	if (state == REGION_NEW || state == REGION_ATTACHING)
		region_set_state(region, REGION_FREED);
	else if (state != REGION_FREED)
		region_set_state(region, REGION_ORPHANED);
	region_unref(region);
}

void region_drop_all(struct session *session)
{
	while (session->regions)
		region_disown(session->regions);
	backing_drop_all(session);
}
