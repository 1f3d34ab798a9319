// SPDX-License-Identifier: GPL-2.0-or-later
/* Kernel, limits and settings; see check-machine.h. */
#include "config.h"

#include "tools/check-machine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "backends/trial.h"
#include "backends/uffdio.h"
#include "common/format.h"
#include "common/util.h"
#include "tools/report.h"

#define DEVICE "/dev/userfaultfd"

void check_row(struct json_object *rows, const char *name, const char *state, const char *finding,
	       const char *advice)
{
	struct json_object *row = json_object_new_object();

	json_object_object_add(row, "name", report_text(name));
	json_object_object_add(row, "state", report_text(state));
	json_object_object_add(row, "finding", report_text(finding));
	json_object_object_add(row, "advice", report_text(advice));
	json_object_array_add(rows, row);
}

static void row_of(struct json_object *rows, const char *name, bool is_there, const char *without,
		   const char *found, const char *missing, const char *advice)
{
	check_row(rows, name, is_there ? CHECK_YES : without, is_there ? found : missing,
		  is_there ? "" : advice);
}

/* --- kernel ----------------------------------------------------------------------------------- */

static void check_release(struct json_object *rows)
{
	unsigned int major = 0, minor = 0;
	struct utsname name;
	char finding[128];
	bool is_enough;

	if (uname(&name) || sscanf(name.release, "%u.%u", &major, &minor) != 2) {
		check_row(rows, "kernel", CHECK_UNKNOWN, "its release cannot be read", "");
		return;
	}
	is_enough = major > 6 || (major == 6 && minor >= 1);
	snprintf(finding, sizeof(finding), "Linux %s", name.release);
	check_row(rows, "kernel", is_enough ? CHECK_YES : CHECK_NO, finding,
		  is_enough ? "" : "Linux 6.1 is the oldest that cowd runs on");
}

/* Whether this user can make one that serves faults of the kernel too, and how; else why not. */
static bool find_own(char *finding, size_t size)
{
	AUTO_FD int uffd = -1;
	AUTO_FD int device_fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	const char *why = device_fd < 0 ? strerror(errno) : "it is another device";

	if (device_fd >= 0 && !uffdio_new_by_device(&uffd, device_fd, false)) {
		snprintf(finding, size, "this user can open " DEVICE);
		return true;
	}
	if (!uffdio_new_by_syscall(&uffd, false)) {
		snprintf(finding, size,
			 "by userfaultfd(2): CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd is 1 "
			 "(" DEVICE ": %s)",
			 why);
		return true;
	}
	snprintf(finding, size, DEVICE ": %s; userfaultfd(2): not allowed", why);
	return false;
}

static void check_own_uffd(struct json_object *rows, int device_fd)
{
	char finding[256];
	bool is_there = find_own(finding, sizeof(finding));
	const char *advice = "";

	if (!is_there && device_fd >= 0)
		advice =
			"nothing: cowd lends one; only a private cowd (address exec:) of this user "
			"would do without";
	else if (!is_there && access(DEVICE, F_OK))
		advice = "in a container, pass it on: docker run --device " DEVICE
			 " (podman the same); else cowd(8), FILES";
	else if (!is_there)
		advice = "have a cowd of the system lend it: cowd(8), LENDING";
	check_row(rows, "userfaultfd of one's own", is_there ? CHECK_YES : CHECK_NO, finding,
		  advice);
}

void check_kernel(struct json_object *rows, struct machine *machine, int device_fd)
{
	uint64_t features = trial_features(device_fd);

	check_release(rows);
	check_own_uffd(rows, device_fd);
	if (features)
		row_of(rows, "write protection", trial_catch(device_fd, features), CHECK_NO,
		       "a write to a protected page was reported, and went on afterwards",
		       "shared memory cannot be protected, or a write to it was not reported: no "
		       "mode uffd",
		       "");
	else
		check_row(rows, "write protection", CHECK_UNKNOWN,
			  "not tried: this process gets no userfaultfd at all, not even for faults "
			  "of its own",
			  "a seccomp filter may forbid userfaultfd(2): a cowd outside of it can "
			  "lend one");
	machine->has_lazy = features && trial_continue(device_fd, features);
	row_of(rows, "protection on touch", machine->has_lazy, CHECK_SLOWER,
	       "a snapshot of mode uffd takes the same time at any size",
	       "a snapshot of mode uffd protects all pages at once: 17 to 40 ms for each GiB",
	       "Linux 6.4 has it");
	row_of(rows, "moving page tables", trial_move(), CHECK_NO,
	       "mremap(MREMAP_DONTUNMAP) moves a shared mapping",
	       "mremap(MREMAP_DONTUNMAP) of a shared mapping fails: no modes scoot and mmapcopy",
	       "a seccomp filter or a sandbox may forbid it");
	machine->has_scan = trial_scan();
	row_of(rows, "PAGEMAP_SCAN", machine->has_scan, CHECK_SLOWER,
	       "one call finds the pages that were written",
	       "written pages are found by reading /proc/self/pagemap, which takes longer",
	       "Linux 6.7 has it");
}

