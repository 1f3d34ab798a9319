/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that do nothing but close client-supplied descriptors, and the memory of regions.
 *
 * close(2) may take as long as somebody else likes: a file of a FUSE waits for its server (FLUSH),
 * one of NFS writes all of it back, a socket with SO_LINGER waits for its peer. And the last
 * descriptor of a memfd frees its pages, some 40 ms a GiB. The loop must not wait for any of that,
 * because all clients wait for the loop.
 *
 * Each uid has at most one thread closing at a time, in order, so that a client that hangs it hangs
 * the closings of its own uid. If as many uids as there are threads do that, nothing is closed any
 * more, while all else goes on. Until it is closed a descriptor is charged to its uid.
 */
#ifndef COWD_CLOSER_H
#define COWD_CLOSER_H

#include "common/wire.h"
#include "daemon/base/quota.h"

struct closer;

/** closer_new() - start the threads, all signals blocked. 0 or -errno */
int closer_new(struct closer **out);
/**
 * closer_free() - what can be closed at once is; threads that hang are left to the process's end
 * Return: NULL; the closer, if some were left: accounts are still in use then.
 */
struct closer *closer_free(struct closer *closer);

/**
 * closer_give() - close @fds, which become -1, and then give @charges back, which become empty
 * @closer: NULL: there are no threads (yet), it is done here
 * @user:   whose they are
 *
 * Without memory to remember them they are closed here, too. Any thread.
 */
void closer_give(struct closer *closer, struct quota_user *user, int *fds, size_t n_fds,
		 struct charge *charges, size_t n_charges);

/** closer_give_set() - close what nobody took of @set, charged to @user until then whatever its
 * limit */
void closer_give_set(struct closer *closer, struct quota_user *user, struct fdset *set);

/** closer_check() - 0; -EMFILE with a sentence: too many of
 * @user's descriptors wait to be closed */
int closer_check(struct closer *closer, const struct quota_user *user);

#endif
