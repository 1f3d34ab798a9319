// SPDX-License-Identifier: GPL-2.0-or-later
/* Threads that close; contracts are in closer.h. */
#include "config.h"

#include "daemon/base/closer.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "common/err.h"

#define N_THREADS   4
#define CHARGES_MAX 2
/* Descriptors of one uid that may wait to be closed. */
#define WAITING_MAX 256

/* Owned by the queue, then by the thread that took it. */
struct closing {
	struct closing *next;
	struct quota_user *user; /* a reference */
	int fds[WIRE_FDS_MAX];
	size_t n_fds;
	struct charge charges[CHARGES_MAX];
	size_t n_charges;
};

struct closer {
	pthread_t threads[N_THREADS];
	size_t n_threads;

	/* Taken last of all locks, but for that of the accounts, which is not taken with it. */
	pthread_mutex_t lock; /* the rest */
	pthread_cond_t wakeup;
	pthread_cond_t ended;
	struct closing *first; /* a queue */
	struct closing **last;
	const struct quota_user *running[N_THREADS]; /* whose a thread is closing, NULL: none */
	size_t n_begun;
	size_t n_ended;
	bool is_stopping;
};

static void close_all(struct closing *closing)
{
	for (size_t i = 0; i < closing->n_fds; i++)
		fd_close(closing->fds[i]);
	for (size_t i = 0; i < closing->n_charges; i++)
		charge_deinit(&closing->charges[i]);
	quota_user_unref(closing->user);
	free(closing);
}

/* With closer->lock held. */
static bool is_running(const struct closer *closer, const struct quota_user *user)
{
	for (size_t i = 0; i < N_THREADS; i++)
		if (closer->running[i] == user)
			return true;
	return false;
}

/* With closer->lock held: the first whose uid has no thread. */
static struct closing *take(struct closer *closer)
{
	for (struct closing **link = &closer->first; *link; link = &(*link)->next) {
		struct closing *closing = *link;

		if (is_running(closer, closing->user))
			continue;
		*link = closing->next;
		if (!*link)
			closer->last = link;
		return closing;
	}
	return NULL;
}

static void *closer_thread(void *arg)
{
	struct closer *closer = arg;
	struct closing *closing;
	size_t idx;

	(void)pthread_setname_np(pthread_self(), "cowd-closer");
	pthread_mutex_lock(&closer->lock);
	idx = closer->n_begun++;
	while ((closing = take(closer)) || !closer->is_stopping) {
		if (!closing) {
			pthread_cond_wait(&closer->wakeup, &closer->lock);
			continue;
		}
		closer->running[idx] = closing->user;
		pthread_mutex_unlock(&closer->lock);
		close_all(closing);
		pthread_mutex_lock(&closer->lock);
		closer->running[idx] = NULL;
	}
	closer->n_ended++;
	pthread_cond_broadcast(&closer->ended);
	pthread_mutex_unlock(&closer->lock);
	return NULL;
}

