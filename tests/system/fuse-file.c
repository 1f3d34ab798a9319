/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A file of a FUSE server that lets callers wait; the contract is in fuse-file.h. */
#include "config.h"

#include "system/fuse-file.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/uio.h>

#include "common/util.h"

static void answer(const struct fuse_file *file, const struct fuse_in_header *in, int error,
		   void *payload, size_t len)
{
	struct fuse_out_header out = {
		.len = (uint32_t)(sizeof(out) + len), .error = error, .unique = in->unique};
	const struct iovec iov[] = {{&out, sizeof(out)}, {payload, len}};

	/* Who asked may be gone by now; then there is nobody to tell. */
	(void)!writev(file->dev_fd, iov, len ? 2 : 1);
}

static void serve_one(struct fuse_file *file, const struct fuse_in_header *in)
{
	struct fuse_init_out init = {.major = FUSE_KERNEL_VERSION,
				     .minor = FUSE_KERNEL_MINOR_VERSION,
				     .max_write = 4096};
	struct fuse_attr_out attr = {
		.attr_valid = 3600,
		.attr = {.ino = FUSE_ROOT_ID, .mode = S_IFREG | 0600, .nlink = 1}};
	struct fuse_open_out opened = {.fh = 1};

	switch (in->opcode) {
	case FUSE_INIT:
		answer(file, in, 0, &init, sizeof(init));
		break;
	case FUSE_GETATTR:
		answer(file, in, 0, &attr, sizeof(attr));
		break;
	case FUSE_OPEN:
		answer(file, in, 0, &opened, sizeof(opened));
		break;
	case FUSE_RELEASE:
		answer(file, in, 0, NULL, 0);
		break;
	case FUSE_IOCTL:
		atomic_fetch_add(&file->n_ioctls, 1);
		break;
	case FUSE_FLUSH:
		if (!file->hangs_flushes)
			answer(file, in, -ENOSYS, NULL, 0);
		else
			atomic_fetch_add(&file->n_flushes, 1);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		answer(file, in, -ENOSYS, NULL, 0);
		break;
	}
}

static void *serve(void *arg)
{
	struct fuse_file *file = arg;
	_Alignas(struct fuse_in_header) char buf[FUSE_MIN_READ_BUFFER + 4096];

	for (;;) {
		ssize_t n = read(file->dev_fd, buf, sizeof(buf));

		if (n < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN))
			continue;
		if (n < (ssize_t)sizeof(struct fuse_in_header))
			return NULL; /* it was taken down */
		serve_one(file, (const struct fuse_in_header *)buf);
	}
}

static bool mount_it(struct fuse_file *file)
{
	char options[128];
	int fd = mkostemp(file->path, O_CLOEXEC);

	if (fd < 0)
		return false;
	fd_close(fd);
	(void)snprintf(options, sizeof(options),
		       "fd=%d,rootmode=100000,user_id=0,group_id=0,allow_other", file->dev_fd);
	return !unshare(CLONE_NEWNS) && !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
	       !mount("cowd-test", file->path, "fuse", MS_NOSUID | MS_NODEV, options);
}

/*
 * The first close(2) is told that there is no such thing as a flush, and no later one asks. Else
 * this process, ended with the file open, would wait for an answer of its own thread, which is
 * gone.
 */
static bool refuse_flushes(const struct fuse_file *file)
{
	int fd = open(file->path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return false;
	fd_close(fd);
	return true;
}

static bool start(struct fuse_file *file)
{
	(void)snprintf(file->path, sizeof(file->path), "/tmp/cowd-fuse-XXXXXX");
	file->dev_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (file->dev_fd < 0 || !mount_it(file)) {
		(void)snprintf(file->why_not, sizeof(file->why_not),
			       "no FUSE file system of our own here: %s: %s",
			       file->dev_fd < 0 ? "/dev/fuse" : "mount", strerror(errno));
		(void)unlink(file->path);
		file->dev_fd = fd_close(file->dev_fd);
		return false;
	}
	if (!pthread_create(&file->thread, NULL, serve, file) &&
	    (file->hangs_flushes || refuse_flushes(file)))
		return true;
	(void)snprintf(file->why_not, sizeof(file->why_not),
		       "no FUSE file system of our own here: %s", strerror(errno));
	fuse_file_stop(file);
	return false;
}

bool fuse_file_start(struct fuse_file *file)
{
	*file = (struct fuse_file){.hangs_flushes = false};
	return start(file);
}

bool fuse_file_start_hanging(struct fuse_file *file)
{
	*file = (struct fuse_file){.hangs_flushes = true};
	return start(file);
}

void fuse_file_stop(struct fuse_file *file)
{
	/* By force: what waits for an answer is told that there will be none. */
	(void)umount2(file->path, MNT_FORCE | MNT_DETACH);
	if (file->thread)
		pthread_join(file->thread, NULL);
	file->dev_fd = fd_close(file->dev_fd);
	(void)unlink(file->path);
}
