/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Declarations that the files of backends/scoot share. */
#ifndef COW_BACKENDS_SCOOT_INTERNAL_H
#define COW_BACKENDS_SCOOT_INTERNAL_H

#include "backends/scoot/scoot.h"

/**
 * struct scoot_aside - where page tables were moved to
 * @addr: lies within 2 MiB, or 1 GiB if large, as the memory does that was there
 * @base: the reservation that holds it
 */
struct scoot_aside {
	char *addr;
	uint64_t len;
	char *base;
	uint64_t base_len;
	uint64_t done;
	struct scoot_aside *next;
};

/** scoot_aside_new() - reserve address space to move [@like, @like + @len) to */
int scoot_aside_new(struct scoot_aside **out, const char *like, uint64_t len);
/** scoot_aside_push() - queue for dropping; takes it */
void scoot_aside_push(struct scoot_region *region, struct scoot_aside *aside);
struct scoot_aside *scoot_aside_free(struct scoot_aside *aside);
DEFINE_CLEANUP(scoot_aside_free, struct scoot_aside *)

/* The shadow is of no use for this any more; the region is mapped as before. */
#define SCOOT_E_SHADOW 2

/** scoot_shadow_keep() - a shared mapping of the whole region that was moved aside; takes it */
void scoot_shadow_keep(struct scoot_region *region, struct scoot_aside **aside);
/** scoot_shadow_drop() - the region is going to be mapped in a way that the shadow is not for */
void scoot_shadow_drop(struct scoot_region *region);
/**
 * scoot_shadow_swap_all() - all is owned, for reading and writing: freeze it
 *
 * Return: 0; SCOOT_E_SHADOW; -errno with a sentence.
 */
int scoot_shadow_swap_all(struct scoot_region *region);
/**
 * scoot_shadow_swap() - put the shadow's pages of an owned run in place
 * @pages: address that the run's own pages were moved to; the shadow gets them
 *
 * Return: whether it did; if not, the caller has to map the run.
 */
bool scoot_shadow_swap(struct scoot_region *region, uint64_t off, uint64_t len, char *pages);
/**
 * scoot_take_over() - a private mapping to where threads wait for it, and where all is for reading
 * and writing
 *
 * Return: whether that was done.
 */
bool scoot_take_over(char *from, uint64_t len, char *to);
/* To copy a page costs about as much as the kernel needs to copy so many page-table entries. */
#define SCOOT_ENTRIES_PER_PAGE 16
/**
 * scoot_is_dear() - whether to copy its private pages would take longer than to fork() with
 * them
 */
bool scoot_is_dear(const struct scoot_region *region);
/** scoot_prepare_fork() - before a fork: few private pages do not make it copy full page tables */
void scoot_prepare_fork(struct scoot_region *region);
/**
 * scoot_reserve_clear() - what a swap left mapped in the reserve goes; not in the take's own
 * time
 */
void scoot_reserve_clear(struct scoot_region *region);
/** scoot_shadow_to_settle() - address of the shadow of a chunk that is going to settle, or NULL */
char *scoot_shadow_to_settle(struct scoot_region *region, uint64_t off);

/**
 * scoot_check_descriptors() - whether the program has left the region its descriptors
 *
 * Asked once by every call that changes the region: a file of the program's may have their numbers.
 * 0; -EBADF with a sentence.
 */
int scoot_check_descriptors(const struct scoot_region *region);
/** scoot_freeze_checked() - scoot_freeze() after scoot_check_descriptors() */
int scoot_freeze_checked(struct scoot_region *region, uint64_t off, uint64_t len);
/** scoot_is_locking() - whether mappings made now are populated at once: mlockall(MCL_FUTURE) */
bool scoot_is_locking(void);
/** scoot_set_aside() - move page tables away before something else is mapped there; best effort */
void scoot_set_aside(struct scoot_region *region, uint64_t off, uint64_t len);
/**
 * scoot_map_private() - map [@off, @off + @len) of the region private on what @run says
 * @done: how much of it is mapped, also after an error
 *
 * Protections that the program gave to parts stay. Return: 0; -errno with a sentence.
 */
int scoot_map_private(const struct scoot_region *region, const struct extent *run, uint64_t off,
		      uint64_t len, uint64_t *done);

/** scoot_punch() - free bytes that no map refers to, which are zeroes then. 0 or -errno */
int scoot_punch(const struct memfile *backing, uint64_t off, uint64_t len);

/** scoot_snapshot_new() - frozen copy of the region's map, as it is now */
int scoot_snapshot_new(struct scoot_snapshot **out, const struct scoot_region *region);
/** scoot_snapshot_keep() - copy @len bytes of @src to @off of the overlay and note the run */
int scoot_snapshot_keep(struct scoot_snapshot *snap, const char *src, uint64_t off, uint64_t len);
/** scoot_snapshot_note() - the overlay has data in that run, after all runs noted so far */
int scoot_snapshot_note(struct scoot_snapshot *snap, uint64_t off, uint64_t len);
/**
 * scoot_snapshot_reserve() - the next @n_runs runs are noted without memory being asked for
 *
 * Return: 0 or -ENOMEM with a sentence.
 */
int scoot_snapshot_reserve(struct scoot_snapshot *snap, uint64_t n_runs);
/** scoot_snapshot_trim() - free reserved memory that was not needed */
void scoot_snapshot_trim(struct scoot_snapshot *snap);
/** scoot_snapshot_note_bits() - note those of @n_pages pages from
 * @first on that @bits have noted */
int scoot_snapshot_note_bits(struct scoot_snapshot *snap, const uint8_t *bits, uint64_t first,
			     uint64_t n_pages);
/**
 * scoot_keep_run() - keep the private pages of a run, or all if cowd does not know its backing
 * @pages: where its pages are, for reading: in place or aside
 */
int scoot_keep_run(const struct pagemap *pagemap, struct scoot_snapshot *snap,
		   const struct extent *run, char *pages);

/** scoot_take_by_clone() - the overlapping case without a userfaultfd; everything is frozen. 0,
 * -errno */
int scoot_take_by_clone(struct scoot_region *region, struct scoot_snapshot *snap);

#endif
