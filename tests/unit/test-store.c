/* SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/uffd/slots.c: slots are charged before they are given out, and pages go down the chain. */
#include "config.h"

#include <check.h>
#include <string.h>

#include "daemon/uffd/slots.h"

#define N_PAGES 5000

static struct quota *quota;
static struct quota_user *user;
static struct store_pool *pool;

static void set_up(void)
{
	ck_assert_int_eq(quota_new(&quota), 0);
	quota_set_limit(quota, QUOTA_KEPT_BYTES, 1024 * page_size_bytes());
	quota_set_limit(quota, QUOTA_FDS, 8);
	ck_assert_int_eq(quota_user_get(&user, quota, 1000), 0);
	ck_assert_int_eq(store_pool_new(&pool, N_PAGES, user), 0);
}

static void tear_down(void)
{
	pool = store_pool_free(pool);
	ck_assert_uint_eq(quota_user_held(user, QUOTA_KEPT_BYTES), 0);
	ck_assert_uint_eq(quota_user_held(user, QUOTA_FDS), 0);
	user = quota_user_unref(user);
	quota = quota_free(quota);
}

static uint64_t kept_bytes(void)
{
	return quota_user_held(user, QUOTA_KEPT_BYTES);
}

/* Keep page @idx with @byte in it. */
static void keep(struct store *store, uint64_t idx, int byte)
{
	uint32_t slot = 0;

	ck_assert_int_eq(store_pool_get(pool, &slot, 1), 0);
	memset(store_pool_page(pool, slot), byte, page_size_bytes());
	ck_assert_int_eq(store_prepare(store, idx, 1), 0);
	ck_assert_int_eq(store_put(store, idx, slot), 0);
}

static void keep_zero(struct store *store, uint64_t idx)
{
	ck_assert_int_eq(store_prepare(store, idx, 1), 0);
	ck_assert_int_eq(store_put(store, idx, STORE_ZERO), 0);
}

static int byte_of(const struct store *store, uint64_t idx)
{
	uint32_t slot = store_get(store, idx);
	char *page;

	if (slot == STORE_EMPTY || slot == STORE_ZERO)
		return slot == STORE_EMPTY ? -1 : 0;
	page = store_pool_page(pool, slot);
	for (size_t i = 1; i < page_size_bytes(); i++)
		ck_assert_int_eq(page[i], page[0]);
	return page[0];
}

START_TEST(refusal_keeps_nothing_and_charges_nothing)
{
	uint32_t slots[1024], more[16];

	ck_assert_int_eq(store_pool_get(pool, slots, 1020), 0);
	for (size_t i = 0; i < 1020; i++)
		memset(store_pool_page(pool, slots[i]), 1, page_size_bytes());
	ck_assert_int_eq(store_pool_get(pool, more, 16), STORE_E_QUOTA);
	ck_assert_uint_eq(store_pool_used(pool), 1020);
	/* The last ones are to be had singly. */
	ck_assert_int_eq(store_pool_get(pool, more, 4), 0);
	ck_assert_int_eq(store_pool_get(pool, more, 1), STORE_E_QUOTA);
	ck_assert_uint_eq(kept_bytes(), 1024 * page_size_bytes());
}
END_TEST

START_TEST(what_is_given_back_is_refunded_when_trimmed)
{
	uint32_t slots[300];

	ck_assert_int_eq(store_pool_get(pool, slots, 300), 0);
	for (size_t i = 0; i < 300; i++)
		memset(store_pool_page(pool, slots[i]), 1, page_size_bytes());
	store_pool_put(pool, slots, 250);
	while (store_pool_trim(pool, 100))
		;
	ck_assert_uint_eq(store_pool_used(pool), 50);
	ck_assert_uint_eq(kept_bytes(), 150 * page_size_bytes());
	while (store_pool_trim(pool, 0))
		;
	ck_assert_uint_eq(kept_bytes(), 50 * page_size_bytes());
	/* Those still in use were left alone. */
	for (size_t i = 250; i < 300; i++)
		ck_assert_int_eq(*(char *)store_pool_page(pool, slots[i]), 1);
}
END_TEST

/* Broken on purpose by having it take slots that are in use, or lose count of what has memory. */
START_TEST(trimming_goes_in_short_steps_to_its_end)
{
	uint32_t slots[1024], again[1024];
	size_t n_steps = 0;

	ck_assert_int_eq(store_pool_get(pool, slots, 1024), 0);
	for (size_t i = 0; i < 1024; i++)
		memset(store_pool_page(pool, slots[i]), 1, page_size_bytes());
	/* Every third one stays in use. */
	for (size_t i = 0; i < 1024; i++)
		if (i % 3)
			store_pool_put(pool, &slots[i], 1);
	while (store_pool_trim(pool, 100))
		n_steps++;
	ck_assert_uint_gt(n_steps, 1);
	ck_assert_uint_eq(store_pool_used(pool), 342);
	ck_assert_uint_eq(kept_bytes(), 442 * page_size_bytes());
	ck_assert_int_eq(store_pool_get(pool, again, 682), 0);
	for (size_t i = 0; i < 682; i++)
		memset(store_pool_page(pool, again[i]), 2, page_size_bytes());
	for (size_t i = 0; i < 1024; i += 3)
		ck_assert_int_eq(*(char *)store_pool_page(pool, slots[i]), 1);
}
END_TEST

