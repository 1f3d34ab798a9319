/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Saves: a snapshot written to a descriptor that a client opened and lent, by threads of the
 * savers' pool. Loop thread only.
 */
#ifndef COWD_SAVE_H
#define COWD_SAVE_H

#include <stddef.h>
#include <stdint.h>

#include "common/util.h"

struct session;
struct snapshot;

/**
 * struct save_events - what a save tells whoever began it; loop thread
 * @progress: so much is written: at first, every 100 ms, and at the end
 * @done:     the save has ended: 0, or -errno with a sentence; the last call
 */
struct save_events {
	void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
	void (*done)(void *arg, int error, uint64_t written_bytes);
};

/** save_check() - whether @snap can be saved to @fd. 0; -ESTALE, -EBUSY, -EBADF with a sentence */
int save_check(const struct snapshot *snap, int fd) MUST_CHECK;
/**
 * save_begin() - after save_check()
 * @id:  by which save_cancel() finds it
 * @fd:  taken on success
 * @arg: passed to @events; has a reference to @session
 *
 * Return: 0; -EDQUOT or -ENOMEM with a sentence, and then nothing is called.
 */
int save_begin(struct session *session, uint64_t id, struct snapshot *snap, int *fd,
	       const struct save_events *events, void *arg) MUST_CHECK;
/** save_memory_bytes() - what a save needs, to be charged by the caller of save_begin() */
size_t save_memory_bytes(void);
/** save_cancel() - it ends soon, with -ECANCELED; -ENOENT with a sentence if there is none */
int save_cancel(struct session *session, uint64_t id);
/** save_drop_all() - session_end(): cancel all saves of @session; they end on their own, soon */
void save_drop_all(struct session *session);

#endif
