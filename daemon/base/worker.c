// SPDX-License-Identifier: GPL-2.0-or-later
/* Threads that wait for userfaultfds; contracts and locks are in worker.h. */
#include "config.h"

#include "daemon/base/worker.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "common/err.h"

#define N_EVENTS    32
#define ID_STOP     0 /* of the eventfd that ends a worker */
/* Turns in a row of an object that is alone: whoever gets ready meanwhile waits for as many. */
#define N_TURNS_MAX 8

/*
 * The table of a worker cannot expand: see make_table(). So it is large from the start, for a user
 * who has many objects not to make searching for those of others long.
 */
#undef HASH_INITIAL_NUM_BUCKETS
#undef HASH_INITIAL_NUM_BUCKETS_LOG2
#define HASH_INITIAL_NUM_BUCKETS      4096U
#define HASH_INITIAL_NUM_BUCKETS_LOG2 12U

struct worker {
	pthread_t thread;
	bool is_running;
	int cpu; /* -1: not pinned */
	int epoll_fd;
	int stop_fd;
	void *buf;
	pthread_mutex_t lock; /* the rest */
	struct served *served;
	struct served first; /* in that table, which so is never empty */
	unsigned int n_served;
};

struct worker_pool {
	unsigned int n_workers;
	_Atomic uint64_t last_id;
	struct worker workers[];
};

/* With worker->lock held. */
static void forget(struct worker *worker, struct served *served)
{
	if (!served->is_waited)
		return;
	(void)epoll_ctl(worker->epoll_fd, EPOLL_CTL_DEL, served->fd, NULL);
	HASH_DEL(worker->served, served);
	worker->n_served--;
	served->is_waited = false;
	served->is_parked = false;
}

/* With worker->lock held: wait for nothing until it is kicked. */
static void park(struct worker *worker, struct served *served)
{
	struct epoll_event event = {.events = 0, .data.u64 = served->id};

	if (!served->is_waited)
		return;
	served->is_parked = true;
	(void)epoll_ctl(worker->epoll_fd, EPOLL_CTL_MOD, served->fd, &event);
}

/* With worker->lock held; its descriptor is in the worker's epoll set. */
static void enter(struct worker *worker, struct served *served)
{
	HASH_ADD(hh, worker->served, id, sizeof(served->id), served);
	worker->n_served++;
	served->is_waited = true;
	served->is_parked = false;
	atomic_store(&served->worker, worker);
}

/* With worker->lock held. */
static int add_to(struct worker *worker, struct served *served)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = served->id};

	if (epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, served->fd, &event) < 0)
		return err_raise_errno("cannot wait for a userfaultfd");
	enter(worker, served);
	return 0;
}

/*
 * End a turn by handing the object to another worker. What can fail comes first, so that the object
 * is always in some worker's set: the new one has the descriptor, for no event yet, before the old
 * one forgets it. The new one may have an event as soon as it waits for any; it must not find
 * served->lock taken, for it would park the object and nobody would kick. So the lock is let go
 * before the other worker can look.
 */
static void move(struct worker *worker, struct served *served)
{
	struct epoll_event event = {.events = 0, .data.u64 = served->id};
	struct worker *next = served->next_worker;

	served->next_worker = NULL;
	if (epoll_ctl(next->epoll_fd, EPOLL_CTL_ADD, served->fd, &event) < 0) {
		pthread_mutex_unlock(&served->lock); /* last use of @served: it stays */
		return;
	}
	pthread_mutex_lock(&worker->lock);
	forget(worker, served);
	pthread_mutex_unlock(&worker->lock);

	pthread_mutex_lock(&next->lock);
	enter(next, served);
	event.events = EPOLLIN;
	(void)epoll_ctl(next->epoll_fd, EPOLL_CTL_MOD, served->fd, &event);
	atomic_fetch_add_explicit(&served->n_moves, 1, memory_order_relaxed);
	pthread_mutex_unlock(&served->lock); /* last use of @served */
	pthread_mutex_unlock(&next->lock);
}

/* With served->lock held, which is let go. */
static void end_turn(struct worker *worker, struct served *served, enum served_verdict verdict)
{
	bool is_served_on = verdict == SERVED_AGAIN || verdict == SERVED_MORE;

	if (is_served_on && served->next_worker) {
		move(worker, served);
		return;
	}
	if (!is_served_on) {
		pthread_mutex_lock(&worker->lock);
		if (verdict == SERVED_LATER)
			park(worker, served);
		else
			forget(worker, served);
		pthread_mutex_unlock(&worker->lock);
	}
	pthread_mutex_unlock(&served->lock); /* last use of @served */
}

/* With served->lock held, which others may want by now, as another worker may want @served. */
static bool may_go_on(const struct served *served)
{
	return !served->next_worker && !atomic_load(&served->n_wanted);
}

