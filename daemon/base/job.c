// SPDX-License-Identifier: GPL-2.0-or-later
/* Pools of threads for work that may block; contracts are in job.h. */
#include "config.h"

#include "daemon/base/job.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/err.h"

#define GIVE_WAY_NSEC 50000

struct job_pool {
	struct loop *loop;
	pthread_t *threads;
	unsigned int n_threads;
	char name[16];
	unsigned int n_pending; /* submitted, done() not returned yet; loop thread only */

	pthread_mutex_t lock; /* the rest */
	pthread_cond_t wakeup;
	pthread_cond_t idle;
	struct job *lanes;     /* hash table of those that have jobs */
	struct job *next_lane; /* whose turn it is, and after it the others' */
	struct job *last_lane;
	unsigned int n_busy; /* threads in run() */
	bool is_stopping;
};

static void done_in_loop(struct task *task)
{
	struct job *job = container_of(task, struct job, task);
	struct job_pool *pool = job->pool;

	pool->n_pending--;
	job->done(job); /* last use of @job */
}

/*
 * With pool->lock held: @job is the first in its lane, which takes its turn after all others. If there
 * is no memory to find the lane again, later jobs of that client begin another.
 */
static void add_lane(struct job_pool *pool, struct job *job)
{
	HASH_ADD(hh, pool->lanes, client_id, sizeof(job->client_id), job);
	job->next_lane = NULL;
	if (pool->next_lane)
		pool->last_lane->next_lane = job;
	else
		pool->next_lane = job;
	pool->last_lane = job;
}

/* With pool->lock held. */
static void queue_job(struct job_pool *pool, struct job *job)
{
	struct job *first;

	HASH_FIND(hh, pool->lanes, &job->client_id, sizeof(job->client_id), first);
	if (first) {
		first->last->next = job;
		first->last = job;
		return;
	}
	job->last = job;
	add_lane(pool, job);
}

/* With pool->lock held. */
static struct job *take_job(struct job_pool *pool)
{
	struct job *job = pool->next_lane;

	if (!job)
		return NULL;
	pool->next_lane = job->next_lane;
	if (job->hh.tbl)
		HASH_DEL(pool->lanes, job);
	if (job->next) {
		job->next->last = job->last;
		add_lane(pool, job->next);
	}
	job->next = NULL;
	return job;
}

static void *pool_thread(void *arg)
{
	struct job_pool *pool = arg;

	(void)pthread_setname_np(pthread_self(), pool->name);
	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct job *job;

		if (pool->is_stopping)
			break;
		job = take_job(pool);
		if (!job) {
			pthread_cond_wait(&pool->wakeup, &pool->lock);
			continue;
		}
		pool->n_busy++;
		pthread_mutex_unlock(&pool->lock);
		job->run(job);
		loop_post(pool->loop, &job->task); /* last use of @job */
		pthread_mutex_lock(&pool->lock);
		pool->n_busy--;
		if (!pool->n_busy && !pool->next_lane)
			pthread_cond_broadcast(&pool->idle);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

void job_pool_set_policy(struct job_pool *pool, int policy)
{
	const struct sched_param param = {.sched_priority = 0};

	for (unsigned int i = 0; i < pool->n_threads; i++)
		(void)pthread_setschedparam(pool->threads[i], policy, &param);
}

/* Signals are the main thread's (signalfd); a thread inherits the mask of its maker. */
static int start_threads(struct job_pool *pool, unsigned int n_threads)
{
	sigset_t all;
	sigset_t before;
	int r = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (!r && pool->n_threads < n_threads) {
		r = pthread_create(&pool->threads[pool->n_threads], NULL, pool_thread, pool);
		if (!r)
			pool->n_threads++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r)
		return err_raise(-r,
				 "cannot start thread %u of %u for %s: %s: see the limits of "
				 "processes (TasksMax=, ulimit -u) and address space (ulimit -v)",
				 pool->n_threads + 1, n_threads, pool->name, strerrordesc_np(r));
	return 0;
}

int job_pool_new(struct job_pool **out, struct loop *loop, unsigned int n_threads, const char *name)
{
	struct job_pool *pool;
	int r;

	pool = malloc(sizeof(*pool));
	if (!pool)
		return err_oom(sizeof(*pool), "a pool of threads");
	*pool = (struct job_pool){.loop = loop,
				  .lock = PTHREAD_MUTEX_INITIALIZER,
				  .wakeup = PTHREAD_COND_INITIALIZER,
				  .idle = PTHREAD_COND_INITIALIZER};
	(void)snprintf(pool->name, sizeof(pool->name), "%s", name);
	pool->threads = calloc(n_threads, sizeof(*pool->threads));
	if (!pool->threads) {
		job_pool_free(pool);
		return err_oom(n_threads * sizeof(*pool->threads), "a pool of threads");
	}
	r = start_threads(pool, n_threads);
	if (r) {
		job_pool_free(pool);
		return r;
	}
	*out = pool;
	return 0;
}

struct job_pool *job_pool_free(struct job_pool *pool)
{
	if (!pool)
		return NULL;
	pthread_mutex_lock(&pool->lock);
	pool->is_stopping = true;
	pthread_cond_broadcast(&pool->wakeup);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned int i = 0; i < pool->n_threads; i++)
		pthread_join(pool->threads[i], NULL);
	HASH_CLEAR(hh, pool->lanes); /* of those not begun */
	pthread_cond_destroy(&pool->wakeup);
	pthread_cond_destroy(&pool->idle);
	pthread_mutex_destroy(&pool->lock);
	free(pool->threads);
	free(pool);
	return NULL;
}

void job_submit(struct job_pool *pool, struct job *job)
{
	job->pool = pool;
	job->next = NULL;
	job->task = (struct task){.run = done_in_loop};
	pool->n_pending++;
	pthread_mutex_lock(&pool->lock);
	queue_job(pool, job);
	pthread_mutex_unlock(&pool->lock);
	pthread_cond_signal(&pool->wakeup); /* unlocked: the woken thread takes it */
}

void job_give_way(uint64_t *since_nsec)
{
	if (now_nsec() - *since_nsec < GIVE_WAY_NSEC)
		return;
	(void)sched_yield();
	*since_nsec = now_nsec();
}

bool job_pool_finish(struct job_pool *pool)
{
	bool any = false;

	while (pool->n_pending) {
		pthread_mutex_lock(&pool->lock);
		while (pool->next_lane || pool->n_busy)
			pthread_cond_wait(&pool->idle, &pool->lock);
		pthread_mutex_unlock(&pool->lock);
		(void)loop_run_tasks(pool->loop);
		any = true;
	}
	return any;
}
