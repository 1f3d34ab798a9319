/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of libcowclient share. Nothing here is exported.
 *
 * Threads; none of them runs a signal handler of the program:
 *   client's thread  conn/thread.c; one per client. It alone reads the socket, hands replies to
 *                    the callers that wait for them, runs posted tasks (settling, dropping old
 *                    mappings), and reconnects. It must never touch a region's memory in a way
 *                    that could fault into cowd.
 *   guards' thread   fork/guard.c; one per process, from its first fork on that gives regions to
 *                    the child. It waits for fork children to end, and tells cowd of them.
 *   errand           elsewhere.c; for one take or other work of a caller whose stack lies in a
 *                    region. It takes no lock but those of backends/.
 *
 * Locks, in the order in which they may be taken:
 *    1. fork_lock          fork.c: one fork at a time; taken by fork only
 *    2. blocks_lock        scoot/blocks.c: blocks of scoot_alloc() and scoot_duplicate(), their client
 *    3. region->take_lock  one take, settle step, rollback or free at a time per region of mode
 *                          scoot or mmapcopy; of several regions in the order of their addresses
 *    4. stopping           backends/stop.c: one take at a time has the program's threads stopped,
 *                          and takes no other lock until they go on
 *    5. guards_lock        fork/guard.c: what is kept frozen for fork children
 *    6. registry's lock    registry.c: address -> region
 *    7. clients_lock       client.c: the list of clients; taken by new, free and fork only
 *    8. client->lock       connection state, calls under way, lists of regions and snapshots
 *    9. awaited_lock       lease.c: snapshots released here whose leases others hold
 *   10. maps_lock          backends/extents.c: the list of extent maps, and the runs of each
 *   11. asides_lock        backends/scoot: old page tables of one region that are to be dropped
 * fork() takes all but 4 and 11, in this order: fork/fork.c, steps[]. 4, 9, 10 and 11 are leaves:
 * nothing else is taken with one of them held, but for fork().
 *
 * Two waits are no mutexes. A region of mode uffd has is_busy in place of take_lock, with
 * client->lock for a moment: its owner waits for cowd, and a fork does not wait for that. Adopting
 * memory and fork() keep each other out (registry.c, n_adopting and is_forking): its step
 * "adopting", between fork_lock and blocks_lock.
 *
 * Callbacks are never made with a lock held. While a lock is held no signal handler runs on that
 * thread, and it cannot be cancelled: entry.h.
 *
 * Generations: ids are numbers of one daemon, and the next one may give the same number to
 * something else. So each request with an id names the generation of the connection that the id
 * came from (cowi_call_in()); it then fails with -ENOTCONN rather than reach another daemon.
 */
#ifndef COWI_INTERNAL_H
#define COWI_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "common/err.h"
#include "common/wire.h"
#include "libclient/base/entry.h"
#include "libclient/cowclient.h"
#include "libclient/snapshot-state.h"
#include "proto/cow.pb-c.h"

struct memfile;   /* backends/extents.h */
struct cowi_conn; /* conn.h: the connection; one for the life of the client */

/* Something to be run in the client's own thread; embedded in its owner. */
struct cowi_task {
	void (*run)(struct cowi_task *task);
	struct cowi_task *next;
	uint64_t due_msec; /* on the monotonic clock; client->lock while queued */
	_Bool is_queued;
};

struct cow_client {
	_Atomic int n_refs;
	pid_t pid; /* who made it: a fork child must not use it */
	char *address;
	uint32_t lend;      /* as in HelloReply, of the present connection */
	int uffd_device_fd; /* lent by cowd, or -1 */
	pthread_mutex_t lock;
	struct cowi_event changed;      /* with lock: the connection or a snapshot changed state */
	uint64_t generation;            /* counts connections; 0: never connected; lock */
	struct cow_region *regions;     /* linked by ->next, not references */
	struct cow_region *attaching;   /* lock; linked by ->next_attaching, not references */
	struct cow_snapshot *snapshots; /* linked by ->next, not references */
	struct cowi_conn *conn;         /* everything else about the connection: conn.h */
	struct cowi_aside *asides;      /* ready for the next take; lock */
	struct cowi_task refused_task;  /* cowi_regions_retry() */
	struct cowi_task warm_task;     /* cowi_warm() */
	unsigned int warm_msec;         /* until its next turn; lock */
	struct cow_client *next;        /* in the list of clients, for fork */
};

