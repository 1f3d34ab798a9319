/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A view: a client's private anonymous mapping that shows a snapshot. Its pages are missing until
 * they are touched; a fault worker then copies them in, several at a time when they are touched in
 * order.
 */
#ifndef COWD_VIEW_H
#define COWD_VIEW_H

#include "daemon/base/job.h"
#include "daemon/base/outcome.h"
#include "daemon/base/quota.h"
#include "daemon/base/worker.h"

struct session;
struct snapshot;

struct view;

/**
 * view_mapped - @view is mapped, and faults in it are served; or -errno with a sentence
 *
 * Return: 0; -errno: it is not wanted any more and ends. It ends in any case if @error is set. Loop
 * thread.
 */
typedef int view_mapped(void *arg, const struct view *view, int error);

struct view {
	struct served served;
	struct session *session;   /* in whose list it is */
	struct snapshot *snapshot; /* a reference */
	uint64_t id;
	uint64_t addr;
	uint64_t size_bytes;
	int uffd;
	struct charge charge;
	uint64_t next_off;    /* served.lock: where a sequential reader would go on */
	uint32_t ahead_pages; /* served.lock: how many to fill at once */
	struct job job;       /* mapping, then ending */
	view_mapped *mapped;  /* while it is being mapped */
	void *arg;            /* of that */
	struct outcome outcome;
	UT_hash_handle hh; /* in session->views */
};

/** view_new() - @uffd: gives, on success; was checked to be a userfaultfd. 0 or -errno */
int view_new(struct view **out, struct session *session, struct snapshot *snap, uint64_t addr,
	     int *uffd);
/** view_map() - of a new one, in a job; then calls @mapped with @arg */
void view_map(struct view *view, view_mapped *mapped, void *arg);
/** view_free() - takes it out of its session's list */
struct view *view_free(struct view *view);
/** view_find() - one of @session's, or NULL with a sentence; lent */
struct view *view_find(struct session *session, uint64_t id);
/** view_drop_all() - session_end(): all views of @session */
void view_drop_all(struct session *session);

#endif
