/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory for old pages is made ready before it is needed: a fresh page costs more than all the rest
 * of serving a fault. A region whose pages are being kept has some slots preallocated by a job,
 * more each time that they run low.
 */
#ifndef COWD_PREALLOC_H
#define COWD_PREALLOC_H

#include "daemon/base/job.h"

struct tracker;

struct prealloc {
	struct task task;
	struct job job;
	_Atomic bool is_wanted;    /* posted or under way */
	_Atomic uint32_t n_slots;  /* the level that it has risen to */
	_Atomic uint32_t n_now;    /* this time: not more than the newest snapshot can need */
	_Atomic uint64_t max_warm; /* and not beyond so many slots of the region with memory */
};

/** prealloc_init() - of a region */
void prealloc_init(struct prealloc *prealloc);
/** prealloc_want() - the region's slots run low; by the one that serves; chain_lock held shared */
void prealloc_want(struct tracker *tracker);
/**
 * prealloc_trim() - give back what no snapshot is likely to need, in the background; loop
 * thread
 */
void prealloc_trim(struct tracker *tracker);

#endif
