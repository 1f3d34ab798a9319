/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Errors carry two things: a negative errno, forwarded untouched to the caller that can act on it,
 * and one sentence for a person that names the object and the figures that matter.
 *
 * The sentence is per thread. The code that raises the error sets it, once. Code between there and
 * the place where the error stops only forwards the number. In cowd the sentence goes into the
 * reply or the log line; in libcowclient cow_last_error() returns it.
 */
#ifndef COW_COMMON_ERR_H
#define COW_COMMON_ERR_H

#include "common/util.h"

/**
 * err_raise() - set this thread's sentence and give the error number back
 * @error: negative errno
 * @fmt:   printf format, a sentence without a final stop and without strerror(@error)
 *
 * Keeps errno. Return: @error, so that it reads `return err_raise(-ENOMEM, "…")`.
 */
int err_raise(int error, const char *fmt, ...) PRINTF(2, 3);

/**
 * err_raise_errno() - like err_raise(-errno, …), with ": " and strerror(errno) added
 *
 * If a limit of this process can cause the errno, the sentence lists these limits, by the names
 * under which they are set.
 */
int err_raise_errno(const char *fmt, ...) PRINTF(1, 2);

/** err_sentence() - this thread's last sentence; never NULL; valid until the thread raises again */
const char *err_sentence(void);

/** err_oom() - raise -ENOMEM for @n_bytes wanted for @what */
int err_oom(size_t n_bytes, const char *what);

#endif
