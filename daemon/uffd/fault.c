// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Serving faults of a region. Write to a protected page: keep the page as it was, lift its
 * protection, wake the writer. Page that is absent from the mapping since a lazy cut: map it,
 * protected unless it was kept. Page that the memory has not got at all: it is zero in every
 * snapshot without it.
 *
 * What holds between turns: a page of the region that can be written is in a store of every
 * live snapshot that it could have changed under, that is, some store from that snapshot's own
 * onward has it. So a fault is needed once per page and snapshot, and when a snapshot leaves the
 * chain its pages move to the next older one (chain.c) and the rule goes on to hold.
 *
 * When a page cannot be kept (its uid's share is used up, no memory), the snapshots that need it
 * become lost, before the page is let go; the client's writer never waits for memory of ours.
 *
 * A turn serves a bounded number of messages, so that regions of the same worker take turns.
 */
#include "config.h"

#include <string.h>
#include <sys/uio.h>

#include "backends/uffdio.h"
#include "common/clock.h"
#include "common/err.h"
#include "daemon/daemon.h"
#include "daemon/region/backing.h"
#include "daemon/region/region.h"
#include "daemon/uffd/chain.h"
#include "daemon/uffd/event.h"
#include "daemon/uffd/prealloc.h"
#include "daemon/uffd/tracker.h"

/* Messages of a turn. */
#define N_MSGS           32
/* Pages kept together when writes come in order. */
#define RUN_PAGES_MAX    64
/* Pages mapped around one that was touched. */
#define AROUND_PAGES     16
/* Turns without a message, in a row, before a client is taken to be the cause. */
#define N_IDLE_TURNS_MAX 10000
/* A turn tries so often while the mapping changes, and … */
#define N_AGAIN_MAX      16
/* … turns for so long, before the snapshots are lost. */
#define AGAIN_NSEC       ((uint64_t)500 * 1000 * 1000)
/* Protection lifted around a page when no snapshot needs any. */
#define FREE_RUN_BYTES   ((uint64_t)2 << 20)

/*
 * E_GONE ends the service; E_AGAIN ends the turn's serving (event.h); an unmapped range is the
 * client's own doing, whoever waits there is woken.
 */
static int fold_uffd(struct tracker *tracker, int r, uint64_t addr, uint64_t n_bytes)
{
	if (r == UFFDIO_E_UNMAPPED)
		r = uffdio_wake(tracker->uffd, addr, n_bytes);
	return r == UFFDIO_E_UNMAPPED ? 0 : r;
}

static uint64_t addr_of(const struct tracker *tracker, uint64_t idx)
{
	return tracker->region.addr + idx * page_size_bytes();
}

/*
 * Pages of a region, of which one is waited for. The kernel does several at once only where they
 * are in one mapping of the client's, which may have divided it (mprotect(), madvise()).
 */
struct pages {
	uint64_t first;
	uint64_t n;
	uint64_t idx; /* the one */
};

static struct pages run_of(uint64_t idx, uint64_t n)
{
	return (struct pages){.first = idx, .n = n, .idx = idx};
}

static int fold_pages(struct tracker *tracker, int r, const struct pages *pages)
{
	return fold_uffd(tracker, r, addr_of(tracker, pages->first), pages->n * page_size_bytes());
}

/* @is_quiet: who waits there is woken by what comes after it */
static int let_go(struct tracker *tracker, struct pages pages, bool is_quiet)
{
	const uint64_t size = page_size_bytes();
	int r;

	r = uffdio_unprotect(tracker->uffd, addr_of(tracker, pages.first), pages.n * size,
			     is_quiet);
	if (r == UFFDIO_E_UNMAPPED && pages.n > 1)
		r = uffdio_unprotect(tracker->uffd, addr_of(tracker, pages.idx), size, is_quiet);
	return fold_pages(tracker, r, &pages);
}

/* Map pages that memory has; @mode is 0 or UFFDIO_CONTINUE_MODE_WP. Those there already stay. */
static int map_pages(struct tracker *tracker, struct pages pages, uint64_t mode)
{
	const uint64_t size = page_size_bytes();
	int r;

	if (!pages.n)
		return 0;
	r = uffdio_continue(tracker->uffd, addr_of(tracker, pages.first), pages.n * size, mode,
			    NULL);
	if (r == UFFDIO_E_UNMAPPED && pages.n > 1)
		r = uffdio_continue(tracker->uffd, addr_of(tracker, pages.idx), size, mode, NULL);
	return r == UFFDIO_E_HOLE ? 0 : fold_pages(tracker, r, &pages);
}

/*
 * Copy pages of M into slots; pages of zeroes end up as STORE_ZERO and their slots are given back.
 * @slots has @n of them and is changed.
 */
static int fill_slots(struct tracker *tracker, uint64_t first, uint32_t *slots, size_t n)
{
	size_t size = page_size_bytes();
	struct iovec iov[RUN_PAGES_MAX];
	ssize_t n_read;

	store_pool_pages(tracker->pool, slots, iov, n);
	n_read =
		n == 1 ? pread(tracker->region.backing->ro_fd, iov[0].iov_base, size,
			       (off_t)(first * size))
		       : preadv(tracker->region.backing->ro_fd, iov, (int)n, (off_t)(first * size));
	if (n_read != (ssize_t)(n * size))
		return err_raise(-ENOMEM, "no memory for old pages");
	for (size_t i = 0; i < n; i++) {
		if (!is_zero(iov[i].iov_base, page_size_bytes()))
			continue;
		event_lose_removed(tracker, first + i);
		store_pool_put(tracker->pool, &slots[i], 1);
		slots[i] = STORE_ZERO;
	}
	return 0;
}

/* How many pages from @idx on, at most @max, the newest snapshot has not kept. */
static size_t count_unkept(const struct tracker *tracker, const struct link *link, uint64_t idx,
			   size_t max)
{
	size_t n = 1;

	while (n < max && idx + n < tracker->region.n_pages &&
	       store_get(&link->store, idx + n) == STORE_EMPTY)
		n++;
	return n;
}

/* How many from @idx on, at least 1 and at most @max, it has kept: they may be written. */
static size_t count_kept(const struct tracker *tracker, const struct link *link, uint64_t idx,
			 size_t max)
{
	size_t n = 1;

	while (n < max && idx + n < tracker->region.n_pages &&
	       store_get(&link->store, idx + n) != STORE_EMPTY)
		n++;
	return n;
}

/* Keep pages [@first, @first + @n), none of which @link has. 0;
 * STORE_E_QUOTA; -errno: none kept. */
static int keep(struct tracker *tracker, struct link *link, uint64_t first, size_t n)
{
	uint32_t slots[RUN_PAGES_MAX];
	int r;

	r = store_prepare(&link->store, first, n);
	if (!r)
		r = store_pool_get(tracker->pool, slots, n);
	if (r)
		return r;
	r = fill_slots(tracker, first, slots, n);
	if (r) {
		store_pool_put(tracker->pool, slots, n);
		return r;
	}
	for (size_t i = 0; i < n; i++)
		if (store_put(&link->store, first + i, slots[i]) == STORE_E_KEPT)
			store_pool_put(tracker->pool, &slots[i], 1);
	if (store_pool_is_low(tracker->pool))
		prealloc_want(tracker);
	stats_add(&tracker->region.daemon->stats, pages_kept, n);
	return 0;
}

/* Whether a live snapshot would read page @idx from M. */
static bool is_needed(const struct tracker *tracker, uint64_t idx)
{
	for (const struct link *link = tracker->newest; link; link = link->older) {
		if (store_get(&link->store, idx) != STORE_EMPTY)
			return false;
		if (!link->snap.is_lost && link->snap.state == SNAPSHOT_FROZEN &&
		    idx >= link->trimmed_pages)
			return true;
	}
	return false;
}

/* Writers that go through a region in order have the pages ahead of them kept at once. */
static size_t run_length(struct tracker *tracker, uint64_t idx)
{
	if (idx == tracker->last_end_idx && idx)
		tracker->run_pages = (uint32_t)min_u64(tracker->run_pages * 2, RUN_PAGES_MAX);
	else
		tracker->run_pages = 1;
	return tracker->run_pages;
}

int fault_keep(struct tracker *tracker, uint64_t idx)
{
	if (!tracker->newest || store_get(&tracker->newest->store, idx) != STORE_EMPTY ||
	    !is_needed(tracker, idx))
		return 0;
	return keep(tracker, tracker->newest, idx, 1);
}

static bool is_over_budget(const struct link *link, size_t n)
{
	return link->snap.budget_pages &&
	       atomic_load(&link->store.n_slots) + n > link->snap.budget_pages;
}

/* Whether the writer waits, rather than the newest snapshot be lost; it is woken when there is
 * room. */
static bool wait_for_room(struct tracker *tracker, const struct link *link)
{
	if (!link->snap.can_wait || link->snap.is_lost || link->snap.state != SNAPSHOT_FROZEN)
		return false;
	atomic_store(&tracker->has_waiters, true);
	return true;
}

/* Keep up to @n pages from @idx on. Return: how many, 0: the writer has to wait. */
static size_t keep_or_lose(struct tracker *tracker, uint64_t idx, size_t n)
{
	struct link *link = tracker->newest;
	int r;

	if (is_over_budget(link, n))
		n = 1;
	if (is_over_budget(link, n)) {
		if (wait_for_room(tracker, link))
			return 0;
		chain_lose_one(link, "its budget of old pages is used up");
		if (!is_needed(tracker, idx))
			return 1;
	}
	r = keep(tracker, link, idx, n);
	if (r && n > 1) {
		n = 1;
		r = keep(tracker, link, idx, n);
	}
	if (r && wait_for_room(tracker, link)) {
		quota_waiters_wait(tracker);
		return keep(tracker, link, idx, 1) ? 0 : 1;
	}
	if (r)
		chain_lose(tracker, idx, err_sentence());
	return n;
}

/*
 * See to it that no live snapshot needs page @idx from memory any more; those that cannot have it
 * are lost. Pages after it are kept too when writes come in order; the sweep may map some of those
 * when they are, protected, so that the first of them to be written is met here again, and the
 * others with it. Return: how many may be written now; 0: the writer has to wait, it is not to be
 * woken.
 */
static size_t make_writable(struct tracker *tracker, uint64_t idx)
{
	size_t n;

	if (store_get(&tracker->newest->store, idx) != STORE_EMPTY)
		return count_kept(tracker, tracker->newest, idx, RUN_PAGES_MAX);
	if (!is_needed(tracker, idx))
		return 1;
	n = count_unkept(tracker, tracker->newest, idx, run_length(tracker, idx));
	n = keep_or_lose(tracker, idx, n);
	tracker->last_end_idx = idx + n;
	return n;
}

/* Around page @idx when no snapshot needs any. */
static struct pages free_run(const struct tracker *tracker, uint64_t idx)
{
	uint64_t n_run = max_u64(FREE_RUN_BYTES / page_size_bytes(), 1);
	uint64_t first = align_down(idx, n_run);

	return (struct pages){
		.first = first, .n = min_u64(n_run, tracker->region.n_pages - first), .idx = idx};
}

/* A write to a page that is mapped and protected. */
static int serve_protected(struct tracker *tracker, uint64_t idx)
{
	uint64_t n;

	if (!tracker->newest)
		return let_go(tracker, free_run(tracker, idx), false);
	n = make_writable(tracker, idx);
	return n ? let_go(tracker, run_of(idx, n), false) : 0;
}

/* Readers get its neighbours too: first those behind it, and with them the page itself. */
static int map_around(struct tracker *tracker, uint64_t idx)
{
	const uint64_t first = align_down(idx, AROUND_PAGES);
	const uint64_t n_before = idx - first;
	const uint64_t n = min_u64(AROUND_PAGES, tracker->region.n_pages - first);
	int r;

	r = map_pages(tracker, run_of(idx, n - n_before), UFFDIO_CONTINUE_MODE_WP);
	return r ? r : map_pages(tracker, run_of(first, n_before), UFFDIO_CONTINUE_MODE_WP);
}

/*
 * A touch of a page that memory has and the mapping has not. For one who writes here and there its
 * neighbours would only cost time.
 */
static int serve_absent(struct tracker *tracker, uint64_t idx, bool is_write)
{
	uint64_t n;
	int r;

	if (!tracker->newest)
		return map_pages(tracker, free_run(tracker, idx), 0);
	if (!is_write)
		return map_around(tracker, idx);
	n = make_writable(tracker, idx);
	/*
	 * The sweep may have mapped some of several, protected. Those first, and nobody is woken
	 * before all are writable: he would be back with a fault of his next page, or of this one.
	 */
	r = n > 1 ? let_go(tracker, run_of(idx, n), true) : 0;
	return !r && n ? map_pages(tracker, run_of(idx, n), 0) : r;
}

/*
 * How many pages from @idx on, at most @max, are zeroes, as those that memory has not got. One that
 * it has is protected or absent, if it is not kept, so it stays as it is. 0: memory has got this
 * one since it was reported.
 *
 * Not by SEEK_DATA: that waits for the lock of the file, which a client holds for as long as it
 * likes, by a write(2) to its memory from memory that nobody serves.
 */
static uint64_t count_zeroes(const struct tracker *tracker, uint64_t idx, uint64_t max, void *buf)
{
	size_t size = page_size_bytes(), n_read;
	uint64_t n = min_u64(min_u64(max, tracker->region.n_pages - idx), WORKER_BUF_BYTES / size);
	ssize_t n_bytes;

	if (n <= 1)
		return 1;
	n_bytes = pread(tracker->region.backing->ro_fd, buf, n * size, (off_t)(idx * size));
	n_read = n_bytes > 0 ? (size_t)n_bytes / size : 0;
	for (n = 0; n < n_read; n++)
		if (!is_zero((const char *)buf + n * size, size))
			break;
	return n_read ? n : 1;
}

/*
 * Pages [@idx, @idx + @n) are zero in every snapshot that has not kept them. Return: how many may
 * be written now, 0: the writer has to wait.
 */
static uint64_t keep_zeroes(struct tracker *tracker, uint64_t idx, uint64_t n)
{
	struct link *link = tracker->newest;
	uint64_t n_kept = 0;
	int r;

	r = store_prepare(&link->store, idx, n);
	if (r && n > 1) {
		n = 1;
		r = store_prepare(&link->store, idx, n);
	}
	if (r && is_needed(tracker, idx)) {
		if (!wait_for_room(tracker, link)) {
			chain_lose(tracker, idx, err_sentence());
			return 1;
		}
		quota_waiters_wait(tracker);
		r = store_prepare(&link->store, idx, 1);
		if (r)
			return 0;
	}
	for (uint64_t i = 0; i < n; i++)
		event_lose_removed(tracker, idx + i);
	while (!r && n_kept < n && store_put(&link->store, idx + n_kept, STORE_ZERO) == 0)
		n_kept++;
	stats_add(&tracker->region.daemon->stats, pages_kept, n_kept);
	return max_u64(n_kept, 1);
}

/* A touch of a page that memory has not got: zero, in every snapshot that has not kept it. */
static int serve_missing(struct tracker *tracker, uint64_t idx, bool is_write, void *buf)
{
	uint64_t addr = addr_of(tracker, idx);
	size_t size = page_size_bytes();
	uint64_t n = 1;

	if (tracker->newest && !is_write) {
		event_lose_removed(tracker, idx);
		memset(buf, 0, size);
		return fold_uffd(tracker,
				 uffdio_copy(tracker->uffd, addr, buf, size, UFFDIO_COPY_MODE_WP),
				 addr, size);
	}
	if (tracker->newest) {
		n = count_zeroes(tracker, idx, run_length(tracker, idx), buf);
		if (!n)
			return serve_absent(tracker, idx, true);
		n = keep_zeroes(tracker, idx, n);
		if (!n)
			return 0;
		tracker->last_end_idx = idx + n;
	}
	return fold_uffd(tracker, uffdio_zeropage(tracker->uffd, addr, n * size), addr, n * size);
}

/* With served.lock, and chain_lock held shared. 0; UFFDIO_E_GONE, UFFDIO_E_AGAIN; -errno. */
static int serve_msg(struct tracker *tracker, const struct uffd_msg *msg, void *buf)
{
	uint64_t flags = msg->arg.pagefault.flags;
	bool is_write = flags & UFFD_PAGEFAULT_FLAG_WRITE;
	uint64_t idx;

	if (msg->event != UFFD_EVENT_PAGEFAULT)
		return 0;
	idx = (msg->arg.pagefault.address - tracker->region.addr) / page_size_bytes();
	/* Where the client moved its old page tables nobody has anything. */
	if (idx >= tracker->region.n_pages)
		return 0;
	if (flags & UFFD_PAGEFAULT_FLAG_WP)
		return serve_protected(tracker, idx);
	if (flags & UFFD_PAGEFAULT_FLAG_MINOR)
		return serve_absent(tracker, idx, is_write);
	return serve_missing(tracker, idx, is_write, buf);
}

/*
 * Nothing more can be served. When the process has ended (@error is 0) nobody writes any more and
 * the snapshots stay right. Otherwise they are lost, and then nobody is kept waiting.
 */
static enum served_verdict give_up(struct tracker *tracker, int error)
{
	if (error) {
		chain_lose_all(tracker, err_sentence());
		(void)!uffdio_unregister(tracker->uffd, tracker->region.addr,
					 tracker->region.size_bytes);
		/* Which it does not do for those who wait for write protection to go. */
		(void)!uffdio_wake(tracker->uffd, tracker->region.addr, tracker->region.size_bytes);
	}
	tracker_gone(tracker);
	return SERVED_GONE;
}

/* Spurious wakeup. The sender may have cleared O_NONBLOCK: epoll then reports EPOLLERR. */
static enum served_verdict serve_nothing(struct tracker *tracker)
{
	int r;

	r = uffdio_set_nonblock(tracker->uffd);
	if (!r && ++tracker->n_idle_turns > N_IDLE_TURNS_MAX)
		r = err_raise(-EPROTO, "the client interferes with its userfaultfd");
	return r ? give_up(tracker, r) : SERVED_AGAIN;
}

/* Go to where the writers are. */
static void follow_writer(struct tracker *tracker, const struct uffd_msg *msg, uint64_t now)
{
	struct worker_pool *workers = tracker->region.daemon->workers;
	int cpu;

	if (worker_pool_size(workers) < 2 || msg->event != UFFD_EVENT_PAGEFAULT ||
	    !follow_is_due(&tracker->follow, now))
		return;
	cpu = follow_cpu_of((pid_t)msg->arg.pagefault.feat.ptid);
	if (cpu >= 0 && follow_vote(&tracker->follow, cpu, worker_cpu(&tracker->served), now))
		worker_follow(workers, &tracker->served, cpu);
}

/*
 * The sweep begins with the first fault after a move: whoever made that is waiting to go on, and
 * not to be kept from it by what a sweep has to wake.
 */
static void begin_sweep(struct tracker *tracker)
{
	tracker->wants_sweep = false;
	if (!atomic_exchange(&tracker->is_moved_posted, true))
		loop_post(tracker->region.daemon->loop, &tracker->moved_task);
}

/*
 * From @*n_done on, which counts those that are served.
 * @started_ns: when they were read, or 0: not to be timed
 */
static int serve_faults(struct tracker *tracker, const struct uffd_msg *msgs, size_t n_msgs,
			void *buf, uint64_t started_ns, size_t *n_done)
{
	struct stats *stats = &tracker->region.daemon->stats;
	const size_t first = *n_done;
	uint64_t now = started_ns;
	int r = 0;

	pthread_rwlock_rdlock(&tracker->chain_lock);
	while (*n_done < n_msgs) {
		r = serve_msg(tracker, &msgs[*n_done], buf);
		if (r)
			break;
		++*n_done;
		if (!started_ns)
			continue;
		now = now_nsec();
		hist_add(&stats->fault_latency, now - started_ns);
	}
	pthread_rwlock_unlock(&tracker->chain_lock);
	stats_add(stats, faults, *n_done - first);
	atomic_fetch_add_explicit(&tracker->n_faults, *n_done - first, memory_order_relaxed);
	if (!r && started_ns)
		follow_writer(tracker, &msgs[n_msgs - 1], now); /* the one that waited least */
	if (!r && tracker->wants_sweep)
		begin_sweep(tracker);
	return r;
}

/* Turns in a row are so alike that one of eight says as much:
 * reading the clock is 1 % of a fault. */
static bool is_timed(struct tracker *tracker)
{
	return !tracker->served.is_try || tracker->n_tries++ % 8 == 0;
}

/* The mapping changed all the while; whoever waits is woken, and comes back. */
static int put_off(struct tracker *tracker)
{
	const uint64_t now = now_nsec();

	if (!tracker->again_since_nsec)
		tracker->again_since_nsec = now;
	if (now - tracker->again_since_nsec >= AGAIN_NSEC)
		chain_lose_all(tracker, "the program changes the mapping of the region without "
					"pause, so that its writes would wait");
	return event_wake_all(tracker);
}

/* 0; UFFDIO_E_GONE; -errno */
static int serve_turn(struct tracker *tracker, const struct uffd_msg *msgs, size_t n_msgs,
		      void *buf)
{
	const uint64_t started_ns = is_timed(tracker) ? now_nsec() : 0;
	bool has_moved = false;
	size_t n_done = 0;
	int r, i;

	r = serve_faults(tracker, msgs, n_msgs, buf, started_ns, &n_done);
	for (i = 0; r == UFFDIO_E_AGAIN && i < N_AGAIN_MAX; i++) {
		r = event_catch_up(tracker, buf, WORKER_BUF_BYTES, &has_moved);
		if (r || has_moved)
			return r;
		r = serve_faults(tracker, msgs, n_msgs, buf, started_ns, &n_done);
	}
	if (r == UFFDIO_E_AGAIN)
		return put_off(tracker);
	tracker->again_since_nsec = 0;
	return r || !i ? r : event_wake_all(tracker);
}

enum served_verdict fault_serve_region(struct served *served, void *buf)
{
	struct tracker *tracker = container_of(served, struct tracker, served);
	struct uffd_msg msgs[N_MSGS];
	bool has_moved;
	size_t n_msgs;
	int r;

	r = event_read(tracker, msgs, N_MSGS, &n_msgs, &has_moved);
	if (!r && !n_msgs)
		return served->is_try ? SERVED_AGAIN : serve_nothing(tracker);
	tracker->n_idle_turns = 0;
	if (!r && !has_moved)
		r = serve_turn(tracker, msgs, n_msgs, buf);
	if (r)
		return give_up(tracker, r < 0 ? r : 0);
	/* A thread alone is likely to be back soon; of many, there are others to wait for. */
	return n_msgs == 1 ? SERVED_MORE : SERVED_AGAIN;
}
