// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Available memory, memory held by a subject, and page frames.
 *
 * The memory of a subject is a sum over its parts: the anonymous pages of this process and of a
 * forked child (each shared page once: Pss), their page tables, the pages of the memfds behind its
 * regions, and the pages that cowd keeps for its snapshots. cowd's code and small data are not in
 * it. The free memory of the machine would not do, because other processes change it, too.
 */
#include "config.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/err.h"
#include "common/format.h"
#include "libclient/internal.h"
#include "tools/bench/bench.h"

/* The figure after "@key:" in a file of lines "Key: 123 kB", in bytes. */
static int read_kib(const char *path, const char *key, uint64_t *n_bytes)
{
	size_t n_key = strlen(key);
	char line[256];
	FILE *file;
	int r = -ENOENT;

	file = fopen(path, "re");
	if (!file)
		return err_raise_errno("%s", path);
	while (r && fgets(line, sizeof(line), file)) {
		unsigned long long kib;

		if (!strncmp(line, key, n_key) && line[n_key] == ':' &&
		    sscanf(line + n_key + 1, "%llu", &kib) == 1) {
			*n_bytes = kib * 1024;
			r = 0;
		}
	}
	fclose(file);
	return r ? err_raise(r, "%s has no %s", path, key) : 0;
}

int memory_check(uint64_t size_bytes, unsigned int n_copies)
{
	char need[FORMAT_BYTES_MAX], have[FORMAT_BYTES_MAX], size[FORMAT_BYTES_MAX];
	uint64_t available_bytes, needed_bytes;
	int r;

	r = read_kib("/proc/meminfo", "MemAvailable", &available_bytes);
	if (r)
		return r;
	/* Page tables, tables of stores and room for everybody else: an eighth, and 64 MiB. */
	needed_bytes = size_bytes * n_copies + size_bytes / 8 + (64 << 20);
	if (needed_bytes <= available_bytes)
		return 0;
	return err_raise(
		-ENOMEM,
		"%s and a copy of it need %s of memory, %s are available; choose a smaller -s",
		format_bytes(size, size_bytes), format_bytes(need, needed_bytes),
		format_bytes(have, available_bytes));
}

static int process_bytes(pid_t pid, uint64_t *n_bytes)
{
	uint64_t anonymous_bytes, table_bytes;
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	r = read_kib(path, "Pss_Anon", &anonymous_bytes);
	if (r)
		return r;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	r = read_kib(path, "VmPTE", &table_bytes);
	if (r)
		return r;
	*n_bytes += anonymous_bytes + table_bytes;
	return 0;
}

/* A memfd of this process, seen through one of its descriptors. */
struct memfd {
	ino_t ino;
	uint64_t n_bytes;
};

#define MEMFDS_MAX 256

/* Adds the memfd behind descriptor @name of @folder_fd, unless that is none or is known already. */
static size_t add_memfd(struct memfd *memfds, size_t n_memfds, int folder_fd, const char *name)
{
	char target[32] = "";
	struct stat st;

	if (readlinkat(folder_fd, name, target, sizeof(target) - 1) < 0 ||
	    strncmp(target, "/memfd:", strlen("/memfd:")) != 0 || fstatat(folder_fd, name, &st, 0))
		return n_memfds;
	for (size_t i = 0; i < n_memfds; i++)
		if (memfds[i].ino == st.st_ino)
			return n_memfds;
	if (n_memfds < MEMFDS_MAX)
		memfds[n_memfds++] =
			(struct memfd){.ino = st.st_ino, .n_bytes = (uint64_t)st.st_blocks * 512};
	return n_memfds;
}

/* The bytes in the memfds that this process has open: those behind its regions. */
static int memfds_bytes(uint64_t *n_bytes)
{
	struct memfd memfds[MEMFDS_MAX];
	struct dirent *entry;
	size_t n_memfds = 0;
	DIR *folder;

	folder = opendir("/proc/self/fd");
	if (!folder)
		return err_raise_errno("/proc/self/fd");
	while ((entry = readdir(folder)))
		n_memfds = add_memfd(memfds, n_memfds, dirfd(folder), entry->d_name);
	closedir(folder);
	for (size_t i = 0; i < n_memfds; i++)
		*n_bytes += memfds[i].n_bytes;
	return 0;
}

/* The bytes that cowd keeps for this process's snapshots. */
static int snapshots_bytes(struct cow_client *client, uint64_t *n_bytes)
{
	Cow__V1__ListSnapshots call = COW__V1__LIST_SNAPSHOTS__INIT;
	uint32_t pid = (uint32_t)getpid();
	bool has_more = true;

	while (has_more) {
		Cow__V1__Request request = COW__V1__REQUEST__INIT;
		Cow__V1__Reply *reply = NULL;
		uint64_t after_id = call.after_id;
		int r;

		request.call_case = COW__V1__REQUEST__CALL_LIST_SNAPSHOTS;
		request.list_snapshots = &call;
		r = cowi_call(client, &request, NULL, 0, &reply, NULL);
		if (r)
			return r;
		for (size_t i = 0; reply->snapshots && i < reply->snapshots->n_snapshots; i++) {
			call.after_id = reply->snapshots->snapshots[i]->snapshot_id;
			if (reply->snapshots->snapshots[i]->pid == pid)
				*n_bytes += reply->snapshots->snapshots[i]->kept_bytes;
		}
		has_more =
			reply->snapshots && reply->snapshots->has_more && call.after_id > after_id;
		cow__v1__reply__free_unpacked(reply, NULL);
	}
	return 0;
}

int memory_held_by(struct cow_client *client, const pid_t *children, size_t n_children,
		   uint64_t *n_bytes)
{
	uint64_t held_bytes = 0;
	int r;

	r = process_bytes(getpid(), &held_bytes);
	for (size_t i = 0; !r && i < n_children; i++)
		r = process_bytes(children[i], &held_bytes);
	if (!r && client)
		r = memfds_bytes(&held_bytes);
	if (!r && client)
		r = snapshots_bytes(client, &held_bytes);
	if (!r)
		*n_bytes = held_bytes;
	return r;
}

int memory_held(struct subject *subject, uint64_t *n_bytes)
{
	return memory_held_by(subject->client, &subject->child, subject->child > 0 ? 1 : 0,
			      n_bytes);
}

uint64_t page_entry(const void *addr)
{
	AUTO_FD int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry;

	if (fd < 0 ||
	    pread(fd, &entry, sizeof(entry),
		  (off_t)((uintptr_t)addr / page_size_bytes() * sizeof(entry))) != sizeof(entry))
		return 0;
	return entry;
}

const char *page_describe(char buf[static PAGE_DESCRIBE_MAX], uint64_t entry)
{
	if (!(entry & PAGE_PRESENT))
		snprintf(buf, PAGE_DESCRIBE_MAX, "(no page yet)");
	else if (!PAGE_FRAME(entry)) /* pagemap.rst: since 4.0 frames are for CAP_SYS_ADMIN */
		snprintf(buf, PAGE_DESCRIBE_MAX, "(frame hidden, it takes CAP_SYS_ADMIN)");
	else
		snprintf(buf, PAGE_DESCRIBE_MAX, "0x%016llx",
			 (unsigned long long)(PAGE_FRAME(entry) * page_size_bytes()));
	return buf;
}