/**
 * struct cowi_mode_ops - the half of a mechanism that runs in the client, called through modes.h,
 * which asserts most of this. Each returns 0 or -errno with the sentence set.
 * @attach:    region->backing is there: map it at a fresh address, set region->addr, tell cowd
 * @restore:   a new connection was made and RegionRestore succeeded: tell cowd what it must know
 * @detach:    unmap; cannot fail
 * @take:      freeze; called with region->take_lock held and snap->generation set; fills in
 *             snap->id (with client->lock), or enters state pending and starts the call whose on_reply,
 *             holding a reference on @snap, calls cowi_snapshot_answered(). Uses cowi_call_in() or
 *             cowi_call_soon_in() with snap->generation
 * @read:      range was checked
 * @map:       see cow_snapshot_map(); called once, sets snap->view
 * @unmap:     end what @map began
 * @release:   snapshot goes; cowd is told by snapshot.c
 * @rollback:  make the snapshot's region what it was; with region->take_lock held. NULL: cannot
 * @discard:   zeroes, [@off, @off + @len) was checked; with region->take_lock held. NULL: cannot
 * @forget:    the connection ended: the number that cowd gave the memory was that cowd's, name it
 *             to no other; region->id is 0. With client->lock held. May be NULL
 * @opened:    the snapshot was opened by id, and cowd passed its files: make ready what reads and
 *             maps need. @reply is of SnapshotOpen; @fds has a read-only descriptor for each of its
 *             backing ids, then the lease, and they are taken out of it. Before anybody else sees
 *             @snap. NULL: cowd reads it
 * @warm:      before the first take: make ready what that needs. Client's thread, no lock held;
 *             does not wait for one. Returns whether to come back for more. May be NULL
 * @gone:      others have ended leases of snapshots that were released here. Client's thread. May
 *             be NULL
 * @end_client: the client has no region and no snapshot any more, and goes. May be NULL
 */
struct cowi_mode_ops {
	int (*attach)(struct cow_region *region, const struct cow_region_params *params);
	int (*restore)(struct cow_region *region);
	void (*detach)(struct cow_region *region);
	int (*take)(struct cow_snapshot *snap);
	int (*read)(struct cow_snapshot *snap, void *buf, size_t len, uint64_t off);
	int (*map)(struct cow_snapshot *snap);
	void (*unmap)(struct cow_snapshot *snap);
	void (*release)(struct cow_snapshot *snap);
	int (*rollback)(struct cow_snapshot *snap);
	int (*discard)(struct cow_region *region, uint64_t off, uint64_t len);
	void (*forget)(struct cow_region *region);
	int (*opened)(struct cow_snapshot *snap, const Cow__V1__SnapshotReply *reply,
		      struct fdset *fds);
	_Bool (*warm)(struct cow_region *region);
	void (*gone)(struct cow_client *client);
	void (*end_client)(struct cow_client *client);
};

extern const struct cowi_mode_ops cowi_mode_uffd;  /* uffd/mode.c */
extern const struct cowi_mode_ops cowi_mode_scoot; /* scoot/mode.c, for mmapcopy too */

struct cow_region {
	_Atomic int n_refs;
	struct cow_client *client; /* a reference */
	const struct cowi_mode_ops *ops;
	uint32_t mode;
	uint32_t flags;
	char name[64];
	uint64_t id; /* at cowd, of this generation; 0 while there is no connection; client->lock */
	uint64_t generation;
	uint64_t backing_id;
	struct memfile *backing; /* the memfd; a reference */
	char *addr;
	uint64_t size_bytes;
	pthread_mutex_t take_lock;
	_Atomic pthread_t owner; /* who has take_lock, or what is_busy stands for; 0: nobody */
	_Bool is_busy;           /* client->lock; mode uffd: in place of take_lock */
	struct cow_region *next; /* in client->regions */
	int attach_fd;           /* client->lock; while in client->attaching: see there */
	struct cow_region *next_attaching;
	struct scoot_region *scoot;    /* backends/scoot: extent map; NULL in mode uffd */
	_Atomic unsigned int n_takers; /* wait for take_lock: the background lets them have it */
	/* The program's own memory: where it is, and it stays when the region ends. */
	char *adopted;
	_Bool is_forked; /* in a fork child: it has the memory, as it was at the fork */
	struct cowi_scoot *scoot_glue; /* scoot/mode.c; NULL in mode uffd */
	_Bool is_restored; /* client->lock: cowd has it again, but can do nothing with it yet */
	int restore_error; /* client->lock: why id is 0 although there is a connection */
	char restore_because[160];
	_Bool is_listed;   /* client->lock: in client->regions */
	_Bool is_attached; /* @attach succeeded, so there is something to @detach */
	_Bool is_set_up;   /* and all else that a region needs: it is one */
};

