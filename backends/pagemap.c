// SPDX-License-Identifier: LGPL-2.1-or-later
// Finding private pages; see pagemap.h.
#include "config.h"

#include "backends/pagemap.h"

#include <sys/prctl.h>

#include "backends/kernel.h"
#include "backends/own-proc.h"
#include "common/err.h"
#include "common/own-fd.h"

#define ENTRY_PRESENT (1ULL << 63)
#define ENTRY_SWAPPED (1ULL << 62)
#define ENTRY_FILE    (1ULL << 61)

#define SCAN_BATCH  256
#define ENTRY_BATCH 512

static struct own_proc own = {.path = "/proc/self/pagemap"};

static int raise_open(void)
{
	if ((errno == EACCES || errno == EPERM) && prctl(PR_GET_DUMPABLE) != 1)
		return err_raise_errno(
			"cannot open /proc/self/pagemap: this process is not dumpable, since "
			"setuid(2) or by prctl(2): make the client before, or a region after "
			"prctl(PR_SET_DUMPABLE, 1)");
	return err_raise_errno("cannot open /proc/self/pagemap (is /proc mounted?)");
}

int pagemap_init(struct pagemap *pagemap)
{
	struct pm_scan_arg arg = {.size = sizeof(arg)};

	*pagemap = (struct pagemap){.fd = own_proc_fd(&own)};
	if (pagemap->fd < 0)
		return raise_open();
	/* An empty range is a valid question; a kernel before 6.7 does not know the ioctl. */
	pagemap->has_scan = ioctl(pagemap->fd, PAGEMAP_SCAN, &arg) >= 0;
	return 0;
}

int pagemap_check(const struct pagemap *pagemap)
{
	return own_fd_is(pagemap->fd) ? 0 : own_fd_raise();
}

/* Add [@start, @end); false when there is no room. */
static bool run_add(struct page_run *runs, size_t max, size_t *n_runs, uint64_t start, uint64_t end)
{
	if (*n_runs && runs[*n_runs - 1].addr + runs[*n_runs - 1].len == start) {
		runs[*n_runs - 1].len += end - start;
		return true;
	}
	if (*n_runs == max)
		return false;
	runs[(*n_runs)++] = (struct page_run){.addr = start, .len = end - start};
	return true;
}

/* @excluded: categories of pages that are left out */
static int find_by_scan(const struct pagemap *pagemap, uint64_t excluded, uint64_t *at,
			uint64_t end, struct page_run *runs, size_t max, size_t *n_runs)
{
	struct page_region found[SCAN_BATCH];

	while (*at < end && *n_runs < max) {
		struct pm_scan_arg arg = {
			.size = sizeof(arg),
			.start = *at,
			.end = end,
			.vec = (uint64_t)(uintptr_t)found,
			.vec_len = min_u64(ARRAY_SIZE(found), max - *n_runs),
			.category_inverted = excluded,
			.category_mask = excluded,
			.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
			/* the same for all that match: a run ends at a page that differs */
			.return_mask = PAGE_IS_FILE,
		};
		int n = ioctl(pagemap->fd, PAGEMAP_SCAN, &arg);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_raise_errno("cannot find changed pages (PAGEMAP_SCAN)");
		for (int i = 0; i < n; i++)
			(void)run_add(runs, max, n_runs, found[i].start, found[i].end);
		*at = arg.walk_end;
	}
	return 0;
}

static int find_by_reading(const struct pagemap *pagemap, uint64_t *at, uint64_t end,
			   struct page_run *runs, size_t max, size_t *n_runs)
{
	const size_t page = page_size_bytes();
	uint64_t entries[ENTRY_BATCH];

	while (*at < end) {
		uint64_t want = min_u64(ARRAY_SIZE(entries), (end - *at) / page);
		ssize_t n = pread(pagemap->fd, entries, want * sizeof(entries[0]),
				  (off_t)(*at / page * sizeof(entries[0])));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < (ssize_t)sizeof(entries[0]))
			return err_raise_errno("cannot find changed pages (/proc/self/pagemap)");
		for (size_t i = 0; i < (size_t)n / sizeof(entries[0]); i++, *at += page) {
			if (!(entries[i] & (ENTRY_PRESENT | ENTRY_SWAPPED)) ||
			    entries[i] & ENTRY_FILE)
				continue;
			if (!run_add(runs, max, n_runs, *at, *at + page))
				return 0;
		}
	}
	return 0;
}

int pagemap_private(const struct pagemap *pagemap, uint64_t *at, uint64_t end,
		    struct page_run *runs, size_t max, size_t *n_runs)
{
	*n_runs = 0;
	if (pagemap->has_scan)
		return find_by_scan(pagemap, PAGE_IS_FILE, at, end, runs, max, n_runs);
	return find_by_reading(pagemap, at, end, runs, max, n_runs);
}

int pagemap_not_zero(const struct pagemap *pagemap, uint64_t *at, uint64_t end,
		     struct page_run *runs, size_t max, size_t *n_runs)
{
	*n_runs = 0;
	if (pagemap->has_scan)
		return find_by_scan(pagemap, PAGE_IS_FILE | PAGE_IS_PFNZERO, at, end, runs, max,
				    n_runs);
	return find_by_reading(pagemap, at, end, runs, max, n_runs);
}

int pagemap_present(const struct pagemap *pagemap, const char *addr, size_t n_pages,
		    unsigned char *is_there)
{
	const uint64_t first = (uint64_t)(uintptr_t)addr / page_size_bytes();
	uint64_t entries[ENTRY_BATCH];

	for (size_t done = 0, n_read; done < n_pages; done += n_read) {
		size_t want = min_u64(n_pages - done, ARRAY_SIZE(entries));
		ssize_t n = pread(pagemap->fd, entries, want * sizeof(entries[0]),
				  (off_t)((first + done) * sizeof(entries[0])));

		n_read = n > 0 ? (size_t)n / sizeof(entries[0]) : 0;
		if (!n_read && !(n < 0 && errno == EINTR))
			return err_raise_errno("cannot find mapped pages (/proc/self/pagemap)");
		for (size_t i = 0; i < n_read; i++)
			is_there[done + i] = entries[i] >> 63;
	}
	return 0;
}
