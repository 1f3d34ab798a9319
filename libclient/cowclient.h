/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libcowclient: freeze gigabytes of this process's memory at one instant.
 *
 *	struct cow_client *client = NULL;
 *	struct cow_region *region = NULL;
 *	struct cow_snapshot *snap = NULL;
 *
 *	cow_client_new(&client, NULL);
 *	cow_region_new(&region, client, &(struct cow_region_params){
 *			.size_bytes = 8UL << 30, .mode = COW_MODE_SCOOT, .name = "heap" });
 *	heap = cow_region_address(region);
 *	…
 *	cow_snapshot_new(&snap, region);
 *	cow_snapshot_save(snap, fd, NULL, NULL);
 *	cow_snapshot_unref(snap);
 *
 * Calls return 0 or a negative errno; after an error cow_last_error() returns this thread's
 * sentence about it. A program may make every call from any thread, and none from a signal handler;
 * libcowclient(3) has the promises about signals, cancellation and stacks. The library prints
 * nothing, installs no signal handler and never ends the process. Any call returns -EBADF if the
 * program has closed the library's descriptors: see DESCRIPTORS there. Objects are reference
 * counted; a region holds its client, a snapshot holds its region.
 */
#ifndef COWCLIENT_H
#define COWCLIENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define COW_PUBLIC __attribute__((visibility("default")))

struct cow_client;
struct cow_region;
struct cow_snapshot;

/* How a region is frozen; libcowclient(3) says which mode to choose. */
enum cow_mode {
	COW_MODE_UFFD = 1,     /* cowd keeps old pages: memory bounded, snapshots from outside */
	COW_MODE_SCOOT = 2,    /* page tables set aside: tens of microseconds, if settled */
	COW_MODE_MMAPCOPY = 3, /* memory copied by mapping it again: cow_mmapcopy() */
};

/**
 * struct cow_region_params - properties of a new region
 * @size_bytes: rounded up to whole pages; not 0
 * @mode:       enum cow_mode
 * @flags:      0, or COW_REGION_* bits
 * @name:       for people; cowd keeps at most 63 bytes; may be NULL
 *
 * Members that an initialiser does not name are 0, which always means the default. Later versions
 * add fields only at the end, from @reserved.
 */
struct cow_region_params {
	uint64_t size_bytes;
	uint32_t mode;
	uint32_t flags;
	const char *name;
	uint64_t reserved[8];
};

/* Allocate the region's memory now rather than on first touch. */
#define COW_REGION_POPULATE     1u
/* Modes scoot and mmapcopy: children of plain fork() do not get the region; children of cow_fork()
 * do. */
#define COW_REGION_NO_FORK      2u
/*
 * Modes scoot and mmapcopy, if cowd lends no userfaultfd: in a program of several threads a call
 * that takes a snapshot may stop the other threads by ptrace(2) meanwhile. It can then settle the
 * pages written since the previous snapshot, which each snapshot would otherwise copy again. A few
 * system calls of the other threads then fail with EINTR, or do less than they were asked for:
 * signal(7), on stop signals. See cow-scoot(7). cow_region_new() refuses it with -EOPNOTSUPP if the
 * library was built without it, as it is by default.
 */
#define COW_REGION_STOP_THREADS 4u

/**
 * cow_client_new() - connect to cowd
 * @client:  set on success; owned by the caller, who ends it with cow_client_unref()
 * @address: path of cowd's socket; "exec:" or "exec:/path/to/cowd [ARGUMENT…]" to start a private
 *           cowd that ends with this client; NULL for $COWD_ADDRESS, else /run/cowd/cowd.sock
 *
 * Return: 0; -ENOENT, -ECONNREFUSED: no daemon there; -EACCES: this user may not use the socket;
 * -EPROTO: the daemon speaks another protocol; -ENAMETOOLONG; -EDQUOT: too many connections;
 * -ENOMEM, -EMFILE.
 */
COW_PUBLIC int cow_client_new(struct cow_client **client, const char *address);
COW_PUBLIC struct cow_client *cow_client_ref(struct cow_client *client);
/** cow_client_unref() - drop a reference; NULL is allowed. Return: NULL */
COW_PUBLIC struct cow_client *cow_client_unref(struct cow_client *client);

