// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What an overlay holds is recorded: by who copies the pages, for who reads them, whatever else its
 * file has.
 */
#include "config.h"

#include <string.h>

#include "backends/scoot/internal.h"
#include "tests/unit/scoot-fixture.h"

/* Under the thread sanitizer a child made with a bare clone(2) hangs. */
#ifdef __SANITIZE_THREAD__
#define N_CONFIGS_TESTED WITHOUT_UFFD
#else
#define N_CONFIGS_TESTED N_CONFIGS
#endif

/* Read and mapped, all of it. */
static void check_bytes(const struct scoot_snapshot *snap, const char *plain)
{
	const uint64_t size_bytes = snap->map.size_bytes;
	CLEANUP(freep) char *buf = malloc(size_bytes);
	char *view;

	ck_assert_msg(!scoot_snapshot_read(snap, buf, size_bytes, 0), "%s", err_sentence());
	ck_assert_int_eq(memcmp(buf, plain, size_bytes), 0);
	ck_assert_int_eq(space_reserve(&view, size_bytes), 0);
	ck_assert_msg(!scoot_snapshot_map(snap, view, PROT_READ), "%s", err_sentence());
	ck_assert_int_eq(memcmp(view, plain, size_bytes), 0);
	space_release(view, size_bytes);
}

/*
 * An overlay that has data everywhere before the take: what its file has says nothing about what
 * the take kept. Huge pages of shared memory make the same of an empty one, with zeroes. Seen to
 * fail: with pages looked for by SEEK_DATA, after a take by clone(2) and in an opened snapshot.
 */
START_TEST(what_an_overlay_has_is_not_what_was_kept)
{
	const uint64_t size_bytes = (uint64_t)3 << 20, page = page_size_bytes();
	struct scoot_region *region = make_region(size_bytes, (enum config)_i);
	CLEANUP(memfile_unrefp) struct memfile *overlay = make_backing(size_bytes, 2);
	CLEANUP(memfile_unrefp) struct memfile *given = memfile_ref(overlay);
	CLEANUP(freep) char *plain = malloc(size_bytes);
	struct scoot_snapshot *first, *snap = NULL, *opened = NULL;
	struct extents map;

	memset(region->addr, 1, size_bytes);
	first = take(region);
	for (uint64_t off = 5 * page; off < size_bytes; off += 16 * page)
		region->addr[off] = 2;
	memcpy(plain, region->addr, size_bytes);
	memset(region->addr + size_bytes - page, 3, page);
	memset(plain + size_bytes - page, 3, page);
	for (uint64_t off = 0; off < size_bytes; off += page)
		ck_assert_int_eq(memfile_write(overlay, "stale", 5, off), 0);
	ck_assert_msg(!scoot_take(region, &(struct scoot_take_env){0}, overlay, &snap), "%s",
		      err_sentence());
	check_bytes(snap, plain);

	ck_assert_int_eq(
		ftruncate(overlay->fd, (off_t)(size_bytes + scoot_record_bytes(size_bytes))), 0);
	ck_assert_int_eq(scoot_snapshot_record(snap, size_bytes), 0);
	ck_assert_int_eq(extents_init_frozen(&map, &snap->map, 0, size_bytes), 0);
	ck_assert_int_eq(scoot_snapshot_opened(&opened, &map, &given, size_bytes), 0);
	ck_assert_uint_eq(opened->n_kept, snap->n_kept);
	ck_assert_int_eq(memcmp(opened->kept, snap->kept, opened->n_kept * sizeof(*opened->kept)),
			 0);
	check_bytes(opened, plain);
	scoot_snapshot_free(opened);
	ck_assert_msg(!scoot_rollback(region, snap), "%s", err_sentence());
	ck_assert_int_eq(memcmp(region->addr, plain, size_bytes), 0);
	scoot_snapshot_free(snap);
	scoot_snapshot_free(first);
	end_region(region);
}
END_TEST

/* Runs that begin, end and lie across the pieces in which a record is written. */
START_TEST(a_record_says_what_was_noted)
{
	const uint64_t page = page_size_bytes(), n_pages = 100003, size_bytes = n_pages * page;
	struct memfile *overlay = make_backing(size_bytes + scoot_record_bytes(size_bytes), 2);
	struct scoot_snapshot kept = {.overlay = overlay}, *opened = NULL;
	struct extents map;
	uint64_t n;

	for (uint64_t at = (uint64_t)random() % 3; at < n_pages; at += n + 1 + random() % 20000) {
		n = min_u64(1 + (uint64_t)random() % (random() % 2 ? 4 : 70000), n_pages - at);
		ck_assert_int_eq(scoot_snapshot_note(&kept, at * page, n * page), 0);
	}
	ck_assert_int_eq(scoot_snapshot_record(&kept, size_bytes), 0);
	ck_assert_int_eq(extents_init(&map, overlay, size_bytes, false), 0);
	ck_assert_int_eq(scoot_snapshot_opened(&opened, &map, &overlay, size_bytes), 0);
	ck_assert_uint_eq(opened->n_kept, kept.n_kept);
	ck_assert_int_eq(memcmp(opened->kept, kept.kept, kept.n_kept * sizeof(*kept.kept)), 0);
	free(kept.kept);
	scoot_snapshot_free(opened);
}
END_TEST

/* What a stranger recorded: any bytes, and too few of them. */
START_TEST(a_strangers_record_is_read_as_far_as_it_goes)
{
	const uint64_t page = page_size_bytes(), n_pages = 1003, size_bytes = n_pages * page;
	struct memfile *overlay = make_backing(size_bytes + page, 2);
	struct scoot_snapshot *opened = NULL;
	unsigned char bits[4096];
	struct extents map;
	uint64_t end = 0;

	for (size_t i = 0; i < sizeof(bits); i++)
		bits[i] = (unsigned char)random();
	bits[n_pages / 8] = 0xff; /* says something of pages behind the last one, too */
	ck_assert_int_eq(memfile_write(overlay, bits, sizeof(bits), size_bytes), 0);
	ck_assert_int_eq(extents_init(&map, overlay, size_bytes, false), 0);
	ck_assert_int_eq(scoot_snapshot_opened(&opened, &map, &overlay, size_bytes + page - 1),
			 -EIO);
	ck_assert_ptr_null(opened);
	ck_assert_ptr_nonnull(overlay);
	ck_assert_int_eq(scoot_snapshot_opened(&opened, &map, &overlay, size_bytes), 0);
	for (size_t i = 0; i < opened->n_kept; i++) {
		ck_assert(!i || opened->kept[i].addr > end);
		ck_assert_uint_gt(opened->kept[i].len, 0);
		end = opened->kept[i].addr + opened->kept[i].len;
	}
	ck_assert_uint_eq(end, size_bytes);
	scoot_snapshot_free(opened);
}
END_TEST

int main(void)
{
	AUTO_FD int uffd = make_uffd();
	Suite *suite = suite_create("record");
	TCase *tcase = tcase_create("record");
	SRunner *runner = srunner_create(suite);
	const int first = uffd < 0 ? WITHOUT_UFFD : 0;
	int failed;

	suite_add_tcase(suite, tcase);
	tcase_add_loop_test(tcase, what_an_overlay_has_is_not_what_was_kept, first,
			    N_CONFIGS_TESTED);
	tcase_add_test(tcase, a_record_says_what_was_noted);
	tcase_add_test(tcase, a_strangers_record_is_read_as_far_as_it_goes);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
