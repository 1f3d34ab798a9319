// SPDX-License-Identifier: LGPL-2.1-or-later
/* Contracts are in own-proc.h. */
#include "config.h"

#include "backends/own-proc.h"

#include <fcntl.h>

#include "common/own-fd.h"
#include "common/util.h"

static uint64_t pack(int fd)
{
	return (uint64_t)getpid() << 32 | (uint32_t)fd;
}

static int unpack(uint64_t word)
{
	return (int)(uint32_t)word;
}

/* A fork child has the parent's. */
static bool is_ours(uint64_t word)
{
	return word >> 32 == (uint64_t)getpid() && own_fd_is(unpack(word));
}

int own_proc_fd(struct own_proc *file)
{
	uint64_t word = atomic_load(&file->opened);
	AUTO_FD int fd = -1;

	if (is_ours(word))
		return unpack(word);
	fd = open(file->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	if (!atomic_compare_exchange_strong(&file->opened, &word, pack(fd)))
		return unpack(word); /* another thread was quicker */
	if (word)
		own_fd_close(unpack(word));
	return own_fd_note(fd_steal(&fd));
}