/**
 * cow_region_new() - memory that can be frozen
 * @region: set on success; owned by the caller, who ends it with cow_region_unref()
 * @client: borrowed; the region holds a reference of its own
 * @params: lent
 *
 * The memory reads as zeroes. It is aligned to 1 GiB if it is that large, else to 2 MiB if it is
 * that large.
 *
 * Return: 0; -EINVAL: @params describe no possible region; -EDQUOT: this uid's share is used up;
 * -ENOTCONN: no daemon; -EPERM: mode uffd, and cowd's policy lends no userfaultfd; -ENODEV: mode
 * uffd, and cowd has no device for it; -ENOSYS: this kernel, or this cowd, cannot do @mode;
 * -EMFILE; -ECHILD; -ENOMEM.
 */
COW_PUBLIC int cow_region_new(struct cow_region **region, struct cow_client *client,
			      const struct cow_region_params *params);
/**
 * cow_region_adopt() - turn existing memory into a region, in place
 * @region: set on success
 * @client: borrowed
 * @addr:   private anonymous memory for reading and writing; whole pages
 * @len:    bytes; whole pages
 * @params: as for cow_region_new(); mode scoot or mmapcopy; the call ignores its size_bytes
 *
 * Threads may go on using the memory during the call. The memory stays when the region ends.
 *
 * Return: 0; -EINVAL: not such memory, or not whole pages; -EPERM: cowd lends no userfaultfd;
 * otherwise as cow_region_new(). On an error the memory is as it was.
 */
COW_PUBLIC int cow_region_adopt(struct cow_region **region, struct cow_client *client, void *addr,
				uint64_t len, const struct cow_region_params *params);
COW_PUBLIC struct cow_region *cow_region_ref(struct cow_region *region);
/**
 * cow_region_unref() - drop a reference; the last one (snapshots hold one too) unmaps the memory.
 * NULL is allowed. Return: NULL
 */
COW_PUBLIC struct cow_region *cow_region_unref(struct cow_region *region);
/** cow_region_address() - first byte; the same for the life of @region */
COW_PUBLIC void *cow_region_address(const struct cow_region *region);
/** cow_region_size() - bytes, a multiple of the page size */
COW_PUBLIC uint64_t cow_region_size(const struct cow_region *region);

/**
 * cow_region_discard() - make part of @region zeroes, and free its memory
 * @region: borrowed
 * @off:    bytes from its start; whole pages
 * @len:    bytes; whole pages
 *
 * The range reads as zeroes at once. Its memory is free when no snapshot needs it any more. A write
 * by another thread during the call may be discarded or not. Mode uffd has madvise(MADV_REMOVE)
 * instead, which loses snapshots that still need the pages.
 *
 * Return: 0; -EINVAL: not whole pages, or not inside; -ENOSYS: mode uffd; -EDEADLK: the caller's
 * stack lies there; -ENOMEM.
 */
COW_PUBLIC int cow_region_discard(struct cow_region *region, uint64_t off, uint64_t len);

/**
 * cow_region_rollback() - make @region as it was when @snap was taken
 * @region: borrowed
 * @snap:   of @region; stays as it is, and may be rolled back to again
 *
 * The cost is in proportion to the pages changed since. A write by another thread during the call
 * may be undone or not, so let such threads wait.
 *
 * Return: 0; -EINVAL: @snap is not of @region; -EDEADLK: the caller's stack lies in @region;
 * -ESTALE: @snap is lost; -ECHILD; -ENOMEM, -EAGAIN, -EDQUOT, -ENOTCONN, and then part of the
 * region may be rolled back.
 */
COW_PUBLIC int cow_region_rollback(struct cow_region *region, struct cow_snapshot *snap);

/**
 * cow_snapshot_new() - freeze @region as it is now
 * @snap:   set on success; owned by the caller, who ends it with cow_snapshot_unref()
 * @region: borrowed; the snapshot holds a reference of its own
 *
 * One instant for all threads: if a write is in the snapshot, so is every write that happened
 * before it. Threads may go on writing during the call.
 *
 * Mode uffd: the call is a round trip to cowd, which write-protects the region.
 *
 * Modes scoot and mmapcopy: the caller does not wait for cowd; if cowd refuses afterwards, the
 * snapshot is lost (ESTALE). If the region has settled, the call takes tens of microseconds.
 * Otherwise, and so always while an earlier snapshot is held, it takes time in proportion to the
 * pages written since the previous snapshot: see cow-scoot(7).
 *
 * Return: 0; -ENOTCONN: no daemon; -EDQUOT; -ENOMEM; -EAGAIN: try again later, the sentence says
 * why; -EBUSY: part of it is not mapped; -E2BIG: too many parts; -EMFILE; -ECHILD.
 */
