// SPDX-License-Identifier: LGPL-2.1-or-later
// Keeping threads out of a range; see hold.h.
#include "config.h"

#include "backends/hold.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "backends/protect.h"
#include "backends/space.h"
#include "backends/uffdio.h"
#include "common/err.h"

#define RUNS_MAX 64

/* Only wrong arguments make it fail, so errno is left alone. */
static uint64_t set_signals(uint64_t blocked)
{
	uint64_t saved = 0;

	(void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, &saved, sizeof(blocked));
	return saved;
}

uint64_t hold_signals_block(void)
{
	/* A thread's first sentence may take memory from malloc(). */
	(void)err_sentence();
	/* By the bare system call: pthread_sigmask() leaves glibc's own signals open. */
	return set_signals(~((uint64_t)1 << (SIGSYS - 1)));
}

void hold_signals_restore(uint64_t saved)
{
	(void)set_signals(saved);
}

int hold_init(int uffd)
{
	return uffdio_api(uffd, UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM, NULL);
}

static uint64_t as_u64(const char *addr)
{
	return (uint64_t)(uintptr_t)addr;
}

int hold_begin(int uffd, char *addr, uint64_t len, bool is_anonymous)
{
	int r;

	if (uffd < 0)
		return 0;
	r = uffdio_register(uffd, as_u64(addr), len,
			    UFFDIO_REGISTER_MODE_MISSING |
				    (is_anonymous ? 0 : UFFDIO_REGISTER_MODE_MINOR));

	/* Of several mappings those before the one that could not be split are registered now.
	 * Other errors come before anything is done, and what another userfaultfd has is not ours
	 * to end. */
	if (r == -ENOMEM)
		hold_end(uffd, addr, len);
	if (r > 0)
		return err_raise(
			-EBUSY, "the region is not mapped as it was given: part of it was unmapped "
				"or is registered with another userfaultfd");
	return r;
}

static int copy_run(void *arg, char *addr, uint64_t off, uint64_t len)
{
	memcpy(addr, (const char *)arg + off, len);
	return 0;
}

/* The mapping at @addr is still there and registered: put the private pages into it. */
static void copy_back(int uffd, const struct pagemap *pagemap, char *addr, uint64_t len, char *side)
{
	struct page_run runs[RUNS_MAX];
	uint64_t at = as_u64(side), end = as_u64(side) + len;
	size_t n_runs;

	(void)protect_show(side, len);
	while (at < end && !pagemap_private(pagemap, &at, end, runs, RUNS_MAX, &n_runs)) {
		for (size_t i = 0; i < n_runs; i++) {
			uint64_t off = runs[i].addr - as_u64(side);

			if (uffd < 0)
				(void)protect_fill(addr + off, runs[i].len, copy_run, side + off);
			while (uffd >= 0 && uffdio_copy(uffd, as_u64(addr) + off, side + off,
							runs[i].len, 0) == UFFDIO_E_AGAIN)
				;
		}
	}
}

void hold_give_back(int uffd, const struct pagemap *pagemap, char *addr, uint64_t len, char *side)
{
	uint64_t half = align_down(len / 2, page_size_bytes());

	/* DONTUNMAP here too: a hole at @side could become another thread's mapping at any time. */
	if (!space_move(side, len, addr))
		return;
	if (errno == EFAULT && half) {
		hold_give_back(uffd, pagemap, addr, half, side);
		hold_give_back(uffd, pagemap, addr + half, len - half, side + half);
		return;
	}
	copy_back(uffd, pagemap, addr, len, side);
}

/*
 * One move moves one mapping. A run may be several mappings to the kernel (after mprotect() or
 * madvise() of a part). The move then fails with EFAULT, and each half is moved by itself.
 */
int hold_take(int uffd, const struct pagemap *pagemap, char *addr, uint64_t len, char *side)
{
	uint64_t half = align_down(len / 2, page_size_bytes());
	int r;

	if (!space_move(addr, len, side))
		return 0;
	if (errno != EFAULT || !half)
		return err_raise_errno("cannot move page tables of %llu bytes aside",
				       (unsigned long long)len);
	r = hold_take(uffd, pagemap, addr, half, side);
	if (r)
		return r;
	r = hold_take(uffd, pagemap, addr + half, len - half, side + half);
	if (r)
		hold_give_back(uffd, pagemap, addr, half, side);
	return r;
}

void hold_end(int uffd, char *addr, uint64_t len)
{
	/* Unregistering wakes threads that wait on a mapping which is still registered, but not
	 * threads that began to wait on a mapping that was replaced since. */
	int r;

	if (uffd < 0)
		return;
	r = uffdio_unregister(uffd, as_u64(addr), len);
	do {
		r = uffdio_wake(uffd, as_u64(addr), len);
	} while (r == UFFDIO_E_AGAIN);
}
