// SPDX-License-Identifier: GPL-2.0-or-later
/* See turn.h. */
#include "config.h"

#include "tools/bench/turn.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/err.h"

static size_t turn_bytes(size_t n_touches)
{
	return sizeof(struct turn) + 3 * n_touches * sizeof(uint64_t);
}

int turn_new(struct turn **out, size_t n_touches)
{
	struct turn *turn;

	/* Populated: no fault of ours may fall between two readings of the clock. */
	turn = mmap(NULL, turn_bytes(n_touches), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (turn == MAP_FAILED)
		return err_oom(turn_bytes(n_touches), "what is measured");
	turn->n_touches = n_touches;
	turn->list = (uint64_t *)(turn + 1);
	turn->reads = turn->list + n_touches;
	turn->writes = turn->reads + n_touches;
	*out = turn;
	return 0;
}

struct turn *turn_free(struct turn *turn)
{
	if (turn)
		(void)munmap(turn, turn_bytes(turn->n_touches));
	return NULL;
}

/* --- in the child ----------------------------------------------------------------------------- */

static void time_touches(struct turn *turn, struct subject *subject)
{
	uint64_t page_size = page_size_bytes();
	char *lower = subject->addr;
	char *upper = subject->addr + subject->size_bytes / page_size / 2 * page_size;

	for (size_t i = 0; i < turn->n_touches; i++) {
		const volatile char *page = upper + turn->list[i] * page_size;
		uint64_t begin = now_nsec();

		(void)*page;
		turn->reads[i] = now_nsec() - begin;
	}
	for (size_t i = 0; i < turn->n_touches; i++) {
		volatile char *page = lower + turn->list[i] * page_size;
		uint64_t begin = now_nsec();

		*page = 1;
		turn->writes[i] = now_nsec() - begin;
	}
}

static int time_rewrite(struct turn *turn, struct subject *subject, uint64_t held_before)
{
	uint64_t begin = now_nsec(), held_after;
	int r;

	subject_fill(subject);
	turn->rewrite_nsec = now_nsec() - begin;
	r = memory_held(subject, &held_after);
	if (r)
		return r;
	turn->extra_bytes = held_after > held_before ? held_after - held_before : 0;
	return 0;
}

static int try(struct turn *turn)
{
	struct subject subject;
	int r;

	r = subject_open(&subject, turn->mode, turn->address, page_size_bytes(), false);
	if (r)
		return r;
	turn->child.cowd_pid = bench_private_cowd(subject.client, subject.address);
	subject_close(&subject);
	return 0;
}

static int measure(struct turn *turn)
{
	uint64_t begin, held_before;
	struct subject subject;
	int r;

	r = subject_open(&subject, turn->mode, turn->address, turn->size_bytes, true);
	if (r)
		return r;
	turn->child.cowd_pid = bench_private_cowd(subject.client, subject.address);
	subject_fill(&subject);
	r = turn->is_warm ? subject_warm(&subject, turn->mode) : 0;
	if (!r)
		r = memory_held(&subject, &held_before);
	if (!r) {
		begin = now_nsec();
		r = turn->mode->freeze(&subject);
		turn->stall_nsec = now_nsec() - begin;
	}
	if (!r && turn->kind == TURN_TOUCH)
		time_touches(turn, &subject);
	else if (!r)
		r = time_rewrite(turn, &subject, held_before);
	subject_close(&subject);
	return r;
}

static int turn_main(void *arg)
{
	struct turn *turn = arg;

	return turn->kind == TURN_TRY ? try(turn) : measure(turn);
}

int turn_run(struct turn *turn)
{
	return bench_child_run(&turn->child, turn_main, turn);
}
