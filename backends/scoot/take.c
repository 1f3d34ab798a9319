// SPDX-License-Identifier: LGPL-2.1-or-later
// Taking a snapshot; see scoot.h.
#include "config.h"

#include <string.h>
#include <sys/mman.h>

#include "backends/hold.h"
#include "backends/protect.h"
#include "backends/scoot/internal.h"
#include "common/err.h"

enum run_kind {
	RUN_OWNED,
	RUN_UNSHARED,
	RUN_SHARED,
};

/* A run of the region's map as the take found it; the region's map keeps its backing alive. */
struct taken_run {
	struct extent extent;
	enum run_kind kind;
	bool is_done;    /* mapped again, in the state that its kind leads to */
	uint64_t n_anew; /* bytes from its start that are a fresh private mapping */
};

/* The other threads could not be stopped; nothing was done. */
#define SCOOT_E_RUNNING 3

/* Whether threads may touch the region and nothing makes them wait: there is no userfaultfd. */
static bool is_crowded(const struct scoot_region *region, const struct scoot_take_env *env)
{
	return region->uffd < 0 && !env->is_single_threaded;
}

static enum run_kind kind_of(const struct scoot_region *region, const struct scoot_take_env *env,
			     const struct extent *run)
{
	if (!atomic_load(&run->backing->id))
		return RUN_SHARED; /* cowd could not read it */
	if (run->owned)
		return RUN_OWNED;
	if ((is_crowded(region, env) && !env->stopper) || run->backing->fd < 0 ||
	    extents_is_shared(run->backing, run->backing_off, run->len, &region->map))
		return RUN_SHARED;
	return RUN_UNSHARED;
}

/* The steps that a take is going to make. */
struct plan {
	const struct scoot_take_env *env;
	struct taken_run *runs;
	size_t n_runs;
	bool wants_overlay;
	bool is_plain; /* one owned run */
	bool by_clone; /* no thread can be made to wait, or nothing would settle */
};

static int classify(const struct scoot_region *region, const struct scoot_take_env *env,
		    struct plan *plan)
{
	const struct extents *map = &region->map;
	struct taken_run *runs = calloc(map->n_runs, sizeof(*runs));
	bool settles = false;

	if (!runs)
		return err_oom(map->n_runs * sizeof(*runs), "the runs of a region");
	*plan = (struct plan){.env = env, .runs = runs, .n_runs = map->n_runs};
	for (size_t i = 0; i < map->n_runs; i++) {
		runs[i].extent = map->runs[i];
		runs[i].kind = kind_of(region, env, &map->runs[i]);
		plan->wants_overlay |= runs[i].kind == RUN_SHARED;
		settles |= runs[i].kind == RUN_UNSHARED;
	}
	plan->is_plain = extents_is_owned(map) && !plan->wants_overlay;
	plan->by_clone = !plan->is_plain && is_crowded(region, env) && !settles;
	plan->wants_overlay |= plan->by_clone;
	return 0;
}

/* Write the private pages of @run, which lie at @pages, to its own backing. */
static int write_back(const struct scoot_region *region, struct scoot_snapshot *snap,
		      const struct extent *run, char *pages)
{
	const uint64_t start = (uint64_t)(uintptr_t)pages;
	struct page_run found[256];
	uint64_t at = start;
	size_t n_found;
	int r;

	while (at < start + run->len) {
		r = pagemap_private(&region->pagemap, &at, start + run->len, found,
				    ARRAY_SIZE(found), &n_found);
		for (size_t i = 0; !r && i < n_found; i++) {
			uint64_t off = found[i].addr - start;

			r = memfile_write(run->backing, pages + off, found[i].len,
					  run->backing_off + off);
			snap->settled_bytes += found[i].len;
		}
		if (r)
			return r;
	}
	return 0;
}

int scoot_keep_run(const struct pagemap *pagemap, struct scoot_snapshot *snap,
		   const struct extent *run, char *pages)
{
	const uint64_t start = (uint64_t)(uintptr_t)pages;
	struct page_run found[256];
	uint64_t at = start;
	size_t n_found;
	int r;

	if (!atomic_load(&run->backing->id))
		return scoot_snapshot_keep(snap, pages, run->off, run->len);
	while (at < start + run->len) {
		r = pagemap_private(pagemap, &at, start + run->len, found, ARRAY_SIZE(found),
				    &n_found);
		for (size_t i = 0; !r && i < n_found; i++)
			r = scoot_snapshot_keep(snap, (const char *)(uintptr_t)found[i].addr,
						run->off + (found[i].addr - start), found[i].len);
		if (r)
			return r;
	}
	return 0;
}

