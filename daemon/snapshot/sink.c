// SPDX-License-Identifier: GPL-2.0-or-later
/* Where a save writes to; contracts and why are in sink.h. */
#include "config.h"

#include "daemon/snapshot/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/err.h"
#include "common/savable.h"
#include "common/util.h"

static int open_file(struct sink *sink, int fd, const struct stat *st)
{
	off_t base;

	if (fcntl(fd, F_GETFL) & O_APPEND) {
		sink->kind = SINK_APPEND;
		return 0;
	}
	base = lseek(fd, 0, SEEK_CUR);
	if (base < 0)
		return err_raise_errno("cannot find the offset of the file to save to");
	sink->base = (uint64_t)base;
	sink->file_bytes = (uint64_t)st->st_size;
	sink->kind = SINK_FILE;
	return 0;
}

int sink_open(struct sink *sink, int fd)
{
	struct stat st;
	int r;

	r = savable_check(fd, "the descriptor to save to");
	if (r)
		return r;
	if (fstat(fd, &st) < 0)
		return err_raise_errno("cannot look at the file to save to");
	if (S_ISREG(st.st_mode))
		return open_file(sink, fd, &st);
	sink->kind = S_ISFIFO(st.st_mode)   ? SINK_PIPE
		     : S_ISSOCK(st.st_mode) ? SINK_SOCKET
					    : SINK_NULL;
	return 0;
}

static ssize_t write_through(struct sink *sink, int fd, const void *buf, size_t n_bytes)
{
	ssize_t n;

	if (sink->through[0] < 0 && pipe2(sink->through, O_CLOEXEC | O_NONBLOCK) < 0)
		return -1;
	if (!sink->n_through_bytes) {
		n = write(sink->through[1], buf, n_bytes); /* it is empty: there is room */
		if (n < 0)
			return -1;
		sink->n_through_bytes = (size_t)n;
	}
	n = splice(sink->through[0], NULL, fd, NULL, sink->n_through_bytes, SPLICE_F_NONBLOCK);
	if (n > 0)
		sink->n_through_bytes -= (size_t)n;
	return n;
}

static ssize_t write_pipe(struct sink *sink, int fd, const void *buf, size_t n_bytes)
{
	/* pwritev2() does not write to it. */
	struct iovec iov = {(void *)(uintptr_t)buf, n_bytes};
	ssize_t n;

	if (!sink->n_through_bytes) {
		n = pwritev2(fd, &iov, 1, -1, RWF_NOWAIT);
		if (n >= 0 || errno != EOPNOTSUPP)
			return n;
	}
	return write_through(sink, fd, buf, n_bytes);
}

ssize_t sink_write(struct sink *sink, int fd, const void *buf, size_t n_bytes, uint64_t off)
{
	switch (sink->kind) {
	case SINK_FILE:
		return pwrite(fd, buf, n_bytes, (off_t)(sink->base + off));
	case SINK_SOCKET:
		return send(fd, buf, n_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
	case SINK_PIPE:
		return write_pipe(sink, fd, buf, n_bytes);
	default:
		return write(fd, buf, n_bytes);
	}
}

void sink_pause(struct sink *sink)
{
	sink->through[0] = fd_close(sink->through[0]);
	sink->through[1] = fd_close(sink->through[1]);
	sink->n_through_bytes = 0;
}

bool sink_is_stream(const struct sink *sink)
{
	return sink->kind == SINK_PIPE || sink->kind == SINK_SOCKET;
}