START_TEST(the_first_bytes_kept_are_the_snapshots)
{
	struct store store;
	uint32_t slot = 0;

	ck_assert_int_eq(store_init(&store, pool, N_PAGES), 0);
	keep(&store, 7, 1);
	ck_assert_int_eq(store_pool_get(pool, &slot, 1), 0);
	memset(store_pool_page(pool, slot), 2, page_size_bytes());
	ck_assert_int_eq(store_put(&store, 7, slot), STORE_E_KEPT);
	store_pool_put(pool, &slot, 1);
	ck_assert_int_eq(byte_of(&store, 7), 1);
	keep_zero(&store, 8);
	ck_assert_int_eq(byte_of(&store, 8), 0);
	ck_assert_int_eq(byte_of(&store, 9), -1);
	ck_assert_uint_eq(atomic_load(&store.n_kept), 2);
	store_deinit(&store);
	store_deinit(&store);
	ck_assert_uint_eq(store_pool_used(pool), 0);
}
END_TEST

/* Broken on purpose by having store_hand_down() overwrite what the older store has: fails. */
START_TEST(pages_go_down_to_an_older_store_that_lacks_them)
{
	struct store older, newer;

	ck_assert_int_eq(store_init(&older, pool, N_PAGES), 0);
	ck_assert_int_eq(store_init(&newer, pool, N_PAGES), 0);
	keep(&older, 10, 1);
	keep(&newer, 10, 2);
	keep(&newer, 11, 3);
	keep(&newer, N_PAGES - 1, 4);
	keep_zero(&newer, 12);

	store_hand_down(&newer, &older, 0, 2048);
	ck_assert_int_eq(byte_of(&newer, N_PAGES - 1), 4);
	store_hand_down(&newer, &older, 2048, N_PAGES);
	ck_assert_int_eq(byte_of(&older, 10), 1);
	ck_assert_int_eq(byte_of(&older, 11), 3);
	ck_assert_int_eq(byte_of(&older, 12), 0);
	ck_assert_int_eq(byte_of(&older, N_PAGES - 1), 4);
	ck_assert_uint_eq(atomic_load(&newer.n_kept), 0);
	ck_assert_uint_eq(store_pool_used(pool), 3);
	store_deinit(&newer);
	store_deinit(&older);
}
END_TEST

START_TEST(what_may_be_in_use_is_found_without_looking_at_the_rest)
{
	struct store store;
	const uint64_t n_pages = 200 * STORE_TOUCH_PAGES + 5;

	ck_assert_int_eq(store_init(&store, pool, n_pages), 0);
	ck_assert_uint_eq(store_next_touched(&store, 0), n_pages);
	keep(&store, 130 * STORE_TOUCH_PAGES + 7, 1);
	keep_zero(&store, n_pages - 1);
	ck_assert_uint_eq(store_next_touched(&store, 3), 130 * STORE_TOUCH_PAGES);
	ck_assert_uint_eq(store_next_touched(&store, 130 * STORE_TOUCH_PAGES + 9),
			  130 * STORE_TOUCH_PAGES + 9);
	ck_assert_uint_eq(store_next_touched(&store, 131 * STORE_TOUCH_PAGES),
			  200 * STORE_TOUCH_PAGES);
	ck_assert_uint_eq(store_next_touched(&store, n_pages), n_pages);
	store_hand_down(&store, NULL, 0, n_pages);
	ck_assert_uint_eq(store_next_touched(&store, 0), n_pages);
	store_deinit(&store);
}
END_TEST

START_TEST(pages_kept_after_a_piece_was_handed_down_are_found_by_the_next)
{
	struct store older, newer;

	ck_assert_int_eq(store_init(&older, pool, N_PAGES), 0);
	ck_assert_int_eq(store_init(&newer, pool, N_PAGES), 0);
	keep(&newer, 100, 1);
	store_hand_down(&newer, &older, 0, 1024);
	keep(&newer, 101, 2);
	store_hand_down(&newer, &older, 0, N_PAGES);
	ck_assert_int_eq(byte_of(&older, 100), 1);
	ck_assert_int_eq(byte_of(&older, 101), 2);
	store_deinit(&newer);
	store_deinit(&older);
}
END_TEST

