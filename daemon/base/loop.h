/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The main thread's event loop: epoll, deferred calls from other threads, timers.
 *
 * The loop thread owns every session, region, snapshot and quota object: they are created, looked
 * up and freed there only. Other threads (fault workers, jobs) get what they need lent for the time
 * of a task and come back through loop_post().
 */
#ifndef COWD_LOOP_H
#define COWD_LOOP_H

#include <stdint.h>

#include "common/util.h"

struct loop;

/**
 * struct watch - a descriptor the loop waits for; embedded in its owner
 * @fd:       lent; owned by the embedding object, which outlives the watch
 * @on_ready: called in the loop thread with EPOLL* bits, level-triggered
 */
struct watch {
	int fd;
	struct loop *loop;
	void (*on_ready)(struct watch *watch, uint32_t events);
};

/**
 * struct task - something to be run in the loop thread; embedded in its owner
 *
 * Posted at most once at a time; run once per post, in order of posting.
 */
struct task {
	void (*run)(struct task *task);
	struct task *next;
};

int loop_new(struct loop **out);
struct loop *loop_free(struct loop *loop);
DEFINE_CLEANUP(loop_free, struct loop *)

/** loop_watch() - start waiting for @events; @watch->fd and ->on_ready are set. 0 or -errno */
int loop_watch(struct loop *loop, struct watch *watch, uint32_t events);
/** loop_rewatch() - change the events. 0 or -errno */
int loop_rewatch(struct watch *watch, uint32_t events);
/** loop_unwatch() - stop; idempotent; no call of on_ready follows, not even one already gathered */
void loop_unwatch(struct watch *watch);

/** loop_is_mine() - whether the calling thread is the loop's, which is the one that made it */
bool loop_is_mine(const struct loop *loop);

/** loop_post() - have @task run in the loop thread; from any thread, including the loop's own.
 * It may still be in there when the task is run: threads that post are joined before loop_free() */
void loop_post(struct loop *loop, struct task *task);

/** loop_run_tasks() - run what was posted, without waiting; for the way out. False: there was
 * nothing */
bool loop_run_tasks(struct loop *loop);

/** loop_run() - until loop_stop(), which may come before; can be run again. 0, or -errno when epoll
 * itself failed */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

#endif
