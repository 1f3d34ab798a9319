// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Pools of slots; contracts and locks are in slots.h, stores are in store.c.
 *
 * A pool grows by arenas: a piece of its memfd, mapped once and never moved. For each slot of an
 * arena there are two bits: *used*, it was given out; *warm*, it has memory. Memory comes with
 * first use and goes when store_pool_trim() punches it out, and the charge follows the warm bits,
 * so what the uid is charged is what the slots take. Slots are chosen lowest first, so that the end
 * of the pool empties.
 */
#include "config.h"

#include "daemon/uffd/slots.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "common/err.h"
#include "daemon/base/job.h"

#define ARENA_SLOTS_MAX ((uint32_t)16384)
#define SLOT_FIRST      2u /* after STORE_EMPTY and STORE_ZERO */
/* With fewer than this ready, or than half of what was made ready last, more are. */
#define LOW_SLOTS       48u
/* Made ready at a time, so that those who keep pages meanwhile have the first ones soon, and so
 * that who wants the CPU has it soon: a kernel without preemption gives it up between calls. */
#define PREALLOC_SLOTS  16u
/* Made ready only if the uid may keep more than this besides: while they are,
 * nobody has them, and a snapshot is not to be lost for want of what is about
 * to be there. Threads that do it are few. */
#define PREALLOC_LEFT   ((uint64_t)512)
/* Slots are charged some at a time, so that threads of one uid do not meet at its counter. */
#define CHARGE_SLOTS    32u
/* Lose their memory at a time, which takes the kernel some tens of microseconds. */
#define TRIM_SLOTS      64u

struct arena {
	char *mem;
	uint64_t *used;
	uint64_t *warm;
	uint32_t n_used;
	uint32_t n_warm;
	uint32_t hint_word; /* no free slot below it */
};

struct store_pool {
	pthread_mutex_t lock;
	struct quota_user *user;
	struct charge charge;
	struct charge index_charge; /* of all its stores */
	struct charge fd_charge;
	uint64_t n_charged; /* slots; at least as many as are warm */
	int fd;
	uint32_t arena_slots;
	size_t n_words; /* of 64 slots, in each arena */
	struct arena *arenas;
	size_t n_arenas;
	size_t hint_arena; /* none below it has a free slot */
	uint64_t n_used;
	uint64_t n_warm;
	uint64_t n_low;
	_Atomic bool is_low;
	_Atomic uint32_t *spare; /* entries for n_pages, for the next store; or NULL */
	uint64_t n_pages;
};

int store_pool_new(struct store_pool **out, uint64_t n_pages, struct quota_user *user)
{
	CLEANUP(store_pool_freep) struct store_pool *pool = NULL;
	int r;

	pool = malloc(sizeof(*pool));
	if (!pool)
		return err_oom(sizeof(*pool), "a store");
	*pool = (struct store_pool){
		.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1, .n_pages = n_pages};
	pool->user = quota_user_ref(user);
	pool->arena_slots = (uint32_t)min_u64(align_up(n_pages, 64), ARENA_SLOTS_MAX);
	pool->n_words = pool->arena_slots / 64;
	pool->n_low = LOW_SLOTS;

	r = quota_charge(&pool->fd_charge, user, QUOTA_FDS, 1);
	if (r)
		return quota_error(r);
	pool->fd = memfd_create("cowd-store", MFD_CLOEXEC);
	if (pool->fd < 0)
		return err_raise_errno("cannot make a memfd for old pages");
	*out = steal_ptr(&pool);
	return 0;
}

struct store_pool *store_pool_free(struct store_pool *pool)
{
	if (!pool)
		return NULL;
	for (size_t i = 0; i < pool->n_arenas; i++) {
		(void)munmap(pool->arenas[i].mem, pool->arena_slots * page_size_bytes());
		free(pool->arenas[i].used);
	}
	free(pool->arenas);
	store_unmap(pool->spare, pool->n_pages);
	pool->fd = fd_close(pool->fd);
	charge_deinit(&pool->charge);
	charge_deinit(&pool->index_charge);
	charge_deinit(&pool->fd_charge);
	quota_user_unref(pool->user);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
	return NULL;
}

_Atomic uint32_t **store_pool_spare(struct store_pool *pool)
{
	return &pool->spare;
}

