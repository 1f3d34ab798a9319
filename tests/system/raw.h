/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A connection to the test's cowd without the library, for what the library never sends. */
#ifndef TESTS_RAW_H
#define TESTS_RAW_H

#include "common/wire.h"
#include "proto/cow.pb-c.h"

/** raw_connect() - a socket; nothing was sent yet */
int raw_connect(void);
/** raw_greet() - the same, and Hello was answered */
int raw_greet(void);
/** raw_hello() - send Hello, as wire_send() */
int raw_hello(int sock);

/** raw_send() - one request of up to 1 KiB, as wire_send() */
int raw_send(int sock, Cow__V1__Request *request, const int *fds, size_t n_fds);
/**
 * raw_receive() - the next reply or event, for the caller to free; descriptors in it are closed
 *
 * Return: NULL at the end of the connection.
 */
Cow__V1__Reply *raw_receive(int sock);
/** raw_ask_with() - the reply to @request with @fd, or -1; passing
 * over events; there has to be one */
Cow__V1__Reply *raw_ask_with(int sock, Cow__V1__Request *request, int fd);
/** raw_ask() - the same, without a descriptor */
Cow__V1__Reply *raw_ask(int sock, Cow__V1__Request *request);

#endif
