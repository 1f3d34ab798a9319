/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of scoot-stop.c share. */
#ifndef COW_TESTS_SYSTEM_SCOOT_STOP_H
#define COW_TESTS_SYSTEM_SCOOT_STOP_H

#include <pthread.h>
#include <stdatomic.h>

#include "libclient/scoot/mode.h"
#include "system/proof.h"

enum {
	REGION_BYTES = 8 << 20,
	N_TAKES = 12,
	N_BUSY = 6,
};

/** region_of() - of REGION_BYTES, with COW_REGION_STOP_THREADS, and without a userfaultfd */
struct cow_region *region_of(struct cow_client *client);
/** region_without_uffd() - the same, of a client of its own and a cowd that lends nothing */
struct cow_region *region_without_uffd(void);
/** wait_until_unshared() - until cowd has said that nobody holds
 * any more what the first byte is of */
void wait_until_unshared(struct cow_region *region);
struct cow_snapshot_cost cost_of(const struct cow_snapshot *snap);
/** take() - a snapshot, when the earlier ones are gone, and release it */
struct cow_snapshot_cost take(struct cow_region *region);

/* Threads that do something until they are told to end. */
struct busy {
	pthread_t threads[N_BUSY];
	size_t n_threads;
	atomic_bool is_over;
	_Atomic uint64_t n_done;
	struct cow_region *region;
};

/** busy_start() - @n threads; @work gets @busy, counts in n_done, and looks at is_over */
void busy_start(struct busy *busy, struct cow_region *region, size_t n, void *(*work)(void *));
void busy_end(struct busy *busy);
/** busy_wait() - until they have done something more */
void busy_wait(struct busy *busy);
/** allocate() - for busy_start(): malloc() and free() */
void *allocate(void *arg);

/** add_thread_tests() - scoot-stop-threads.c: what becomes of threads that are stopped */
void add_thread_tests(TCase *tcase);
/** add_refusal_tests() - scoot-stop-refused.c: where they cannot
 * be stopped; the last ones to run */
void add_refusal_tests(TCase *tcase);

#endif
