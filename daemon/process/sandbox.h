/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Give up, at start, all rights that serving clients does not need; sandbox.c has the stages. */
#ifndef COWD_SANDBOX_H
#define COWD_SANDBOX_H

#include <pwd.h>

#include "daemon/process/options.h"

/** sandbox_raise_limits() - stage "limits": as many descriptors as allowed; never fails */
void sandbox_raise_limits(void);

/**
 * sandbox_next_user() - whom sandbox_enter() will make of cowd
 *
 * Return: an entry of getpwnam(3)'s; NULL: it stays who it is, for which a line is logged if the
 * user of the settings is missing.
 */
const struct passwd *sandbox_next_user(const struct options *options);

/**
 * sandbox_enter() - stages "user", "privilege", "files"
 * @next_user: from sandbox_next_user(), or NULL
 *
 * Context: one thread, all files open. Return: 0; -errno with a sentence, then cowd must not go on.
 */
int sandbox_enter(const struct options *options, const struct passwd *next_user);

/**
 * sandbox_close() - stage "calls": the list of system calls, for all threads
 *
 * Context: all threads are started. Return: 0; -errno with a sentence.
 */
int sandbox_close(const struct options *options);

/** sandbox_restrict_files() - landlock.c. 0, also on kernels without Landlock; -errno */
int sandbox_restrict_files(const struct options *options);
/** sandbox_restrict_calls() - seccomp.c. @is_strict: see options.h. 0 or -errno */
int sandbox_restrict_calls(bool is_strict);

#endif