COW_PUBLIC int cow_snapshot_new(struct cow_snapshot **snap, struct cow_region *region);

/* If old pages would pass the snapshot's budget, writers wait; without the flag the snapshot is
 * lost. */
#define COW_SNAPSHOT_WAIT 1u
/* The snapshot is for one save: cowd drops the pages that it has written, and nobody can read them
 * any more. */
#define COW_SNAPSHOT_ONCE 2u

/**
 * struct cow_snapshot_params - how cowd keeps a snapshot
 * @budget_bytes: mode uffd: cowd keeps at most this many bytes of old pages for it; 0: as many as
 *                this uid may have. When they are used up the snapshot is lost (ESTALE). With
 *                COW_SNAPSHOT_WAIT the writers wait instead, until a save with COW_SNAPSHOT_ONCE
 *                has made progress, the snapshot is released, or cowd ends
 * @flags:        0, or COW_SNAPSHOT_* bits
 * @name:         for people; cowd keeps at most 63 bytes; may be NULL
 *
 * As in struct cow_region_params, 0 means the default. The other modes keep no old pages: there
 * budget and flags have to be 0.
 */
struct cow_snapshot_params {
	uint64_t budget_bytes;
	uint32_t flags;
	uint32_t reserved0;
	const char *name;
	uint64_t reserved[8];
};

/**
 * cow_snapshot_new_with() - cow_snapshot_new() with parameters
 * @params: lent; NULL: the call is cow_snapshot_new()
 *
 * Return: as cow_snapshot_new(), and -EINVAL: @params make no sense for this region.
 */
COW_PUBLIC int cow_snapshot_new_with(struct cow_snapshot **snap, struct cow_region *region,
				     const struct cow_snapshot_params *params);

/**
 * cow_snapshot_new_outside() - freeze a region of another process, without its help
 * @snap:      set on success
 * @client:    borrowed; held by the snapshot
 * @region_id: number that cowctl regions shows; a region of mode uffd
 *
 * One instant for all threads of that process, which go on. The uid that owns the region may call
 * it, and administrators of cowd. cowd charges the snapshot's memory to the region's uid.
 *
 * Return: 0; -ENOENT: there is no such region, or it is not yours; -EOPNOTSUPP: not of mode uffd;
 * -ESRCH: its process has ended; -EAGAIN: its process changed its memory map for two seconds
 * without a pause; -EDQUOT; -ENOTCONN; -ENOMEM.
 */
COW_PUBLIC int cow_snapshot_new_outside(struct cow_snapshot **snap, struct cow_client *client,
					uint64_t region_id);

/**
 * cow_snapshot_open() - open a snapshot that another process took
 * @snap:   set on success
 * @client: borrowed; held by the snapshot
 * @id:     number that cow_snapshot_id() returned there
 *
 * The uid that took the snapshot may open it, and administrators of cowd, who read a snapshot of
 * another uid through cowd. The snapshot then lives on if its taker ends, until it is released
 * here.
 *
 * Return: 0; -ENOENT: there is no such snapshot, or it is not yours; -ENOTCONN; -EMFILE.
 */
COW_PUBLIC int cow_snapshot_open(struct cow_snapshot **snap, struct cow_client *client,
				 uint64_t id);
COW_PUBLIC struct cow_snapshot *cow_snapshot_ref(struct cow_snapshot *snap);
/** cow_snapshot_unref() - drop a reference; the last one releases the snapshot. NULL is allowed.
 * Return: NULL */
COW_PUBLIC struct cow_snapshot *cow_snapshot_unref(struct cow_snapshot *snap);

/**
 * cow_snapshot_id() - number by which cow_snapshot_open() and cowctl know it
 *
 * Waits for cowd's answer if it is still under way. Return: the id; 0 if the snapshot is lost.
 */
COW_PUBLIC uint64_t cow_snapshot_id(struct cow_snapshot *snap);
/** cow_snapshot_size() - bytes */
COW_PUBLIC uint64_t cow_snapshot_size(const struct cow_snapshot *snap);

/**
 * struct cow_snapshot_cost - cost of a snapshot to the thread that took it
 * @stall_nsec:    duration of the call
 * @settled_bytes: pages written since the previous snapshot that the call wrote back to the
 * region's
 *                 memfd, because the library's thread had not yet done that
 * @kept_bytes:    pages that the call copied, because an earlier snapshot or a fork child needs the
 *                 bytes in the memfd
 */
struct cow_snapshot_cost {
	uint64_t stall_nsec;
	uint64_t settled_bytes;
	uint64_t kept_bytes;
	uint64_t reserved[5];
};

