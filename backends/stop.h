/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stop the other threads of this process, for a moment, from within.
 *
 * A thread cannot stop those beside it: no signal does it that the program could not catch or would
 * not notice, and ptrace(2) refuses threads of one's own process. So a helper is made by clone(2),
 * a process of its own that shares this one's memory and descriptors, and that seizes and
 * interrupts every thread but the caller and those that are spared:
 *
 *	caller                               helper
 *	clone(2), waits until it is not
 *	STOP_SEIZING any more
 *	                                     lists /proc/self/task, seizes what is new there, waits
 *	                                     until all have stopped; again, until nobody is new
 *	                                     STOP_DONE, waits until it is not any more
 *	does what it wants to do alone
 *	STOP_LEAVING, waits for its end
 *	                                     detaches from all, ends
 *
 * These states are one futex word. When the helper ends, the kernel sets it to 0 and wakes the
 * caller (CLONE_CHILD_CLEARTID). So if the helper ends by itself, the caller knows that it failed.
 *
 * A thread that PTRACE_INTERRUPT has stopped is at the edge of the kernel: it holds no lock of the
 * kernel, and has no write pending. When it goes on, so does a system call that it was in, except
 * for the few that end with EINTR then (signal(7), on stop signals). The program's own waiting for
 * children sees nothing of this: the helper has no exit signal, and the kernel reports stops to the
 * helper alone.
 *
 * A thread that is found at the moment that its signal is delivered reports the signal instead of
 * the interrupt. The helper gives the signal back when it detaches from the thread.
 *
 * The helper cannot stop the threads if
 *  - ptrace(2) is forbidden (seccomp, Yama, a process that is not dumpable),
 *  - a debugger is attached already,
 *  - there are workers of io_uring, whose requests would fail,
 *  - a thread does not stop in time: one that waits for its vfork() child, say.
 * Then all threads that were stopped go on.
 *
 * If the caller's thread ends, by an exec of another one, say, the kernel ends the helper, and
 * the threads that it had stopped go on. If somebody ends the helper alone, by SIGKILL, while the
 * caller works, threads go on too soon: nothing in a program does that by accident.
 *
 * Under Yama's ptrace_scope 1 a process names the one that may trace it (PR_SET_PTRACER): the
 * caller names the helper, and nobody afterwards. A name that the program had set before is lost.
 *
 * Lock: `stopping` (stop.c) is held from stop_begin() to stop_end(), so that one thread of the
 * process stops the others at a time. No other lock is taken meanwhile.
 */
#ifndef COW_BACKENDS_STOP_H
#define COW_BACKENDS_STOP_H

#include <sys/types.h>

#include "common/util.h"

struct stop;

/**
 * stop_begin() - stop all threads but the caller
 * @out:       set on success; ends with stop_end()
 * @is_spared: whether to leave this thread running; called in the helper: it reads memory, and does
 *             nothing else
 *
 * Call with all signals blocked. One caller at a time in the process; others wait here. Until
 * stop_end() the caller takes no lock that a stopped thread could have, those of malloc() and stdio
 * included. Keeps errno. Return: whether all threads have stopped; if not, none is stopped.
 */
bool stop_begin(struct stop **out, bool (*is_spared)(pid_t id));
/** stop_end() - let them go on. Return: NULL */
struct stop *stop_end(struct stop *stop);

#endif