int closer_new(struct closer **out)
{
	struct closer *closer = calloc(1, sizeof(*closer));
	sigset_t all, before;
	int r = 0;

	if (!closer)
		return err_oom(sizeof(*closer), "threads that close");
	pthread_mutex_init(&closer->lock, NULL);
	pthread_cond_init(&closer->wakeup, NULL);
	pthread_cond_init(&closer->ended, NULL);
	closer->last = &closer->first;
	/* Signals are the main thread's; a thread inherits the mask of its maker. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (!r && closer->n_threads < N_THREADS) {
		r = pthread_create(&closer->threads[closer->n_threads], NULL, closer_thread,
				   closer);
		if (!r)
			closer->n_threads++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r) {
		(void)closer_free(closer);
		return err_raise(-r, "cannot start a thread that closes: %s", strerrordesc_np(r));
	}
	*out = closer;
	return 0;
}

/*
 * Nobody gives anything any more. A thread that has something in hand may be in a close() that
 * never returns: those are not waited for, nor is what is queued up behind them closed.
 */
struct closer *closer_free(struct closer *closer)
{
	struct timespec until;
	bool is_over;
	int r = 0;

	if (!closer)
		return NULL;
	(void)clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec++;
	pthread_mutex_lock(&closer->lock);
	closer->is_stopping = true;
	pthread_cond_broadcast(&closer->wakeup);
	while (closer->n_ended < closer->n_threads && !r)
		r = pthread_cond_timedwait(&closer->ended, &closer->lock, &until);
	is_over = closer->n_ended == closer->n_threads;
	pthread_mutex_unlock(&closer->lock);
	if (!is_over)
		return closer;
	for (size_t i = 0; i < closer->n_threads; i++)
		pthread_join(closer->threads[i], NULL);
	pthread_cond_destroy(&closer->wakeup);
	pthread_cond_destroy(&closer->ended);
	pthread_mutex_destroy(&closer->lock);
	free(closer);
	return NULL;
}

static struct closing *closing_new(struct quota_user *user, int *fds, size_t n_fds,
				   struct charge *charges, size_t n_charges)
{
	struct closing *closing = malloc(sizeof(*closing));

	if (!closing)
		return NULL;
	*closing = (struct closing){
		.user = quota_user_ref(user), .n_fds = n_fds, .n_charges = n_charges};
	for (size_t i = 0; i < n_fds; i++)
		closing->fds[i] = fd_steal(&fds[i]);
	for (size_t i = 0; i < n_charges; i++) {
		closing->charges[i] = charges[i];
		charges[i] = (struct charge){.user = NULL};
	}
	return closing;
}

static void give(struct closer *closer, struct closing *closing)
{
	pthread_mutex_lock(&closer->lock);
	*closer->last = closing;
	closer->last = &closing->next;
	pthread_mutex_unlock(&closer->lock);
	pthread_cond_signal(&closer->wakeup);
}

void closer_give(struct closer *closer, struct quota_user *user, int *fds, size_t n_fds,
		 struct charge *charges, size_t n_charges)
{
	struct closing *closing = NULL;

	assert(n_fds <= WIRE_FDS_MAX && n_charges <= CHARGES_MAX);
	if (closer)
		closing = closing_new(user, fds, n_fds, charges, n_charges);
	if (closing) {
		give(closer, closing);
		return;
	}
	for (size_t i = 0; i < n_fds; i++)
		fds[i] = fd_close(fds[i]);
	for (size_t i = 0; i < n_charges; i++)
		charge_deinit(&charges[i]);
}

static size_t n_waiting(struct closer *closer, const struct quota_user *user)
{
	size_t n = 0;

	pthread_mutex_lock(&closer->lock);
	for (const struct closing *closing = closer->first; closing; closing = closing->next)
		if (closing->user == user)
			n += closing->n_fds;
	pthread_mutex_unlock(&closer->lock);
	return n;
}

void closer_give_set(struct closer *closer, struct quota_user *user, struct fdset *set)
{
	int fds[WIRE_FDS_MAX];
	struct charge charge = {.kind = QUOTA_FDS};
	size_t n_fds = 0;

	for (size_t i = 0; i < set->n_fds; i++) {
		fds[n_fds] = fdset_take(set, i);
		n_fds += fds[n_fds] >= 0;
	}
	if (!n_fds)
		return;
	charge.user = quota_user_ref(user);
	quota_charge_anyway(&charge, n_fds);
	closer_give(closer, user, fds, n_fds, &charge, 1);
}

int closer_check(struct closer *closer, const struct quota_user *user)
{
	if (closer && n_waiting(closer, user) > WAITING_MAX)
		return err_raise(-EMFILE,
				 "more than %d descriptors of uid %u wait to be closed, which "
				 "takes as long as what they are of lets it",
				 WAITING_MAX, (unsigned int)quota_user_uid(user));
	return 0;
}
