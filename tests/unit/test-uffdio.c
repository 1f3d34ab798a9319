// SPDX-License-Identifier: LGPL-2.1-or-later
// Filling ranges with a real userfaultfd: what is there stays, what is a hole is told.
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backends/uffdio.h"
#include "common/err.h"
#include "common/util.h"
#include "tests/unit/scoot-fixture.h"

#define N_PAGES 8

/* A memfd with data in pages 0 to 3 and 6, and a mapping of it that is empty and registered. */
struct sample {
	int fd;
	int uffd;
	char *addr;
};

static void open_sample(struct sample *sample)
{
	const size_t page = page_size_bytes();
	const uint64_t mode = UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_MISSING;
	char byte = 'd';

	sample->uffd = make_uffd();
	sample->fd = memfd_create("sample", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(sample->fd, (off_t)(N_PAGES * page)), 0);
	for (size_t i = 0; i < N_PAGES; i++)
		if (i < 4 || i == 6)
			ck_assert_int_eq(pwrite(sample->fd, &byte, 1, (off_t)(i * page)), 1);
	sample->addr =
		mmap(NULL, N_PAGES * page, PROT_READ | PROT_WRITE, MAP_SHARED, sample->fd, 0);
	ck_assert_ptr_ne(sample->addr, MAP_FAILED);
	ck_assert_int_eq(uffdio_api(sample->uffd,
				    UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM, NULL),
			 0);
	ck_assert_int_eq(
		uffdio_register(sample->uffd, (uintptr_t)sample->addr, N_PAGES * page, mode), 0);
}

static void close_sample(struct sample *sample)
{
	munmap(sample->addr, N_PAGES * page_size_bytes());
	close(sample->uffd);
	close(sample->fd);
}

/* Bytes from page @first to the end that UFFDIO_CONTINUE says are
 * there; *@r gets what it returned. */
static uint64_t map_from(const struct sample *sample, size_t first, int *r)
{
	uint64_t done_bytes = 12345;

	*r = uffdio_continue(sample->uffd, (uintptr_t)sample->addr + first * page_size_bytes(),
			     (N_PAGES - first) * page_size_bytes(), 0, &done_bytes);
	return done_bytes / page_size_bytes();
}

START_TEST(mapping_ends_at_a_hole)
{
	struct sample sample;
	int r;

	open_sample(&sample);
	ck_assert_uint_eq(map_from(&sample, 4, &r), 0);
	ck_assert_int_eq(r, UFFDIO_E_HOLE);
	ck_assert_uint_eq(map_from(&sample, 0, &r), 4);
	ck_assert_int_eq(r, UFFDIO_E_HOLE);
	ck_assert_uint_eq(map_from(&sample, 6, &r), 1);
	ck_assert_int_eq(r, UFFDIO_E_HOLE);
	for (size_t i = 0; i < N_PAGES; i++)
		if (i < 4 || i == 6)
			ck_assert_int_eq(sample.addr[i * page_size_bytes()], 'd');
	close_sample(&sample);
}
END_TEST

START_TEST(what_is_mapped_counts_as_there)
{
	const size_t page = page_size_bytes();
	uint64_t done_bytes = 0;
	struct sample sample;

	open_sample(&sample);
	ck_assert_int_eq(
		uffdio_continue(sample.uffd, (uintptr_t)sample.addr + page, page, 0, &done_bytes),
		0);
	ck_assert_uint_eq(done_bytes, page);
	ck_assert_int_eq(
		uffdio_continue(sample.uffd, (uintptr_t)sample.addr, 4 * page, 0, &done_bytes), 0);
	ck_assert_uint_eq(done_bytes, 4 * page);
	close_sample(&sample);
}
END_TEST

START_TEST(a_copy_leaves_what_is_there)
{
	const size_t page = page_size_bytes();
	CLEANUP(freep) char *src = malloc(N_PAGES * page);
	struct sample sample;

	memset(src, 'c', N_PAGES * page);
	open_sample(&sample);
	ck_assert_int_eq(uffdio_copy(sample.uffd, (uintptr_t)sample.addr, src, N_PAGES * page, 0),
			 0);
	for (size_t i = 0; i < N_PAGES; i++) {
		const char want = i < 4 || i == 6 ? 'd' : 'c';

		ck_assert_int_eq(uffdio_continue(sample.uffd, (uintptr_t)sample.addr + i * page,
						 page, 0, NULL),
				 0);
		ck_assert_int_eq(sample.addr[i * page], want);
	}
	close_sample(&sample);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("uffdio");

	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, mapping_ends_at_a_hole);
	tcase_add_test(tcase, what_is_mapped_counts_as_there);
	tcase_add_test(tcase, a_copy_leaves_what_is_there);
	return run_with_uffd(tcase);
}