struct cow_snapshot {
	_Atomic int n_refs;
	struct cow_client *client; /* a reference */
	struct cow_region *region; /* a reference; NULL when opened by id */
	const struct cowi_mode_ops *ops;
	uint64_t size_bytes;
	uint64_t generation;            /* of the connection that knows it */
	uint64_t id;                    /* client->lock; 0 unless it is live */
	enum cowi_snapshot_state state; /* client->lock */
	char lost_because[160];
	uint64_t budget_bytes; /* as struct cow_snapshot_params says; set before it is taken */
	uint32_t flags;
	char name[64];
	const void *view; /* client->lock */
	uint64_t view_id;
	int view_uffd;             /* own duplicate, so that readers wait rather than see zeroes */
	struct cow_snapshot *next; /* in client->snapshots */
	struct scoot_snapshot *scoot;    /* backends/scoot: frozen extent map; NULL in mode uffd */
	enum cowi_view_state view_state; /* client->lock */
	_Bool is_listed;                 /* client->lock: in client->snapshots */
	_Bool is_owner;                  /* it was taken here, not opened */
	_Bool has_asked;  /* client->lock: the reply to SnapshotTake, under way, has a reference */
	_Bool is_taken;   /* @take succeeded, so there is something to @release */
	uint64_t held_id; /* client->lock; what cowd has to be told to release; or 0 */
	/* client->lock; lease.c: of one taken here the read end, once cowd was told; of one that
	 * was opened the write end, as long as it can be read; or -1. */
	int lease_fd;
	/* lease.c: of one taken here, so that nothing is allocated when it is released; or NULL */
	struct cowi_lease *lease;
};

/* --- scoot/progress.c: for those who measure --------------------------------------------------- */

/**
 * struct cowi_progress - how far the background is with a region
 * @settles:      there is a userfaultfd, so the background settles; else a take does
 * @is_settled:   all pages are the memfd's again, none is private
 * @is_populated: the page tables of the next take are filled
 * @is_tidy:      no old page tables are left to be dropped
 * @is_idle:      the client's thread has no task
 * @n_settled:    pages that the background has settled so far
 * In mode uffd only @is_idle says anything.
 */
struct cowi_progress {
	_Bool settles;
	_Bool is_settled;
	_Bool is_populated;
	_Bool is_tidy;
	_Bool is_idle;
	uint64_t n_settled;
};

void cowi_region_progress(struct cow_region *region, struct cowi_progress *progress);

/* --- call.c: requests; client.c: clients, their thread's tasks, userfaultfds ------------------ */

/**
 * cowi_call() - send a request and wait for its reply
 * @request:   id is set here
 * @fds:       lent
 * @reply:     set on success, to be freed with cow__v1__reply__free_unpacked(…, NULL); may be NULL
 * @reply_fds: gets the reply's descriptors; may be NULL, then they are closed
 *
 * Connects again first if the connection is down. In the client's own thread it reads the socket
 * itself until the reply is there.
 * Return: 0, and then *@reply is of the kind that @request asks for; the error of the reply, with
 * its sentence; -ENOTCONN when the connection is or goes down; -ECHILD in a fork child.
 */
int cowi_call(struct cow_client *client, Cow__V1__Request *request, const int *fds, size_t n_fds,
	      Cow__V1__Reply **reply, struct fdset *reply_fds);

/** cowi_call_in() - like cowi_call(), but only on the connection @generation; does not connect */
int cowi_call_in(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
		 const int *fds, size_t n_fds, Cow__V1__Reply **reply, struct fdset *reply_fds);
/**
 * cowi_call_async_in() - send a request on the connection @generation, and do not wait
 * @on_reply: called with the answer in the client's own thread, no lock held; @reply is NULL when
 *            the connection went down; @error is 0 or -errno with the sentence set
 *
 * @generation may be 0: on the present connection. Does not connect. Return: 0; -ENOTCONN; -ENOMEM.
 */
