// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * fork() in a program that uses the library.
 *
 * Regions are not inherited as they are (MADV_DONTFORK): a child would share what is mapped shared.
 * So before a fork every region that the child is to have is frozen, as for a snapshot, and let be
 * inherited for the time of the fork: parent and child then have private mappings of frozen memory,
 * and the kernel copies no page table of it. A guard keeps the memory frozen until the child and
 * its children have gone (guard.c). If that fails (memory) the child is without that region,
 * as it is without those of mode uffd: at its address is then memory that cannot be touched.
 *
 * All locks are held over the fork, in the order of internal.h, so that the child finds every list
 * whole and no settling or take is half done. The child has no thread and no connection: its copies
 * of clients, regions and snapshots answer -ECHILD, and it makes clients of its own if it wants
 * any. vfork(), posix_spawn() and system() run no handlers and need none.
 *
 * The steps are the table steps[], at the end of this file: prepare() goes down it, in_parent() and
 * in_child() go up. Its order is the order of locks of the whole library, and internal.h says what
 * each lock is for.
 *
 * A fork is one entry (entry.h), from its first step to its last in the parent and in the child: a
 * signal handler that forks, too, would wait here for its own thread's locks. If a handler forks in
 * a call that waits for cowd, the wait ends in the child with -ECHILD.
 */
#include "config.h"

#include <sys/mman.h>
#include <sys/wait.h>

#include "backends/space.h"
#include "common/clock.h"
#include "libclient/base/own-threads.h"
#include "libclient/scoot/mode.h"

/* Region as the fork finds it. */
struct forked {
	struct cow_region *region; /* a reference */
	bool is_ours;              /* of this process, not of one that it is a fork child of */
	bool is_locked;            /* its take_lock is held */
	bool is_inherited;         /* the child has its memory */
};

/* Of the fork under way. */
static pthread_mutex_t fork_lock = PTHREAD_MUTEX_INITIALIZER;
static struct forked *forked;
static size_t n_forked;
static struct cowi_guard *guard;
static uint64_t start_nsec, fork_nsec;
/* The step of this thread's fork that began last, for a debugger: a fork that hangs waits in it. */
static __thread const char *step_name __attribute__((used));

/* cow_fork() in this thread: whose regions the child has to have, and why one could not. */
static __thread struct cow_client *strict_client;
static __thread int strict_error;

/* --- fork_lock -------------------------------------------------------------------------------- */

static void lock_fork(void)
{
	pthread_mutex_lock(&fork_lock);
}

static void unlock_fork(void)
{
	pthread_mutex_unlock(&fork_lock);
}

static void begin_entry(void)
{
	(void)cowi_entry_begin();
}

/* --- regions, listed -------------------------------------------------------------------------- */

static void list_regions(void)
{
	struct cow_region **regions = NULL;
	size_t n_regions = 0;

	forked = NULL;
	n_forked = 0;
	strict_error = cowi_registry_fork_list(&regions, &n_regions);
	if (strict_error)
		return;
	forked = calloc(n_regions + 1, sizeof(*forked));
	if (!forked)
		strict_error = err_oom((n_regions + 1) * sizeof(*forked), "the list of regions");
	for (size_t i = 0; i < n_regions; i++) {
		if (forked)
			forked[n_forked++].region = regions[i];
		else
			cow_region_unref(regions[i]);
	}
	free((void *)regions);
}

static void free_list(void)
{
	free(forked);
	forked = NULL;
	n_forked = 0;
	cowi_registry_fork_end();
}

static void unlist_in_parent(void)
{
	for (size_t i = 0; i < n_forked; i++)
		cow_region_unref(forked[i].region);
	free_list();
}

/* The references taken for the fork stay: giving back the last one is for the parent. */
static void unlist_in_child(void)
{
	cowi_registry_fork_child();
	free_list();
}

/* --- regions, locked -------------------------------------------------------------------------- */

/*
 * By address, as all who take more than one: that is the registry's order. In mode uffd the child
 * has none of it, and whoever has the lock may be waiting for cowd.
 */
static void lock_regions(void)
{
	for (size_t i = 0; i < n_forked; i++) {
		struct cow_region *region = forked[i].region;

		if (region->client->pid != getpid())
			continue;
		forked[i].is_ours = true;
		if (!region->scoot)
			continue;
		cowi_region_lock(region);
		forked[i].is_locked = true;
	}
}

