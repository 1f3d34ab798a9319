// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Stage "files" of the sandbox: Landlock, landlock(7).
 *
 * All rights that the kernel knows are handled, that is, denied, but for
 *   the directory of the configuration file  reading files, for a reload
 *   the directory of the socket              removing the socket file at the end
 *   /proc                                    reading files: the CPU that a client's thread runs on
 *   /sys/devices/system/cpu                  reading files: which CPUs are online
 *   /dev/userfaultfd                         opening it, if that failed at start, at a reload
 *
 * Descriptors that are open already, memfds, and what clients pass are not touched by it: Landlock
 * asks when a path is opened.
 */
#include "config.h"

#include <fcntl.h>
#include <libgen.h>
#include <linux/landlock.h>
#include <string.h>
#include <sys/syscall.h>

#include "common/err.h"
#include "daemon/process/device.h"
#include "daemon/process/log.h"
#include "daemon/process/sandbox.h"

#ifndef LANDLOCK_ACCESS_FS_TRUNCATE /* since 6.2, version 3 */
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif
#ifndef LANDLOCK_ACCESS_FS_IOCTL_DEV /* since 6.10, version 5 */
#define LANDLOCK_ACCESS_FS_IOCTL_DEV (1ULL << 15)
#endif

/* The rights of version 1 (5.13): the lowest 13 bits. */
#define RIGHTS_V1 ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)

static uint64_t known_rights(long version)
{
	uint64_t rights = RIGHTS_V1;

	if (version >= 2)
		rights |= LANDLOCK_ACCESS_FS_REFER;
	if (version >= 3)
		rights |= LANDLOCK_ACCESS_FS_TRUNCATE;
	if (version >= 5)
		rights |= LANDLOCK_ACCESS_FS_IOCTL_DEV;
	return rights;
}

/* What is not there needs no right. */
static int allow_beneath(int ruleset_fd, const char *path, uint64_t rights)
{
	struct landlock_path_beneath_attr rule = {.allowed_access = rights};
	AUTO_FD int fd = -1;

	fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return 0;
	rule.parent_fd = fd;
	if (syscall(SYS_landlock_add_rule, ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
		return err_raise_errno("cannot allow %s by Landlock", path);
	return 0;
}

static int allow_beside(int ruleset_fd, const char *path, uint64_t rights)
{
	CLEANUP(freep) char *copy = NULL;

	if (!path)
		return 0;
	copy = strdup(path);
	if (!copy)
		return err_oom(strlen(path) + 1, "a path");
	return allow_beneath(ruleset_fd, dirname(copy), rights);
}

int sandbox_restrict_files(const struct options *options)
{
	struct landlock_ruleset_attr attr;
	AUTO_FD int ruleset_fd = -1;
	long version;
	int r;

	version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (version < 1) {
		log_debug("this kernel has no Landlock: files are guarded by their modes alone");
		return 0;
	}
	attr = (struct landlock_ruleset_attr){.handled_access_fs = known_rights(version)};
	ruleset_fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	if (ruleset_fd < 0)
		return err_raise_errno("cannot create a Landlock ruleset");
	r = allow_beside(ruleset_fd, options->config_path, LANDLOCK_ACCESS_FS_READ_FILE);
	if (!r)
		r = allow_beside(ruleset_fd, options->socket_path, LANDLOCK_ACCESS_FS_REMOVE_FILE);
	if (!r)
		r = allow_beneath(ruleset_fd, "/proc", LANDLOCK_ACCESS_FS_READ_FILE);
	if (!r)
		r = allow_beneath(ruleset_fd, "/sys/devices/system/cpu",
				  LANDLOCK_ACCESS_FS_READ_FILE);
	if (!r)
		r = allow_beneath(ruleset_fd, DEVICE_PATH,
				  attr.handled_access_fs & (LANDLOCK_ACCESS_FS_READ_FILE |
							    LANDLOCK_ACCESS_FS_IOCTL_DEV));
	if (!r && syscall(SYS_landlock_restrict_self, ruleset_fd, 0) < 0)
		r = err_raise_errno("cannot take on the Landlock ruleset");
	return r;
}
