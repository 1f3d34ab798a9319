/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading a region's userfaultfd, and what the client does to the mapping of the region meanwhile.
 *
 * From when a client changes the mapping until the event that says so has been read, the kernel
 * resolves no fault (EAGAIN), and the client's thread stands still. read(2) gives faults as long as
 * there are any, and events only then (userfaultfd_ctx_read(), seen in 6.1 and 6.18). A thread that
 * is woken meanwhile touches its page again, and is a fault in front of the event again; with
 * enough of them the event is never read. So when an ioctl has said EAGAIN nobody is woken and
 * nothing more is resolved: event_catch_up() reads on, by which threads only leave the queue, until
 * an event was there or the queue is empty, and then the ioctl is tried again. The faults that it
 * reads are dropped: all of the region is woken in the end, and who still has a fault reports it
 * again. So nobody is left waiting for an event that never comes.
 *
 * The kernel resolves nothing either until the thread whose event was read has run. A program that
 * changes its mapping without pause, from several threads, could keep its own writers from going on
 * for ever by that; after a while its snapshots are lost instead.
 *
 * UFFD_EVENT_REMOVE is of madvise(MADV_REMOVE), which frees pages of memory behind its protection,
 * and of MADV_DONTNEED, which changes nothing: one event for both. Memory still has the pages when
 * it is read, and may have lost them right after. So pages that it names are *in doubt* for the
 * snapshots that there are, and nothing else happens. A page that is not all zeroes has not been
 * removed. One of zeroes was, or was always so: a snapshot that comes to need such a page in doubt
 * is lost. Whether it is in memory tells nothing: the kernel leaves removed parts of a huge page
 * there that it cannot divide, because somebody has it pinned (truncate_inode_partial_folio(), seen
 * in 6.18).
 *
 * A reader has copied the page by then. It must not miss the doubt of a removal that was quicker
 * than the one that has read the event: tracker->n_looks is odd while messages are being read and
 * until the doubt that they raise is noted, and a reader waits for that after it has copied.
 */
#ifndef COWD_EVENT_H
#define COWD_EVENT_H

#include <stdbool.h>
#include <stddef.h>

#include "backends/kernel.h"
#include "daemon/uffd/chain.h"

/* Why a snapshot is lost. */
#define EVENT_REMOVED "the program removed pages of the region (MADV_REMOVE), or said they may go"

/**
 * event_read() - take waiting messages, and act on the events among them
 * @has_moved: gets whether the mapping was moved: all that wait in the region have been woken then,
 *             and the faults among the messages are to be dropped
 *
 * Context: served.lock, and no other. Return: 0; UFFDIO_E_GONE; -errno with a sentence.
 */
int event_read(struct tracker *tracker, struct uffd_msg *msgs, size_t max, size_t *n_msgs,
	       bool *has_moved) MUST_CHECK;

/**
 * event_catch_up() - an ioctl said UFFDIO_E_AGAIN: read on, so that it may be tried again
 * @buf:       room for messages, the more the better; its content is lost
 * @has_moved: as above
 *
 * Unless that gets true, event_wake_all() is owed. Context and return: as event_read().
 */
int event_catch_up(struct tracker *tracker, void *buf, size_t n_bytes, bool *has_moved) MUST_CHECK;

/** event_wake_all() - of the region; who still has a fault reports it again */
int event_wake_all(const struct tracker *tracker) MUST_CHECK;

/**
 * event_settle() - after bytes of memory were copied: until all doubt that concerns them is noted
 *
 * Context: any thread, without tracker->chain_lock. Waits for no client.
 */
void event_settle(const struct tracker *tracker);

/** event_is_in_doubt() - whether any page of [@first, @end) is, for @link; after event_settle() */
bool event_is_in_doubt(const struct link *link, uint64_t first, uint64_t end);

/**
 * event_lose_removed() - page @idx of memory, which is zeroes, is about to be kept or filled
 *
 * Those that need it and for whom it is in doubt become lost. Context:
 * tracker->chain_lock held shared, and served.lock.
 */
void event_lose_removed(struct tracker *tracker, uint64_t idx);

#endif
