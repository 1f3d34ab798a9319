// SPDX-License-Identifier: GPL-2.0-or-later
/* See savefile.h. */
#include "config.h"

#include "tools/savefile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/err.h"
#include "common/savable.h"

#define FILE_MODE 0600

static int open_temp(struct savefile *file)
{
	file->fd = open(file->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, FILE_MODE);
	if (file->fd >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
		return err_raise_errno("no file can be made in %s", file->folder);
	if (asprintf(&file->temp_path, "%s.partial.XXXXXX", file->path) < 0) {
		file->temp_path = NULL;
		return err_oom(strlen(file->path), "a file's name");
	}
	file->fd = mkostemp(file->temp_path, O_CLOEXEC);
	if (file->fd < 0) {
		int r = err_raise_errno("%s cannot be made", file->temp_path);

		free(steal_ptr(&file->temp_path));
		return r;
	}
	return 0;
}

static int open_stream(struct savefile *file, int fd, const char *name)
{
	file->is_stream = true;
	file->fd = fd;
	return fd < 0 ? err_raise_errno("%s", name) : savable_check(fd, name);
}

int savefile_open(struct savefile *file, const char *path, bool may_replace)
{
	const char *slash = strrchr(path, '/');
	struct stat st;

	*file = (struct savefile){.path = path, .fd = -1, .may_replace = may_replace};
	if (!strcmp(path, "-"))
		return open_stream(file, fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3),
				   "standard output");
	if (!lstat(path, &st)) {
		if (S_ISFIFO(st.st_mode) || savable_is_null(&st))
			return open_stream(file, open(path, O_WRONLY | O_CLOEXEC), path);
		/* Said before the work rather than after it; link(2) has the last word. */
		if (!may_replace)
			return err_raise(-EEXIST, "%s is there already; --force replaces it", path);
		if (!S_ISREG(st.st_mode))
			return err_raise(-EEXIST, "%s is there and is no regular file", path);
	}
	file->folder =
		slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	if (!file->folder)
		return err_oom(strlen(path), "a folder's name");
	return open_temp(file);
}

/* Gives the finished file the name @name. */
static int link_as(struct savefile *file, const char *name)
{
	char by_fd[64];

	if (file->temp_path)
		return link(file->temp_path, name) ? -errno : 0;
	snprintf(by_fd, sizeof(by_fd), "/proc/self/fd/%d", file->fd);
	return linkat(AT_FDCWD, by_fd, AT_FDCWD, name, AT_SYMLINK_FOLLOW) ? -errno : 0;
}

static int replace(struct savefile *file)
{
	if (!file->temp_path) {
		CLEANUP(freep) char *name = NULL;
		int r = -EEXIST;

		for (unsigned int i = 0; r == -EEXIST && i < 100; i++) {
			free(steal_ptr(&name));
			if (asprintf(&name, "%s.partial.%d.%u", file->path, (int)getpid(), i) < 0) {
				name = NULL;
				return -ENOMEM;
			}
			r = link_as(file, name);
		}
		if (r)
			return r;
		file->temp_path = steal_ptr(&name);
	}
	if (rename(file->temp_path, file->path))
		return -errno;
	free(steal_ptr(&file->temp_path));
	return 0;
}

int savefile_commit(struct savefile *file)
{
	AUTO_FD int folder_fd = -1;
	int r;

	if (file->is_stream)
		return 0;
	if (fsync(file->fd))
		return err_raise_errno("%s: not all of it reached the disk", file->path);
	r = file->may_replace ? replace(file) : link_as(file, file->path);
	if (r == -EEXIST)
		return err_raise(r, "%s appeared meanwhile; --force replaces it", file->path);
	if (r)
		return err_raise(r, "%s cannot get its name: %s", file->path, strerror(-r));
	/* The name is on disk when the folder is; some file systems cannot sync one: no harm. */
	folder_fd = open(file->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder_fd >= 0)
		(void)fsync(folder_fd);
	return 0;
}

void savefile_deinit(struct savefile *file)
{
	if (file->temp_path)
		(void)unlink(file->temp_path);
	free(steal_ptr(&file->temp_path));
	free(steal_ptr(&file->folder));
	file->fd = fd_close(file->fd);
}
