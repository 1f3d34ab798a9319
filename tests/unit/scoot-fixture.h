/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For the unit tests of backends/scoot: regions without a daemon, on memfds of the test's own. */
#ifndef COW_TESTS_UNIT_SCOOT_FIXTURE_H
#define COW_TESTS_UNIT_SCOOT_FIXTURE_H

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "backends/scoot/scoot.h"
#include "backends/space.h"
#include "backends/uffdio.h"
#include "common/err.h"

enum config {
	WITH_SCAN,
	WITHOUT_SCAN,
	WITHOUT_UFFD,
	N_CONFIGS,
};

static inline int make_uffd(void)
{
	AUTO_FD int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int uffd = -1;

	if (device >= 0 && !uffdio_new_by_device(&uffd, device, false))
		return uffd;
	if (!uffdio_new_by_syscall(&uffd, false))
		return uffd;
	return -1;
}

/* What main() returns: skipped where a userfaultfd cannot be had. */
static inline int run_with_uffd(TCase *tcase)
{
	AUTO_FD int uffd = make_uffd();
	Suite *suite = suite_create("with a userfaultfd");
	SRunner *runner = srunner_create(suite);
	int n_failed;

	suite_add_tcase(suite, tcase);
	if (uffd < 0)
		fprintf(stderr, "no userfaultfd here: %s\n", err_sentence());
	else
		srunner_run_all(runner, CK_ENV);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (uffd < 0)
		return 77;
	return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

static inline struct memfile *make_backing(uint64_t size_bytes, uint64_t id)
{
	struct memfile *backing = NULL;
	int fd = memfd_create("scoot", MFD_CLOEXEC), ro_fd = -1;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)size_bytes), 0);
	ck_assert_int_eq(memfile_new(&backing, &fd, &ro_fd, size_bytes), 0);
	atomic_store(&backing->id, id);
	return backing;
}

/* @addr: reserved by the caller, whose it stays */
static inline struct scoot_region *make_region_at(char *addr, uint64_t size_bytes,
						  enum config config)
{
	CLEANUP(memfile_unrefp) struct memfile *home = make_backing(size_bytes, 1);
	struct scoot_region *region = NULL;
	int uffd = config == WITHOUT_UFFD ? -1 : make_uffd();

	ck_assert_ptr_eq(
		mmap(addr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, home->fd, 0),
		addr);
	ck_assert_msg(!scoot_region_new(&region, addr, home, &uffd), "%s", err_sentence());
	if (config == WITHOUT_SCAN)
		region->pagemap.has_scan = false;
	return region;
}

static inline struct scoot_region *make_region(uint64_t size_bytes, enum config config)
{
	char *addr;

	ck_assert_int_eq(space_reserve(&addr, size_bytes), 0);
	return make_region_at(addr, size_bytes, config);
}

static inline void end_region(struct scoot_region *region)
{
	char *addr = region->addr;
	uint64_t size_bytes = region->size_bytes;

	scoot_region_free(region);
	space_release(addr, size_bytes);
}

static inline struct scoot_snapshot *take(struct scoot_region *region)
{
	CLEANUP(memfile_unrefp) struct memfile *overlay = NULL;
	struct scoot_snapshot *snap = NULL;
	int r = scoot_take(region, &(struct scoot_take_env){0}, NULL, &snap);

	if (r == SCOOT_E_OVERLAY) {
		overlay = make_backing(region->size_bytes, 2);
		r = scoot_take(region, &(struct scoot_take_env){0}, overlay, &snap);
	}
	ck_assert_msg(!r, "%s", err_sentence());
	return snap;
}

static inline void settle_all(struct scoot_region *region)
{
	bool more = true;

	while (more)
		ck_assert_msg(!scoot_settle_step(region, &more), "%s", err_sentence());
	while (scoot_populate_step(region))
		;
}

#endif