/* --- limits and settings ---------------------------------------------------------------------- */

/* The first line of a file under /proc or /sys, without its end; "" if it cannot be read. */
static void read_setting(const char *path, char *text, size_t size)
{
	AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

	text[n > 0 ? n : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
}

static uint64_t limit_of(enum __rlimit_resource which)
{
	struct rlimit limit;

	return getrlimit(which, &limit) || limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX
									   : limit.rlim_cur;
}

static void check_space(struct json_object *rows, struct machine *machine)
{
	uint64_t as = limit_of(RLIMIT_AS), data = limit_of(RLIMIT_DATA), least = min_u64(as, data);
	char strict[16], finding[160], buf[FORMAT_BYTES_MAX];

	read_setting("/proc/sys/vm/overcommit_memory", strict, sizeof(strict));
	machine->has_shadow = least == UINT64_MAX && strcmp(strict, "2") != 0;
	if (least != UINT64_MAX)
		snprintf(finding, sizeof(finding),
			 "%s is limited to %s: scoot keeps no second mapping, and page tables are "
			 "built anew after each snapshot",
			 least == as ? "address space (ulimit -v)" : "data (ulimit -d)",
			 format_bytes(buf, least));
	else
		snprintf(finding, sizeof(finding),
			 "vm.overcommit_memory is 2: scoot keeps no second mapping, and page "
			 "tables are built anew after each snapshot");
	row_of(rows, "address space", machine->has_shadow, CHECK_SLOWER,
	       "without limit, and overcommit is not strict", finding,
	       least != UINT64_MAX ? "raise the limit" : "set vm.overcommit_memory to 0");
}

#define FILES_FEW 256

static void check_files(struct json_object *rows)
{
	uint64_t n_files = limit_of(RLIMIT_NOFILE);
	char finding[128];

	snprintf(finding, sizeof(finding),
		 "%" PRIu64 " (ulimit -n); a region takes a handful, each held snapshot one more",
		 n_files);
	check_row(rows, "open files", n_files < FILES_FEW ? CHECK_SLOWER : CHECK_YES, finding,
		  n_files < FILES_FEW ? "raise it where there are many regions" : "");
}

static void check_locked(struct json_object *rows)
{
	uint64_t n_bytes = limit_of(RLIMIT_MEMLOCK);
	char finding[160], buf[FORMAT_BYTES_MAX];

	snprintf(finding, sizeof(finding),
		 "%s (ulimit -l); regions need none, and what a program locks of them is unlocked "
		 "by "
		 "a snapshot",
		 n_bytes == UINT64_MAX ? "no limit" : format_bytes(buf, n_bytes));
	check_row(rows, "locked memory", CHECK_YES, finding, "");
}

#define MAPS_USUAL 65530

static void check_maps(struct json_object *rows)
{
	char setting[32], finding[160];
	unsigned long n_maps = 0;

	read_setting("/proc/sys/vm/max_map_count", setting, sizeof(setting));
	if (sscanf(setting, "%lu", &n_maps) != 1) {
		check_row(rows, "mappings", CHECK_UNKNOWN, "vm.max_map_count cannot be read", "");
		return;
	}
	snprintf(finding, sizeof(finding), "vm.max_map_count is %lu%s", n_maps,
		 n_maps < MAPS_USUAL
			 ? ": cow_mmapcopy() of many small parts copies sooner than elsewhere"
			 : "");
	check_row(rows, "mappings", n_maps < MAPS_USUAL ? CHECK_SLOWER : CHECK_YES, finding,
		  n_maps < MAPS_USUAL ? "65530 is usual" : "");
}

/* Which word of "always [never] advise" is the one in brackets. */
static bool chosen_word(char *word, size_t size, const char *setting)
{
	const char *open = strchr(setting, '[');
	size_t n = open ? strcspn(open + 1, "]") : 0;

	if (!n || n >= size)
		return false;
	memcpy(word, open + 1, n);
	word[n] = '\0';
	return true;
}

static void check_huge(struct json_object *rows)
{
	char setting[128], word[32], finding[192];
	const char *meaning;

	read_setting("/sys/kernel/mm/transparent_hugepage/shmem_enabled", setting, sizeof(setting));
	if (!chosen_word(word, sizeof(word), setting)) {
		check_row(rows, "huge pages", CHECK_YES,
			  "this kernel has none for shared memory: regions lie in small pages", "");
		return;
	}
	meaning = !strcmp(word, "never") || !strcmp(word, "deny") || !strcmp(word, "advise")
			  ? "regions lie in small pages, which are allocated as they are touched"
			  : "regions may lie in huge pages: fewer faults at first, and memory that "
			    "is touched here and there is allocated in whole huge pages";
	snprintf(finding, sizeof(finding), "shmem_enabled is %s: %s", word, meaning);
	check_row(rows, "huge pages", CHECK_YES, finding, "");
}

void check_limits(struct json_object *rows, struct machine *machine)
{
	check_space(rows, machine);
	check_files(rows);
	check_locked(rows);
	check_maps(rows);
	check_huge(rows);
}