static enum served_verdict take_turns(struct worker *worker, struct served *served, bool is_alone)
{
	enum served_verdict verdict;

	verdict = served->serve(served, worker->buf);
	served->is_try = true;
	for (int i = 1; is_alone && i < N_TURNS_MAX && verdict == SERVED_MORE; i++) {
		if (!may_go_on(served))
			break;
		verdict = served->serve(served, worker->buf);
	}
	served->is_try = false;
	return verdict;
}

static void serve_one(struct worker *worker, uint64_t id, bool is_alone)
{
	struct served *served;

	pthread_mutex_lock(&worker->lock);
	HASH_FIND(hh, worker->served, &id, sizeof(id), served);
	if (!served) {
		pthread_mutex_unlock(&worker->lock);
		return;
	}
	if (atomic_load(&served->n_wanted) || pthread_mutex_trylock(&served->lock) != 0) {
		/* Whoever has or wants it kicks afterwards, which needs worker->lock: not lost. */
		park(worker, served);
		pthread_mutex_unlock(&worker->lock);
		return;
	}
	pthread_mutex_unlock(&worker->lock);

	end_turn(worker, served, take_turns(worker, served, is_alone));
}

static void *worker_thread(void *arg)
{
	struct worker *worker = arg;
	struct epoll_event events[N_EVENTS];
	char name[16];

	(void)snprintf(name, sizeof(name), "cowd-fault/%d", worker->cpu);
	(void)pthread_setname_np(pthread_self(), name);
	for (;;) {
		int n = epoll_wait(worker->epoll_fd, events, N_EVENTS, -1);

		for (int i = 0; i < n; i++) {
			if (events[i].data.u64 == ID_STOP)
				return NULL;
			serve_one(worker, events[i].data.u64, n == 1);
		}
	}
}

/*
 * A table that has an element and does not expand needs no memory for others: enter() cannot
 * fail.
 */
static int make_table(struct worker *worker)
{
	worker->first.id = ID_STOP;
	HASH_ADD(hh, worker->served, id, sizeof(worker->first.id), &worker->first);
	if (!worker->served)
		return err_oom(sizeof(UT_hash_table), "a fault worker");
	worker->served->hh.tbl->noexpand = 1;
	return 0;
}

static int worker_init(struct worker *worker, int cpu)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = ID_STOP};
	int r = make_table(worker);

	if (r)
		return r;
	worker->cpu = cpu;
	if (posix_memalign(&worker->buf, page_size_bytes(), WORKER_BUF_BYTES) != 0) {
		worker->buf = NULL;
		return err_oom(WORKER_BUF_BYTES, "a fault worker");
	}
	worker->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	worker->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (worker->epoll_fd < 0 || worker->stop_fd < 0 ||
	    epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, worker->stop_fd, &event) < 0)
		return err_raise_errno("cannot set up a fault worker");
	return 0;
}

static int worker_start(struct worker *worker)
{
	pthread_attr_t attr;
	sigset_t all, before;
	cpu_set_t cpus;
	int r;

	pthread_attr_init(&attr);
	if (worker->cpu >= 0) {
		CPU_ZERO(&cpus);
		CPU_SET((size_t)worker->cpu, &cpus);
		(void)pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
	}
	/* Signals are the main thread's; a thread inherits the mask of its maker. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&worker->thread, &attr, worker_thread, worker);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (r)
		return err_raise(-r, "cannot start a fault worker: %s", strerrordesc_np(r));
	worker->is_running = true;
	return 0;
}

/* The @idx-th CPU, going round, of those that this process may use; -1 if that is unknown. */
static int pick_cpu(const cpu_set_t *allowed, unsigned int idx)
{
	int n = CPU_COUNT(allowed);

	if (!n)
		return -1;
	idx %= (unsigned int)n;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET((size_t)cpu, allowed) && !idx--)
			return cpu;
	return -1;
}

int worker_pool_new(struct worker_pool **out, unsigned int n_workers)
{
	struct worker_pool *pool;
	cpu_set_t allowed;
	int r = 0;

	CPU_ZERO(&allowed);
	(void)sched_getaffinity(0, sizeof(allowed), &allowed);
	if (!n_workers)
		n_workers = CPU_COUNT(&allowed) > 0 ? (unsigned int)CPU_COUNT(&allowed) : 1;
	pool = calloc(1, sizeof(*pool) + n_workers * sizeof(pool->workers[0]));
	if (!pool)
		return err_oom(n_workers * sizeof(pool->workers[0]), "fault workers");
	pool->n_workers = n_workers;
	pool->last_id = ID_STOP;
	for (unsigned int i = 0; i < n_workers; i++) {
		pool->workers[i].epoll_fd = -1;
		pool->workers[i].stop_fd = -1;
		pthread_mutex_init(&pool->workers[i].lock, NULL);
	}
	for (unsigned int i = 0; i < n_workers && !r; i++) {
		r = worker_init(&pool->workers[i], pick_cpu(&allowed, i));
		if (!r)
			r = worker_start(&pool->workers[i]);
	}
	if (r) {
		worker_pool_free(pool);
		return r;
	}
	*out = pool;
	return 0;
}

