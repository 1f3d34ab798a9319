/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A daemon inside of a test: its objects and its loop, turned by the test itself, so that each step
 * of a conversation can be looked at from both ends.
 */
#ifndef TESTS_UNIT_FRAME_H
#define TESTS_UNIT_FRAME_H

#include "common/wire.h"
#include "daemon/daemon.h"
#include "proto/cow.pb-c.h"

extern struct daemon frame;

void frame_start(void);
/** frame_stop() - ends all sessions; checks that nothing is charged to anybody any more */
void frame_stop(void);

/** frame_turn() - serve what is ready now */
void frame_turn(void);

/** frame_connect() - a socket whose other end is a new session of @frame */
int frame_connect(void);
/** frame_greet() - the same, and Hello was answered */
int frame_greet(void);

/** frame_send() - one request, as it is */
void frame_send(int sock, const Cow__V1__Request *request, const int *fds, size_t n_fds);
/** frame_send_status() - a call without arguments; @n_fds_said: what the request names */
void frame_send_status(int sock, uint64_t id, uint32_t n_fds_said, const int *fds, size_t n_fds);

/** frame_receive() - turn until a reply or the end comes. NULL at the end of the connection */
Cow__V1__Reply *frame_receive(int sock, struct fdset *fds);
/** frame_expect() - a reply to @id with @error comes next */
void frame_expect(int sock, uint64_t id, int error);
/** frame_expect_end() - nothing but an event with an error comes, then the end */
void frame_expect_end(int sock);

/** frame_count_fds() - descriptors that this process holds */
int frame_count_fds(void);

#endif