static int add_arena(struct store_pool *pool)
{
	size_t n_bytes = pool->arena_slots * page_size_bytes();
	struct arena *arenas;
	struct arena arena = {0};

	arenas = realloc(pool->arenas, (pool->n_arenas + 1) * sizeof(*arenas));
	if (!arenas)
		return err_oom((pool->n_arenas + 1) * sizeof(*arenas), "a store");
	pool->arenas = arenas;
	if (ftruncate(pool->fd, (off_t)((pool->n_arenas + 1) * n_bytes)) < 0)
		return err_raise_errno("cannot enlarge a store");
	arena.used = calloc(2 * pool->n_words, sizeof(*arena.used));
	if (!arena.used)
		return err_oom(2 * pool->n_words * sizeof(*arena.used), "a store");
	arena.warm = arena.used + pool->n_words;
	arena.mem = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, pool->fd,
			 (off_t)(pool->n_arenas * n_bytes));
	if (arena.mem == MAP_FAILED) {
		free(arena.used);
		return err_raise_errno("cannot map %zu bytes of a store", n_bytes);
	}
	pool->arenas[pool->n_arenas++] = arena;
	return 0;
}

/* Charge for one more warm slot. */
static int charge_slot(struct store_pool *pool)
{
	uint64_t n_more = CHARGE_SLOTS;
	int r = 0;

	if (pool->n_warm < pool->n_charged)
		return 0;
	/* Near the limit the last slots are charged one by one. */
	for (; n_more; n_more = n_more > 1 ? 1 : 0) {
		uint64_t n_bytes = n_more * page_size_bytes();

		r = pool->charge.user
			    ? quota_charge_more(&pool->charge, n_bytes)
			    : quota_charge(&pool->charge, pool->user, QUOTA_KEPT_BYTES, n_bytes);
		if (r <= 0)
			break;
	}
	if (r)
		return r > 0 ? STORE_E_QUOTA : r;
	pool->n_charged += n_more;
	return 0;
}

static int take_slot(struct store_pool *pool, struct arena *arena, uint32_t *slot)
{
	for (uint32_t w = arena->hint_word; w < pool->n_words; w++) {
		uint64_t bit;
		int r;

		if (!~arena->used[w])
			continue;
		arena->hint_word = w;
		bit = 1ULL << __builtin_ctzll(~arena->used[w]);
		if (!(arena->warm[w] & bit)) {
			r = charge_slot(pool);
			if (r)
				return r;
			arena->warm[w] |= bit;
			arena->n_warm++;
			pool->n_warm++;
		}
		arena->used[w] |= bit;
		arena->n_used++;
		pool->n_used++;
		*slot = SLOT_FIRST + (uint32_t)(arena - pool->arenas) * pool->arena_slots + w * 64 +
			(uint32_t)__builtin_ctzll(bit);
		return 0;
	}
	return err_raise(-ENOMEM, "an arena of a store has lost a slot");
}

static void give_slot(struct store_pool *pool, uint32_t slot)
{
	size_t idx = (slot - SLOT_FIRST) / pool->arena_slots;
	uint32_t i = (slot - SLOT_FIRST) % pool->arena_slots;
	struct arena *arena = &pool->arenas[idx];

	arena->used[i / 64] &= ~(1ULL << (i % 64));
	arena->n_used--;
	pool->n_used--;
	if (i / 64 < arena->hint_word)
		arena->hint_word = i / 64;
	if (idx < pool->hint_arena)
		pool->hint_arena = idx;
}

static int get_one(struct store_pool *pool, uint32_t *slot)
{
	int r;

	while (pool->hint_arena < pool->n_arenas &&
	       pool->arenas[pool->hint_arena].n_used == pool->arena_slots)
		pool->hint_arena++;
	if (pool->hint_arena == pool->n_arenas) {
		r = add_arena(pool);
		if (r)
			return r;
	}
	return take_slot(pool, &pool->arenas[pool->hint_arena], slot);
}

bool store_pool_is_low(const struct store_pool *pool)
{
	return atomic_load_explicit(&pool->is_low, memory_order_relaxed);
}

/* With the lock held. */
static void note_level(struct store_pool *pool)
{
	atomic_store_explicit(&pool->is_low, pool->n_warm - pool->n_used < pool->n_low,
			      memory_order_relaxed);
}

/* [*@first, *@first + result) of the arena are neither used nor warm; at most @n. */
static size_t find_cold(const struct arena *arena, uint32_t n_slots, uint32_t *first, size_t n)
{
	size_t n_found = 0;

	for (uint32_t i = arena->hint_word * 64; i < n_slots && n_found < n; i++) {
		bool is_cold = !((arena->used[i / 64] | arena->warm[i / 64]) >> (i % 64) & 1);

		if (!is_cold && n_found)
			break;
		if (is_cold && !n_found++)
			*first = i;
		else if (is_cold)
			continue;
	}
	return n_found;
}

static void mark(uint64_t *bits, uint32_t first, size_t n, bool is_set)
{
	for (uint32_t i = first; i < first + n; i++) {
		uint64_t bit = 1ULL << (i % 64);

		bits[i / 64] = is_set ? bits[i / 64] | bit : bits[i / 64] & ~bit;
	}
}