/*
 * Entries are charged by stretches, once; refusal keeps nothing. Broken on purpose by a pay() that
 * charges each time, and by one that never does.
 */
START_TEST(what_says_where_pages_are_is_charged)
{
	const uint64_t page = page_size_bytes();
	uint64_t maps;
	struct store store;

	ck_assert_int_eq(store_init(&store, pool, N_PAGES), 0);
	maps = kept_bytes();
	ck_assert_uint_gt(maps, 0);
	keep_zero(&store, 0);
	ck_assert_uint_eq(kept_bytes(), maps + page);
	keep_zero(&store, 1023);
	ck_assert_uint_eq(kept_bytes(), maps + page);
	ck_assert_int_eq(store_prepare(&store, 1020, 8), 0);
	ck_assert_uint_eq(kept_bytes(), maps + 2 * page);
	quota_set_limit(quota, QUOTA_KEPT_BYTES, maps + 2 * page);
	ck_assert_int_eq(store_prepare(&store, 2048, 1), STORE_E_QUOTA);
	ck_assert_int_eq(store_prepare(&store, 2047, 1), 0);
	ck_assert_uint_eq(store_next_touched(&store, 1024), N_PAGES);
	ck_assert_uint_eq(kept_bytes(), maps + 2 * page);
	store_deinit(&store);
	store_deinit(&store);
	ck_assert_uint_eq(kept_bytes(), 0);
	quota_set_limit(quota, QUOTA_KEPT_BYTES, maps - 1);
	ck_assert_int_eq(store_init(&store, pool, N_PAGES), -EDQUOT);
	store_deinit(&store);
	ck_assert_uint_eq(kept_bytes(), 0);
}
END_TEST

/*
 * Handing down needs no room: whole stretches take their charge along, and what is charged above
 * the limit for the first part of one is given back with its last. Broken on purpose by charging
 * the older store anew, and by not giving back what the newer one has no use for.
 */
START_TEST(charges_go_down_with_pages)
{
	const uint64_t page = page_size_bytes();
	struct store older, newer;
	uint64_t maps;

	ck_assert_int_eq(store_init(&older, pool, N_PAGES), 0);
	ck_assert_int_eq(store_init(&newer, pool, N_PAGES), 0);
	maps = kept_bytes();
	keep_zero(&newer, 5);
	keep_zero(&newer, 1030);
	keep_zero(&newer, 2047);
	keep_zero(&newer, N_PAGES - 1);
	keep_zero(&older, 1030);
	ck_assert_uint_eq(kept_bytes(), maps + 4 * page);
	quota_set_limit(quota, QUOTA_KEPT_BYTES, 0);
	store_hand_down(&newer, &older, 0, 100);
	ck_assert_uint_eq(kept_bytes(),
			  maps + 5 * page); /* both have memory for the first stretch */
	store_hand_down(&newer, &older, 0, 1024);
	ck_assert_uint_eq(kept_bytes(), maps + 4 * page);
	store_hand_down(&newer, &older, 1024, 1500);
	ck_assert_uint_eq(kept_bytes(), maps + 4 * page);
	store_hand_down(&newer, &older, 1024, N_PAGES);
	ck_assert_uint_eq(kept_bytes(), maps + 3 * page);
	ck_assert_uint_eq(atomic_load(&newer.n_paid), 0);
	ck_assert_int_eq(byte_of(&older, 5), 0);
	ck_assert_int_eq(byte_of(&older, 1030), 0);
	ck_assert_int_eq(byte_of(&older, 2047), 0);
	ck_assert_int_eq(byte_of(&older, N_PAGES - 1), 0);
	store_deinit(&newer);
	ck_assert_uint_eq(kept_bytes(), maps / 2 + 3 * page);
	store_deinit(&older);
	ck_assert_uint_eq(kept_bytes(), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("store");
	TCase *tcase = tcase_create("store");
	SRunner *runner;
	int n_failed;

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, refusal_keeps_nothing_and_charges_nothing);
	tcase_add_test(tcase, what_is_given_back_is_refunded_when_trimmed);
	tcase_add_test(tcase, trimming_goes_in_short_steps_to_its_end);
	tcase_add_test(tcase, what_may_be_in_use_is_found_without_looking_at_the_rest);
	tcase_add_test(tcase, the_first_bytes_kept_are_the_snapshots);
	tcase_add_test(tcase, pages_go_down_to_an_older_store_that_lacks_them);
	tcase_add_test(tcase, pages_kept_after_a_piece_was_handed_down_are_found_by_the_next);
	tcase_add_test(tcase, what_says_where_pages_are_is_charged);
	tcase_add_test(tcase, charges_go_down_with_pages);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return n_failed ? 1 : 0;
}
