// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A take, with what it may need of the program's threads: none but the caller, or the caller's own
 * out of the way (elsewhere.c), or all others stopped.
 *
 * COW_REGION_STOP_THREADS: where no userfaultfd makes the program's threads wait, a take that could
 * settle something stops them all (backends/stop.h), but for the library's own, which touch no
 * region but under its lock and may be what the program's other regions need.
 *
 * What has to be there before, since nothing can be allocated while threads are stopped: this
 * thread's place for a sentence, which a thread's first use of it makes.
 *
 * To find out that a thread does not stop takes 100 ms, in which the others stand still, and what
 * is in the way most often stays: so after a failure it is not tried for a second, and for twice as
 * long after each that follows.
 */
#include "config.h"

#ifdef COW_STOP_THREADS
#include "backends/stop.h"
#endif
#include "common/clock.h"
#include "libclient/base/own-threads.h"
#include "libclient/scoot/mode.h"

#define PAUSE_FIRST_NSEC ((uint64_t)1000000000)
#define PAUSE_LAST_NSEC  (64 * PAUSE_FIRST_NSEC)

#ifdef COW_STOP_THREADS
static bool stop(struct scoot_stopper *stopper)
{
	struct cowi_stopper *self = container_of(stopper, struct cowi_stopper, stopper);

	(void)err_raise(0, "%s", "");
	if (stop_begin(&self->stop, cowi_own_thread_is)) {
		self->pause_nsec = 0;
		return true;
	}
	self->pause_nsec =
		min_u64(max_u64(self->pause_nsec * 2, PAUSE_FIRST_NSEC), PAUSE_LAST_NSEC);
	self->retry_at_nsec = now_nsec() + self->pause_nsec;
	return false;
}

static void go(struct scoot_stopper *stopper)
{
	struct cowi_stopper *self = container_of(stopper, struct cowi_stopper, stopper);

	self->stop = stop_end(self->stop);
}

static void lend_stopper(struct scoot_take_env *env, struct cow_region *region)
{
	struct cowi_stopper *self = &region->scoot_glue->stopper;

	if (!(region->flags & COW_REGION_STOP_THREADS) || region->scoot->uffd >= 0 ||
	    env->is_single_threaded || now_nsec() < self->retry_at_nsec)
		return;
	self->stopper = (struct scoot_stopper){.stop = stop, .go = go};
	env->stopper = &self->stopper;
}
#else
static void lend_stopper(struct scoot_take_env *env, struct cow_region *region)
{
	(void)env;
	(void)region;
}
#endif

/* To look for other threads reads a directory: only where a take depends on it. */
static void find_env(struct scoot_take_env *env, struct cow_region *region)
{
	*env = (struct scoot_take_env){.stopper = NULL};
	if (region->scoot->uffd < 0)
		env->is_single_threaded = cowi_is_single_threaded();
}

struct take {
	struct cow_region *region;
	struct memfile *overlay;
	struct scoot_snapshot *frozen;
};

static int run_take(void *arg)
{
	struct take *take = arg;
	struct cow_region *region = take->region;
	struct scoot_snapshot *frozen = NULL;
	struct scoot_take_env env;
	int r;

	find_env(&env, region);
	lend_stopper(&env, region);
	r = scoot_take(region->scoot, &env, take->overlay, &frozen);
	take->frozen = frozen;
	return r;
}

/* Stops nobody: a fork has the locks of all regions, which others would wait for meanwhile. */
static int run_guard(void *arg)
{
	struct take *take = arg;
	struct cow_region *region = take->region;
	struct scoot_snapshot *frozen = NULL;
	struct scoot_take_env env;
	int r;

	find_env(&env, region);
	r = scoot_guard(region->scoot, &env, &frozen);
	take->frozen = frozen;
	return r;
}

static int take_by(int (*run)(void *arg), struct take *take, struct scoot_snapshot **out)
{
	int r = cowi_elsewhere(run, take);

	if (!r)
		*out = take->frozen;
	return r;
}

int cowi_scoot_take(struct cow_region *region, struct memfile *overlay, struct scoot_snapshot **out)
{
	struct take take = {.region = region, .overlay = overlay};

	return take_by(run_take, &take, out);
}

int cowi_scoot_guard(struct cow_region *region, struct scoot_snapshot **out)
{
	struct take take = {.region = region};

	return take_by(run_guard, &take, out);
}
