/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where old pages are kept.
 *
 * A *pool* belongs to a region: slots of one page each, in a memfd mapped in arenas of up to 64
 * MiB. A *store* belongs to a snapshot: which slot holds page i as it was when the snapshot was
 * taken and before it changed. A page that was all zeroes needs no slot. Because slots belong to
 * the region, handing a page from one snapshot's store to an older one's moves a number, not bytes.
 *
 * Locks: a store's entries are atomic. They are set from empty to a slot by compare-and-swap, by
 * any thread that holds the region's chain lock shared; they are moved and cleared with it held
 * exclusively. The pool's own lock guards the choice of slots only and is the last one taken.
 *
 * A slot's memory is charged to the uid (QUOTA_KEPT_BYTES) before the slot is given out. So is what
 * a store takes to say which slot has which page: its maps when it is made, and its entries, 4
 * bytes for each page, by stretches of STORE_TOUCH_PAGES of them, before the first one is used.
 *
 * Handing down cannot fail. A stretch that goes as a whole takes its charge with it. Only where the
 * older store gets pages of a stretch of which the newer one keeps the rest, as when a snapshot is
 * trimmed by its save, one more stretch is charged whatever the limit says: one for each snapshot
 * that is being trimmed, at most, and until the rest of it follows.
 */
#ifndef COWD_SLOTS_H
#define COWD_SLOTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/uio.h>

#include "daemon/base/quota.h"

/* Named outcome: the uid may keep no more. */
#define STORE_E_QUOTA 1
/* Named outcome of store_put(): the page is kept already; the new copy was dropped. */
#define STORE_E_KEPT  2

/* What an entry of a store says; other values name a slot. */
#define STORE_EMPTY 0u
#define STORE_ZERO  1u

struct store_pool;

/** store_pool_new() - for a region of @n_pages, charged to @user. 0 or -errno */
int store_pool_new(struct store_pool **out, uint64_t n_pages, struct quota_user *user);
struct store_pool *store_pool_free(struct store_pool *pool);
DEFINE_CLEANUP(store_pool_free, struct store_pool *)

/**
 * store_pool_get() - @n slots to be filled
 * @slots: gets them
 *
 * Context: any thread. Return: 0; STORE_E_QUOTA, with a sentence, none was taken; -ENOMEM.
 */
int store_pool_get(struct store_pool *pool, uint32_t *slots, size_t n) MUST_CHECK;
/** store_pool_put() - give slots back; STORE_EMPTY and STORE_ZERO are passed over */
void store_pool_put(struct store_pool *pool, const uint32_t *slots, size_t n);
/** store_pool_page() - the memory of @slot, which is none of the two above, for writing to it */
void *store_pool_page(struct store_pool *pool, uint32_t slot);
/**
 * store_pool_read() - have the kernel copy @n_bytes of the page of @slot, and of those after it
 * @in_page: from this byte of the first one on
 *
 * Where a page cannot be had, as it does not come back from swap, or there is no memory for the
 * bytes, it is an error, and no signal. Any thread. Return: 0; -errno, with a sentence.
 */
int store_pool_read(const struct store_pool *pool, uint32_t slot, size_t in_page, void *buf,
		    size_t n_bytes);
/** store_pool_pages() - the same for each of @n */
void store_pool_pages(struct store_pool *pool, const uint32_t *slots, struct iovec *pages,
		      size_t n);
/** store_pool_is_cold() - whether no slot has memory, so that there is none to give back */
bool store_pool_is_cold(struct store_pool *pool);
/** store_pool_is_low() - whether few slots are left that have memory already; no lock */
bool store_pool_is_low(const struct store_pool *pool);
/**
 * store_pool_prealloc() - give up to @n free slots memory ahead of need, charged
 * @max_warm: no more of them once so many slots, used ones included, have memory
 *
 * Context: a job thread; takes time in proportion. Return: how many; 0: the uid may keep no more.
 */
