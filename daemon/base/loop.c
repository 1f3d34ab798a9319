// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The event loop; contracts are in loop.h.
 *
 * epoll gathers a batch of ready watches. A callback may end any object, its own and others of the
 * same batch, so loop_unwatch() also strikes the watch from what is still to be called.
 * Level-triggered throughout: a callback does a bounded amount of work and what is left comes back
 * in the next round, behind everybody else who is ready.
 *
 * Tasks of other threads arrive in a list under a mutex; an eventfd wakes epoll for the first of
 * them only. The list is taken as a whole, so tasks posted by tasks wait for the next round.
 */
#include "config.h"

#include "daemon/base/loop.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "common/err.h"

#define BATCH 64

struct loop {
	pthread_t thread;
	int epoll_fd;
	struct watch wakeup; /* an eventfd, raised when the list of tasks stops being empty */
	bool is_stopped;
	struct epoll_event batch[BATCH];
	int n_batch;

	pthread_mutex_t lock; /* the list only */
	struct task *first;
	struct task **last;
};

static struct task *take_tasks(struct loop *loop)
{
	struct task *first;

	pthread_mutex_lock(&loop->lock);
	first = loop->first;
	loop->first = NULL;
	loop->last = &loop->first;
	pthread_mutex_unlock(&loop->lock);
	return first;
}

bool loop_run_tasks(struct loop *loop)
{
	struct task *task = take_tasks(loop);
	bool any = task;

	while (task) {
		struct task *next = task->next; /* run() may free or post the task again */

		task->next = NULL;
		task->run(task);
		task = next;
	}
	return any;
}

static void wakeup_on_ready(struct watch *watch, uint32_t events)
{
	uint64_t count;

	(void)events;
	/* Lower it before the list is taken: a post in between raises it again. */
	if (read(watch->fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EINTR)
		return;
	(void)loop_run_tasks(container_of(watch, struct loop, wakeup));
}

int loop_new(struct loop **out)
{
	CLEANUP(loop_freep) struct loop *loop = NULL;
	int r;

	loop = malloc(sizeof(*loop));
	if (!loop)
		return err_oom(sizeof(*loop), "the event loop");
	*loop = (struct loop){.thread = pthread_self(),
			      .epoll_fd = -1,
			      .wakeup = {.fd = -1, .on_ready = wakeup_on_ready},
			      .lock = PTHREAD_MUTEX_INITIALIZER};
	loop->last = &loop->first;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		return err_raise_errno("cannot create an epoll descriptor");
	loop->wakeup.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wakeup.fd < 0)
		return err_raise_errno("cannot create an eventfd");
	r = loop_watch(loop, &loop->wakeup, EPOLLIN);
	if (r)
		return r;
	*out = steal_ptr(&loop);
	return 0;
}

struct loop *loop_free(struct loop *loop)
{
	if (!loop)
		return NULL;
	loop_unwatch(&loop->wakeup);
	loop->wakeup.fd = fd_close(loop->wakeup.fd);
	loop->epoll_fd = fd_close(loop->epoll_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
	return NULL;
}

int loop_watch(struct loop *loop, struct watch *watch, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watch};

	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, watch->fd, &event) < 0)
		return err_raise_errno("cannot wait for descriptor %d", watch->fd);
	watch->loop = loop;
	return 0;
}

int loop_rewatch(struct watch *watch, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watch};

	if (epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event) < 0)
		return err_raise_errno("cannot change what descriptor %d is waited for", watch->fd);
	return 0;
}

void loop_unwatch(struct watch *watch)
{
	struct loop *loop = watch->loop;

	if (!loop)
		return;
	watch->loop = NULL;
	(void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	for (int i = 0; i < loop->n_batch; i++) {
		if (loop->batch[i].data.ptr == watch)
			loop->batch[i].data.ptr = NULL;
	}
}

bool loop_is_mine(const struct loop *loop)
{
	return pthread_equal(loop->thread, pthread_self());
}

void loop_post(struct loop *loop, struct task *task)
{
	static const uint64_t one = 1;
	bool was_empty;

	task->next = NULL;
	pthread_mutex_lock(&loop->lock);
	was_empty = !loop->first;
	*loop->last = task;
	loop->last = &task->next;
	pthread_mutex_unlock(&loop->lock);
	/* Without the lock, which the loop takes first thing when it wakes. A write of 1 fails only
	 * when the counter is full, that is, raised. */
	if (was_empty && write(loop->wakeup.fd, &one, sizeof(one)) < 0)
		(void)0;
}

int loop_run(struct loop *loop)
{
	while (!loop->is_stopped) {
		int n = epoll_wait(loop->epoll_fd, loop->batch, BATCH, -1);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return err_raise_errno("epoll_wait failed");
		}
		loop->n_batch = n;
		for (int i = 0; i < n && !loop->is_stopped; i++) {
			struct watch *watch = loop->batch[i].data.ptr;

			if (watch)
				watch->on_ready(watch, loop->batch[i].events);
		}
		loop->n_batch = 0;
	}
	loop->is_stopped = false;
	return 0;
}

void loop_stop(struct loop *loop)
{
	loop->is_stopped = true;
}