int cowi_call_async_in(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
		       const int *fds, size_t n_fds,
		       void (*on_reply)(void *user, int error, Cow__V1__Reply *reply), void *user);
/** cowi_tell_in() - like cowi_call_async_in(), but nobody wants to know the answer */
void cowi_tell_in(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
		  const int *fds, size_t n_fds);
/**
 * cowi_call_soon_in() - like cowi_call_async_in(), but the packet goes out within milliseconds
 *
 * So that the caller need not wake anybody. cowi_hurry() sends it at once. @lease_fd: NULL, or
 * where the read end of the lease goes that is sent with it: lease.c.
 */
int cowi_call_soon_in(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
		      int *lease_fd, void (*on_reply)(void *user, int error, Cow__V1__Reply *reply),
		      void *user);
/**
 * cowi_call_progress() - like cowi_call_in(), for SnapshotSave
 * @progress: called in this thread without a lock for each progress event; when it returns anything
 *            but 0 the call is cancelled and its reply awaited; may be NULL
 */
int cowi_call_progress(struct cow_client *client, uint64_t generation, Cow__V1__Request *request,
		       const int *fds, size_t n_fds, Cow__V1__Reply **reply,
		       cow_progress_fn progress, void *user);

/**
 * cowi_call_snapshot() - like cowi_call_in(), for SnapshotTake and SnapshotOpen
 * @snap: is given its id as soon as the reply is received: a report of its loss, which may overtake
 *        the caller, but not the reply, finds it
 */
int cowi_call_snapshot(struct cow_snapshot *snap, Cow__V1__Request *request, Cow__V1__Reply **reply,
		       struct fdset *reply_fds);

/** cowi_generation() - number of the present connection; 0 when there is none */
uint64_t cowi_generation(struct cow_client *client);
/** cowi_generation_up() - the same, once regions were handed over on it; 0 until then */
uint64_t cowi_generation_up(struct cow_client *client);

/** cowi_check_process() - 0; -ECHILD with a sentence in a child of the process that made @client */
int cowi_check_process(const struct cow_client *client);

/** cowi_in_client_thread() - whether the caller is @client's own thread */
_Bool cowi_in_client_thread(const struct cow_client *client);

/*
 * For fork.c, from pthread_atfork() handlers. prepare takes the registry's lock, that of the list
 * of clients and then the lock of every client; the others unlock them. In the child clients have
 * no connection and no thread.
 */
void cowi_clients_fork_prepare(void);
void cowi_clients_fork_parent(void);
void cowi_clients_fork_child(void);

/** cowi_connect() - make sure that there is a connection, and that regions are known to cowd */
int cowi_connect(struct cow_client *client);

/**
 * cowi_post_later() - have @task run in the client's thread, once @msec milliseconds have passed
 *
 * No effect while @task is queued already.
 */
void cowi_post_later(struct cow_client *client, struct cowi_task *task, uint64_t msec);
/** cowi_post_unwoken() - the same, but something else has to wake
 * the thread: cowi_call_soon_in() */
void cowi_post_unwoken(struct cow_client *client, struct cowi_task *task, uint64_t msec);
/**
 * cowi_cancel() - have @task not run any more
 *
 * Waits until it has, if it runs just now, unless it runs in the calling thread. Who calls this
 * sees to it that nobody else posts it again. No lock held.
 */
void cowi_cancel(struct cow_client *client, struct cowi_task *task);

/**
 * cowi_uffd_new() - a userfaultfd on this process by the device that cowd lent
 *
 * Return: CLOEXEC and non-blocking; -EPERM when cowd lends none; another -errno.
 */
int cowi_uffd_new(struct cow_client *client);

/**
 * cowi_attach_begin() - the same for cowd, to serve @region with: region->attach_fd
 *
 * It is to be closed where cowd's end closes: whoever waits for a cowd that has gone would wait as
 * long as anybody has a copy. A fork child closes its own.
 */
int cowi_attach_begin(struct cow_region *region);
void cowi_attach_end(struct cow_region *region);

/* --- prefault.c ------------------------------------------------------------------------------- */

/** cowi_prefault() - have the pages ready that the calling thread's first take needs, if it is to
 * be */
