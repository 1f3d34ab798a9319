/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What there is one of in a running cowd. Modules get it lent and keep to the parts that are
 * theirs.
 */
#ifndef COWD_DAEMON_H
#define COWD_DAEMON_H

#include <sys/types.h>

#include "daemon/base/job.h"
#include "daemon/base/loop.h"
#include "daemon/base/options.h"
#include "daemon/base/priority.h"
#include "daemon/base/probe.h"
#include "daemon/base/quota.h"
#include "daemon/base/stats.h"

struct session;
struct region;
struct snapshot;
struct backing;
struct fork_child;
struct worker_pool;
struct closer;
struct status_line;
struct snapshot_events;

struct daemon {
	struct options options;
	struct probe probe; /* what this kernel can do */
	struct stats stats;
	struct loop *loop;
	struct priority priority;
	struct job_pool *jobs; /* arming, reading, dropping: short */
	struct job_pool *savers;
	struct worker_pool *workers;
	struct closer *closer;
	struct status_line *status_line; /* NULL without a service manager */
	struct quota *quota;
	const struct snapshot_events *snapshot_events;
	int uffd_device_fd;    /* /dev/userfaultfd, -1 when there is none */
	int uffd_device_errno; /* then: why */
	int proc_self_fd_fd;   /* O_PATH on /proc/self/fd, to see what a foreign descriptor is */
	uint64_t next_id;      /* for everything that has an id; never reused */
	uint64_t started_usec;
	int statm_fd;    /* /proc/self/statm, opened before the sandbox closed; -1 without /proc */
	gid_t admin_gid; /* of options.admin_group, when has_admin_gid */
	bool has_admin_gid;
	struct session *sessions;       /* by rising id */
	struct session **sessions_last; /* the pointer that ends the list */
	struct session *sessions_by_id; /* the same, in a hash table */
	unsigned int n_sessions;
	/* Hash tables by id (uthash), owned by region.c, snapshot.c, backing.c */
	struct region *regions;
	struct snapshot *snapshots;
	struct backing *backings;
	struct memory *memories;          /* by which file they are */
	struct fork_child *fork_children; /* a list of children.c */
};

/** daemon_new_id() - a number that was never used before by this daemon */
static inline uint64_t daemon_new_id(struct daemon *daemon)
{
	return ++daemon->next_id;
}

#endif
