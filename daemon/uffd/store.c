// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Stores: which slot has which page of a snapshot; contracts, locks and charges are in store.h.
 *
 * The entries are an array that has memory where something was put, a page of it for each
 * *stretch* of STORE_TOUCH_PAGES entries. Two maps have a bit for each stretch: *touched*, there
 * may be entries; *paid*, it may have memory, and that is charged. A stretch is paid before the
 * first entry is put there, and as long as it has memory, which is longer than it is touched where
 * entries were dropped.
 */
#include "config.h"

#include <assert.h>
#include <sys/mman.h>

#include "common/err.h"
#include "daemon/uffd/slots.h"

/* Entries of a stretch. */
#define TOUCH_SHIFT 10u
static_assert(STORE_TOUCH_PAGES == 1u << TOUCH_SHIFT, "a bit is for that many entries");
#define STRETCH_BYTES (STORE_TOUCH_PAGES * sizeof(uint32_t))

static size_t slots_bytes(uint64_t n_pages)
{
	return align_up(n_pages * sizeof(uint32_t), page_size_bytes());
}

/* Of each of the two maps. */
static size_t n_map_words(const struct store *store)
{
	return (store->n_pages >> TOUCH_SHIFT) / 64 + 1;
}

static uint64_t maps_bytes(const struct store *store)
{
	return 2 * n_map_words(store) * sizeof(*store->touched);
}

/* What a stretch with memory takes; with large pages several share one, and this is too much. */
static uint64_t stretch_charge(void)
{
	return max_u64(STRETCH_BYTES, page_size_bytes());
}

static bool test_bit(const _Atomic uint64_t *map, uint64_t idx)
{
	return atomic_load_explicit(&map[(idx >> TOUCH_SHIFT) / 64], memory_order_relaxed) >>
		       ((idx >> TOUCH_SHIFT) % 64) &
	       1;
}

/* Return: whether it was not set before. */
static bool set_bit(_Atomic uint64_t *map, uint64_t idx)
{
	uint64_t bit = 1ULL << ((idx >> TOUCH_SHIFT) % 64);

	return !(atomic_fetch_or_explicit(&map[(idx >> TOUCH_SHIFT) / 64], bit,
					  memory_order_relaxed) &
		 bit);
}

static void clear_bit(_Atomic uint64_t *map, uint64_t idx)
{
	atomic_fetch_and_explicit(&map[(idx >> TOUCH_SHIFT) / 64],
				  ~(1ULL << ((idx >> TOUCH_SHIFT) % 64)), memory_order_relaxed);
}

