/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * scoot: freeze memory by mapping it again.
 *
 * A region is mapped MAP_SHARED on a memfd. To take a snapshot its page tables are moved aside with
 * mremap(MREMAP_DONTUNMAP) and the same memfd is mapped over it MAP_PRIVATE: from that instant on
 * every write of the program makes a private page, and the memfd is the snapshot. Cost: tens of
 * microseconds at any size, because page tables move as whole entries, no page is touched, and the
 * old page tables are dropped later (scoot_tidy_step()).
 *
 * If threads can be made to wait, the private mapping is not made but moved into place: it is
 * there before the first take, and has page tables that were filled ahead. The mapping that was
 * moved aside is kept for settling: scoot/shadow.c.
 *
 * Between the two steps the region's address is never unmapped: after mremap() it holds the same
 * shared mapping without page tables, so threads fault the same pages back in and go on. If the
 * second step fails (strict overcommit, vm.max_map_count) the region is still what it was.
 *
 * The region's extent map (backends/extents.h) describes its backing. If all of it is one owned
 * run, a take is the two steps above, and no thread ever waits. Otherwise every thread that touches
 * the region waits (backends/hold.h) while the take handles each run by its kind:
 *
 *   owned             It is mapped private, as above.
 *   frozen, unshared  Nobody else refers to the frozen bytes any more: pages written since go back
 *                     to the backing, and a private mapping without private pages takes their
 *                     place.
 *   frozen, shared    Others still need the frozen bytes: pages written since are copied to an
 *                     overlay, a sparse memfd as large as the region, at their own offsets. The
 *                     snapshot is the frozen bytes with the overlay over them.
 *
 * The take records the pages of an overlay as it copies them. Nothing asks the overlay's file: if
 * shared memory has huge pages, writing one page fills the 511 around it with zeroes, and SEEK_DATA
 * and mincore(2) count them all. The record goes behind the overlay's pages for processes that open
 * the snapshot (scoot_snapshot_record()).
 *
 * A take of such runs costs in proportion to the pages written. In the background
 * scoot_settle_step() makes unshared runs owned again, chunk by chunk, so that the next take finds
 * one owned run.
 *
 * Without a userfaultfd (cowd lends none) no thread can be made to wait, so nothing is settled in
 * the background. A take then depends on the caller:
 *
 *   the only thread   No thread has to wait: the take does all of the above by itself, and so
 *                     settles the pages written since the previous take.
 *   several threads   A child made with a bare clone(2) copies all private pages to the overlay:
 *                     like a child of fork() it sees them as they were at one instant
 *                     (scoot/clone.c). They stay private, and the next take copies them again:
 *                     between any look at a page and its replacement a thread could write to it,
 *                     and no call replaces a mapping on condition that nobody did.
 *   with a stopper    If that settles anything, the take stops the other threads and acts as if its
 *                     caller were the only one.
 *
 * Pages of a run whose backing cowd does not know (extent.backing->id is 0, after a region that was
 * mmapcopied from has gone) go to the overlay whole.
 *
 * Nothing here knows of sockets. libclient/scoot/mode.c passes descriptors and addresses in, and
 * sends requests to cowd. Calls "under the region's lock" exclude each other for the same region;
 * reading a snapshot needs no lock.
 */
#ifndef COW_BACKENDS_SCOOT_H
#define COW_BACKENDS_SCOOT_H

#include <pthread.h>

#include "backends/extents.h"
#include "backends/pagemap.h"
#include "backends/settle.h"

struct scoot_aside; /* old page tables, to be dropped */

/**
 * struct roll - what rolling back has cost, by whether all that is mapped is dropped (is_blunt)
 * @n:         rollbacks so far
 * @cost_nsec: of the last in each way, with the faults that came after
 * @nsec:      when the last began, and then how long it took
 * @n_faults:  of this process, when it ended
 */
struct roll {
	uint64_t n;
	bool is_blunt;
	uint64_t cost_nsec[2];
	uint64_t nsec;
	uint64_t n_faults;
};

/**
 * struct scoot_stopper - stops the program's other threads for a part of a take
 * @stop: return whether no thread but the caller runs now that could touch the region
 * @go:   after a @stop that returned true: resume them
 *
 * A stopped thread keeps its locks, malloc()'s among them. So between @stop and @go the caller
 * takes no lock, and allocates and frees nothing.
 */
struct scoot_stopper {
	bool (*stop)(struct scoot_stopper *stopper);
	void (*go)(struct scoot_stopper *stopper);
};

/**
 * struct scoot_take_env - how a take of a region without a userfaultfd can keep threads out
 * @is_single_threaded: nobody but the caller can touch the region, so nobody has to wait
 * @stopper:            lent; NULL: nobody may be stopped
 *
 * All zeroes: in no way, and a child copies what was written. A region with a userfaultfd needs
 * nothing of it.
 */
struct scoot_take_env {
	bool is_single_threaded;
	struct scoot_stopper *stopper;
};

