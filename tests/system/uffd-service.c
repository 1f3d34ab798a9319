/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mode uffd, how faults are served: what is known from the pattern of touches is made use of, and
 * what is not is left alone. Counted are faults and pages, of cowd by its own statistics and of the
 * reader by the kernel's; nothing here is timed.
 */
#include "config.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backends/extents.h"
#include "backends/uffdio.h"
#include "libclient/internal.h"
#include "system/proof.h"

/* Frozen by moving page tables where the kernel can. */
static const size_t region_bytes = (size_t)16 << 20;

static size_t n_pages_of_region(void)
{
	return region_bytes / page_size_bytes();
}

static uint64_t counter(struct cow_client *client, const char *name)
{
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__Stats stats = COW__V1__STATS__INIT;
	Cow__V1__Reply *reply = NULL;
	uint64_t value = UINT64_MAX;

	request.call_case = COW__V1__REQUEST__CALL_STATS;
	request.stats = &stats;
	proof_ok(cowi_call(client, &request, NULL, 0, &reply, NULL));
	for (size_t i = 0; i < reply->stats->n_counters; i++)
		if (!strcmp(reply->stats->counters[i]->name, name))
			value = reply->stats->counters[i]->value;
	cow__v1__reply__free_unpacked(reply, NULL);
	ck_assert_msg(value != UINT64_MAX, "cowd has no counter %s", name);
	return value;
}

/* Broken on purpose by having run_length() in daemon/uffd/fault.c return 1: fails. */
START_TEST(writes_in_order_have_their_neighbours_kept_too)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	uint64_t n_faults;
	char *memory;

	region = proof_region(COW_MODE_UFFD, region_bytes);
	memory = cow_region_address(region);
	proof_fill(memory, region_bytes, 1);
	proof_ok(cow_snapshot_new(&snap, region));
	n_faults = counter(client, "faults");
	proof_fill(memory, region_bytes, 2);
	n_faults = counter(client, "faults") - n_faults;
	ck_assert_uint_gt(n_faults, 0);
	ck_assert_uint_lt(n_faults, n_pages_of_region() / 16);
	proof_check_snapshot(snap, 1);
}
END_TEST

/* Broken on purpose by having run_length() return RUN_PAGES_MAX: fails. */
START_TEST(writes_in_no_order_have_only_their_own_pages_kept)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	const size_t n_writes = n_pages_of_region() / 8;
	uint64_t n_kept;
	char *memory;

	region = proof_region(COW_MODE_UFFD, region_bytes);
	memory = cow_region_address(region);
	proof_fill(memory, region_bytes, 1);
	proof_ok(cow_snapshot_new(&snap, region));
	n_kept = counter(client, "pages_kept");
	for (size_t i = 0; i < n_writes; i++)
		memory[i * 1031 % n_pages_of_region() * page_size_bytes()] ^= 1;
	ck_assert_uint_eq(counter(client, "pages_kept") - n_kept, n_writes);
	proof_check_snapshot(snap, 1);
}
END_TEST

static uint64_t faults_of_this_thread(void)
{
	struct rusage usage;

	ck_assert_int_eq(getrusage(RUSAGE_THREAD, &usage), 0);
	return (uint64_t)usage.ru_minflt + (uint64_t)usage.ru_majflt;
}

/* Broken on purpose by having ahead_bytes() in daemon/snapshot/view.c return one page: fails. */
START_TEST(views_read_in_order_are_filled_ahead)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	CLEANUP(freep) char *buf = proof_alloc(region_bytes);
	AUTO_FD int fd = proof_file();
	const void *view = NULL;
	uint64_t n_faults;
	long n_written;

	region = proof_region(COW_MODE_UFFD, region_bytes);
	proof_fill(cow_region_address(region), region_bytes, 1);
	proof_ok(cow_snapshot_new(&snap, region));
	proof_ok(cow_snapshot_map(snap, &view));
	n_faults = faults_of_this_thread();
	/* Not by memcmp(): a sanitizer touches memory of its own, which is counted as well. */
	n_written = syscall(SYS_write, fd, view, region_bytes);
	n_faults = faults_of_this_thread() - n_faults;
	ck_assert_int_eq(n_written, (long)region_bytes);
	ck_assert_int_eq(pread(fd, buf, region_bytes, 0), n_written);
	ck_assert(proof_is_filled(buf, region_bytes, 1, 0));
	ck_assert_uint_gt(n_faults, 0);
	ck_assert_uint_lt(n_faults, n_pages_of_region() / 8);
}
END_TEST

