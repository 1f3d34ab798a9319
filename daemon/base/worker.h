/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fault workers: threads that wait for userfaultfds and have their faults served, one pinned to
 * each CPU that cowd may use.
 *
 * A worker knows nothing of regions and views: it waits for `struct served` objects embedded in
 * them. Its epoll set carries their ids, never pointers, and the worker looks the id up under its
 * lock before each turn. So any thread can take an object away: after worker_remove() returned
 * nobody is inside serve() and nobody will be.
 *
 * Locks: served->lock, then worker->lock (private to worker.c). served->lock is held while serve()
 * runs; others take it to keep faults waiting (uffd/chain.c arms with it held). A worker holds its
 * own lock when it wants served->lock, so it only tries, and parks the object until worker_kick()
 * when somebody else has it.
 *
 * A thread that writes to one page after the other runs on its worker's CPU, so it has mostly made
 * its next fault by the time that the worker runs again. To ask epoll for it would cost as much as
 * a tenth of the whole fault. So when nobody else was ready, an object that wants more gets some
 * further turns at once.
 */
#ifndef COWD_WORKER_H
#define COWD_WORKER_H

#include <pthread.h>
#include <stdatomic.h>

#include "common/util.h"
#include "daemon/base/hash.h"

struct worker;
struct worker_pool;

/* What a worker lends to serve(): memory for page contents, page aligned. */
#define WORKER_BUF_BYTES ((size_t)128 * 1024)

enum served_verdict {
	SERVED_AGAIN, /* call again when the descriptor is ready */
	SERVED_MORE,  /* the same; likely soon, so that trying may be cheaper than waiting */
	SERVED_LATER, /* ready, but nothing can be done now: not before worker_kick() */
	SERVED_GONE,  /* the descriptor is of no more use; removed from the worker, fd stays open */
};

/**
 * struct served - what a worker waits for; embedded in its owner
 * @fd:    userfaultfd, owned by the embedding object
 * @serve: one bounded turn, in a worker's thread, with @lock held; @buf is WORKER_BUF_BYTES
 * @lock:  see above
 */
struct served {
	int fd;
	enum served_verdict (*serve)(struct served *served, void *buf);
	pthread_mutex_t lock;
	_Atomic unsigned int n_wanted; /* threads that want @lock: the worker lets them go first */
	struct worker *_Atomic worker; /* who waits for it; NULL: nobody; changed with @lock held */
	struct worker *next_worker;    /* served->lock: where to go after this turn */
	uint64_t id;
	bool is_waited; /* its worker's lock: in its epoll set */
	bool is_parked; /* its worker's lock: in the set, but for no event */
	bool is_ready;  /* served_init() succeeded */
	bool is_try;    /* @lock: serve() is called though the descriptor may have nothing */
	_Atomic uint64_t n_moves;
	UT_hash_handle hh; /* in its worker */
};

/** worker_pool_new() - start the threads; 0 of @n_workers: one for each CPU. 0 or -errno */
int worker_pool_new(struct worker_pool **out, unsigned int n_workers);
/** worker_pool_free() - end the threads; nothing may be served any more */
struct worker_pool *worker_pool_free(struct worker_pool *pool);
unsigned int worker_pool_size(const struct worker_pool *pool);

int served_init(struct served *served, int fd,
		enum served_verdict (*serve)(struct served *served, void *buf));
/** served_deinit() - after worker_remove(); idempotent */
void served_deinit(struct served *served);

/** worker_add() - have some worker of @pool wait for it; loop thread. 0 or -errno */
int worker_add(struct worker_pool *pool, struct served *served);
/**
 * worker_remove() - nobody serves it after the return; idempotent
 *
 * May block on a turn under way, which may block on the client's mmap lock: do not call it from the
 * loop thread.
 */
void worker_remove(struct served *served);
/**
 * served_lock() - keep it from being served, and go before a worker that would serve it on and on
 *
 * Waits for a turn under way. served_unlock() lets it be served again.
 */
void served_lock(struct served *served);
void served_unlock(struct served *served);

/**
 * worker_follow() - after this turn, have the worker of @cpu wait for it
 *
 * Context: serve(). Nothing happens if it is there already, or if no worker has that CPU.
 */
void worker_follow(struct worker_pool *pool, struct served *served, int cpu);

/**
 * worker_kick() - it can be served again
 *
 * What made that so was done with served->lock, which is not held any more. Any thread.
 */
void worker_kick(struct served *served);
/** worker_cpu() - CPU of the worker that waits for it, or -1 */
int worker_cpu(const struct served *served);

#endif