/**
 * cow_snapshot_cost() - get the cost of taking @snap
 * @snap: borrowed
 * @cost: set on success
 *
 * Return: 0; -EINVAL: @snap is of mode uffd, or another process took it.
 */
COW_PUBLIC int cow_snapshot_cost(const struct cow_snapshot *snap, struct cow_snapshot_cost *cost);

/**
 * cow_snapshot_read() - copy bytes out of a snapshot
 * @snap: borrowed
 * @buf:  gets the bytes
 * @len:  bytes
 * @off:  bytes from the start of the region; @off + @len must not pass the end
 *
 * Return: 0, all of @len was copied; -EINVAL: out of range; -ESTALE: the snapshot is lost, @buf may
 * hold anything; -ENOTCONN (mode uffd).
 */
COW_PUBLIC int cow_snapshot_read(struct cow_snapshot *snap, void *buf, size_t len, uint64_t off);

/**
 * cow_snapshot_map() - see a whole snapshot as memory, read-only
 * @snap: borrowed; must outlive the mapping
 * @view: set to the first of cow_snapshot_size() bytes
 *
 * One mapping per snapshot handle: a second call gives the same address. The mapping ends with
 * @snap. If the snapshot is lost, touching the mapping raises SIGBUS and never shows bytes of
 * another instant.
 *
 * Return: 0; -ESTALE; -ENOMEM; -EPERM: cowd lends no userfaultfd (mode uffd).
 */
COW_PUBLIC int cow_snapshot_map(struct cow_snapshot *snap, const void **view);

/**
 * cow_progress_fn - hear of the progress of a save; called in the thread that saves
 * @user:        as given to cow_snapshot_save()
 * @done_bytes:  bytes of the snapshot that are written
 * @total_bytes: bytes of the snapshot
 *
 * The library makes the last call when all bytes are written.
 *
 * Return: 0 to go on, anything else to cancel.
 */
typedef int (*cow_progress_fn)(void *user, uint64_t done_bytes, uint64_t total_bytes);

/**
 * cow_snapshot_save() - have cowd write the snapshot to a descriptor
 * @snap:     borrowed
 * @fd:       lent; a regular file (written from its current offset on, holes kept as holes), a
 *            pipe, a stream socket or /dev/null
 * @progress: may be NULL
 * @user:     for @progress
 *
 * Blocks the calling thread only; other threads of the program go on and may write to the region.
 * On an error the file may be incomplete; snapshot and region are as they were.
 *
 * Return: 0; -ECANCELED: @progress cancelled, even if all was written by then; -ESTALE; -ENOSPC,
 * -EPIPE, -EIO, -EFBIG, -EDQUOT: error of the write; -EBADF, -EINVAL: @fd is not of those kinds or
 * not open for writing; -ENOTCONN: cowd is gone.
 */
COW_PUBLIC int cow_snapshot_save(struct cow_snapshot *snap, int fd, cow_progress_fn progress,
				 void *user);

/**
 * cow_fork() - fork(), with every region of @client in modes scoot and mmapcopy
 * @client: borrowed
 *
 * The child sees these regions as they were at the fork, at the same addresses, and may write to
 * them. Neither parent nor child sees later writes of the other. The kernel copies no page table
 * for memory that no live snapshot needs. Plain fork() does the same for regions made without
 * COW_REGION_NO_FORK; if it cannot freeze a region, the child does not have it. In the child all
 * calls on @client, its regions and snapshots return -ECHILD.
 *
 * Return: the child's process id; 0 in the child; a negative errno, and then there is no child.
 */
COW_PUBLIC int cow_fork(struct cow_client *client);

/**
 * cow_mmapcopy() - memcpy() that shares whole pages until either side is written
 * @dst: destination
 * @src: source; if it overlaps @dst the result is that of memmove()
 * @len: bytes
 *
 * If both ranges lie in regions of this process in mode mmapcopy or scoot, and at the same offset
 * within a page, the call maps whole pages. It copies everything else. It fails only if memcpy()
 * would.
 *
 * Return: @dst
 */
COW_PUBLIC void *cow_mmapcopy(void *dst, const void *src, size_t len);

/**
 * cow_last_error() - sentence about the last call that failed in this thread
 *
 * Return: never NULL; valid until this thread's next failing call.
 */
COW_PUBLIC const char *cow_last_error(void);

/** cow_version() - "0.1.0" */
COW_PUBLIC const char *cow_version(void);

#ifdef __cplusplus
}
#endif

#endif
