/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a save writes to: a descriptor that a client opened and lent.
 *
 * No thread may wait in here for whoever reads a pipe or socket, and cowd may not make the
 * descriptor non-blocking for that: O_NONBLOCK belongs to the open file, which the client shares
 * and may rely on. So each call asks for it by itself:
 *
 *  - a socket: send(MSG_DONTWAIT);
 *  - a pipe: pwritev2(RWF_NOWAIT), where the kernel has it for this pipe. It has it for none
 *    before FMODE_NOWAIT was set for pipes (after Linux 6.1), and on no kernel for a pipe that
 *    anybody used splice(2), vmsplice(2) or tee(2) on: pipe_clear_nowait() (fs/splice.c) takes it
 *    away, so that the client decides. It answers EOPNOTSUPP then, and the bytes take a way that
 *    is right on all kernels: into a pipe of cowd's own, which nobody else has, and from there
 *    by splice(SPLICE_F_NONBLOCK). That moves what there is room for and says EAGAIN when there is
 *    none, whoever else writes to the pipe at the same time (splice_pipe_to_pipe() and opipe_prep()
 *    look for room with the pipe's lock held). It copies at 2.4 GiB/s where pwritev2() does at 3.8
 *    (Linux 6.18, one reader), so it comes second. poll(2) and a write(2) of a page would not do: a
 *    second writer may have filled the pipe between the two.
 *
 * All of these still take the lock of the pipe or socket, which a client can hold. Regular files
 * are written to by ordinary calls, which take as long as the disk, or the server of a file system,
 * does.
 */
#ifndef COWD_SINK_H
#define COWD_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum sink_kind {
	SINK_UNKNOWN, /* not opened yet */
	SINK_FILE,
	SINK_APPEND, /* a file that is written at its end only */
	SINK_NULL,   /* /dev/null */
	SINK_PIPE,
	SINK_SOCKET
};

/**
 * struct sink
 * @base:       of SINK_FILE: where the snapshot begins in it
 * @file_bytes: of SINK_FILE: its size before the save
 */
struct sink {
	enum sink_kind kind;
	uint64_t base;
	uint64_t file_bytes;
	int through[2];         /* cowd's own pipe, or -1 */
	size_t n_through_bytes; /* in it: what comes next, and was not taken yet */
};

/** SINK_INIT - a sink that was not opened */
#define SINK_INIT                                                                                  \
	(struct sink)                                                                              \
	{                                                                                          \
		.through = { -1, -1 }                                                              \
	}

/** sink_open() - find out what @fd is. Return: 0, or -errno: nothing that can be saved to */
int sink_open(struct sink *sink, int fd);

/**
 * sink_write() - as write(2), of snapshot bytes that belong at @off
 *
 * What a pipe or socket has no room for is not waited for: -1, EAGAIN. After that, and after a
 * short count, the next bytes given are the ones that follow what was taken, or sink_pause() comes
 * first.
 */
ssize_t sink_write(struct sink *sink, int fd, const void *buf, size_t n_bytes, uint64_t off);

/** sink_pause() - forget what was not taken; it is given again by the next sink_write() */
void sink_pause(struct sink *sink);

/** sink_is_stream() - whether it takes no more at times, and says by poll(2) when it does */
bool sink_is_stream(const struct sink *sink);

#endif
