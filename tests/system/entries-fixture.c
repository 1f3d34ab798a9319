// SPDX-License-Identifier: LGPL-2.1-or-later
/* What tests of entries share; see entries.h. */
#include "config.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "system/entries.h"

#define LIMIT_MSEC 60000

static const struct way ways[] = {
	{COW_MODE_SCOOT, false, "scoot without a userfaultfd"},
	{COW_MODE_MMAPCOPY, false, "mmapcopy without a userfaultfd"},
	{COW_MODE_SCOOT, true, "scoot"},
	{COW_MODE_MMAPCOPY, true, "mmapcopy"},
	{COW_MODE_UFFD, true, "uffd"},
};

int entries_n_ways(void)
{
	return proof_has_uffd() ? (int)ARRAY_SIZE(ways) : 2;
}

struct way entries_way(int i)
{
	(void)fprintf(stderr, "%s\n", ways[i].name);
	if (!ways[i].lends) {
		proof_cowd_kill();
		proof_cowd_start("[daemon]\nlend = no\n");
	}
	return ways[i];
}

static void read_line(char *line, size_t size, pid_t pid, const char *task, const char *file)
{
	char path[320];
	AUTO_FD int fd = -1;
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/%d/task/%s/%s", (int)pid, task, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, line, size - 1);
	line[n > 0 ? n : 0] = '\0';
	line[strcspn(line, "\n")] = '\0';
}

/* "NAME in WCHAN" of each thread. */
static void describe(char *text, size_t size, pid_t pid)
{
	char path[64];
	struct dirent *entry;
	size_t used = 0;
	DIR *dir;

	*text = '\0';
	(void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		char name[32], wchan[64];
		int n;

		if (entry->d_name[0] == '.')
			continue;
		read_line(name, sizeof(name), pid, entry->d_name, "comm");
		read_line(wchan, sizeof(wchan), pid, entry->d_name, "wchan");
		n = snprintf(text + used, size - used, "%s%s in %s", used ? ", " : "", name, wchan);
		used = min_u64(used + (uint64_t)n, size - 1);
	}
	if (dir)
		(void)closedir(dir);
}

static int limit_msec(void)
{
	const char *factor = getenv("CK_TIMEOUT_MULTIPLIER");

	return LIMIT_MSEC * (factor && atoi(factor) > 0 ? atoi(factor) : 1);
}

void entries_run(const char *what, void (*scenario)(const struct way *way), const struct way *way)
{
	struct pollfd pollfd = {.events = POLLIN};
	char threads[1024];
	int status = -1;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (!pid) {
		scenario(way);
		_exit(0);
	}
	pollfd.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	ck_assert_int_ge(pollfd.fd, 0);
	if (poll(&pollfd, 1, limit_msec()) == 1) {
		(void)close(pollfd.fd);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_msg(WIFEXITED(status) && !WEXITSTATUS(status),
			      "%s, %s: ended with status %#x", what, way->name,
			      (unsigned int)status);
		return;
	}
	describe(threads, sizeof(threads), pid);
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, &status, 0);
	ck_abort_msg("%s, %s: hangs: %s", what, way->name, threads);
}

struct cow_region *entries_region(const struct way *way, uint64_t size_bytes)
{
	struct cow_region *region = proof_region(way->mode, size_bytes);

	proof_fill(cow_region_address(region), size_bytes, 1);
	return region;
}