/**
 * struct scoot_region
 * @home:        the memfd that the region was made with; offset in it is offset in the region
 * @map:         what is mapped now; changed under the region's lock only
 * @uffd:        to make threads wait; -1: none, nothing settles in the background
 * @is_held:     in a take: threads are kept out, so nothing is given to free()
 * @settle:      valid if @uffd is
 * @asides:      list, under @asides_lock; dropped by scoot_tidy_step()
 * @settle_at:   offset at which the background goes on settling
 * @second:      like @home: has ranges that were discarded while a snapshot needed home's bytes.
 * May
 *               be NULL
 * @wants_trim:  memory of @home or @second may be without a user
 * @shadow:      the other mapping of what is mapped, or NULL (scoot/shadow.c)
 * @shadow_is_early: it was made by scoot_shadow_prepare(): for the first take
 * @shadow_is_bare: and nobody has access to it yet
 * @reserve:      address space for the next one, or NULL
 * @reserve_is_mapped: something without pages is mapped there still
 * @populate_at: offset at which the background goes on filling the shadow's page tables
 * @is_populated: page tables of what is frozen may be full, and rolling back has to search them
 * @n_pages_cheap: so many private pages are copied or written back, whatever a fork costs
 * @fork_nsec:   how long the last fork() took that gave it to a child
 * @rolls_back:  it is rolled back often, so page tables are left as they come
 * @roll:        valid if @rolls_back
 * @trim_at:     offset at which the background goes on looking for it
 */
struct scoot_region {
	char *addr;
	uint64_t size_bytes;
	struct memfile *home;
	struct extents map;
	int uffd;
	bool is_held;
	struct pagemap pagemap;
	struct settle settle;
	pthread_mutex_t asides_lock;
	struct scoot_aside *asides;
	uint64_t settle_at;
	struct memfile *second;
	bool wants_trim;
	uint64_t trim_at;
	struct scoot_aside *shadow;
	bool shadow_is_checked;
	bool shadow_is_early;
	bool shadow_is_bare;
	struct scoot_aside *reserve;
	bool reserve_is_mapped;
	uint64_t populate_at;
	bool is_populated;
	uint64_t n_pages_cheap;
	uint64_t fork_nsec;
	bool rolls_back;
	struct roll roll;
};

/**
 * scoot_region_new() - describe memory that is a shared mapping of @home already
 * @addr: of at least @home->size_bytes; borrowed
 * @uffd: fresh userfaultfd of this process; taken. May be -1
 *
 * Sees to it that fork children do not inherit the mapping. Return: 0; -errno with a sentence.
 */
int scoot_region_new(struct scoot_region **out, char *addr, struct memfile *home, int *uffd);
/**
 * scoot_shadow_prepare() - have ready what the first take puts in place
 *
 * Of a region that is mapped shared throughout. Best effort: without it that take makes a mapping.
 */
void scoot_shadow_prepare(struct scoot_region *region);
/**
 * scoot_shadow_warm() - before the first take: have scoot_populate_step() fill what has been
 * written
 *
 * Can be called again, when more has been. Under the lock. Return: whether there was no take yet.
 */
bool scoot_shadow_warm(struct scoot_region *region);
/** scoot_adopt_check() - is it private anonymous memory, for reading and writing? 0; -EINVAL;
 * -errno */
int scoot_adopt_check(const char *addr, uint64_t len);
/**
 * scoot_adopt() - make memory that threads are using a shared mapping of @region->home
 * @region: of scoot_region_new(), with a userfaultfd, of a range that passed scoot_adopt_check()
 *          before; its home is all holes, and has the memory's bytes afterwards
 *
 * Chunk by chunk, as settling. Return: 0; -errno with a sentence, and the memory is what it was.
 */
int scoot_adopt(struct scoot_region *region);
/**
 * scoot_unadopt() - after scoot_adopt(): make it anonymous memory again, threads going on
 * @error: why
 *
 * Nothing was frozen yet. Memory that there is no room for stays a private mapping, and the
 * sentence of @error, which is kept, then says so too. Return: @error.
 */
int scoot_unadopt(struct scoot_region *region, int error);
/** scoot_region_leave() - the region ends, its memory stays: private, and inherited by fork
 * children */
void scoot_region_leave(struct scoot_region *region);
/** scoot_region_forked() - in a fork child: forget what only its parent has */
void scoot_region_forked(struct scoot_region *region);
/** scoot_region_free() - forgets, and drops what is aside; unmapping @addr is the caller's */
struct scoot_region *scoot_region_free(struct scoot_region *region);
DEFINE_CLEANUP(scoot_region_free, struct scoot_region *)

/**
 * struct scoot_snapshot - a frozen extent map, and pages over it
 * @overlay: sparse, as large as the map, a record may follow; NULL if no page was private
 * @kept:    runs of the overlay that the take copied to it, in order; nothing else of it counts
 * @settled_bytes: pages that the take wrote back to the region's own backing
 * @stall_nsec:    duration of the take; the caller sets it
 */
struct scoot_snapshot {
	struct extents map;
	struct memfile *overlay;
	struct page_run *kept;
	size_t n_kept;
	size_t n_alloc;
	uint64_t settled_bytes;
	uint64_t stall_nsec;
};

