/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Threads of manual-oracle.c that write, or check snapshots, while the main thread makes a call.
 *
 * They run between two barriers. A write draws a ticket before and one after it, from one counter:
 * so if B ended before A began, B happened before A, and a snapshot that has A and not B is not of
 * one instant. Which writes a snapshot has is read from it: each is of a byte of its own, and
 * changes it.
 */
#include "config.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "system/manual-oracle.h"

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct oracle *oracle = worker->oracle;

	for (;;) {
		pthread_barrier_wait(&oracle->starts);
		if (oracle->company_ends)
			return NULL;
		for (size_t i = 0; i < worker->n_jobs; i++) {
			struct job *job = &worker->jobs[i];

			job->began = atomic_fetch_add(&oracle->ticket, 1);
			__atomic_store_n(worker->mem + job->off, job->value, __ATOMIC_SEQ_CST);
			job->ended = atomic_fetch_add(&oracle->ticket, 1);
		}
		if (worker->reads)
			oracle_check_held(oracle, worker->reads, 0, worker->reads->shadow->n_bytes);
		pthread_barrier_wait(&oracle->ends);
	}
}

void company_start(struct oracle *oracle)
{
	sigset_t all, old;

	if (!oracle->n_workers)
		return;
	ck_assert(!pthread_barrier_init(&oracle->starts, NULL, oracle->n_workers + 1));
	ck_assert(!pthread_barrier_init(&oracle->ends, NULL, oracle->n_workers + 1));
	oracle->company_ends = false;
	(void)sigfillset(&all);
	(void)sigdelset(&all, SIGSEGV);
	(void)sigdelset(&all, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (unsigned int i = 0; i < oracle->n_workers; i++) {
		oracle->workers[i].oracle = oracle;
		ck_assert(!pthread_create(&oracle->workers[i].thread, NULL, work,
					  &oracle->workers[i]));
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void company_stop(struct oracle *oracle)
{
	if (!oracle->n_workers)
		return;
	oracle->company_ends = true;
	pthread_barrier_wait(&oracle->starts);
	for (unsigned int i = 0; i < oracle->n_workers; i++)
		pthread_join(oracle->workers[i].thread, NULL);
	pthread_barrier_destroy(&oracle->starts);
	pthread_barrier_destroy(&oracle->ends);
}

/* Each worker has bytes of its own in every page, and visits each of its pages once. */
static void plan_writes(struct oracle *oracle, struct worker *worker, unsigned int which,
			const struct area *area)
{
	size_t n_pages = area->n_bytes / oracle->page;
	size_t n = 1 + oracle_below(oracle, N_JOBS), page = oracle_below(oracle, n_pages);
	size_t stride = oracle_one_in(oracle, 3) ? 1 + oracle_below(oracle, n_pages) : 1;

	worker->mem = area->mem;
	for (size_t i = 0; i < n; i++) {
		size_t in_page = i * N_WORKERS + which; /* another one each time */
		size_t off = page * oracle->page + in_page;

		page = (page + stride) % n_pages;
		worker->jobs[i] = (struct job){.off = off, .was = area->shadow[off]};
		worker->jobs[i].value =
			worker->jobs[i].was ^ (uint8_t)(1 + oracle_below(oracle, 255));
	}
	worker->n_jobs = n;
}

void company_begin(struct oracle *oracle, struct area *area, const struct held *spared)
{
	if (!oracle->n_workers)
		return;
	for (unsigned int i = 0; i < oracle->n_workers; i++) {
		struct worker *worker = &oracle->workers[i];

		worker->n_jobs = 0;
		worker->reads = NULL;
		if (area && !oracle_one_in(oracle, 4)) {
			plan_writes(oracle, worker, i, area);
		} else {
			struct held *held = oracle_held(oracle);

			/* one that is lost is written to by who finds out: leave it to one thread
			 */
			if (held && held != spared && !held->may_be_lost)
				worker->reads = held;
		}
	}
	pthread_barrier_wait(&oracle->starts);
	for (size_t n = oracle_below(oracle, 8); n; n--)
		sched_yield();
}

void company_finish(struct oracle *oracle, struct area *area)
{
	if (!oracle->n_workers)
		return;
	pthread_barrier_wait(&oracle->ends);
	for (unsigned int i = 0; area && i < oracle->n_workers; i++)
		for (size_t k = 0; k < oracle->workers[i].n_jobs; k++)
			area->shadow[oracle->workers[i].jobs[k].off] =
				oracle->workers[i].jobs[k].value;
}

void step_write_together(struct oracle *oracle)
{
	struct area *area = oracle_area(oracle);

	if (!area)
		return;
	oracle_note(oracle, " region %u", area->serial);
	company_begin(oracle, area, NULL);
	company_finish(oracle, area);
	oracle_check_area(oracle, area);
}

/* Which of the company's writes @has has; @want gets them. Complains if that is no instant. */
static void find_cut(struct oracle *oracle, const uint8_t *has, uint8_t *want, uint64_t began,
		     uint64_t ended)
{
	uint64_t last_in = began, first_out = ended;
	size_t n_in = 0, n_out = 0;

	for (unsigned int i = 0; i < oracle->n_workers; i++) {
		const struct worker *worker = &oracle->workers[i];

		for (size_t k = 0; k < worker->n_jobs; k++) {
			const struct job *job = &worker->jobs[k];

			if (has[job->off] == job->was) {
				n_out++;
				if (job->ended < first_out)
					first_out = job->ended;
				continue;
			}
			n_in++;
			want[job->off] = job->value;
			if (job->began > last_in)
				last_in = job->began;
		}
	}
	oracle_note(oracle, " (%zu writes in, %zu out)", n_in, n_out);
	if (first_out < last_in)
		oracle_complain(
			oracle,
			"the snapshot is of no instant: a write that began at ticket %llu, or "
			"the call, which lasted from %llu to %llu, came after one that had "
			"ended at %llu and is not in it",
			(unsigned long long)last_in, (unsigned long long)began,
			(unsigned long long)ended, (unsigned long long)first_out);
}

void step_take(struct oracle *oracle)
{
	struct area *area = oracle_area(oracle);
	struct held *slot = oracle_free_held(oracle);
	struct shadow *shadow;
	struct cow_snapshot *snap = NULL;
	bool may_be_lost = false, is_taken;
	uint64_t began, ended;
	uint8_t *has;
	int r;

	if (!area || !slot)
		return;
	oracle_note(oracle, " region %u", area->serial);
	shadow = shadow_new(area);
	company_begin(oracle, area, NULL);
	began = atomic_fetch_add(&oracle->ticket, 1);
	is_taken = oracle_take(oracle, area, &snap, &may_be_lost);
	ended = atomic_fetch_add(&oracle->ticket, 1);
	company_finish(oracle, area);
	if (!is_taken) {
		shadow_unref(shadow);
		return;
	}
	oracle_held_new(oracle, slot, snap, area, shadow);
	slot->may_be_lost = may_be_lost;
	if (!oracle->n_workers)
		return;
	has = proof_alloc(area->n_bytes);
	r = cow_snapshot_read(snap, has, area->n_bytes, 0);
	if (!r) {
		find_cut(oracle, has, shadow->bytes, began, ended);
		(void)oracle_compare(oracle, "new snapshot", slot->serial, has, shadow->bytes,
				     area->n_bytes);
	} else {
		(void)oracle_may_fail(oracle, slot, r);
		oracle_release(oracle, slot); /* what it would have had is not known */
	}
	free(has);
}
