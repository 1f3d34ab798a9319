/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Scheduling: programs go before cowd's threads, unless they wait for cowd.
 *
 * A program that tells cowd of a snapshot of mode scoot goes on at once: it is not to be taken off
 * its CPU by the thread that the message wakes, which the kernel likes to place there. One that
 * takes a snapshot of mode uffd waits for the loop and for a job, each of which would queue up
 * behind whatever else the machine does: measured with a busy program on each of two CPUs, 11 ms in
 * place of 0.3 to 2.7. So while there is a region of mode uffd the loop and the jobs run as any
 * other thread does (SCHED_OTHER), otherwise as ones that interrupt nobody (SCHED_BATCH). Savers
 * always are the latter, fault workers the former.
 *
 * A fault worker has little to do and somebody waits for it, but the scheduler lets whoever runs go
 * on for a while: a client that faults without end, or a job, which gives way between its pieces
 * (job_give_way()). So workers ask for short slices, at which those who have longer ones give way
 * at once (since Linux 6.12, sched_setattr(2); earlier ones do not look at it). The share of the
 * CPU that they get is the same.
 *
 * All of it belongs to the loop thread.
 */
#ifndef COWD_PRIORITY_H
#define COWD_PRIORITY_H

#include <stdbool.h>
#include <stdint.h>

/* The shortest that there is. */
#define PRIORITY_SLICE_NSEC 100000

struct job_pool;

struct priority {
	bool is_ours; /* whoever started cowd in another class knows why */
	unsigned int n_awaited;
};

/** priority_ask_for_slice() - of this thread, and of those that it makes: @nsec; 0: as usual */
void priority_ask_for_slice(uint64_t nsec);

/** priority_give_way() - this thread, and those that it makes from now on, interrupt nobody */
void priority_give_way(struct priority *priority);

/**
 * priority_await() - there is one region more (@n is 1) or less (-1) whose program waits for cowd
 * @jobs: whose threads change with this one
 */
void priority_await(struct priority *priority, struct job_pool *jobs, int n);

#endif
