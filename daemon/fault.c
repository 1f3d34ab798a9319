// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Serving write faults of a region: keep the page as it was, lift its protection, wake the writer.
 *
 * What holds between turns: a page of the region that is not write-protected is in a store of every
 * live snapshot that it could have changed under, that is, some store from that snapshot's own
 * onward has it. So a fault is needed once per page and snapshot, and when a snapshot leaves the
 * chain its pages move to the next older one (snapshot.c) and the rule goes on to hold.
 *
 * When a page cannot be kept (its uid's share is used up, no memory), the snapshots that need it
 * become lost, before the page is let go; the client's writer never waits for memory of ours.
 *
 * A turn serves a bounded number of messages, so that regions of the same worker take turns.
 */
#include "config.h"

#include <string.h>
#include <sys/uio.h>
#include <time.h>

#include "backends/uffdio.h"
#include "common/err.h"
#include "daemon/backing.h"
#include "daemon/daemon.h"
#include "daemon/region.h"
#include "daemon/snapshot.h"

/* Messages of a turn. */
#define N_MSGS           32
/* Pages kept together when writes come in order. */
#define RUN_PAGES_MAX    16
/* Turns without a message, in a row, before a client is taken to be the cause. */
#define N_IDLE_TURNS_MAX 10000
/* Protection lifted around a page when no snapshot needs any. */
#define FREE_RUN_BYTES   ((uint64_t)2 << 20)

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* E_GONE ends the service; an unmapped range is the client's own doing, whoever waits there is
 * woken. */
static int fold_uffd(struct region *region, int r, uint64_t addr, uint64_t n_bytes)
{
	if (r == UFFDIO_E_UNMAPPED || r == UFFDIO_E_AGAIN)
		r = uffdio_wake(region->uffd, addr, n_bytes);
	if (r == UFFDIO_E_GONE)
		return UFFDIO_E_GONE;
	return r > 0 ? 0 : r;
}

static int let_go(struct region *region, uint64_t first, uint64_t n)
{
	uint64_t addr = region->addr + first * page_size_bytes();
	uint64_t n_bytes = n * page_size_bytes();

	return fold_uffd(region, uffdio_unprotect(region->uffd, addr, n_bytes, false), addr,
			 n_bytes);
}

/*
 * Copy pages of M into slots; pages of zeroes end up as STORE_ZERO and their slots are given back.
 * @slots has @n of them and is changed.
 */
static int fill_slots(struct region *region, uint64_t first, uint32_t *slots, size_t n)
{
	size_t size = page_size_bytes();
	struct iovec iov[RUN_PAGES_MAX];
	ssize_t n_read;

	for (size_t i = 0; i < n; i++)
		iov[i] = (struct iovec){store_pool_page(region->pool, slots[i]), size};
	n_read = preadv(region->backing->fd, iov, (int)n, (off_t)(first * size));
	if (n_read != (ssize_t)(n * size))
		return err_raise(-ENOMEM, "no memory for old pages");
	for (size_t i = 0; i < n; i++) {
		const uint64_t *words = iov[i].iov_base;

		/* All zero: the first word is, and every word equals the one after it. */
		if (words[0] || memcmp(words, words + 1, size - sizeof(*words)) != 0)
			continue;
		store_pool_put(region->pool, &slots[i], 1);
		slots[i] = STORE_ZERO;
	}
	return 0;
}

/* How many pages from @idx on, at most @max, the newest snapshot has not kept. */
static size_t count_unkept(const struct region *region, const struct snapshot *snap, uint64_t idx,
			   size_t max)
{
	size_t n = 1;

	while (n < max && idx + n < region->n_pages &&
	       store_get(&snap->store, idx + n) == STORE_EMPTY)
		n++;
	return n;
}

/* Keep pages [@first, @first + @n), none of which @snap has. 0; STORE_E_QUOTA; -errno: none kept.
 */
static int keep(struct region *region, struct snapshot *snap, uint64_t first, size_t n)
{
	uint32_t slots[RUN_PAGES_MAX];
	int r;

	r = store_pool_get(region->pool, slots, n);
	if (r)
		return r;
	r = fill_slots(region, first, slots, n);
	if (r) {
		store_pool_put(region->pool, slots, n);
		return r;
	}
	for (size_t i = 0; i < n; i++)
		if (store_put(&snap->store, first + i, slots[i]) == STORE_E_KEPT)
			store_pool_put(region->pool, &slots[i], 1);
	stats_add(&region->daemon->stats, pages_kept, n);
	return 0;
}

/* Whether a live snapshot would read page @idx from M. */
static bool is_needed(const struct region *region, uint64_t idx)
{
	for (const struct snapshot *snap = region->newest; snap; snap = snap->older) {
		if (store_get(&snap->store, idx) != STORE_EMPTY)
			return false;
		if (!snap->is_lost && !snap->is_leaving)
			return true;
	}
	return false;
}

/* Writers that go through a region in order have the pages ahead of them kept at once. */
static size_t run_length(struct region *region, uint64_t idx)
{
	if (idx == region->last_end_idx && idx)
		region->run_pages = (uint32_t)min_u64(region->run_pages * 2, RUN_PAGES_MAX);
	else
		region->run_pages = 1;
	return region->run_pages;
}

/* With served.lock, and chain_lock held shared. */
static int serve_write(struct region *region, uint64_t idx)
{
	struct snapshot *snap = region->newest;
	size_t n;
	int r;

	if (!snap) {
		uint64_t n_run = max_u64(FREE_RUN_BYTES / page_size_bytes(), 1);
		uint64_t first = align_down(idx, n_run);

		return let_go(region, first, min_u64(n_run, region->n_pages - first));
	}
	if (store_get(&snap->store, idx) != STORE_EMPTY || !is_needed(region, idx))
		return let_go(region, idx, 1);

	n = count_unkept(region, snap, idx, run_length(region, idx));
	r = keep(region, snap, idx, n);
	if (r && n > 1) {
		n = 1;
		r = keep(region, snap, idx, n);
	}
	if (r)
		snapshot_lose(region, idx, err_sentence());
	region->last_end_idx = idx + n;
	return let_go(region, idx, n);
}

static int serve_msg(struct region *region, const struct uffd_msg *msg)
{
	uint64_t off;

	if (msg->event != UFFD_EVENT_PAGEFAULT)
		return 0;
	off = msg->arg.pagefault.address - region->addr;
	if (off >= region->size_bytes) /* cannot be, we registered nothing else */
		return 0;
	return serve_write(region, off / page_size_bytes());
}

/*
 * Nothing more can be served. When the process has ended (@error is 0) nobody writes any more and
 * the snapshots stay right. Otherwise they are lost, and then nobody is kept waiting.
 */
static enum served_verdict give_up(struct region *region, int error)
{
	if (error) {
		snapshot_lose_all(region, err_sentence());
		(void)!uffdio_unregister(region->uffd, region->addr, region->size_bytes);
		/* Which it does not do for those who wait for write protection to go. */
		(void)!uffdio_wake(region->uffd, region->addr, region->size_bytes);
	}
	atomic_store(&region->is_gone, true);
	return SERVED_GONE;
}

/* Woken for nothing: its sender may have made it blocking, which epoll takes for an error. */
static enum served_verdict serve_nothing(struct region *region)
{
	int r;

	r = uffdio_set_nonblock(region->uffd);
	if (!r && ++region->n_idle_turns > N_IDLE_TURNS_MAX)
		r = err_raise(-EPROTO, "the client interferes with its userfaultfd");
	return r ? give_up(region, r) : SERVED_AGAIN;
}

enum served_verdict fault_serve_region(struct served *served, void *buf)
{
	struct region *region = container_of(served, struct region, served);
	struct stats *stats = &region->daemon->stats;
	struct uffd_msg msgs[N_MSGS];
	uint64_t started_ns;
	size_t n_msgs = 0;
	int r;

	(void)buf;
	r = uffdio_read(region->uffd, msgs, N_MSGS, &n_msgs);
	if (r)
		return give_up(region, r);
	if (!n_msgs)
		return serve_nothing(region);
	region->n_idle_turns = 0;
	started_ns = now_ns();
	stats_add(stats, faults, n_msgs);
	atomic_fetch_add_explicit(&region->n_faults, n_msgs, memory_order_relaxed);
	pthread_rwlock_rdlock(&region->chain_lock);
	for (size_t i = 0; i < n_msgs && !r; i++) {
		r = serve_msg(region, &msgs[i]);
		hist_add(&stats->fault_latency, now_ns() - started_ns);
	}
	pthread_rwlock_unlock(&region->chain_lock);
	return r ? give_up(region, r < 0 ? r : 0) : SERVED_AGAIN;
}