static void unlock_regions(void)
{
	for (size_t i = 0; i < n_forked; i++) {
		if (forked[i].is_locked)
			cowi_region_unlock(forked[i].region);
	}
}

/* --- regions, frozen -------------------------------------------------------------------------- */

static int freeze(struct cow_region *region)
{
	CLEANUP(scoot_snapshot_freep) struct scoot_snapshot *frozen = NULL;
	int r = 0;

	if (!guard)
		r = cowi_guard_new(&guard);
	if (r)
		return r;
	r = cowi_scoot_guard(region, &frozen);
	if (!r)
		r = cowi_guard_add(guard, &frozen);
	if (!r && madvise(region->addr, region->size_bytes, MADV_DOFORK)) {
		r = err_raise_errno("cannot let a fork child have region \"%s\"", region->name);
		/* Of several mappings the first ones may be done. */
		(void)madvise(region->addr, region->size_bytes, MADV_DONTFORK);
	}
	return r;
}

static void freeze_regions(void)
{
	for (size_t i = 0; i < n_forked; i++) {
		struct cow_region *region = forked[i].region;
		bool is_strict = strict_client && region->client == strict_client;
		int r;

		if (!forked[i].is_ours) {
			forked[i].is_inherited = region->is_forked;
			continue;
		}
		if (!region->scoot || (region->flags & COW_REGION_NO_FORK && !is_strict))
			continue;
		r = freeze(region);
		forked[i].is_inherited = !r;
		if (r && is_strict)
			strict_error = r;
	}
}

static void freeze_in_parent(void)
{
	for (size_t i = 0; i < n_forked; i++) {
		struct cow_region *region = forked[i].region;

		if (forked[i].is_locked && forked[i].is_inherited) {
			(void)madvise(region->addr, region->size_bytes, MADV_DONTFORK);
			region->scoot->fork_nsec = fork_nsec;
			cowi_scoot_post(region);
		}
	}
}

