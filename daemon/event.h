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
 * an event was there or the queue is empty. It drops the faults that it reads: all of the region is
 * woken in the end, and who still has a fault reports it again.
 *
 * That the queue is empty means that the client has not come to report its change yet, or that it
 * has failed; nothing may be left waiting for an event then that never comes.
 */
#ifndef COWD_EVENT_H
#define COWD_EVENT_H

#include <stdbool.h>
#include <stddef.h>

#include "backends/kernel.h"
#include "daemon/region.h"

/**
 * event_read() - take waiting messages, and act on the events among them
 * @has_event: gets whether there were any; all that wait in the region have been woken then, and
 *             the faults among the messages are to be dropped
 *
 * Context: served.lock, and no other. Return: 0; UFFDIO_E_GONE; -errno with a sentence.
 */
int event_read(struct region *region, struct uffd_msg *msgs, size_t max, size_t *n_msgs,
	       bool *has_event) MUST_CHECK;

/**
 * event_catch_up() - an ioctl said UFFDIO_E_AGAIN: read on, and then wake all of the region
 * @buf: room for messages, the more the better; its content is lost
 *
 * Context and return: as event_read().
 */
int event_catch_up(struct region *region, void *buf, size_t n_bytes) MUST_CHECK;

#endif
