// SPDX-License-Identifier: GPL-2.0-or-later
/* Events; see events.h. */
#include "config.h"

#include "daemon/rpc/events.h"

#include "daemon/process/log.h"
#include "daemon/rpc/session.h"

static void tell_lost(const struct snapshot *snap)
{
	Cow__V1__SnapshotLost lost = COW__V1__SNAPSHOT_LOST__INIT;
	Cow__V1__Reply event = COW__V1__REPLY__INIT;

	lost.snapshot_id = snap->id;
	lost.sentence = (char *)(uintptr_t)snap->lost_because; /* packed, not changed */
	event.result_case = COW__V1__REPLY__RESULT_SNAPSHOT_LOST;
	event.snapshot_lost = &lost;
	log_lost(snap);
	for (const struct hold *hold = snap->holds; hold; hold = hold->next)
		session_send(hold->session, &event, NULL, 0);
}

const struct snapshot_events events_of_snapshots = {.lost = tell_lost};
