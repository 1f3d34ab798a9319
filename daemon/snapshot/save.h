/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Saves: a snapshot written to a descriptor that a client opened and lent, by a thread of the
 * savers' pool. rpc_snapshot_save() and rpc_save_cancel() begin and cancel one.
 */
#ifndef COWD_SAVE_H
#define COWD_SAVE_H

struct session;

/** save_drop_all() - session_end(): cancel all saves of @session; they end on their own, soon */
void save_drop_all(struct session *session);

#endif