/* Broken on purpose by leaving out lost_because in daemon/rpc/snapshot.c: fails. */
START_TEST(a_lost_snapshot_is_listed_as_lost_with_the_reason)
{
	struct cow_snapshot_params params = {.budget_bytes = 8 * page_size_bytes()};
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	Cow__V1__ListSnapshots list = COW__V1__LIST_SNAPSHOTS__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__Reply *reply = NULL;

	region = proof_region(COW_MODE_UFFD, region_bytes);
	proof_fill(cow_region_address(region), region_bytes, 1);
	proof_ok(cow_snapshot_new_with(&snap, region, &params));
	proof_fill(cow_region_address(region), region_bytes, 2);
	request.call_case = COW__V1__REQUEST__CALL_LIST_SNAPSHOTS;
	request.list_snapshots = &list;
	proof_ok(cowi_call(client, &request, NULL, 0, &reply, NULL));
	ck_assert_uint_eq(reply->snapshots->n_snapshots, 1);
	ck_assert_ptr_nonnull(strstr(reply->snapshots->snapshots[0]->lost_because, "budget"));
	cow__v1__reply__free_unpacked(reply, NULL);
}
END_TEST

/* Broken on purpose by listing a CPU that there is not, and by not counting faults: fails. */
START_TEST(where_a_region_is_served_is_listed)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	Cow__V1__ListRegions list = COW__V1__LIST_REGIONS__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	const Cow__V1__RegionInfo *info;
	Cow__V1__Reply *reply = NULL;

	region = proof_region(COW_MODE_UFFD, region_bytes);
	proof_fill(cow_region_address(region), region_bytes, 1);
	proof_ok(cow_snapshot_new(&snap, region));
	proof_fill(cow_region_address(region), region_bytes, 2);
	request.call_case = COW__V1__REQUEST__CALL_LIST_REGIONS;
	request.list_regions = &list;
	proof_ok(cowi_call(client, &request, NULL, 0, &reply, NULL));
	ck_assert_uint_eq(reply->regions->n_regions, 1);
	info = reply->regions->regions[0];
	ck_assert_uint_gt(info->n_faults, 0);
	ck_assert_uint_lt(info->cpu, (uint64_t)sysconf(_SC_NPROCESSORS_CONF));
	cow__v1__reply__free_unpacked(reply, NULL);
}
END_TEST

/* What the one snapshot there is takes of its user's share. */
static uint64_t kept_bytes(struct cow_client *client)
{
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__ListSnapshots list = COW__V1__LIST_SNAPSHOTS__INIT;
	Cow__V1__Reply *reply = NULL;
	uint64_t n_bytes;

	request.call_case = COW__V1__REQUEST__CALL_LIST_SNAPSHOTS;
	request.list_snapshots = &list;
	proof_ok(cowi_call(client, &request, NULL, 0, &reply, NULL));
	ck_assert_uint_eq(reply->snapshots->n_snapshots, 1);
	n_bytes = reply->snapshots->snapshots[0]->kept_bytes;
	cow__v1__reply__free_unpacked(reply, NULL);
	return n_bytes;
}

static void scribble(char *memory, size_t n_writes)
{
	for (size_t i = 0; i < n_writes; i++)
		memory[i * 1031 % n_pages_of_region() * page_size_bytes()] ^= 1;
}

/*
 * A fuzzer changes other pages each time: what it changed long ago costs nothing any more, neither
 * time nor memory.
 *
 * Broken on purpose by having roll_newest() in daemon/uffd/rollback.c put nothing away: the
 * second roll back leaves all pages kept; by having it put away without protect(): the snapshot
 * is wrong.
 */
