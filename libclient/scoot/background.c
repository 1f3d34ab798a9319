// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Modes scoot and mmapcopy, in the background: what nobody needs frozen any more is settled, memory
 * without a user is given back, page tables for the next take are filled and old ones dropped, and
 * an overlay is made ahead; see mode.h.
 *
 * In the client's thread, a few milliseconds at a time, so that replies are not kept waiting. It
 * never waits for a region's take_lock, since whoever has that may be waiting for a reply that this
 * thread has to read: then the work is posted again.
 */
#include "config.h"

#include <string.h>

#include "common/clock.h"
#include "libclient/conn/conn.h"
#include "libclient/requests.h"
#include "libclient/scoot/mode.h"

/* So much at a time, and then a pause: half of one CPU at most, so that a program that needs its
 * CPUs keeps its pace. A take does not wait for the rest, it does what it needs of it itself. */
#define TURN_USEC  3000
#define PAUSE_MSEC 3

void cowi_scoot_post_all(void)
{
	struct cow_region **regions = NULL;
	size_t n_regions = 0;

	if (cowi_registry_list(&regions, &n_regions))
		return;
	for (size_t i = 0; i < n_regions; i++) {
		if (regions[i]->scoot_glue && regions[i]->client->pid == getpid())
			cowi_scoot_post(regions[i]);
		cow_region_unref(regions[i]);
	}
	free((void *)regions);
}

/*
 * Return: whether the task is to be posted. It has a reference on the region then, so that nobody
 * waits for it; but adopted memory is the program's again with the last reference of its own, so
 * there the end of the region cancels the task (scoot_detach()).
 */
static bool begin_post(struct cow_region *region)
{
	if (atomic_exchange(&region->scoot_glue->is_posted, true))
		return false;
	if (!region->adopted)
		cow_region_ref(region);
	return true;
}

static void post_later(struct cow_region *region, uint64_t msec)
{
	if (begin_post(region))
		cowi_post_later(region->client, &region->scoot_glue->task, msec);
}

void cowi_scoot_post(struct cow_region *region)
{
	post_later(region, 0);
}

void cowi_scoot_post_unwoken(struct cow_region *region)
{
	if (begin_post(region))
		cowi_post_unwoken(region->client, &region->scoot_glue->task, 0);
}

void cowi_scoot_post_soon(struct cow_region *region)
{
	cowi_scoot_post_unwoken(region);
	cowi_thread_wake_soon(region->client);
}

/* A round trip to cowd. */
static int fetch_overlay(struct memfile **out, struct cow_region *region, uint64_t generation)
{
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	struct memfile *overlay = NULL;
	uint64_t backing_id = 0;
	int fd, ro_fd, r;

	r = cowi_ask_backing_create(region->client, generation,
				    region->size_bytes + scoot_record_bytes(region->size_bytes),
				    &backing_id, &fds);
	if (r)
		return r;
	fd = fdset_take(&fds, 0);
	ro_fd = fdset_take(&fds, 1);
	r = memfile_new(&overlay, &fd, &ro_fd, region->size_bytes);
	if (!r)
		atomic_store(&overlay->id, backing_id);
	fd_close(fd);
	fd_close(ro_fd);
	if (r)
		return r;
	*out = overlay;
	return 0;
}

void cowi_overlay_release(struct cow_client *client, uint64_t generation, struct memfile *overlay)
{
	const uint64_t backing_id = atomic_exchange(&overlay->id, 0);

	if (backing_id)
		cowi_tell_backing_release(client, generation, backing_id);
}

/* With take_lock held. */
static int keep_overlay(struct memfile **out, uint64_t *made_in, struct cow_region *region,
			uint64_t generation, struct memfile **overlay)
{
	if (!*out) {
		*out = steal_ptr(overlay);
		*made_in = generation;
	} else {
		cowi_overlay_release(region->client, generation, *overlay);
	}
	if (*made_in != generation)
		return err_raise(-ENOTCONN,
				 "the cowd that region \"%s\" was to be taken for has gone",
				 region->name);
	return 0;
}

int cowi_overlay_new(struct memfile **out, uint64_t *made_in, struct cow_region *region,
		     uint64_t generation)
{
	CLEANUP(memfile_unrefp) struct memfile *overlay = NULL;
	int r;

	cowi_region_unlock(region);
	r = fetch_overlay(&overlay, region, generation);
	cowi_region_lock(region);
	return r ? r : keep_overlay(out, made_in, region, generation, &overlay);
}

/*
 * With take_lock held: make the spare of a region whose takes need one.
 *
 * Return: whether the lock still is held. It is let go while cowd is asked, and who holds it then
 * may wait for what only this thread receives.
 */
static bool make_spare(struct cowi_scoot *glue)
{
	CLEANUP(memfile_unrefp) struct memfile *overlay = NULL;
	struct cow_region *region = glue->region;
	uint64_t generation = cowi_generation(region->client);
	int r;

	if (glue->spare && glue->spare_generation != generation)
		glue->spare = memfile_unref(glue->spare);
	if (!glue->wants_spare || glue->spare || !generation)
		return true;
	cowi_region_unlock(region);
	r = fetch_overlay(&overlay, region, generation);
	if (!cowi_region_trylock(region)) {
		if (!r)
			cowi_overlay_release(region->client, generation, overlay);
		return false;
	}
	/* Refused (a quota, no connection): the take will ask again, and say so. */
	if (!r)
		(void)keep_overlay(&glue->spare, &glue->spare_generation, region, generation,
				   &overlay);
	return true;
}

/* Return: whether to come back for more. An error ends it until the next event. */
static bool settle_turn(struct cowi_scoot *glue, uint64_t until_usec)
{
	struct cow_region *region = glue->region;
	bool more = false;
	int r = 0;

	while (now_usec() < until_usec) {
		if (atomic_load(&region->n_takers) || !cowi_region_trylock(region))
			return true;
		if (!make_spare(glue))
			return true;
		r = scoot_settle_step(region->scoot, &more);
		if (!r && !more)
			more = scoot_trim_step(region->scoot);
		if (!r && !more)
			more = scoot_populate_step(region->scoot);
		cowi_region_unlock(region);
		if (r || !more)
			return false;
	}
	return more;
}

void cowi_scoot_run(struct cowi_task *task)
{
	struct cowi_scoot *glue = container_of(task, struct cowi_scoot, task);
	struct cow_region *region = glue->region;
	uint64_t until_usec = now_usec() + TURN_USEC;
	const bool has_ref = !region->adopted;
	bool more = true;

	atomic_store(&glue->is_posted, false);
	if (settle_turn(glue, until_usec)) {
		/* Takes that come faster than settling ends leave page tables behind as well. */
		(void)scoot_tidy_step(region->scoot);
		post_later(region, PAUSE_MSEC);
	} else {
		/* Nobody waits for old page tables to go. */
		until_usec = now_usec() + TURN_USEC;
		while (more && now_usec() < until_usec)
			more = scoot_tidy_step(region->scoot);
		if (more)
			post_later(region, PAUSE_MSEC);
	}
	if (has_ref)
		cow_region_unref(region);
}

/* --- before the first snapshot ---------------------------------------------------------------- */

/* Who has the lock takes a snapshot, or frees it. */
bool cowi_scoot_warm(struct cow_region *region)
{
	bool is_new;

	if (!cowi_region_trylock(region))
		return true;
	is_new = scoot_shadow_warm(region->scoot);
	cowi_region_unlock(region);
	if (is_new)
		cowi_scoot_post(region);
	return is_new;
}