size_t store_pool_prealloc(struct store_pool *pool, size_t n, uint64_t max_warm);
/**
 * store_pool_trim() - give memory of some unused slots back to the kernel
 * @n_keep: so many unused ones keep theirs
 *
 * Takes a short time; nobody else waits for it. Return: whether there may be more to give back.
 */
bool store_pool_trim(struct store_pool *pool, size_t n_keep);
/** store_pool_used() - slots given out now */
uint64_t store_pool_used(struct store_pool *pool);

/* For store.c: where entries made ahead are, or NULL. */
_Atomic uint32_t **store_pool_spare(struct store_pool *pool);
/* For store.c: QUOTA_KEPT_BYTES, part of the pool's charge. */
int store_pool_charge_index(struct store_pool *pool, uint64_t n_bytes) MUST_CHECK;
void store_pool_force_index(struct store_pool *pool, uint64_t n_bytes);
void store_pool_refund_index(struct store_pool *pool, uint64_t n_bytes);

struct store {
	struct store_pool *pool;   /* borrowed from the region */
	_Atomic uint32_t *slots;   /* one for each page */
	_Atomic uint64_t *touched; /* bit i: slots[i * 1024] to [i * 1024 + 1023] may be in use */
	_Atomic uint64_t *paid;    /* … may have memory, which is charged */
	_Atomic uint64_t n_paid;   /* bits of it that are set */
	uint64_t n_pages;
	_Atomic uint64_t n_kept;  /* entries that are not empty */
	_Atomic uint64_t n_slots; /* those that take memory */
};

/**
 * store_init() - an empty one
 *
 * Context: one thread at a time for each pool, as the next. Return: 0; -EDQUOT, -ENOMEM; on failure
 * as store_deinit() leaves it.
 */
int store_init(struct store *store, struct store_pool *pool, uint64_t n_pages);
/** store_init_ahead() - do now what the next store_init() would wait for the kernel for; best
 * effort */
void store_init_ahead(struct store_pool *pool, uint64_t n_pages);
/** store_unmap() - entries for @n_pages; may be NULL */
void store_unmap(_Atomic uint32_t *slots, uint64_t n_pages);
/** store_deinit() - idempotent; its slots are given back to the pool */
void store_deinit(struct store *store);

static inline uint32_t store_get(const struct store *store, uint64_t idx)
{
	return atomic_load_explicit(&store->slots[idx], memory_order_acquire);
}

/* Entries of a store that store_is_touched() answers for at once; a power of two. */
#define STORE_TOUCH_PAGES ((uint64_t)1024)

/** store_is_touched() - whether any of the STORE_TOUCH_PAGES entries around @idx may be in use */
bool store_is_touched(const struct store *store, uint64_t idx);

/** store_next_touched() - the first entry from @idx on that may be in use; n_pages: none */
uint64_t store_next_touched(const struct store *store, uint64_t idx);

/**
 * store_prepare() - pages [@first, @first + @n) are going to be kept
 *
 * Context: as store_put(). Return: 0; STORE_E_QUOTA, with a sentence.
 */
int store_prepare(struct store *store, uint64_t first, uint64_t n) MUST_CHECK;
/**
 * store_put() - keep page @idx, after store_prepare() of it, with the chain lock held all the while
 * @slot: STORE_ZERO, or a slot already filled, which the store owns on success
 *
 * The bytes are visible to whoever sees the entry. Return: 0; STORE_E_KEPT, @slot is still the
 * caller's.
 */
int store_put(struct store *store, uint64_t idx, uint32_t slot) MUST_CHECK;

/**
 * store_hand_down() - give pages [@first, @end) of @from to @to, or back to the pool
 * @to: the next older snapshot's store; keeps what it has already; NULL: nobody needs the pages
 *
 * Context: any thread, region's chain lock held exclusively.
 */
void store_hand_down(struct store *from, struct store *to, uint64_t first, uint64_t end);

#endif
