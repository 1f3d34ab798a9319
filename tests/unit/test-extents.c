// SPDX-License-Identifier: LGPL-2.1-or-later
// The extent map against a plain array that says for each page what backs it.
#include "config.h"

#include <check.h>
#include <stdlib.h>

#include "backends/extents.h"

#define N_PAGES 64
#define STEPS   20000

struct oracle {
	struct memfile *backing[N_PAGES];
	uint64_t off[N_PAGES];
	bool owned[N_PAGES];
};

static struct memfile *make_backing(void)
{
	struct memfile *backing = NULL;
	int fd = -1, ro_fd = -1;

	ck_assert_int_eq(memfile_new(&backing, &fd, &ro_fd, N_PAGES), 0);
	return backing;
}

static void check_against(const struct extents *map, const struct oracle *oracle)
{
	uint64_t at = 0;

	for (size_t i = 0; i < map->n_runs; i++) {
		const struct extent *run = &map->runs[i];

		ck_assert_uint_eq(run->off, at);
		ck_assert_uint_gt(run->len, 0);
		for (uint64_t k = 0; k < run->len; k++) {
			ck_assert_ptr_eq(run->backing, oracle->backing[at + k]);
			ck_assert_uint_eq(run->backing_off + k, oracle->off[at + k]);
			ck_assert_int_eq(run->owned, oracle->owned[at + k]);
		}
		at += run->len;
		if (i)
			ck_assert_msg(run->backing != run[-1].backing ||
					      run->owned != run[-1].owned ||
					      run->backing_off != run[-1].backing_off + run[-1].len,
				      "neighbours that continue each other were not merged");
	}
	ck_assert_uint_eq(at, N_PAGES);
}

START_TEST(random_sets_match_a_plain_array)
{
	struct memfile *backings[3];
	struct oracle oracle = {0};
	struct extents map;

	for (size_t i = 0; i < 3; i++)
		backings[i] = make_backing();
	ck_assert_int_eq(extents_init(&map, backings[0], N_PAGES, true), 0);
	for (uint64_t i = 0; i < N_PAGES; i++) {
		oracle.backing[i] = backings[0];
		oracle.off[i] = i;
		oracle.owned[i] = true;
	}
	srandom(4);
	for (int step = 0; step < STEPS; step++) {
		uint64_t off = (uint64_t)random() % N_PAGES;
		uint64_t len = 1 + (uint64_t)random() % (N_PAGES - off);
		struct memfile *backing = backings[random() % 3];
		uint64_t backing_off = random() % 4 ? off : (uint64_t)random() % N_PAGES;
		bool owned = random() % 2;

		ck_assert_int_eq(extents_reserve(&map, 1), 0);
		extents_set(&map, off, len, backing, backing_off, owned);
		for (uint64_t k = 0; k < len; k++) {
			oracle.backing[off + k] = backing;
			oracle.off[off + k] = backing_off + k;
			oracle.owned[off + k] = owned;
		}
		check_against(&map, &oracle);
	}
	extents_deinit(&map);
	for (size_t i = 0; i < 3; i++) {
		ck_assert_int_eq(backings[i]->n_refs, 1);
		memfile_unref(backings[i]);
	}
}
END_TEST

START_TEST(sharing_is_by_range_and_ends_with_the_other_map)
{
	struct memfile *home = make_backing();
	struct extents map, snap;

	ck_assert_int_eq(extents_init(&map, home, N_PAGES, true), 0);
	ck_assert(!extents_is_shared(home, 0, N_PAGES, &map));
	ck_assert(extents_is_owned(&map));

	ck_assert_int_eq(extents_init_frozen(&snap, &map, 8, 4), 0);
	ck_assert_uint_eq(snap.size_bytes, 4);
	ck_assert_uint_eq(snap.runs[0].backing_off, 8);
	ck_assert(!snap.runs[0].owned);
	ck_assert(extents_is_shared(home, 11, 1, &map));
	ck_assert(!extents_is_shared(home, 12, 1, &map));
	ck_assert(!extents_is_shared(home, 7, 1, &map));
	ck_assert(extents_is_shared(home, 0, 1, &snap));

	extents_deinit(&snap);
	ck_assert(!extents_is_shared(home, 0, N_PAGES, &map));
	extents_deinit(&snap); /* idempotent */
	extents_deinit(&map);
	memfile_unref(home);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("extents");
	TCase *tcase = tcase_create("extents");
	SRunner *runner = srunner_create(suite);
	int failed;

	suite_add_tcase(suite, tcase);
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, random_sets_match_a_plain_array);
	tcase_add_test(tcase, sharing_is_by_range_and_ends_with_the_other_map);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