/* Map without page tables. If the run was owned, its shadow does not match it any more. */
static int freeze_anew(struct scoot_region *region, struct taken_run *run)
{
	const struct extent *extent = &run->extent;

	if (extent->owned)
		scoot_shadow_drop(region);
	return scoot_map_private(region, extent, extent->off, extent->len, &run->n_anew);
}

/* Move the pages at @pages back, except for the part that is mapped anew already. */
static void give_back(struct scoot_region *region, const struct taken_run *run, char *pages)
{
	const uint64_t len = run->extent.len - run->n_anew;
	char *addr = region->addr + run->extent.off + run->n_anew;

	hold_give_back(region->uffd, &region->pagemap, addr, len, pages + run->n_anew);
}

/* One run whose pages are aside; threads that touch it wait. */
static int finish_run(struct scoot_region *region, struct scoot_snapshot *snap,
		      struct taken_run *run, char *pages)
{
	const struct extent *extent = &run->extent;
	char *addr = region->addr + extent->off;
	int shown = run->kind == RUN_OWNED ? 0 : protect_show(pages, extent->len);
	int r = shown < 0 ? shown : 0;

	if (!r && run->kind == RUN_SHARED)
		r = scoot_keep_run(&region->pagemap, snap, extent, pages);
	else if (!r && run->kind == RUN_UNSHARED)
		r = write_back(region, snap, extent, pages);
	if (shown) /* an error may come when some pages are shown */
		protect_copy(addr, pages, extent->len);
	if (r)
		return r;
	if (run->kind == RUN_SHARED && !extent->owned) {
		give_back(region, run, pages);
	} else if (extent->owned && scoot_shadow_swap(region, extent->off, extent->len, pages)) {
		run->n_anew = extent->len;
	} else {
		r = freeze_anew(region, run);
		if (r)
			return r;
	}
	run->is_done = true;
	hold_end(region->uffd, addr, extent->len);
	return 0;
}

/* Reserve as many notes as the runs with pages to keep may need. */
static int reserve_kept(const struct plan *plan, struct scoot_snapshot *snap)
{
	uint64_t n = 0;

	for (size_t i = 0; i < plan->n_runs; i++) {
		if (plan->runs[i].kind == RUN_SHARED)
			n += plan->runs[i].extent.len / page_size_bytes() / 2 + 1;
	}
	return scoot_snapshot_reserve(snap, n);
}

/* From here to let_go() nobody touches the region. Return: 0; SCOOT_E_RUNNING; -errno. */
static int keep_out(struct scoot_region *region, const struct scoot_take_env *env)
{
	if (!is_crowded(region, env))
		return hold_begin(region->uffd, region->addr, region->size_bytes, false);
	return env->stopper->stop(env->stopper) ? 0 : SCOOT_E_RUNNING;
}

static void let_go(struct scoot_region *region, const struct scoot_take_env *env)
{
	hold_end(region->uffd, region->addr, region->size_bytes);
	if (is_crowded(region, env))
		env->stopper->go(env->stopper);
}

/* Everything aside, then each run finished: no lock is taken here, and nothing allocated. */
static int remap(struct scoot_region *region, const struct plan *plan, struct scoot_snapshot *snap,
		 char *aside)
{
	struct taken_run *runs = plan->runs;
	size_t n_aside = 0;
	int r = 0;

	while (!r && n_aside < plan->n_runs) {
		const struct extent *run = &runs[n_aside].extent;

		r = hold_take(region->uffd, &region->pagemap, region->addr + run->off, run->len,
			      aside + run->off);
		if (!r)
			n_aside++;
	}
	for (size_t i = 0; !r && i < plan->n_runs; i++)
		r = finish_run(region, snap, &runs[i], aside + runs[i].extent.off);
	for (size_t i = 0; r && i < n_aside; i++) {
		if (!runs[i].is_done)
			give_back(region, &runs[i], aside + runs[i].extent.off);
	}
	return r;
}