/* Memory that the child has, but must not use. */
static void take_away(const struct cow_region *region)
{
	(void)mmap(region->addr, region->size_bytes, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

/*
 * What was not inherited is reserved again before anything else can be mapped there: touching it
 * then is an error for certain, and unmapping it harms nobody.
 */
static void reserve_views(const struct cow_client *client)
{
	for (const struct cow_snapshot *snap = client->snapshots; snap; snap = snap->next) {
		if (snap->view)
			(void)space_reserve_at((char *)(uintptr_t)snap->view, snap->size_bytes);
	}
}

/* @is_known: the processes that could write to what this one has inherited know of it */
static void settle_region_in_child(const struct forked *fork, bool is_known)
{
	struct cow_region *region = fork->region;

	if (!cowi_region_is_mine(region)) /* the number may be another thread's here */
		region->owner = 0;
	if (fork->is_locked)
		scoot_region_forked(region->scoot);
	else if (fork->is_ours)
		region->is_busy = false; /* nobody waits for cowd here */
	if (fork->is_ours)
		reserve_views(region->client);
	if (!fork->is_ours && fork->is_inherited && !is_known)
		take_away(region);
	else if (fork->is_ours && !fork->is_inherited)
		(void)space_reserve_at(region->addr, region->size_bytes);
	region->is_forked = fork->is_inherited;
}

/* The parent has to know who has its memory; if it does not, the memory is not for this process. */
static void tell_parent(void)
{
	if (!guard || !cowi_guard_child(steal_ptr(&guard)))
		return;
	for (size_t i = 0; i < n_forked; i++) {
		if (forked[i].is_locked)
			take_away(forked[i].region);
	}
	strict_error = -ECHILD;
}

static void freeze_in_child(void)
{
	const bool is_known = !cowi_guards_inherited();

	for (size_t i = 0; i < n_forked; i++)
		settle_region_in_child(&forked[i], is_known);
	tell_parent();
}

/* --- the rest --------------------------------------------------------------------------------- */

/* It keeps the memory frozen from now on. */
static void watch_guard(void)
{
	if (guard)
		cowi_guard_watch(steal_ptr(&guard));
}

static void blocks_in_child(void)
{
	cowi_scoot_blocks_fork_child();
	cowi_scoot_blocks_fork_done();
}

static void leases_in_child(void)
{
	cowi_leases_fork_child();
	cowi_leases_fork_done();
}

static void start_clock(void)
{
	start_nsec = now_nsec();
}

static void stop_clock(void)
{
	fork_nsec = now_nsec() - start_nsec;
}

static void forget_threads(void)
{
	cowi_entry_forked();
	cowi_own_threads_fork_child();
}

/* --- the steps -------------------------------------------------------------------------------- */

static const struct fork_step {
	const char *name;
	void (*prepare)(void); /* down the table */
	void (*parent)(void);  /* up the table, also if fork() fails */
	void (*child)(void);   /* up the table */
} steps[] = {
	/* no signal handler and no cancellation, until the end */
	{"entry", begin_entry, cowi_entry_end, cowi_entry_end},
	{"fork_lock", lock_fork, unlock_fork, unlock_fork},
	/* wait until no region is being adopted or given back, and let none until the end; list
	 * all, with references; the child forgets who waited */
	{"adopting", list_regions, unlist_in_parent, unlist_in_child},
	/* the new guard of this fork, if there is one, is watched */
	{"guard", NULL, watch_guard, NULL},
	/* in the child, duplicates are not there */
	{"blocks_lock", cowi_scoot_blocks_fork_prepare, cowi_scoot_blocks_fork_done,
	 blocks_in_child},
	/* of this process's regions of modes scoot and mmapcopy, by address */
	{"take_lock", lock_regions, unlock_regions, unlock_regions},
	/* freeze them and MADV_DOFORK; in the parent MADV_DONTFORK and background work; in the
	 * child they become its own, or are reserved, and the parent is told */
	{"freeze", freeze_regions, freeze_in_parent, freeze_in_child},
	/* in the child, guards are freed */
	{"guards_lock", cowi_guards_fork_prepare, cowi_guards_fork_parent, cowi_guards_fork_child},
	/* the registry's lock, clients_lock, every client->lock; in the child there is no
	 * connection and no thread */
	{"registry, clients_lock, client->lock", cowi_clients_fork_prepare,
	 cowi_clients_fork_parent, cowi_clients_fork_child},
	/* in the child, leases are closed */
	{"awaited_lock", cowi_leases_fork_prepare, cowi_leases_fork_done, leases_in_child},
	{"maps_lock", extents_fork_prepare, extents_fork_done, extents_fork_done},
	/* how long the fork itself takes; in the child, the parent's threads are forgotten */
	{"clock", start_clock, stop_clock, forget_threads},
};

static void prepare(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		step_name = steps[i].name;
		if (steps[i].prepare)
			steps[i].prepare();
	}
}

static void in_parent(void)
{
	for (size_t i = ARRAY_SIZE(steps); i-- > 0;) {
		step_name = steps[i].name;
		if (steps[i].parent)
			steps[i].parent();
	}
}

static void in_child(void)
{
	for (size_t i = ARRAY_SIZE(steps); i-- > 0;) {
		step_name = steps[i].name;
		if (steps[i].child)
			steps[i].child();
	}
}

/* --- calls ------------------------------------------------------------------------------------ */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int init_error;

static void init(void)
{
	init_error = pthread_atfork(prepare, in_parent, in_child);
}

int cowi_fork_init(void)
{
	pthread_once(&once, init);
	if (init_error)
		return err_raise(-init_error, "cannot register what fork() has to do");
	return 0;
}

/* A child that could not be given what it was promised says so by its exit status only. */
int cow_fork(struct cow_client *client)
{
	COWI_ENTRY();
	int r, status;
	pid_t pid;

	if (!client)
		return err_raise(-EINVAL, "cow_fork() was given no client");
	r = cowi_check_process(client);
	if (r)
		return r;
	strict_client = client;
	strict_error = 0;
	pid = fork();
	strict_client = NULL;
	if (!pid && strict_error)
		_exit(EXIT_FAILURE);
	if (pid < 0)
		return err_raise_errno("cannot fork");
	if (pid > 0 && strict_error) {
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		return strict_error;
	}
	return (int)pid;
}
