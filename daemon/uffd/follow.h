/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the threads run whose faults are served, found by looking, now and then, at the CPU that
 * the thread of a fault was on last (UFFD_FEATURE_THREAD_ID names it, /proc/TID/stat says the CPU).
 *
 * One CPU has to win over all others, the present one included, by some samples before the service
 * moves, so that threads spread over many CPUs do not make it wander.
 */
#ifndef COWD_FOLLOW_H
#define COWD_FOLLOW_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct follow {
	uint64_t sampled_ns; /* when it was looked last */
	uint64_t moved_ns;
	int cpu; /* candidate, if n_ahead is not 0 */
	unsigned int n_ahead;
};

/**
 * follow_vote() - one sample
 * @cpu: where a thread was
 * @now_cpu: where it is served
 *
 * Return: true when the service should move to @cpu; the votes are then spent.
 */
bool follow_vote(struct follow *follow, int cpu, int now_cpu, uint64_t now_ns);

/** follow_is_due() - whether it is time for a sample; notes that it was taken */
bool follow_is_due(struct follow *follow, uint64_t now_ns);

/** follow_cpu_of() - the CPU that thread @tid ran on last; -1 if that is not to be found out */
int follow_cpu_of(pid_t tid);

#endif