START_TEST(a_page_rolled_back_is_as_if_it_had_not_been_written)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	const size_t n_writes = n_pages_of_region() / 8;
	char *memory;

	region = proof_region(COW_MODE_UFFD, region_bytes);
	memory = cow_region_address(region);
	proof_fill(memory, region_bytes, 1);
	proof_ok(cow_snapshot_new(&snap, region));
	scribble(memory, n_writes);
	ck_assert_uint_eq(kept_bytes(client), n_writes * page_size_bytes());
	proof_ok(cow_region_rollback(region, snap));
	ck_assert(proof_is_filled(memory, region_bytes, 1, 0));
	proof_ok(cow_region_rollback(region, snap));
	ck_assert_uint_eq(kept_bytes(client), 0);
	ck_assert(proof_is_filled(memory, region_bytes, 1, 0));

	proof_fill(memory, region_bytes, 2);
	proof_check_snapshot(snap, 1);
	proof_ok(cow_region_rollback(region, snap));
	ck_assert(proof_is_filled(memory, region_bytes, 1, 0));
}
END_TEST

/*
 * One that changes the same pages each time does not wait for cowd again.
 *
 * Broken on purpose by having roll_newest() put away every page: each is kept again.
 */
START_TEST(pages_written_again_after_each_roll_back_stay_writable)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	const size_t n_writes = n_pages_of_region() / 8;
	uint64_t n_kept;
	char *memory;

	region = proof_region(COW_MODE_UFFD, region_bytes);
	memory = cow_region_address(region);
	proof_fill(memory, region_bytes, 1);
	proof_ok(cow_snapshot_new(&snap, region));
	n_kept = counter(client, "pages_kept");
	for (int i = 0; i < 3; i++) {
		scribble(memory, n_writes);
		proof_ok(cow_region_rollback(region, snap));
		ck_assert(proof_is_filled(memory, region_bytes, 1, 0));
	}
	ck_assert_uint_eq(counter(client, "pages_kept") - n_kept, n_writes);
	proof_check_snapshot(snap, 1);
}
END_TEST

static size_t n_mapped_pages(const char *memory)
{
	CLEANUP(freep) uint64_t *entries = proof_alloc(n_pages_of_region() * sizeof(*entries));
	const size_t n_bytes = n_pages_of_region() * sizeof(*entries);
	AUTO_FD int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	off_t off = (off_t)((uintptr_t)memory / page_size_bytes() * sizeof(*entries));
	size_t n = 0;

	ck_assert_int_eq(pread(fd, entries, n_bytes, off), n_bytes);
	for (size_t i = 0; i < n_pages_of_region(); i++)
		n += entries[i] >> 63;
	return n;
}

/*
 * What the kernel has not to tell anybody can only be looked at again and again; the test's limit
 * is the limit. Broken on purpose by leaving begin_sweep() out of serve_faults(): never ends.
 */
START_TEST(the_first_touch_has_all_pages_mapped_again)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	char *memory;

	region = proof_region(COW_MODE_UFFD, region_bytes);
	memory = cow_region_address(region);
	for (uint64_t seed = 1; seed < 4; seed++) {
		CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *older = steal_ptr(&snap);

		proof_fill(memory, region_bytes, seed);
		proof_ok(cow_snapshot_new(&snap, region));
		ck_assert_int_eq(*(volatile char *)memory, memory[0]);
		while (n_mapped_pages(memory) < n_pages_of_region())
			(void)sched_yield();
		proof_check_snapshot(snap, seed);
	}
}
END_TEST

static bool begins_with(const char *text, const char *start)
{
	return !strncmp(text, start, strlen(start));
}

/* Of the threads named @start..., or cowd's first: a sanitizer's are none of ours. */
static bool are_all(const char *start, int policy)
{
	unsigned int n = 0, n_other = 0;
	char path[64];
	struct dirent *entry;
	DIR *dir;

	(void)snprintf(path, sizeof(path), "/proc/%d/task", (int)proof_cowd());
	dir = opendir(path);
	ck_assert_ptr_nonnull(dir);
	while ((entry = readdir(dir))) {
		const pid_t tid = (pid_t)strtol(entry->d_name, NULL, 10);
		char name[384], comm[32] = "";
		FILE *file;

		if (tid <= 0)
			continue;
		(void)snprintf(name, sizeof(name), "%s/%s/comm", path, entry->d_name);
		file = fopen(name, "re");
		ck_assert_ptr_nonnull(file);
		ck_assert_ptr_nonnull(fgets(comm, sizeof(comm), file));
		(void)fclose(file);
		if (start ? !begins_with(comm, start) : tid != proof_cowd())
			continue;
		n++;
		n_other += sched_getscheduler(tid) != policy;
	}
	(void)closedir(dir);
	ck_assert_uint_ge(n, 1);
	return !n_other;
}

