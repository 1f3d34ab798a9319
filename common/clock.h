/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The time since a fixed point that nobody can set: for durations and deadlines. */
#ifndef COW_COMMON_CLOCK_H
#define COW_COMMON_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t now_nsec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static inline uint64_t now_usec(void)
{
	return now_nsec() / 1000;
}

static inline uint64_t now_msec(void)
{
	return now_nsec() / 1000000;
}

/* The moment @nsec from now, as pthread_cond_clockwait(CLOCK_MONOTONIC) takes it. */
static inline struct timespec timespec_in(uint64_t nsec)
{
	const uint64_t at = now_nsec() + nsec;

	return (struct timespec){.tv_sec = (time_t)(at / 1000000000),
				 .tv_nsec = (long)(at % 1000000000)};
}

#endif
