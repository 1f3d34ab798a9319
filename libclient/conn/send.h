/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sending to cowd, at once or a moment later. Any thread sends; nothing here blocks.
 *
 * Lock: client->lock guards all of struct cowi_sender, and is held by the callers of functions that
 * do not say otherwise.
 *
 * The protocol:
 *
 * 1. A packet goes straight to the socket if the queue is empty, the socket's buffer has room, and
 *    fewer than COWI_UNDER_WAY_MAX requests wait for their replies. Otherwise it goes to the end of
 *    the queue, and the client's thread is woken. So packets keep their order; only the cancelling
 *    of a save overtakes, since the save may be what the queue waits for.
 * 2. A packet that nobody waits for (COWI_SEND_SOON) always goes to the end of the queue, and the
 *    timer is started; its caller wakes neither cowd nor the client's thread. To wake cowd is what
 *    sending costs, 20 to 40 us in a virtual machine, and a program that takes a snapshot is not to
 *    stand still for it. A timer that runs is left as it is: frequent callers would put it off for
 *    ever.
 * 3. The queue is sent, as far as it goes, by whoever comes first: the client's thread, when the
 *    timer fires or the socket has room again (cowi_send_next()); any thread that sends something
 *    else, or that is about to wait for a reply (cowi_hurry()).
 * 4. A task of cowi_post_unwoken() has no timer of its own. It runs when the client's thread wakes
 *    for another reason: the reply to a packet of COWI_SEND_SOON that its caller sends as well, or
 *    the timer, which cowi_thread_wake_soon() starts without a packet.
 * 5. Without a timer, for want of room for a descriptor, the client's thread is woken at once.
 * 6. An error of a packet that was queued is its reply: cowi_send_next() says whose. A connection
 *    that has ended shows when the client's thread reads the socket.
 * 7. When the connection ends the queue is dropped; who waits is told so by the connection.
 */
#ifndef COWI_SEND_H
#define COWI_SEND_H

#include "libclient/internal.h"

/*
 * cowd refuses more than 64 requests of one connection that it has not answered, so no more than
 * this are sent: the rest waits in the queue. What is left over is for the cancelling of saves,
 * which must not wait behind the saves.
 */
#define COWI_UNDER_WAY_MAX 48u

/*
 * How long a packet of COWI_SEND_SOON waits at most: less than what anybody would notice, and about
 * a tick of the kernel's, so that a timer for it seldom has to be programmed anew (which is 10 us,
 * against 2, where that makes a virtual machine exit).
 */
#define COWI_SOON_NSEC 4000000L

struct cowi_packet; /* send.c */

/**
 * struct cowi_sender - the part of a connection that sends
 * @first:       of the queue
 * @end:         where the next one is to be linked
 * @n_under_way: sent and not answered
 * @timer_fd:    timerfd: it is time to send what is queued; or -1
 * @is_started:  the timer
 */
struct cowi_sender {
	struct cowi_packet *first, **end;
	unsigned int n_under_way;
	int timer_fd;
	bool is_started;
};

/* When a packet goes out. */
enum cowi_urgency {
	COWI_SEND_SOON,  /* within COWI_SOON_NSEC */
	COWI_SEND_NOW,   /* behind those that are queued already */
	COWI_SEND_FIRST, /* before those */
};

/** cowi_sender_init() - a descriptor that is not to be had is done without. No lock needed */
void cowi_sender_init(struct cowi_sender *sender);
/** cowi_sender_deinit() - close and drop all; in a fork child too. It may be used again, in vain */
void cowi_sender_deinit(struct cowi_sender *sender);
/** cowi_sender_reset() - the connection has ended: nothing is queued or under way */
void cowi_sender_reset(struct cowi_sender *sender);

/**
 * cowi_send_packet() - or queue it, if it has to wait for its turn, for room, or has time
 * @fds:      lent
 * @lease_fd: NULL, or (COWI_SEND_SOON) gets the read end of the lease, which is made when the
 * packet
 *            is sent and goes with it; valid until the request is answered
 *
 * As the latest request has been given its id. 0; -ENOTCONN; another -errno.
 */
int cowi_send_packet(struct cow_client *client, const void *bytes, size_t n_bytes, const int *fds,
		     size_t n_fds, enum cowi_urgency urgency, int *lease_fd);
/** cowi_hurry() - send what is queued; the client's thread is left with what does not go */
void cowi_hurry(struct cow_client *client);
/**
 * cowi_send_next() - send one packet of the queue. Client's thread, which does not hold the lock
 * @id:    gets the request that could not be sent, or 0
 * @error: of that
 *
 * Return: whether there may be more.
 */
bool cowi_send_next(struct cow_client *client, uint64_t *id, int *error);
/** cowi_has_output() - whether the queue waits for the socket alone. The lock is not held */
bool cowi_has_output(struct cow_client *client);
/** cowi_sender_fired() - the timer has */
void cowi_sender_fired(struct cowi_sender *sender);
/** cowi_thread_wake_soon() - wake the client's thread by the timer. The lock is not held */
void cowi_thread_wake_soon(struct cow_client *client);

#endif