/*
 * As daemon/process/priority.h says. Broken on purpose by leaving priority_give_way() out, and
 * priority_await() out of region.c.
 */
START_TEST(only_who_is_waited_for_takes_a_cpu_from_others)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;

	for (int i = 0; i < 2; i++) {
		ck_assert(are_all("cowd-fault", SCHED_OTHER));
		ck_assert(are_all("cowd-job", SCHED_BATCH));
		ck_assert(are_all("cowd-saver", SCHED_BATCH));
		ck_assert(are_all(NULL, SCHED_BATCH));
		region = proof_region(COW_MODE_UFFD, region_bytes);
		ck_assert(are_all("cowd-job", SCHED_OTHER));
		ck_assert(are_all("cowd-saver", SCHED_BATCH));
		ck_assert(are_all(NULL, SCHED_OTHER));
		region = cow_region_unref(region);
		/* It ends without an answer. */
		while (!are_all(NULL, SCHED_BATCH) || !are_all("cowd-job", SCHED_BATCH))
			(void)sched_yield();
	}
}
END_TEST

/*
 * The kernel does several pages at once in one mapping only, and a client may divide its region's.
 * Seen to hang: without what map_pages() and let_go() do for one page alone.
 */
START_TEST(a_divided_mapping_is_served)
{
	const size_t page = page_size_bytes(), n_bytes = (size_t)16 << 20;
	CLEANUP(cow_region_unrefp) struct cow_region *region = proof_region(COW_MODE_UFFD, n_bytes);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	char *memory = cow_region_address(region);

	proof_fill(memory, n_bytes, 1);
	proof_ok(cow_snapshot_new(&snap, region));
	for (size_t i = 0; i < 4; i++)
		ck_assert_int_eq(
			madvise(memory + i * (n_bytes / 4) + 37 * page, 100 * page, MADV_DONTDUMP),
			0);
	ck_assert(proof_is_filled(memory, n_bytes / 2, 1, 0));
	proof_fill(memory, n_bytes, 2);
	proof_check_snapshot(snap, 1);
	ck_assert(proof_is_filled(memory, n_bytes, 2, 0));
}
END_TEST

/* --- the lock of a region's file ------------------------------------------------------------- */

struct locker {
	struct cow_region *region;
	char *unserved; /* a page that nobody fills */
	int uffd;
};

static void *lock_file(void *arg)
{
	struct locker *locker = arg;

	/* Takes the lock of the file, then waits for the page. */
	ck_assert_int_eq(
		pwrite(locker->region->backing->fd, locker->unserved, page_size_bytes(), 0),
		(ssize_t)page_size_bytes());
	return NULL;
}

static void locker_init(struct locker *locker, struct cow_region *region)
{
	AUTO_FD int device_fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	const size_t page = page_size_bytes();

	locker->region = region;
	locker->unserved =
		mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(locker->unserved, MAP_FAILED);
	ck_assert_int_eq(uffdio_new_by_device(&locker->uffd, device_fd, false), 0);
	ck_assert_int_eq(uffdio_api(locker->uffd, 0, NULL), 0);
	ck_assert_int_eq(uffdio_register(locker->uffd, (uintptr_t)locker->unserved, page,
					 UFFDIO_REGISTER_MODE_MISSING),
			 0);
}

/*
 * A client that holds the lock of its memory's file for ever keeps no thread of cowd waiting:
 * neither its fault worker nor a sweep nor a save nor a roll-back. Seen to hang: with SEEK_DATA in
 * count_zeroes() and in a save, and with pwrite() in write_page().
 */
