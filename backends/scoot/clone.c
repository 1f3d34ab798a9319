// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A cut without a userfaultfd: a child that shares nothing but sees all private pages as they were.
 *
 * clone(2) without flags copies the address space as fork() does: writers of this process fault and
 * wait for its end, so what the child has is one instant. It is made by the bare system call, so no
 * pthread_atfork() handler runs, and without an exit signal, so no SIGCHLD is sent and no wait() of
 * the program finds it. The child copies the pages into the overlay, notes in a record that it
 * shares with its parent which ones, and exits. It makes system calls only: locks that other
 * threads held are held for ever in it, malloc()'s among them.
 */
#include "config.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "backends/pagebits.h"
#include "backends/protect.h"
#include "backends/scoot/internal.h"
#include "common/err.h"

#define RUNS_MAX 256

/* Keep [@off, @off + @len) of the region and note it in @bits. */
static int keep(const struct scoot_region *region, const struct scoot_snapshot *snap, uint8_t *bits,
		uint64_t off, uint64_t len)
{
	const uint64_t page = page_size_bytes();
	int r = memfile_write(snap->overlay, region->addr + off, len, off);

	if (!r)
		pagebits_set(bits, off / page, len / page);
	return r;
}

static int copy_pages(const struct pagemap *pagemap, const struct scoot_region *region,
		      const struct scoot_snapshot *snap, const struct extent *run, uint8_t *bits)
{
	const uint64_t base = (uint64_t)(uintptr_t)region->addr;
	uint64_t at = base + run->off, end = at + run->len;
	struct page_run found[RUNS_MAX];
	size_t n_found;
	int r = 0;

	if (!atomic_load(&run->backing->id))
		return keep(region, snap, bits, run->off, run->len);
	while (!r && at < end) {
		r = pagemap_private(pagemap, &at, end, found, RUNS_MAX, &n_found);
		for (size_t i = 0; !r && i < n_found; i++)
			r = keep(region, snap, bits, found[i].addr - base, found[i].len);
	}
	return r;
}

/* In the child. Return: exit status. */
static int child_main(const struct scoot_region *region, const struct scoot_snapshot *snap,
		      uint8_t *bits)
{
	struct pagemap pagemap; /* the parent's shows the parent's pages */
	int r = pagemap_init(&pagemap);

	pagemap.has_scan &= region->pagemap.has_scan;
	(void)protect_show(region->addr, region->size_bytes); /* else reading it fails */
	for (size_t i = 0; !r && i < region->map.n_runs; i++)
		r = copy_pages(&pagemap, region, snap, &region->map.runs[i], bits);
	return r < 0 ? -r : r;
}

static int wait_for(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, __WCLONE) < 0) {
		if (errno != EINTR)
			return err_raise_errno("lost sight of the child that copies pages");
	}
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	if (WIFEXITED(status))
		return err_raise(-WEXITSTATUS(status),
				 "the child that copies changed pages failed");
	return err_raise(-EIO, "the child that copies changed pages was killed by signal %d",
			 WTERMSIG(status));
}

/* The child has copied what it has noted in @bits when this returns 0. */
static int copy_by_child(struct scoot_region *region, const struct scoot_snapshot *snap,
			 uint8_t *bits)
{
	pid_t pid;
	int r;

	if (madvise(region->addr, region->size_bytes, MADV_DOFORK))
		return err_raise_errno("cannot show the region to the child that copies pages");
	pid = (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, 0);
	if (!pid)
		syscall(SYS_exit_group, child_main(region, snap, bits));
	r = pid < 0 ? err_raise_errno("cannot start the child that copies changed pages") : 0;
	(void)madvise(region->addr, region->size_bytes, MADV_DONTFORK);
	return r ? r : wait_for(pid);
}

int scoot_take_by_clone(struct scoot_region *region, struct scoot_snapshot *snap)
{
	const uint64_t n_pages = region->size_bytes / page_size_bytes();
	const size_t n_bytes = pagebits_bytes(n_pages);
	void *bits;
	int r;

	/* No cut yet: writes from here on make private pages, which the child will see. */
	r = scoot_freeze(region, 0, region->size_bytes);
	if (r)
		return r;
	bits = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (bits == MAP_FAILED)
		return err_raise_errno("cannot map a record of %llu pages",
				       (unsigned long long)n_pages);
	r = copy_by_child(region, snap, bits);
	if (!r)
		r = scoot_snapshot_note_bits(snap, bits, 0, n_pages);
	(void)munmap(bits, n_bytes);
	return r;
}