void cowi_prefault(void);

/* --- snapshot-params.c ------------------------------------------------------------------------ */

/** cowi_snapshot_set_params() - check @params, lent or NULL, and note them. 0 or -EINVAL */
int cowi_snapshot_set_params(struct cow_snapshot *snap, const struct cow_snapshot_params *params);

/* --- snapshot.c ------------------------------------------------------------------------------- */

/** cowi_snapshot_answered() - the call under way for @snap had
 * this answer; wakes who waits for it */
void cowi_snapshot_answered(struct cow_snapshot *snap, int error, const Cow__V1__Reply *reply);
/** cowi_snapshot_named() - it is cowd's @id. With client->lock held, in the order of events */
void cowi_snapshot_named(struct cow_snapshot *snap, uint64_t id);
/** cowi_snapshot_unasked() - the reply to SnapshotTake has come, and gives its reference up */
void cowi_snapshot_unasked(struct cow_snapshot *snap);
/** cowi_snapshot_await_id() - wait while it is pending. 0; -ESTALE with a sentence when it is lost */
int cowi_snapshot_await_id(struct cow_snapshot *snap, uint64_t *id);
/** cowi_snapshots_lost() - all of @client's that depend on the connection that ended */
void cowi_snapshots_lost(struct cow_client *client, const char *because);
/** cowi_snapshot_lost_event() - cowd says that it cannot keep snapshot @id; client's thread */
void cowi_snapshot_lost_event(struct cow_client *client, uint64_t id, const char *because);
/**
 * cowi_snapshot_release_lost() - have cowd know that nothing here shows lost snapshot @id any more
 *
 * Of one that was opened: its lease has ended, and cowd is to end its own.
 */
void cowi_snapshot_release_lost(struct cow_client *client, uint64_t id);

/* --- region.c --------------------------------------------------------------------------------- */

/**
 * cowi_region_lock() - take_lock, before any background work on @region goes on
 *
 * In mode uffd it is region->is_busy instead: its owner waits for cowd, and fork(), called by a
 * signal handler meanwhile or not, does not wait for it.
 */
void cowi_region_lock(struct cow_region *region);
/** cowi_region_trylock() - of modes scoot and mmapcopy. Return: whether it is locked */
_Bool cowi_region_trylock(struct cow_region *region);
void cowi_region_unlock(struct cow_region *region);
/** cowi_region_is_mine() - whether the calling thread has locked @region; for assertions */
_Bool cowi_region_is_mine(const struct cow_region *region);
/** cowi_regions_restore() - tell a new cowd about regions that it does not know; client's thread */
void cowi_regions_restore(struct cow_client *client);
/** cowi_regions_retry() - client->refused_task: hand over again what may be taken by now */
void cowi_regions_retry(struct cowi_task *task);
/** cowi_regions_forget() - the connection ended: no region has an id any more */
void cowi_regions_forget(struct cow_client *client);

/* --- warm.c ----------------------------------------------------------------------------------- */

/** cowi_warm_soon() - there is a new region: have its mode ready for its first take, in time */
void cowi_warm_soon(struct cow_client *client);
/** cowi_warm() - client->warm_task */
void cowi_warm(struct cowi_task *task);

/* --- registry.c: every region of this process by address -------------------------------------- */

int cowi_registry_add(struct cow_region *region);
void cowi_registry_remove(struct cow_region *region);
/** cowi_registry_find() - region that contains @addr, with a
 * reference, or NULL; never blocks long */
struct cow_region *cowi_registry_find(const void *addr);
/** cowi_registry_covers() - whether some of it lies in a region, be it one that comes to its end */
_Bool cowi_registry_covers(const void *addr, size_t len);
/** cowi_registry_list() - every region of this process, with references, into a malloc()ed array */
int cowi_registry_list(struct cow_region ***regions, size_t *n_regions);
/**
 * cowi_registry_adopt_begin() - no fork until cowi_registry_adopt_end(); waits for one under way
 *
 * From before memory is touched until it is a region that is registered, or what it was again. The
 * memory of an adopted region that ends is given back before cowi_registry_remove().
 */
void cowi_registry_adopt_begin(void);
void cowi_registry_adopt_end(void);
/** cowi_registry_fork_list() - as cowi_registry_list(), with nothing being adopted or given back,
 *  until cowi_registry_fork_end(), which is due on errors too */