/* Return: 0; SCOOT_E_RUNNING, nothing was done; -errno, and then @is_begun says if anything was. */
static int remap_held(struct scoot_region *region, const struct plan *plan,
		      struct scoot_snapshot *snap, char *aside, bool *is_begun)
{
	const uint64_t saved = hold_signals_block();
	int r = keep_out(region, plan->env);

	*is_begun = !r;
	region->is_held = !r;
	if (!r) {
		r = remap(region, plan, snap, aside);
		let_go(region, plan->env);
	}
	region->is_held = false;
	hold_signals_restore(saved);
	return r;
}

/*
 * The cut is the instant at which the last run is moved aside: no thread gets past the region's
 * memory between the first and the last. The region's map has a lock, so it is changed after all
 * other threads go on; only the caller reads it.
 */
static int take_held(struct scoot_region *region, const struct plan *plan,
		     struct scoot_snapshot *snap)
{
	CLEANUP(scoot_aside_freep) struct scoot_aside *aside = NULL;
	bool is_begun;
	int r;

	r = scoot_aside_new(&aside, region->addr, region->size_bytes);
	if (r)
		return r;
	/* Without memory for that, a take that stops threads leaves it to a clone, which allocates
	 * as it goes. Other takes allocate while threads wait, if none of these is in malloc(). */
	if (reserve_kept(plan, snap) && is_crowded(region, plan->env))
		return SCOOT_E_RUNNING;
	r = remap_held(region, plan, snap, aside->addr, &is_begun);
	scoot_snapshot_trim(snap);
	if (!is_begun)
		return r;
	for (size_t i = 0; i < plan->n_runs; i++) {
		const struct extent *run = &plan->runs[i].extent;

		if (plan->runs[i].n_anew)
			extents_set(&region->map, run->off, plan->runs[i].n_anew, run->backing,
				    run->backing_off, false);
	}
	scoot_aside_push(region, steal_ptr(&aside));
	return r;
}

static int take_as(struct scoot_region *region, const struct plan *plan, struct memfile *overlay,
		   struct scoot_snapshot **out)
{
	CLEANUP(scoot_snapshot_freep) struct scoot_snapshot *snap = NULL;
	int r;

	/* From here on the snapshot's map refers to the same bytes, so nothing is unshared any
	 * more. */
	r = scoot_snapshot_new(&snap, region);
	if (!r)
		r = extents_reserve(&region->map, plan->n_runs);
	if (r)
		return r;
	if (plan->wants_overlay)
		snap->overlay = memfile_ref(overlay);
	if (plan->is_plain)
		r = scoot_freeze_checked(region, 0, region->size_bytes);
	else if (plan->by_clone)
		r = scoot_take_by_clone(region, snap);
	else
		r = take_held(region, plan, snap);
	if (r)
		return r;
	region->settle_at = 0;
	*out = steal_ptr(&snap);
	return 0;
}

int scoot_take(struct scoot_region *region, const struct scoot_take_env *env,
	       struct memfile *overlay, struct scoot_snapshot **out)
{
	struct scoot_take_env without_stopper = *env;
	CLEANUP(freep) struct taken_run *runs = NULL;
	struct plan plan = {.runs = NULL};
	int r = scoot_check_descriptors(region);

	if (!r && overlay)
		r = memfile_check(overlay);
	if (!r)
		r = classify(region, env, &plan);
	if (r)
		return r;
	runs = plan.runs;
	if (plan.wants_overlay && !overlay)
		return SCOOT_E_OVERLAY;
	r = take_as(region, &plan, overlay, out);
	if (r != SCOOT_E_RUNNING)
		return r;
	without_stopper.stopper = NULL;
	return scoot_take(region, &without_stopper, overlay, out);
}

int scoot_guard(struct scoot_region *region, const struct scoot_take_env *env,
		struct scoot_snapshot **out)
{
	const bool is_dear = scoot_is_dear(region);
	int r;

	/* fork() would copy the page tables that the shadow has ready. */
	if (region->map.runs[0].owned)
		scoot_shadow_drop(region);
	r = is_dear ? SCOOT_E_OVERLAY : scoot_take(region, env, NULL, out);
	if (r != SCOOT_E_OVERLAY)
		return r;
	r = scoot_freeze(region, 0, region->size_bytes);
	if (r)
		return r;
	if (!is_dear)
		scoot_prepare_fork(region);
	return scoot_snapshot_new(out, region);
}
