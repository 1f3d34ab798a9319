/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fork children that have a region's memory.
 *
 * In modes scoot and mmapcopy a child of the region's owner sees the same memfd, by mappings that
 * live as long as the child does, whatever becomes of the owner. So the owner passes a pidfd of
 * each child, and of their children, and the region is held until that process has ended: it is
 * listed and charged as long as it takes memory, though its owner has freed it or has ended. That
 * the memory stays frozen meanwhile is the owner's part (libclient/fork/guard.c): nobody else
 * writes there.
 *
 * Loop thread only.
 */
#ifndef COWD_CHILDREN_H
#define COWD_CHILDREN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/util.h"

struct daemon;
struct region;

/** inherit_is_pidfd() - of a client's descriptor */
bool inherit_is_pidfd(const struct daemon *daemon, int fd);
/**
 * inherit_new() - a process has @region's memory until it ends
 * @pidfd: of the process; taken on success
 * @key:   by which the region's client ends it earlier
 *
 * Return: 0; -EDQUOT, -ENOMEM or another -errno with a sentence.
 */
int inherit_new(struct region *region, int *pidfd, uint64_t key) MUST_CHECK;
/** inherit_end() - those with that @key of that client do not have the memory any more */
void inherit_end(struct daemon *daemon, uint64_t client_id, uint64_t key);
/** inherit_forget() - whose memory that is has connected again, and will tell of its children */
void inherit_forget(struct daemon *daemon, dev_t dev, ino_t ino);
/** inherit_drop_all() - cowd ends */
void inherit_drop_all(struct daemon *daemon);

#endif
