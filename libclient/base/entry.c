// SPDX-License-Identifier: LGPL-2.1-or-later
/* Keeping the program's code off a thread that is in the library; see entry.h. */
#include "config.h"

#include "libclient/base/entry.h"

#include <assert.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>

#include "common/err.h"

/* What the kernel takes for a set of signals. */
#define KERNEL_SIGSET_BYTES sizeof(uint64_t)

#define BIT(signal)      ((uint64_t)1 << ((signal)-1))
#define GLIBC_BITS       (BIT(32) | BIT(33)) /* nptl: SIGCANCEL, SIGSETXID */
#define SYNCHRONOUS_BITS (BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGILL) | BIT(SIGFPE) | BIT(SIGTRAP))
#define KEPT_AWAY        (~(SYNCHRONOUS_BITS | BIT(SIGSYS) | GLIBC_BITS))

static __thread struct cowi_entry self __attribute__((tls_model("initial-exec")));

/* Cannot fail with these arguments, so errno is left alone. */
static uint64_t change_mask(int how, uint64_t bits)
{
	uint64_t old = 0;

	(void)syscall(SYS_rt_sigprocmask, how, &bits, &old, KERNEL_SIGSET_BYTES);
	return old;
}

/*
 * Whoever cancels a thread whose type is asynchronous decides to send it a signal, and then sends
 * it. The handler, which may come after cancellation was disabled, looks at the type alone (glibc
 * 2.36), and that is asynchronous in each call that is a cancellation point. At its end such a call
 * waits for a signal that is on its way, so here is one, when nothing can go wrong.
 */
static void disable_cancellation(int *state, int *type)
{
	(void)pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, type);
	(void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, state);
	if (*type == PTHREAD_CANCEL_ASYNCHRONOUS)
		(void)poll(NULL, 0, 0);
}

/* No handler finds an entry half begun: it runs before signals are blocked, and begins its own. */
bool cowi_entry_begin(void)
{
	int state, type;
	uint64_t mask;

	if (self.n_nested) {
		self.n_nested++;
		return true;
	}
	disable_cancellation(&state, &type);
	mask = change_mask(SIG_BLOCK, KEPT_AWAY);
	self.mask = mask;
	self.cancel_state = state;
	self.cancel_type = type;
	self.n_locks = 0;
	self.n_nested = 1;
	return true;
}

/* The last steps may run handlers, or end the thread: nothing here is used after them. */
void cowi_entry_end(void)
{
	const struct cowi_entry was = self;
	int ignored;

	assert(was.n_nested);
	if (was.n_nested > 1) {
		self.n_nested--;
		return;
	}
	assert(!was.n_locks);
	self.n_nested = 0;
	(void)change_mask(SIG_SETMASK, was.mask);
	(void)pthread_setcanceltype(was.cancel_type, &ignored);
	(void)pthread_setcancelstate(was.cancel_state, &ignored);
}

const void *cowi_entry_storage(void)
{
	return &self;
}

bool cowi_entry_is_active(void)
{
	return self.n_nested;
}

void cowi_entry_lock(void)
{
	assert(self.n_nested);
	self.n_locks++;
}

void cowi_entry_unlock(void)
{
	assert(self.n_locks);
	self.n_locks--;
}

void cowi_entry_open(struct cowi_entry *was)
{
	assert(self.n_nested && !self.n_locks);
	*was = self;
	self.n_nested = 0;
	(void)change_mask(SIG_SETMASK, was->mask);
}

/* A progress function may have changed its thread's mask: that is the caller's from now on. */
void cowi_entry_shut(const struct cowi_entry *was)
{
	uint64_t mask = change_mask(SIG_BLOCK, KEPT_AWAY);

	self = *was;
	self.mask = mask;
}

void cowi_entry_forked(void)
{
	if (self.waits_for)
		atomic_fetch_add(self.waits_for, 1);
}

/* --- events ----------------------------------------------------------------------------------- */

/*
 * Whoever signals has the lock, so that what changed after it was given up has changed @event, and
 * the futex is not waited for.
 */
static void wait_change(struct cowi_event *event, uint32_t seen, const struct timespec *until)
{
	_Atomic uint32_t *outer = self.waits_for;
	const bool can_open = !self.n_locks;
	struct cowi_entry was;

	self.waits_for = &event->n_changes;
	if (can_open)
		cowi_entry_open(&was);
	(void)syscall(SYS_futex, &event->n_changes, FUTEX_WAIT_BITSET_PRIVATE, seen, until, NULL,
		      FUTEX_BITSET_MATCH_ANY);
	if (can_open)
		cowi_entry_shut(&was);
	self.waits_for = outer;
}

int cowi_event_wait(struct cowi_event *event, pthread_mutex_t *lock, const struct timespec *until)
{
	const uint32_t seen = atomic_load(&event->n_changes);
	const int saved_errno = errno;
	const pid_t pid = getpid();

	event->n_waiting++;
	pthread_mutex_unlock(lock);
	wait_change(event, seen, until);
	pthread_mutex_lock(lock);
	errno = saved_errno;
	if (getpid() != pid)
		return err_raise(-ECHILD, "a signal handler called fork() in this call, and this "
					  "is the child: nothing will answer here");
	event->n_waiting--;
	return 0;
}

void cowi_event_poke(struct cowi_event *event)
{
	atomic_fetch_add(&event->n_changes, 1);
	(void)syscall(SYS_futex, &event->n_changes, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

void cowi_event_signal(struct cowi_event *event)
{
	atomic_fetch_add(&event->n_changes, 1);
	if (event->n_waiting)
		(void)syscall(SYS_futex, &event->n_changes, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL,
			      NULL, 0);
}