/* NULL when there is no memory for it. */
static _Atomic uint32_t *map_slots(uint64_t n_pages)
{
	void *slots;

	/* Reads as STORE_EMPTY and takes memory only where pages are kept. */
	slots = mmap(NULL, slots_bytes(n_pages), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (slots == MAP_FAILED)
		return NULL;
	/* One entry would take as much as those of 2 GiB of the region; and a kernel that has no
	 * huge pages does not know the advice. */
	(void)madvise(slots, slots_bytes(n_pages), MADV_NOHUGEPAGE);
	return slots;
}

void store_unmap(_Atomic uint32_t *slots, uint64_t n_pages)
{
	if (slots)
		(void)munmap(slots, slots_bytes(n_pages));
}

void store_init_ahead(struct store_pool *pool, uint64_t n_pages)
{
	_Atomic uint32_t **spare = store_pool_spare(pool);

	if (!*spare)
		*spare = map_slots(n_pages);
}

int store_init(struct store *store, struct store_pool *pool, uint64_t n_pages)
{
	_Atomic uint32_t **spare = store_pool_spare(pool);
	int r;

	*store = (struct store){.pool = pool, .n_pages = n_pages};
	r = store_pool_charge_index(pool, maps_bytes(store));
	if (r)
		return r > 0 ? -EDQUOT : r;
	store->touched = calloc(2 * n_map_words(store), sizeof(*store->touched));
	if (!store->touched) {
		store_pool_refund_index(pool, maps_bytes(store));
		return err_oom(maps_bytes(store), "a snapshot");
	}
	store->paid = store->touched + n_map_words(store);
	store->slots = *spare ? steal_ptr(spare) : map_slots(n_pages);
	if (store->slots)
		return 0;
	store_deinit(store);
	return err_oom(slots_bytes(n_pages), "a snapshot");
}

void store_deinit(struct store *store)
{
	if (!store->touched)
		return;
	if (store->slots)
		store_hand_down(store, NULL, 0, store->n_pages);
	store_unmap(store->slots, store->n_pages);
	store->slots = NULL;
	free(store->touched);
	store->touched = NULL;
	store->paid = NULL;
	store_pool_refund_index(store->pool, maps_bytes(store) + store->n_paid * stretch_charge());
	store->n_paid = 0;
}

/* --- keeping pages ---------------------------------------------------------------------------- */

static int pay(struct store *store, uint64_t idx)
{
	int r;

	if (test_bit(store->paid, idx))
		return 0;
	r = store_pool_charge_index(store->pool, stretch_charge());
	if (r)
		return r;
	if (set_bit(store->paid, idx))
		atomic_fetch_add_explicit(&store->n_paid, 1, memory_order_relaxed);
	else /* by another thread meanwhile */
		store_pool_refund_index(store->pool, stretch_charge());
	return 0;
}

int store_prepare(struct store *store, uint64_t first, uint64_t n)
{
	int r = 0;

	for (uint64_t idx = first; idx < first + n && !r;
	     idx = align_down(idx, STORE_TOUCH_PAGES) + STORE_TOUCH_PAGES)
		r = pay(store, idx);
	return r;
}

int store_put(struct store *store, uint64_t idx, uint32_t slot)
{
	uint32_t empty = STORE_EMPTY;

	assert(test_bit(store->paid, idx));
	/* First: whoever finds the bit unset takes the page to be empty. */
	if (!test_bit(store->touched, idx))
		(void)set_bit(store->touched, idx);
	if (!atomic_compare_exchange_strong_explicit(&store->slots[idx], &empty, slot,
						     memory_order_release, memory_order_relaxed))
		return STORE_E_KEPT;
	atomic_fetch_add_explicit(&store->n_kept, 1, memory_order_relaxed);
	if (slot > STORE_ZERO)
		atomic_fetch_add_explicit(&store->n_slots, 1, memory_order_relaxed);
	return 0;
}

/* --- finding them ----------------------------------------------------------------------------- */

bool store_is_touched(const struct store *store, uint64_t idx)
{
	return test_bit(store->touched, idx);
}

uint64_t store_next_touched(const struct store *store, uint64_t idx)
{
	uint64_t n_bits = (store->n_pages + STORE_TOUCH_PAGES - 1) >> TOUCH_SHIFT;

	for (uint64_t bit = idx >> TOUCH_SHIFT; bit < n_bits; bit = (bit / 64 + 1) * 64) {
		uint64_t word =
			atomic_load_explicit(&store->touched[bit / 64], memory_order_relaxed) >>
			(bit % 64);

		if (!word)
			continue;
		bit += (uint64_t)__builtin_ctzll(word);
		return max_u64(idx, bit << TOUCH_SHIFT);
	}
	return store->n_pages;
}

/* --- handing them down ------------------------------------------------------------------------ */

/* Part of a stretch, or all of it. */
struct piece {
	struct store *from;
	struct store *to; /* may be NULL */
	uint64_t first;
	uint64_t end;
	bool is_whole; /* nothing is left in @from */
};

/*
 * @to is going to have its first entry in the stretch. When @from has none left there, what was
 * charged for it goes over.
 */
static void pay_for_older(const struct piece *piece)
{
	struct store *from = piece->from, *to = piece->to;

	if (test_bit(to->paid, piece->first))
		return;
	if (piece->is_whole) {
		clear_bit(from->paid, piece->first);
		from->n_paid--;
	} else {
		store_pool_force_index(from->pool, stretch_charge());
	}
	(void)set_bit(to->paid, piece->first);
	to->n_paid++;
}

static void move_entries(const struct piece *piece)
{
	struct store *from = piece->from;
	uint32_t dropped[64];
	size_t n_dropped = 0;

	for (uint64_t i = piece->first; i < piece->end; i++) {
		uint32_t slot = store_get(from, i);

		if (slot == STORE_EMPTY)
			continue;
		atomic_store_explicit(&from->slots[i], STORE_EMPTY, memory_order_relaxed);
		atomic_fetch_sub_explicit(&from->n_kept, 1, memory_order_relaxed);
		if (slot > STORE_ZERO)
			atomic_fetch_sub_explicit(&from->n_slots, 1, memory_order_relaxed);
		if (piece->to)
			pay_for_older(piece);
		if (piece->to && store_put(piece->to, i, slot) == 0)
			continue;
		dropped[n_dropped++] = slot;
		if (n_dropped == ARRAY_SIZE(dropped)) {
			store_pool_put(from->pool, dropped, n_dropped);
			n_dropped = 0;
		}
	}
	store_pool_put(from->pool, dropped, n_dropped);
}

/* The stretch has no entries. Return: whether its memory is to be given back by the caller. */
static bool leave_stretch(const struct piece *piece)
{
	struct store *from = piece->from;

	if (!piece->is_whole)
		return false;
	clear_bit(from->touched, piece->first);
	/* Where the caller has no older store more entries may come soon, or the end of all. */
	if (!piece->to || STRETCH_BYTES % page_size_bytes())
		return false;
	if (test_bit(from->paid, piece->first)) {
		clear_bit(from->paid, piece->first);
		from->n_paid--;
		store_pool_refund_index(from->pool, stretch_charge());
	}
	return true;
}

/* Those that are not left in between have no entries, and no memory either. */
static void give_back(struct store *store, uint64_t first, uint64_t end)
{
	uintptr_t slots = (uintptr_t)store->slots;
	size_t off = first * sizeof(*store->slots);

	if (first < end)
		(void)madvise((void *)(slots + off),
			      min_u64(end * sizeof(*store->slots), slots_bytes(store->n_pages)) -
				      off,
			      MADV_DONTNEED);
}

void store_hand_down(struct store *from, struct store *to, uint64_t first, uint64_t end)
{
	uint64_t left_first = from->n_pages, left_end = 0;

	for (uint64_t i = store_next_touched(from, first); i < end;) {
		uint64_t stretch_end = align_down(i, STORE_TOUCH_PAGES) + STORE_TOUCH_PAGES;
		struct piece piece = {.from = from, .to = to, .first = i};

		piece.end = min_u64(end, stretch_end);
		piece.is_whole = i % STORE_TOUCH_PAGES == 0 &&
				 (piece.end == stretch_end || piece.end == from->n_pages);
		move_entries(&piece);
		if (leave_stretch(&piece)) {
			left_first = min_u64(left_first, i);
			left_end = stretch_end;
		}
		i = store_next_touched(from, piece.end);
	}
	give_back(from, left_first, left_end);
}
