/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Steps of manual-oracle.c about cowd's end and about signals. */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "system/manual-oracle.h"

const char *oracle_config(const struct oracle *oracle)
{
	return oracle->lends ? NULL : "[daemon]\nlend = no\n";
}

/* What may be asked of a library whose cowd is gone. */
static void work_without(struct oracle *oracle)
{
	struct area *area = oracle_area(oracle);
	struct cow_snapshot *snap = NULL;
	int r;

	for (size_t n = oracle_below(oracle, 6); n; n--) {
		step_write(oracle);
		step_read(oracle);
	}
	if (!area || !oracle_one_in(oracle, 2))
		return;
	r = cow_snapshot_new(&snap, area->region);
	if (r && r != -ENOTCONN && r != -EAGAIN && !(r == -E2BIG && area->has_parts))
		oracle_complain(oracle, "without cowd, cow_snapshot_new() gave %d: %s", r,
				cow_last_error());
	cow_snapshot_unref(snap);
	oracle_check_area(oracle, area);
}

/*
 * The memory stays as it is; snapshots read right, or are lost, and stay so. Sometimes all of them
 * are awaited, sometimes they are found to be so by later steps.
 */
void step_kill(struct oracle *oracle)
{
	sigset_t beat, old;

	(void)sigemptyset(&beat);
	(void)sigaddset(&beat, SIGRTMIN);
	for (size_t i = 0; i < N_HELD; i++)
		oracle->held[i].may_be_lost = true;
	for (size_t i = 0; i < N_OUTSIDE; i++)
		oracle->outside[i].may_be_lost = true;
	oracle->is_unsure = true;
	pthread_sigmask(SIG_BLOCK, &beat, &old); /* the fixture's waits are not for signals */
	proof_cowd_kill();
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	work_without(oracle);
	pthread_sigmask(SIG_BLOCK, &beat, &old);
	proof_cowd_start(oracle_config(oracle));
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	for (size_t i = 0; i < N_AREAS; i++)
		if (oracle->areas[i].region)
			oracle_check_area(oracle, &oracle->areas[i]);
	for (size_t i = 0; i < N_HELD && oracle_one_in(oracle, 2); i++) {
		struct held *held = &oracle->held[i];

		if (!held->snap)
			continue;
		proof_await_lost(held->snap);
		held->is_lost = true;
	}
}

/* --- signals: a handler that counts, outside of any region and in one ------------------------- */

static struct cow_region *heart;
static timer_t timer;
static volatile uint64_t n_beats;
static volatile uint64_t *beats_in_region; /* NULL: no timer */

enum {
	HEART_PAGES = 8,
	HEART_OFF = (3 << 12) + 64,
};

static void on_beat(int number)
{
	(void)number;
	*beats_in_region = ++n_beats;
}

/* Only in this thread, so that what the region has is what was counted. */
void heart_start(struct oracle *oracle)
{
	struct sigaction action = {.sa_handler = on_beat, .sa_flags = SA_RESTART};
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
	const struct itimerspec each = {{0, 1000000}, {0, 1000000}};
	const struct cow_region_params params = {
		.size_bytes = HEART_PAGES * oracle->page, .mode = oracle->mode, .name = "heart"};

	if (!oracle->has_signals)
		return;
	proof_ok(cow_region_new(&heart, oracle->client, &params));
	n_beats = 0; /* as the new region has it */
	beats_in_region = (uint64_t *)((char *)cow_region_address(heart) + HEART_OFF);
	event._sigev_un._tid = gettid();
	ck_assert(!sigaction(SIGRTMIN, &action, NULL));
	ck_assert(!timer_create(CLOCK_MONOTONIC, &event, &timer));
	ck_assert(!timer_settime(timer, 0, &each, NULL));
}

void heart_stop(struct oracle *oracle)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};

	if (!oracle->has_signals)
		return;
	ck_assert(!timer_delete(timer));
	ck_assert(!sigaction(SIGRTMIN, &ignore, NULL)); /* and no one is pending */
	heart = cow_region_unref(heart);
}

/* What the snapshot has was counted between the begin of the call and its end. */
void step_beat(struct oracle *oracle)
{
	size_t n_bytes = HEART_PAGES * oracle->page;
	struct cow_snapshot *snap = NULL;
	uint64_t counted, before, after, has = 0;
	uint8_t *bytes;
	int r;

	if (!oracle->has_signals || oracle->is_unsure)
		return;
	counted = n_beats;
	before = *beats_in_region;
	if (before < counted || before > n_beats)
		oracle_complain(oracle, "the handler's write is missing in the region");
	r = cow_snapshot_new(&snap, heart);
	after = n_beats;
	if (r == -EAGAIN)
		oracle->n_again++;
	else if (r)
		oracle_complain(oracle, "taking the heart: error %d: %s", r, cow_last_error());
	if (r)
		return;
	bytes = proof_alloc(n_bytes);
	r = cow_snapshot_read(snap, bytes, n_bytes, 0);
	memcpy(&has, bytes + HEART_OFF, sizeof(has));
	memset(bytes + HEART_OFF, 0, sizeof(has));
	if (r)
		oracle_complain(oracle, "reading the heart: error %d: %s", r, cow_last_error());
	else if (has < before || has > after)
		oracle_complain(oracle, "the heart has beat %llu, of %llu to %llu",
				(unsigned long long)has, (unsigned long long)before,
				(unsigned long long)after);
	for (size_t i = 0; !r && i < n_bytes; i++)
		if (bytes[i])
			oracle_complain(oracle, "the heart has more than its beat, at %#zx", i);
	free(bytes);
	cow_snapshot_unref(snap);
}
