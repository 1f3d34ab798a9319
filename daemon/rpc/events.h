/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Events that clients are sent without having asked; proto/PROTOCOL.md says what they mean. */
#ifndef COWD_EVENTS_H
#define COWD_EVENTS_H

#include "daemon/snapshot/snapshot.h"

/** events_of_snapshots - what daemon->snapshot_events points to */
extern const struct snapshot_events events_of_snapshots;

#endif