int cowi_registry_fork_list(struct cow_region ***regions, size_t *n_regions);
void cowi_registry_fork_end(void);
void cowi_registry_fork_child(void);
void cowi_registry_fork_prepare(void); /* called by cowi_clients_fork_*() */
void cowi_registry_fork_done(void);

/* --- aside.c ---------------------------------------------------------------------------------- */

enum cowi_aside_state {
	COWI_ASIDE_EMPTY, /* a bare reservation */
	COWI_ASIDE_LENT,  /* to a take */
	COWI_ASIDE_FULL,  /* of what it moved there */
};

/**
 * struct cowi_aside - address space of a region's size that its page tables are moved to
 *
 * Of the thread that got it from cowi_aside_get() until that calls cowi_aside_put(); then of the
 * client's thread, until it is among those that the client has ready.
 */
struct cowi_aside {
	struct cowi_task task;
	struct cow_client *client; /* borrowed: it runs the task */
	struct cowi_aside *next;   /* among those that are ready; client->lock */
	_Atomic enum cowi_aside_state state;
	char *addr;
	uint64_t size_bytes;
	uint64_t dropped_bytes;
};

/**
 * cowi_aside_get() - one that is ready, or a new one
 *
 * Before cowd is asked: its answer wakes the client's thread, which then looks after it, and the
 * caller need not wake it once more. Return: 0 or -errno with a sentence.
 */
int cowi_aside_get(struct cowi_aside **aside, struct cow_client *client, uint64_t size_bytes);
/** cowi_aside_put() - @is_full: page tables were moved there, and are to be dropped in pieces */
void cowi_aside_put(struct cowi_aside *aside, _Bool is_full);
/** cowi_aside_failed() - as cowi_aside_put(), after a move there that failed */
void cowi_aside_failed(struct cowi_aside *aside);
/** cowi_asides_prepare() - have one ready, if there is address space */
void cowi_asides_prepare(struct cow_client *client, uint64_t size_bytes);
/** cowi_asides_free() - those that are ready; when the client goes */
void cowi_asides_free(struct cow_client *client);

/* --- elsewhere.c ------------------------------------------------------------------------------ */

/* What the library needs of its caller's stack below where it was called, and more. */
#define COWI_STACK_BYTES ((uintptr_t)64 << 10)

/**
 * cowi_elsewhere() - @run(@arg), which keeps threads out of a region; in a thread that has no stack
 * there
 * @run: takes no lock but those of backends/; touches @arg only while nobody is kept out
 *
 * In an entry. Return: what @run returned, with its sentence; -errno: it was not run.
 */
int cowi_elsewhere(int (*run)(void *arg), void *arg);
/**
 * cowi_stands_in() - whether the caller's stack, as far as a call needs it, its control block or
 * its thread-local storage lies in [@addr, @addr + @len)
 */
_Bool cowi_stands_in(const char *addr, uint64_t len);
/* --- map.c ------------------------------------------------------------------------------------ */

/** cowi_map_broken() - replace [@addr, @addr + @n_bytes) by
 * memory that raises SIGBUS. 0 or -errno */
int cowi_map_broken(void *addr, uint64_t n_bytes);

/* --- client.c --------------------------------------------------------------------------------- */

/** cowi_client_new() - what cow_client_new() does once start.c has plugged modes and fork() in */
int cowi_client_new(struct cow_client **out, const char *address);

/* --- scoot/background.c, fork.c ------------------------------------------------------------ */

/** cowi_scoot_post_all() - have the background look for work in every region of this process */
void cowi_scoot_post_all(void);
/** cowi_fork_init() - register the pthread_atfork() handlers, once; called by cow_client_new() */
int cowi_fork_init(void);
/** cowi_guards_tell() - have cowd know who has @region's memory; after a new connection */
void cowi_guards_tell(struct cow_region *region);

/* --- references ------------------------------------------------------------------------------- */

/* Take a reference unless the last one is gone already: for finding objects by weak pointers. */
static inline _Bool cowi_ref_unless_zero(_Atomic int *n_refs)
{
	int n = atomic_load_explicit(n_refs, memory_order_relaxed);

	while (n > 0) {
		if (atomic_compare_exchange_weak(n_refs, &n, n + 1))
			return 1;
	}
	return 0;
}

#endif
