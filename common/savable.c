/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Check a file to save a snapshot to; the contract is in savable.h. */
#include "config.h"

#include "common/savable.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "common/err.h"
#include "common/util.h"

/* These are in the kernel's sources, but in no header that it exports. */
#define CONFIGFS_MAGIC   0x62656570 /* fs/configfs/mount.c */
#define FUSECTL_MAGIC    0x65735543 /* fs/fuse/control.c */
#define MQUEUE_MAGIC     0x19800202 /* ipc/mqueue.c */
#define NFSD_MAGIC       0x6e667364 /* fs/nfsd/nfsctl.c */
#define RPC_PIPEFS_MAGIC 0x67596969 /* net/sunrpc/rpc_pipe.c */

/*
 * File systems whose files are the kernel's. They are named one by one, because nothing tells them
 * from others: they have no blocks, but so have tmpfs without a limit and many in user space.
 */
static const struct {
	unsigned long type;
	const char *name;
} kernel_file_systems[] = {
	{PROC_SUPER_MAGIC, "proc"},
	{SYSFS_MAGIC, "sysfs"},
	{CGROUP_SUPER_MAGIC, "cgroup"},
	{CGROUP2_SUPER_MAGIC, "cgroup2"},
	{DEBUGFS_MAGIC, "debugfs"},
	{TRACEFS_MAGIC, "tracefs"},
	{SECURITYFS_MAGIC, "securityfs"},
	{SELINUX_MAGIC, "selinuxfs"},
	{SMACK_MAGIC, "smackfs"},
	{AAFS_MAGIC, "apparmorfs"},
	{BPF_FS_MAGIC, "bpf"},
	{CONFIGFS_MAGIC, "configfs"},
	{PSTOREFS_MAGIC, "pstore"},
	{EFIVARFS_MAGIC, "efivarfs"},
	{BINFMTFS_MAGIC, "binfmt_misc"},
	{BINDERFS_SUPER_MAGIC, "binder"},
	{NSFS_MAGIC, "nsfs"},
	{RDTGROUP_SUPER_MAGIC, "resctrl"},
	{XENFS_SUPER_MAGIC, "xenfs"},
	{FUSECTL_MAGIC, "fusectl"},
	{MQUEUE_MAGIC, "mqueue"},
	{NFSD_MAGIC, "nfsd"},
	{RPC_PIPEFS_MAGIC, "rpc_pipefs"},
};

static int check_file_system(int fd, const char *name)
{
	struct statfs fs;

	if (fstatfs(fd, &fs))
		return err_raise_errno("cannot look at the file system of %s", name);
	for (size_t i = 0; i < ARRAY_SIZE(kernel_file_systems); i++) {
		if ((unsigned long)fs.f_type == kernel_file_systems[i].type)
			return err_raise(
				-EINVAL,
				"%s is a file of the kernel's (%s), which takes no snapshot", name,
				kernel_file_systems[i].name);
	}
	return 0;
}

static bool is_stream_socket(int fd)
{
	int type = 0;
	socklen_t len = sizeof(type);

	return !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) && type == SOCK_STREAM;
}

bool savable_is_null(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3);
}

static const char *kind_of(const struct stat *st)
{
	switch (st->st_mode & S_IFMT) {
	case S_IFDIR:
		return "a directory";
	case S_IFCHR:
		return "a character device";
	case S_IFBLK:
		return "a block device";
	case S_IFSOCK:
		return "a socket that is no stream";
	default:
		return "of another kind"; /* an eventfd, a symbolic link */
	}
}

static int check_kind(int fd, const struct stat *st, const char *name)
{
	if (S_ISREG(st->st_mode))
		return check_file_system(fd, name);
	if (S_ISFIFO(st->st_mode) || (S_ISSOCK(st->st_mode) && is_stream_socket(fd)) ||
	    savable_is_null(st))
		return 0;
	return err_raise(-EINVAL,
			 "%s is %s: a snapshot can be saved to a regular file, a pipe, a stream "
			 "socket or /dev/null",
			 name, kind_of(st));
}

int savable_check(int fd, const char *name)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);
	int r;

	if (flags < 0 || fstat(fd, &st))
		return err_raise(-EBADF, "%s is not open", name);
	r = check_kind(fd, &st, name);
	if (r)
		return r;
	if ((flags & O_ACCMODE) == O_RDONLY || (flags & O_PATH))
		return err_raise(-EBADF, "%s is not open for writing", name);
	return 0;
}
