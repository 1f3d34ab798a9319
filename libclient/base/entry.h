/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The way into the library: public calls, fork handlers and the library's own threads.
 *
 * What must hold: while a thread has a lock of the library, or keeps others out of a region's
 * memory, nothing of the program runs on that thread, and it is not cancelled. A signal handler
 * that touched the region would wait for its own thread; one that called fork() would wait for the
 * locks that it interrupted; a cancelled thread would leave them taken.
 *
 * So each public call begins with COWI_ENTRY(), which keeps signals and cancellation away until
 * the call returns, and fork() is an entry from the prepare handler to the end of the handler in
 * the parent and in the child. Entries nest, and the outermost one counts. Exempt are calls that
 * take no lock and only read what never changes, or count a reference.
 *
 * A wait for cowd may take long, as that of a save does. There the caller's signals are let in:
 * cowi_event_wait() waits without a lock, and progress functions are called with the caller's own
 * mask. Cancellation stays off there as well: an unwound thread would leave a request behind whose
 * answer is to come.
 *
 * Not blocked by an entry:
 *
 *   SIGSEGV, SIGBUS, SIGILL,   The kernel ends a program whose own instruction raises one that is
 *   SIGFPE, SIGTRAP            blocked, and a program may have a handler that mends what a call
 *                              finds in its buffers. They are blocked while threads are kept out.
 *   SIGSYS                     seccomp's, of a call that this thread makes; never blocked.
 *   33, SIGSETXID              glibc's: setuid() and its kind have every thread run a handler, and
 *                              wait for all of them. It takes no lock and touches nothing but the
 *                              stack, so it may run where a lock is held. Blocked for as long as
 *                              a thread waits for a lock it would hold setuid() up for as long.
 *                              While threads are kept out the stack may be what they are kept out
 *                              of, so there it is blocked (hold_signals_block(), backends/hold.h):
 *                              nobody is waited for meanwhile, and setuid() waits that long.
 *   32, SIGCANCEL              glibc's: with cancellation disabled and deferred nobody sends it.
 *                              A call that is a cancellation point waits for one that was sent.
 *
 * Thread-local storage is of the model initial-exec: at its first use any other may call malloc(),
 * which fork() in a signal handler may have interrupted.
 */
#ifndef COWI_ENTRY_H
#define COWI_ENTRY_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "common/util.h"

/**
 * struct cowi_entry - the calling thread's; its own to read and write
 * @mask:      the caller's signals, as the kernel has them
 * @n_nested:  entries under way, one within the other; 0: none
 * @n_locks:   locks over which nothing may be let in, cowi_entry_lock()
 * @waits_for: cowi_event_wait() under way, or NULL
 */
struct cowi_entry {
	uint64_t mask;
	unsigned int n_nested;
	unsigned int n_locks;
	int cancel_state;
	int cancel_type;
	_Atomic uint32_t *waits_for;
};

/** COWI_ENTRY() - first statement of a public call: an entry until the call returns */
#define COWI_ENTRY() CLEANUP(cowi_entry_endp) bool cowi_entry_ = cowi_entry_begin()

/** cowi_entry_begin() - the same, ended by cowi_entry_end(). Return: true. Keeps errno */
bool cowi_entry_begin(void);
/** cowi_entry_end() - with the outermost entry the caller's signals and cancellation are back */
void cowi_entry_end(void);
static inline void cowi_entry_endp(const bool *entry)
{
	(void)entry;
	cowi_entry_end();
}

/** cowi_entry_storage() - where the calling thread's thread-local storage lies */
const void *cowi_entry_storage(void);
/** cowi_entry_is_active() - for assert(): whether nothing of the program runs on this thread */
bool cowi_entry_is_active(void);

/**
 * cowi_entry_lock() - this thread has a lock that it may wait for cowd with: let nothing in
 *
 * Until cowi_entry_unlock(). Of the locks of internal.h only region->take_lock is such a one, and
 * that by which fork() waits for memory that becomes a region (registry.c).
 */
void cowi_entry_lock(void);
void cowi_entry_unlock(void);

/**
 * cowi_entry_open() - let the caller's signals in: code of the program runs next, or a wait begins
 * @was: for cowi_entry_shut()
 *
 * No lock may be held. What is called meanwhile begins entries of its own.
 */
void cowi_entry_open(struct cowi_entry *was);
void cowi_entry_shut(const struct cowi_entry *was);

/** cowi_entry_forked() - in a fork child: a wait that fork() was called in, by a handler, ends */
void cowi_entry_forked(void);

/**
 * struct cowi_event - what pthread_cond_t is for, waited for without the lock and with signals
 * @n_changes: the futex
 * @n_waiting: with the lock
 */
struct cowi_event {
	_Atomic uint32_t n_changes;
	unsigned int n_waiting;
};

/**
 * cowi_event_wait() - until cowi_event_signal(), or for no reason: ask again what is waited for
 * @lock:  held; given up while waiting
 * @until: on CLOCK_MONOTONIC; NULL: for ever
 *
 * The caller's signals are let in, unless cowi_entry_lock() says otherwise.
 * Return: 0; -ECHILD: a handler called fork(), this is the child, and nobody will signal.
 */
int cowi_event_wait(struct cowi_event *event, pthread_mutex_t *lock, const struct timespec *until);
/** cowi_event_poke() - the same without the lock, of which what changed had been changed under */
void cowi_event_poke(struct cowi_event *event);
/** cowi_event_signal() - to all who wait; with their lock held */
void cowi_event_signal(struct cowi_event *event);

#endif
