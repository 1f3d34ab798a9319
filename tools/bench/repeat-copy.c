// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowbench repeat: the memory of each mode, and its copies. A child of fork() lives as long as a
 * snapshot would: it does nothing until it is killed.
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/err.h"
#include "tools/bench/bench.h"
#include "tools/bench/repeat.h"

static int new_region(struct repeat *repeat, struct cow_region **region, const char *name)
{
	static const uint32_t modes[N_REPEAT_MODES] = {
		[REPEAT_SCOOT] = COW_MODE_SCOOT,
		[REPEAT_UFFD] = COW_MODE_UFFD,
		[REPEAT_MMAPCOPY] = COW_MODE_MMAPCOPY,
	};
	struct cow_region_params params = {
		.size_bytes = repeat->size_bytes,
		.mode = modes[repeat->mode],
		.name = name,
	};

	if (repeat->mode != REPEAT_UFFD)
		params.flags =
			COW_REGION_NO_FORK | (repeat->stops_threads ? COW_REGION_STOP_THREADS : 0);
	return cow_region_new(region, repeat->client, &params);
}

static int open_anonymous(struct repeat *repeat)
{
	void *base = mmap(NULL, repeat->size_bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (base == MAP_FAILED)
		return err_raise_errno("cannot map memory");
	(void)madvise(base, repeat->size_bytes, MADV_NOHUGEPAGE);
	repeat->base = base;
	return 0;
}

int repeat_open(struct repeat *repeat)
{
	int r;

	if (repeat->mode == REPEAT_FORK)
		return open_anonymous(repeat);
	r = bench_connect(&repeat->client, repeat->socket);
	if (!r)
		r = new_region(repeat, &repeat->region, "cowbench repeat");
	if (!r)
		repeat->base = cow_region_address(repeat->region);
	return r;
}

void repeat_close(struct repeat *repeat)
{
	repeat_drop(repeat, 0);
	if (repeat->mode == REPEAT_FORK && repeat->base)
		(void)munmap(repeat->base, repeat->size_bytes);
	repeat->base = NULL;
	repeat->region = cow_region_unref(repeat->region);
	repeat->client = cow_client_unref(repeat->client);
}

int repeat_prepare(struct repeat *repeat)
{
	struct copy *copy = &repeat->copies[repeat->n_copies];

	*copy = (struct copy){.child = -1};
	if (repeat->mode != REPEAT_MMAPCOPY)
		return 0;
	return new_region(repeat, &copy->region, "cowbench repeat: copy");
}

static int take_fork(struct copy *copy)
{
	pid_t parent = getpid();

	copy->child = fork();
	if (copy->child < 0)
		return err_raise_errno("cannot fork");
	if (copy->child)
		return 0;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == parent)
		(void)pause();
	_exit(0);
}

int repeat_take(struct repeat *repeat)
{
	struct copy *copy = &repeat->copies[repeat->n_copies++];

	switch (repeat->mode) {
	case REPEAT_FORK:
		return take_fork(copy);
	case REPEAT_MMAPCOPY:
		(void)cow_mmapcopy(cow_region_address(copy->region), repeat->base,
				   repeat->size_bytes);
		return 0;
	default:
		return cow_snapshot_new(&copy->snap, repeat->region);
	}
}

static void drop_one(struct copy *copy)
{
	if (copy->child > 0) {
		(void)kill(copy->child, SIGKILL);
		while (waitpid(copy->child, NULL, 0) < 0 && errno == EINTR)
			;
	}
	(void)cow_snapshot_unref(copy->snap);
	(void)cow_region_unref(copy->region);
}

void repeat_drop(struct repeat *repeat, size_t n)
{
	while (repeat->n_copies > n) {
		drop_one(&repeat->copies[0]);
		repeat->n_copies--;
		memmove(repeat->copies, repeat->copies + 1,
			repeat->n_copies * sizeof(*repeat->copies));
	}
}

int repeat_held(struct repeat *repeat, uint64_t *n_bytes)
{
	pid_t children[HOLD_MAX + 1];
	size_t n_children = 0;

	for (size_t i = 0; i < repeat->n_copies; i++) {
		if (repeat->copies[i].child > 0)
			children[n_children++] = repeat->copies[i].child;
	}
	return memory_held_by(repeat->client, children, n_children, n_bytes);
}