/* A backing as large as the region is needed and was not given; nothing was done. */
#define SCOOT_E_OVERLAY 1

/**
 * scoot_take() - freeze the region
 * @env:     as things are now, and stay until this returns
 * @overlay: fresh backing as large as the region, lent; the snapshot holds a reference if it needs
 *           it. May be NULL
 *
 * Under the region's lock. Return: 0; SCOOT_E_OVERLAY; -errno with a sentence: the memory is
 * unharmed.
 */
int scoot_take(struct scoot_region *region, const struct scoot_take_env *env,
	       struct memfile *overlay, struct scoot_snapshot **out);
struct scoot_snapshot *scoot_snapshot_free(struct scoot_snapshot *snap);
DEFINE_CLEANUP(scoot_snapshot_free, struct scoot_snapshot *)

/**
 * scoot_guard() - freeze the region for a fork child, which is about to get a copy of its mappings
 * @env: as of scoot_take()
 * @out: keeps the frozen bytes as they are, until it is freed
 *
 * If nobody else needs the backing's bytes, pages written since an earlier freeze are written back
 * to it, so that fork() finds no private page and copies no page table. Otherwise, and if they are
 * so many that writing them back would take longer than to copy page tables, they stay private, and
 * fork() shares them. Under the region's lock. Return: 0 or -errno with a sentence.
 */
int scoot_guard(struct scoot_region *region, const struct scoot_take_env *env,
		struct scoot_snapshot **out);

/** scoot_freeze() - make [@off, @off + @len) frozen, without a cut. Under the lock. 0 or -errno */
int scoot_freeze(struct scoot_region *region, uint64_t off, uint64_t len);

/**
 * scoot_settle_step() - settle one chunk that nobody else refers to, or bring one home from @second
 * @more: whether there is more to do
 *
 * Under the region's lock. Return: 0; -errno with a sentence, no byte is lost.
 */
int scoot_settle_step(struct scoot_region *region, bool *more);

/**
 * scoot_rollback() - make the region what @snap, taken of it, is
 *
 * Costs in proportion to the pages written since, and to those of the snapshot's overlay. Threads
 * that write meanwhile may find their writes undone or not. Under the region's lock. Return: 0;
 * -errno with a sentence, and part of the region may be rolled back.
 */
int scoot_rollback(struct scoot_region *region, const struct scoot_snapshot *snap);

/**
 * scoot_discard() - make whole pages zeroes, and free their memory as soon as nobody needs it
 * @may_fill: if neither home nor second is free, write zeroes rather than return
 *            SCOOT_E_OVERLAY, after which the caller may set @region->second and try again
 *
 * Under the region's lock. Return: 0; SCOOT_E_OVERLAY; -errno with a sentence.
 */
int scoot_discard(struct scoot_region *region, uint64_t off, uint64_t len, bool may_fill);

/**
 * scoot_trim_step() - free some memory that no map refers to. Under the lock. Return: more to
 * do
 */
bool scoot_trim_step(struct scoot_region *region);

/**
 * scoot_populate_step() - fill some of the page tables that the next take will put in place
 *
 * So that reads soon after it do not fault. Under the lock. Return: more to do
 */
bool scoot_populate_step(struct scoot_region *region);

/** scoot_tidy_step() - drop some old page tables; one thread at a
 * time, no lock. Return: more to do */
bool scoot_tidy_step(struct scoot_region *region);

/* --- reading (snapshot.c) --------------------------------------------------------------------- */

/** scoot_record_bytes() - room for the record of a map of @size_bytes; whole pages */
uint64_t scoot_record_bytes(uint64_t size_bytes);
/**
 * scoot_snapshot_record() - write which pages are kept (pagebits.h) to @off of the overlay
 * @off: nothing but zeroes is there yet, scoot_record_bytes() of them
 *
 * Return: 0 or -errno with a sentence.
 */
int scoot_snapshot_record(const struct scoot_snapshot *snap, uint64_t off);
/**
 * scoot_snapshot_opened() - a snapshot that another process took
 * @map:        given
 * @overlay:    given, may be NULL
 * @record_off: where in it the record of its pages is
 *
 * Return: 0; -errno with a sentence, nothing was taken.
 */
int scoot_snapshot_opened(struct scoot_snapshot **out, struct extents *map,
			  struct memfile **overlay, uint64_t record_off);
/** scoot_snapshot_is_kept() - whether the overlay has all of
 * [@off, @off + @len), which is inside */
bool scoot_snapshot_is_kept(const struct scoot_snapshot *snap, uint64_t off, uint64_t len);
/** scoot_snapshot_read() - the range is inside. 0 or -errno */
int scoot_snapshot_read(const struct scoot_snapshot *snap, void *buf, uint64_t len, uint64_t off);
/**
 * scoot_snapshot_map() - map it
 * @addr: reserved, as large as the snapshot
 * @prot: PROT_READ: no copy is made unless the overlay has too many runs. With PROT_WRITE: a
 *        private writable copy, which shares what is not written
 *
 * Return: 0; -errno with a sentence, and parts may be mapped.
 */
int scoot_snapshot_map(const struct scoot_snapshot *snap, char *addr, int prot);

#endif
