// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Work for which threads are kept out of a region, done by a thread that needs nothing in it.
 *
 * A program may have stacks in a region, of threads or coroutines, and pthread_attr_setstack() puts
 * more there than the stack: at its end lie the thread's control block and its thread-local
 * storage. A thread that kept others out would wait for itself as soon as it calls a function, or
 * a system call fails and errno is set; the kernel itself writes there (rseq(2)). Nor is another
 * stack enough to run on, since the control block stays where it is. So that work is given to a
 * thread that is started for it, with stack and control block from the C library, and the caller
 * sleeps in the kernel until it has ended. That costs a thread's start, some 50 us, and is done for
 * such callers only.
 *
 * It is also done if what lies in a region is of another region than the one at hand: two threads,
 * each with its stack in the region that the other works on, would wait for each other.
 *
 * What the work is given must not be read or written while threads are kept out: the caller's stack
 * is where it lies. The caller has the region's lock, and the thread that works takes none.
 */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "libclient/base/own-threads.h"
#include "libclient/internal.h"

struct errand {
	int (*run)(void *arg);
	void *arg;
	int result;
	char sentence[512];
};

static void *run_errand(void *arg)
{
	struct errand *errand = arg;
	int (*run)(void *arg) = errand->run;
	void *run_arg = errand->arg;
	int r;

	(void)cowi_entry_begin(); /* to the thread's end */
	cowi_own_thread_begins();
	r = run(run_arg);
	errand->result = r;
	if (r < 0)
		(void)snprintf(errand->sentence, sizeof(errand->sentence), "%s", err_sentence());
	cowi_own_thread_ends();
	return NULL;
}

static int send_errand(int (*run)(void *arg), void *arg)
{
	struct errand errand = {.run = run, .arg = arg};
	pthread_t thread;
	int error = pthread_create(&thread, NULL, run_errand, &errand);

	if (error)
		return err_raise(-error,
				 "cannot start a thread, which a caller whose stack lies in a "
				 "region needs: %s",
				 strerrordesc_np(error));
	(void)pthread_join(thread, NULL);
	return errand.result < 0 ? err_raise(errand.result, "%s", errand.sentence) : errand.result;
}

/* What the calling thread needs while it runs. */
struct footing {
	uintptr_t stack; /* COWI_STACK_BYTES */
	uintptr_t others[2];
};

static struct footing footing(void)
{
	const int on_stack = 0;

	return (struct footing){
		.stack = (uintptr_t)&on_stack - COWI_STACK_BYTES,
		.others = {(uintptr_t)cowi_entry_storage(), (uintptr_t)pthread_self()},
	};
}

int cowi_elsewhere(int (*run)(void *arg), void *arg)
{
	const struct footing self = footing();

	if (cowi_registry_covers((const void *)self.stack, COWI_STACK_BYTES) ||
	    cowi_registry_covers((const void *)self.others[0], 1) ||
	    cowi_registry_covers((const void *)self.others[1], 1))
		return send_errand(run, arg);
	return run(arg);
}

_Bool cowi_stands_in(const char *addr, uint64_t len)
{
	const struct footing self = footing();
	const uintptr_t start = (uintptr_t)addr, end = start + len;

	for (size_t i = 0; i < ARRAY_SIZE(self.others); i++) {
		if (self.others[i] >= start && self.others[i] < end)
			return true;
	}
	return self.stack < end && self.stack + COWI_STACK_BYTES > start;
}