/* Reserve cold slots by taking them; charged. */
static size_t reserve_cold(struct store_pool *pool, size_t *idx, uint32_t *first, size_t n_max)
{
	struct arena *arena;
	size_t n = 0;

	for (*idx = pool->hint_arena; *idx < pool->n_arenas; ++*idx) {
		n = find_cold(&pool->arenas[*idx], pool->arena_slots, first, n_max);
		if (n)
			break;
	}
	if (*idx == pool->n_arenas)
		return 0; /* the next one is made when it is needed */
	arena = &pool->arenas[*idx];
	for (size_t i = 0; i < n; i++) {
		if (charge_slot(pool)) {
			n = i;
			break;
		}
		pool->n_warm++;
	}
	mark(arena->used, *first, n, true);
	arena->n_used += (uint32_t)n;
	pool->n_used += n;
	return n;
}

static size_t prealloc_some(struct store_pool *pool, size_t n)
{
	size_t size = page_size_bytes();
	struct arena *arena;
	uint32_t first = 0;
	size_t idx = 0;
	char *mem = NULL;

	pthread_mutex_lock(&pool->lock);
	n = reserve_cold(pool, &idx, &first, n);
	if (n)
		mem = pool->arenas[idx].mem + first * size;
	pthread_mutex_unlock(&pool->lock);
	if (!n)
		return 0;
	/* What a kernel cannot do ahead (before 5.14) it does on first use. */
	(void)madvise(mem, n * size, MADV_POPULATE_WRITE);
	pthread_mutex_lock(&pool->lock);
	arena = &pool->arenas[idx];
	mark(arena->used, first, n, false);
	mark(arena->warm, first, n, true);
	arena->n_used -= (uint32_t)n;
	arena->n_warm += (uint32_t)n;
	pool->n_used -= n;
	arena->hint_word = (uint32_t)min_u64(arena->hint_word, first / 64);
	pool->hint_arena = min_u64(pool->hint_arena, idx);
	note_level(pool);
	pthread_mutex_unlock(&pool->lock);
	return n;
}

size_t store_pool_prealloc(struct store_pool *pool, size_t n, uint64_t max_warm)
{
	uint64_t since_nsec = now_nsec();
	size_t n_done = 0, n_more;

	do {
		if (quota_user_left(pool->user, QUOTA_KEPT_BYTES) <
		    PREALLOC_LEFT * page_size_bytes())
			break;
		pthread_mutex_lock(&pool->lock);
		pool->n_low = max_u64(n / 2, LOW_SLOTS);
		n_more = min_u64(n - n_done, max_warm - min_u64(pool->n_warm, max_warm));
		pthread_mutex_unlock(&pool->lock);
		n_more = n_more ? prealloc_some(pool, min_u64(n_more, PREALLOC_SLOTS)) : 0;
		n_done += n_more;
		job_give_way(&since_nsec);
	} while (n_more);
	return n_done;
}

int store_pool_get(struct store_pool *pool, uint32_t *slots, size_t n)
{
	int r = 0;

	pthread_mutex_lock(&pool->lock);
	for (size_t i = 0; i < n; i++) {
		r = get_one(pool, &slots[i]);
		if (!r)
			continue;
		while (i--)
			give_slot(pool, slots[i]);
		break;
	}
	note_level(pool);
	pthread_mutex_unlock(&pool->lock);
	return r;
}

void store_pool_put(struct store_pool *pool, const uint32_t *slots, size_t n)
{
	pthread_mutex_lock(&pool->lock);
	for (size_t i = 0; i < n; i++)
		if (slots[i] >= SLOT_FIRST)
			give_slot(pool, slots[i]);
	pthread_mutex_unlock(&pool->lock);
}