struct worker_pool *worker_pool_free(struct worker_pool *pool)
{
	if (!pool)
		return NULL;
	for (unsigned int i = 0; i < pool->n_workers; i++)
		if (pool->workers[i].is_running)
			(void)eventfd_write(pool->workers[i].stop_fd, 1);
	for (unsigned int i = 0; i < pool->n_workers; i++) {
		struct worker *worker = &pool->workers[i];

		if (worker->is_running)
			pthread_join(worker->thread, NULL);
		HASH_CLEAR(hh, worker->served);
		fd_close(worker->epoll_fd);
		fd_close(worker->stop_fd);
		free(worker->buf);
		pthread_mutex_destroy(&worker->lock);
	}
	free(pool);
	return NULL;
}

unsigned int worker_pool_size(const struct worker_pool *pool)
{
	return pool->n_workers;
}

int served_init(struct served *served, int fd,
		enum served_verdict (*serve)(struct served *served, void *buf))
{
	int r;

	*served = (struct served){.fd = fd, .serve = serve};
	r = pthread_mutex_init(&served->lock, NULL);
	if (r)
		return err_raise(-r, "cannot make a lock");
	served->is_ready = true;
	return 0;
}

void served_deinit(struct served *served)
{
	if (!served->is_ready)
		return;
	pthread_mutex_destroy(&served->lock);
	served->is_ready = false;
}

/* The worker that waits for the fewest. */
static struct worker *pick_worker(struct worker_pool *pool)
{
	struct worker *best = NULL;
	unsigned int n_best = 0;

	for (unsigned int i = 0; i < pool->n_workers; i++) {
		struct worker *worker = &pool->workers[i];
		unsigned int n_served;

		pthread_mutex_lock(&worker->lock);
		n_served = worker->n_served;
		pthread_mutex_unlock(&worker->lock);
		if (!best || n_served < n_best) {
			best = worker;
			n_best = n_served;
		}
	}
	return best;
}

int worker_add(struct worker_pool *pool, struct served *served)
{
	struct worker *worker;
	int r;

	if (!served->id)
		served->id = atomic_fetch_add(&pool->last_id, 1) + 1;
	worker = pick_worker(pool);
	pthread_mutex_lock(&worker->lock);
	r = add_to(worker, served);
	pthread_mutex_unlock(&worker->lock);
	return r;
}

void worker_remove(struct served *served)
{
	struct worker *worker;

	/* With the lock nobody serves it or moves it; when it is forgotten nobody will. */
	atomic_fetch_add(&served->n_wanted, 1);
	pthread_mutex_lock(&served->lock);
	worker = atomic_load(&served->worker);
	if (worker) {
		pthread_mutex_lock(&worker->lock);
		forget(worker, served);
		atomic_store(&served->worker, NULL);
		pthread_mutex_unlock(&worker->lock);
	}
	atomic_fetch_sub(&served->n_wanted, 1);
	pthread_mutex_unlock(&served->lock);
}

void served_lock(struct served *served)
{
	atomic_fetch_add(&served->n_wanted, 1);
	pthread_mutex_lock(&served->lock);
}

void served_unlock(struct served *served)
{
	atomic_fetch_sub(&served->n_wanted, 1);
	pthread_mutex_unlock(&served->lock);
	worker_kick(served);
}

void worker_follow(struct worker_pool *pool, struct served *served, int cpu)
{
	if (worker_cpu(served) == cpu)
		return;
	for (unsigned int i = 0; i < pool->n_workers; i++) {
		if (pool->workers[i].cpu == cpu) {
			served->next_worker = &pool->workers[i];
			return;
		}
	}
}

/* The worker that has the object, with its lock held; NULL if none has. */
static struct worker *lock_worker(struct served *served)
{
	struct worker *worker;

	while ((worker = atomic_load(&served->worker))) {
		pthread_mutex_lock(&worker->lock);
		if (worker == atomic_load(&served->worker))
			break;
		pthread_mutex_unlock(&worker->lock);
	}
	return worker;
}

void worker_kick(struct served *served)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = served->id};
	/* Another one may have it by the time that this one's lock is there, and may have parked
	 * it. */
	struct worker *worker = lock_worker(served);

	if (!worker)
		return;
	if (served->is_waited && served->is_parked) {
		served->is_parked = false;
		(void)epoll_ctl(worker->epoll_fd, EPOLL_CTL_MOD, served->fd, &event);
	}
	pthread_mutex_unlock(&worker->lock);
}

int worker_cpu(const struct served *served)
{
	const struct worker *worker = atomic_load(&served->worker);

	return worker ? worker->cpu : -1;
}
