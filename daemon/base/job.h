/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Work that may block (bulk reads and writes, arming, dropping large mappings), done by a pool of
 * threads so that the loop never waits.
 *
 * Clients take turns: the jobs of each wait in a *lane* of their own, in order, and the threads
 * take one from each lane in turn. However much one client asks for, another's job waits for no
 * more than one of each client's. A lane has no memory of its own, the first job in it stands for
 * it.
 */
#ifndef COWD_JOB_H
#define COWD_JOB_H

#include "daemon/base/hash.h"
#include "daemon/base/loop.h"

struct job_pool;

/**
 * struct job - one piece of work; embedded in its owner, which must outlive done()
 * @run:  in a pool thread
 * @done: afterwards, in the loop thread; may free the owner
 * @client_id: whose turn it takes; 0: what no client waits for
 */
struct job {
	void (*run)(struct job *job);
	void (*done)(struct job *job);
	uint64_t client_id;
	struct task task;
	struct job_pool *pool;
	struct job *next; /* in its lane */
	/* Of the first one in a lane: */
	struct job *last;
	struct job *next_lane;
	UT_hash_handle hh; /* in pool->lanes, by client_id */
};

/**
 * job_pool_new() - start @n_threads threads, all signals blocked, named @name
 *
 * Threads are started before the sandbox closes. Return: 0, -errno.
 */
int job_pool_new(struct job_pool **out, struct loop *loop, unsigned int n_threads,
		 const char *name);
/** job_pool_free() - waits for running jobs; those not begun get
 * run() skipped and done() skipped */
struct job_pool *job_pool_free(struct job_pool *pool);

/**
 * job_pool_finish() - wait until every job submitted is run and done(), those that done() submits
 * too
 *
 * For the way out, after sessions have ended: runs the loop's tasks itself. Loop thread; blocks.
 * Return: whether there was anything to wait for.
 */
bool job_pool_finish(struct job_pool *pool);

/** job_pool_set_policy() - run its threads under scheduling policy @policy; best effort */
void job_pool_set_policy(struct job_pool *pool, int policy);

/**
 * job_give_way() - between two pieces of what nobody waits for: whoever wants the CPU has it
 * @since_nsec: now_nsec() when the job began; when it was resumed last
 *
 * A fault worker that is woken meanwhile would have to wait for the end of this thread's slice: for
 * all of its pieces, however short each is. To give way costs the rest of the slice, so that is
 * done when some time has passed.
 */
void job_give_way(uint64_t *since_nsec);

/** job_submit() - queue; @job->run, ->done and ->client_id are set; from the loop thread */
void job_submit(struct job_pool *pool, struct job *job);

#endif
