// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Views: contracts are in view.h.
 *
 * A fault is answered with the page that was touched and, when pages are touched in order, with up
 * to WORKER_BUF_BYTES from there on. A view of a lost snapshot has its missing pages poisoned
 * (Linux >= 6.6), so that a reader gets SIGBUS; before that, its readers wait until the client,
 * which is told of the loss, maps over the view and wakes them.
 */
#include "config.h"

#include "daemon/snapshot/view.h"

#include "backends/uffdio.h"
#include "common/err.h"
#include "daemon/base/outcome.h"
#include "daemon/daemon.h"
#include "daemon/session.h"
#include "daemon/snapshot/snapshot.h"

#define N_MSGS       16
/* A touch of another part is another fault; regions of the same worker get their turns between. */
#define POISON_BYTES ((uint64_t)2 << 20)

/* With served.lock. How many bytes to fill at @off. */
static uint64_t ahead_bytes(struct view *view, uint64_t off)
{
	uint64_t max_pages = WORKER_BUF_BYTES / page_size_bytes();
	uint64_t n_bytes;

	view->ahead_pages = off == view->next_off && off
				    ? (uint32_t)min_u64(view->ahead_pages * 2, max_pages)
				    : 1;
	n_bytes = min_u64(view->ahead_pages * page_size_bytes(), view->size_bytes - off);
	view->next_off = off + n_bytes;
	return n_bytes;
}

/* 0; UFFDIO_E_GONE; -errno */
static int serve_page(struct view *view, uint64_t off, void *buf)
{
	struct daemon *daemon = view->snapshot->daemon;
	uint64_t n_bytes = ahead_bytes(view, off);
	int r;

	r = snapshot_read(view->snapshot, buf, n_bytes, off);
	if (r && daemon->probe.has_poison)
		r = uffdio_poison(view->uffd, view->addr + off,
				  min_u64(view->size_bytes - off, POISON_BYTES));
	else if (!r)
		r = uffdio_copy(view->uffd, view->addr + off, buf, n_bytes, 0);
	stats_add(&daemon->stats, view_pages, n_bytes / page_size_bytes());
	/* Mapped over by the client, or its address space is
	 * changing: it faults again if it must. */
	if (r == UFFDIO_E_UNMAPPED || r == UFFDIO_E_AGAIN)
		r = uffdio_wake(view->uffd, view->addr + off, n_bytes);
	return r == UFFDIO_E_UNMAPPED || r == UFFDIO_E_AGAIN ? 0 : r;
}

static enum served_verdict view_serve(struct served *served, void *buf)
{
	struct view *view = container_of(served, struct view, served);
	struct uffd_msg msgs[N_MSGS];
	size_t n_msgs = 0;
	int r;

	r = uffdio_read(view->uffd, msgs, N_MSGS, &n_msgs);
	if (!r && !n_msgs)
		r = uffdio_set_nonblock(view->uffd);
	for (size_t i = 0; i < n_msgs && !r; i++) {
		uint64_t off = msgs[i].arg.pagefault.address - view->addr;

		if (msgs[i].event == UFFD_EVENT_PAGEFAULT && off < view->size_bytes)
			r = serve_page(view, align_down(off, page_size_bytes()), buf);
	}
	return r ? SERVED_GONE : SERVED_AGAIN;
}

/* --- life ------------------------------------------------------------------------------------- */

int view_new(struct view **out, struct session *session, struct snapshot *snap, uint64_t addr,
	     int *uffd)
{
	struct view *view;
	int r;

	view = malloc(sizeof(*view));
	if (!view)
		return err_oom(sizeof(*view), "a view");
	*view = (struct view){.uffd = -1, .addr = addr, .size_bytes = snap->size_bytes};
	r = quota_charge(&view->charge, session->user, QUOTA_FDS, 1);
	r = quota_error(r);
	if (!r)
		r = served_init(&view->served, *uffd, view_serve);
	if (!r) {
		view->id = daemon_new_id(session->daemon);
		HASH_ADD(hh, session->views, id, sizeof(view->id), view);
		r = hash_check(&view->hh, "a view");
	}
	if (r) {
		served_deinit(&view->served);
		charge_deinit(&view->charge);
		free(view);
		return r;
	}
	view->uffd = fd_steal(uffd);
	view->snapshot = snapshot_ref(snap);
	view->session = session;
	*out = view;
	return 0;
}

/* A turn under way, and closing the userfaultfd, may wait for the client's mmap lock. */
static void end_run(struct job *job)
{
	struct view *view = container_of(job, struct view, job);

	worker_remove(&view->served);
	view->uffd = fd_close(view->uffd);
}

static void end_done(struct job *job)
{
	struct view *view = container_of(job, struct view, job);

	served_deinit(&view->served);
	charge_deinit(&view->charge);
	snapshot_unref(view->snapshot);
	free(view);
}

struct view *view_free(struct view *view)
{
	if (!view)
		return NULL;
	HASH_DEL(view->session->views, view);
	view->session = NULL;
	if (view->mapped)
		return NULL; /* map_done() comes back here */
	view->job = (struct job){.run = end_run, .done = end_done};
	job_submit(view->snapshot->daemon->jobs, &view->job);
	return NULL;
}

struct view *view_find(struct session *session, uint64_t id)
{
	struct view *view;

	HASH_FIND(hh, session->views, &id, sizeof(id), view);
	if (view && !view->mapped)
		return view;
	(void)err_raise(-ENOENT, "this client has no view %llu", (unsigned long long)id);
	return NULL;
}

void view_drop_all(struct session *session)
{
	while (session->views)
		view_free(session->views);
}

/* --- mapping ---------------------------------------------------------------------------------- */

static void map_run(struct job *job)
{
	struct view *view = container_of(job, struct view, job);
	int r;

	r = uffdio_set_nonblock(view->uffd);
	if (!r)
		r = uffdio_api(view->uffd, 0, NULL);
	if (!r)
		r = uffdio_register(view->uffd, view->addr, view->size_bytes,
				    UFFDIO_REGISTER_MODE_MISSING);
	if (r > 0)
		r = err_raise(-ESRCH, "the client's process has ended");
	outcome_set(&view->outcome, r);
}

static void map_done(struct job *job)
{
	struct view *view = container_of(job, struct view, job);
	struct daemon *daemon = view->snapshot->daemon;
	int r;

	r = outcome_raise(&view->outcome);
	if (!r && !view->session)
		r = -ECONNRESET; /* nobody hears it */
	if (!r)
		r = worker_add(daemon->workers, &view->served);
	r = view->mapped(view->arg, view, r);
	view->mapped = NULL;
	if (!r)
		return;
	if (view->session) {
		view_free(view);
		return;
	}
	view->job = (struct job){.run = end_run, .done = end_done};
	job_submit(daemon->jobs, &view->job);
}

void view_map(struct view *view, view_mapped *mapped, void *arg)
{
	view->mapped = mapped;
	view->arg = arg;
	view->job = (struct job){.run = map_run, .done = map_done, .client_id = view->session->id};
	job_submit(view->snapshot->daemon->jobs, &view->job);
}