int store_pool_read(const struct store_pool *pool, uint32_t slot, size_t in_page, void *buf,
		    size_t n_bytes)
{
	/* Arenas follow each other in the memfd as their slots' numbers do. */
	const uint64_t off = (slot - SLOT_FIRST) * (uint64_t)page_size_bytes() + in_page;
	size_t n_done = 0;

	while (n_done < n_bytes) {
		ssize_t n = pread(pool->fd, (char *)buf + n_done, n_bytes - n_done,
				  (off_t)(off + n_done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? err_raise_errno("pages that were kept cannot be read")
				 : err_raise(-EIO, "pages that were kept cannot be read");
		n_done += (size_t)n;
	}
	return 0;
}

void store_pool_pages(struct store_pool *pool, const uint32_t *slots, struct iovec *pages, size_t n)
{
	size_t size = page_size_bytes();

	/* The array of arenas may be moved by a thread that adds one; an arena's memory is not. */
	pthread_mutex_lock(&pool->lock);
	for (size_t i = 0; i < n; i++) {
		uint32_t at = slots[i] - SLOT_FIRST;
		char *mem = pool->arenas[at / pool->arena_slots].mem;

		pages[i] = (struct iovec){mem + at % pool->arena_slots * size, size};
	}
	pthread_mutex_unlock(&pool->lock);
}

void *store_pool_page(struct store_pool *pool, uint32_t slot)
{
	struct iovec page;

	store_pool_pages(pool, &slot, &page, 1);
	return page.iov_base;
}

static bool is_idle(const struct arena *arena, uint32_t i)
{
	return (arena->warm[i / 64] & ~arena->used[i / 64]) >> (i % 64) & 1;
}

/* The last run of warm slots that nobody uses; at most @n. Return: how many, from *@first on. */
static size_t find_idle(const struct store_pool *pool, size_t *idx, uint32_t *first, size_t n)
{
	for (*idx = pool->n_arenas; (*idx)--;) {
		const struct arena *arena = &pool->arenas[*idx];
		uint32_t i = pool->arena_slots, end;

		if (arena->n_warm <= arena->n_used)
			continue;
		while (i && !is_idle(arena, i - 1))
			i--;
		end = i;
		while (i && end - i < n && is_idle(arena, i - 1))
			i--;
		*first = i;
		if (end > i)
			return end - i;
	}
	return 0;
}

/* With the lock held: slots are taken, so that nobody has them while they lose their memory, or
 * are given back. */
static void hold_slots(struct store_pool *pool, size_t idx, uint32_t first, size_t n, bool is_held)
{
	struct arena *arena = &pool->arenas[idx];

	mark(arena->used, first, n, is_held);
	arena->n_used += is_held ? (uint32_t)n : -(uint32_t)n;
	pool->n_used += is_held ? n : -n;
	if (is_held)
		return;
	arena->hint_word = (uint32_t)min_u64(arena->hint_word, first / 64);
	pool->hint_arena = min_u64(pool->hint_arena, idx);
}

/* With the lock held, which is let go while the kernel takes its time. */
static void punch_out(struct store_pool *pool, size_t idx, uint32_t first, size_t n)
{
	size_t size = page_size_bytes();

	hold_slots(pool, idx, first, n, true);
	pthread_mutex_unlock(&pool->lock);
	(void)fallocate(pool->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			(off_t)((idx * pool->arena_slots + first) * size), (off_t)(n * size));
	pthread_mutex_lock(&pool->lock);
	mark(pool->arenas[idx].warm, first, n, false);
	pool->arenas[idx].n_warm -= (uint32_t)n;
	pool->n_warm -= n;
	hold_slots(pool, idx, first, n, false);
}

bool store_pool_trim(struct store_pool *pool, size_t n_keep)
{
	uint64_t n_excess;
	uint32_t first = 0;
	size_t idx = 0, n = 0;

	pthread_mutex_lock(&pool->lock);
	n_excess = pool->n_warm - pool->n_used;
	if (n_excess > n_keep)
		n = find_idle(pool, &idx, &first, min_u64(n_excess - n_keep, TRIM_SLOTS));
	if (n)
		punch_out(pool, idx, first, n);
	if (pool->n_charged > pool->n_warm) {
		quota_refund(&pool->charge, (pool->n_charged - pool->n_warm) * page_size_bytes());
		pool->n_charged = pool->n_warm;
	}
	pthread_mutex_unlock(&pool->lock);
	return n;
}

bool store_pool_is_cold(struct store_pool *pool)
{
	bool is_cold;

	pthread_mutex_lock(&pool->lock);
	is_cold = !pool->n_warm;
	pthread_mutex_unlock(&pool->lock);
	return is_cold;
}

uint64_t store_pool_used(struct store_pool *pool)
{
	uint64_t n_used;

	pthread_mutex_lock(&pool->lock);
	n_used = pool->n_used;
	pthread_mutex_unlock(&pool->lock);
	return n_used;
}

int store_pool_charge_index(struct store_pool *pool, uint64_t n_bytes)
{
	struct charge *charge = &pool->index_charge;
	int r;

	pthread_mutex_lock(&pool->lock);
	r = charge->user ? quota_charge_more(charge, n_bytes)
			 : quota_charge(charge, pool->user, QUOTA_KEPT_BYTES, n_bytes);
	pthread_mutex_unlock(&pool->lock);
	return r > 0 ? STORE_E_QUOTA : r;
}

void store_pool_force_index(struct store_pool *pool, uint64_t n_bytes)
{
	pthread_mutex_lock(&pool->lock);
	quota_charge_anyway(&pool->index_charge, n_bytes);
	pthread_mutex_unlock(&pool->lock);
}

void store_pool_refund_index(struct store_pool *pool, uint64_t n_bytes)
{
	pthread_mutex_lock(&pool->lock);
	quota_refund(&pool->index_charge, n_bytes);
	pthread_mutex_unlock(&pool->lock);
}
