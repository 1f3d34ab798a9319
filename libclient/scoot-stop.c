// SPDX-License-Identifier: LGPL-2.1-or-later
/*
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

#include "backends/stop.h"
#include "common/clock.h"
#include "libclient/mode-scoot.h"

#define PAUSE_FIRST_NSEC ((uint64_t)1000000000)
#define PAUSE_LAST_NSEC  (64 * PAUSE_FIRST_NSEC)

static bool stop(struct scoot_stopper *stopper)
{
	struct cowi_stopper *self = container_of(stopper, struct cowi_stopper, stopper);

	(void)err_raise(0, "%s", "");
	if (stop_begin(&self->stop, cowi_alone_is_own)) {
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

void cowi_stop_begin(struct cow_region *region)
{
	struct cowi_stopper *self = &region->scoot_glue->stopper;

	if (!(region->flags & COW_REGION_STOP_THREADS) || region->scoot->uffd >= 0 ||
	    region->scoot->is_alone || now_nsec() < self->retry_at_nsec)
		return;
	self->stopper = (struct scoot_stopper){.stop = stop, .go = go};
	region->scoot->stopper = &self->stopper;
}

void cowi_stop_end(struct cow_region *region)
{
	region->scoot->stopper = NULL;
}