START_TEST(a_locked_file_keeps_nobody_waiting)
{
	const size_t page = page_size_bytes(), n_bytes = (size_t)16 << 20;
	CLEANUP(cow_region_unrefp) struct cow_region *region = proof_region(COW_MODE_UFFD, n_bytes);
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	char *memory = cow_region_address(region);
	AUTO_FD int fd = proof_file();
	struct locker locker;
	struct pollfd pollfd;
	pthread_t thread;
	char byte = 0;

	memset(memory + page, 1, n_bytes / 2 - page);
	locker_init(&locker, region);
	ck_assert_int_eq(pthread_create(&thread, NULL, lock_file, &locker), 0);
	pollfd = (struct pollfd){.fd = locker.uffd, .events = POLLIN};
	ck_assert_int_eq(poll(&pollfd, 1, -1), 1); /* it has the lock and waits */

	proof_ok(cow_snapshot_new(&snap, region));
	for (size_t off = page; off < n_bytes; off += page) /* holes, too */
		memory[off] = 2;
	proof_ok(cow_snapshot_save(snap, fd, NULL, NULL));
	for (size_t off = page; off < n_bytes; off += page) {
		ck_assert_int_eq(pread(fd, &byte, 1, (off_t)off), 1);
		ck_assert_int_eq(byte, off < n_bytes / 2);
	}
	proof_ok(cow_region_rollback(region, snap));
	for (size_t off = page; off < n_bytes; off += page)
		ck_assert_int_eq(memory[off], off < n_bytes / 2);
	ck_assert_int_eq(uffdio_zeropage(locker.uffd, (uintptr_t)locker.unserved, page), 0);
	pthread_join(thread, NULL);
	close(locker.uffd);
	munmap(locker.unserved, page);
}
END_TEST

/* End all memory of the pool of the one region of the test's cowd: touches of it are SIGBUS. */
static bool end_pool(void)
{
	char path[64], target[64];
	struct stat st;
	ssize_t n;

	for (int i = 0; i < 256; i++) {
		(void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)proof_cowd(), i);
		n = readlink(path, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = 0;
		if (strstr(target, "cowd-store") && !stat(path, &st) && st.st_size)
			return !truncate(path, 0);
	}
	return false;
}

/*
 * As pages that were swapped out and that the device does not give back, for which the kernel has
 * the same signal. Seen to fail with pages copied from the pool's mapping: cowd died of SIGBUS.
 */
START_TEST(kept_pages_that_cannot_be_read_lose_the_snapshot_alone)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	CLEANUP(cow_snapshot_unrefp) struct cow_snapshot *snap = NULL;
	const uint64_t at = 5 * page_size_bytes();
	char byte;
	int r;

	region = proof_region(COW_MODE_UFFD, region_bytes);
	proof_fill(cow_region_address(region), region_bytes, 1);
	proof_ok(cow_snapshot_new(&snap, region));
	memset((char *)cow_region_address(region) + at, 1, page_size_bytes());
	proof_ok(cow_snapshot_read(snap, &byte, 1, at));
	ck_assert_msg(end_pool(), "cowd's memory for old pages cannot be found or cut");
	r = _i ? cow_region_rollback(region, snap) : cow_snapshot_read(snap, &byte, 1, at);
	ck_assert_msg(r == -ESTALE, "%d: %s", r, cow_last_error());
	ck_assert_msg(strstr(cow_last_error(), "cannot be read"), "%s", cow_last_error());
	ck_assert_int_eq(cow_snapshot_read(snap, &byte, 1, 0), -ESTALE);
	snap = cow_snapshot_unref(snap);
	proof_ok(cow_snapshot_new(&snap, region));
	proof_ok(cow_snapshot_read(snap, &byte, 1, at));
	ck_assert_int_eq(byte, 1);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("uffd-service", 120);

	proof_need_uffd();
	tcase_add_test(tcase, writes_in_order_have_their_neighbours_kept_too);
	tcase_add_test(tcase, writes_in_no_order_have_only_their_own_pages_kept);
	tcase_add_test(tcase, views_read_in_order_are_filled_ahead);
	tcase_add_test(tcase, a_lost_snapshot_is_listed_as_lost_with_the_reason);
	tcase_add_test(tcase, where_a_region_is_served_is_listed);
	tcase_add_test(tcase, the_first_touch_has_all_pages_mapped_again);
	tcase_add_test(tcase, only_who_is_waited_for_takes_a_cpu_from_others);
	tcase_add_test(tcase, a_divided_mapping_is_served);
	tcase_add_test(tcase, a_locked_file_keeps_nobody_waiting);
	tcase_add_test(tcase, a_page_rolled_back_is_as_if_it_had_not_been_written);
	tcase_add_test(tcase, pages_written_again_after_each_roll_back_stay_writable);
	tcase_add_loop_test(tcase, kept_pages_that_cannot_be_read_lose_the_snapshot_alone, 0, 2);
	return proof_run(tcase);
}
