// SPDX-License-Identifier: GPL-2.0-or-later
/* Events; see events.h. */
#include "config.h"

#include "daemon/rpc/events.h"

#include <inttypes.h>

#include "common/clock.h"
#include "daemon/process/log.h"
#include "daemon/region/region.h"
#include "daemon/rpc/session.h"

/* Lines of one uid in a row, and the time until it may have as many again. */
#define LOST_LINES 10
#define LOST_USEC  (UINT64_C(30) * 1000000)

/*
 * Logs a warning that @snap is lost, with its reason. Of each uid so many lines in some time, and
 * one that says that there are others: a client that has snapshots lost without end does not fill
 * the journal. Loop thread.
 */
static void log_lost(const struct snapshot *snap)
{
	struct log_budget *budget = quota_user_log_budget(snap->region->user);
	const struct session *session = snap->region->session;
	const struct log_subject subject = {.client_id = session ? session->id : 0,
					    .pid = snap->pid,
					    .uid = snap->uid,
					    .program = session ? session->program : NULL,
					    .region_id = snap->region_id,
					    .snapshot_id = snap->id};
	uint64_t now = now_usec();

	if (!budget->began_usec || now - budget->began_usec >= LOST_USEC)
		*budget = (struct log_budget){.began_usec = now};
	if (budget->n_lines > LOST_LINES)
		return;
	if (budget->n_lines++ < LOST_LINES)
		log_about(LOG_WARNING, &subject,
			  "snapshot %" PRIu64 " of region %" PRIu64 " \"%s\" is lost: %s", snap->id,
			  snap->region_id, snap->region_name, snap->lost_because);
	else
		log_about(
			LOG_WARNING, &subject,
			"more than %d snapshots of uid %u were lost; for %d s no more lines about "
			"them, cowctl stats counts all",
			LOST_LINES, (unsigned int)snap->uid, (int)(LOST_USEC / 1000000));
}

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
