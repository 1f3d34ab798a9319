// SPDX-License-Identifier: LGPL-2.1-or-later
/* Allocations that fail, and their count; fault.c says how. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/torture/layer.h"

/* --- allocations: as libc has them, by the names that it has for those in its place ----------- */

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static void *allocated(void *p)
{
	if (p && point)
		fault_count(&point->n_allocations, 1);
	return p;
}

EXPORT void *malloc(size_t size)
{
	if (is_failing(FAULT_ALLOCATION, "malloc", ENOMEM, CALLER))
		return NULL;
	return allocated(__libc_malloc(size));
}

EXPORT void *calloc(size_t n, size_t size)
{
	if (is_failing(FAULT_ALLOCATION, "calloc", ENOMEM, CALLER))
		return NULL;
	return allocated(__libc_calloc(n, size));
}

EXPORT void *realloc(void *p, size_t size)
{
	void *fresh;

	if (is_failing(FAULT_ALLOCATION, "realloc", ENOMEM, CALLER))
		return NULL;
	fresh = __libc_realloc(p, size);
	return p ? fresh : allocated(fresh);
}

EXPORT void *reallocarray(void *p, size_t n, size_t size)
{
	size_t n_bytes;

	if (__builtin_mul_overflow(n, size, &n_bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(p, n_bytes);
}

EXPORT int posix_memalign(void **p, size_t align, size_t size)
{
	void *fresh;

	if (is_failing(FAULT_ALLOCATION, "posix_memalign", ENOMEM, CALLER))
		return ENOMEM;
	fresh = allocated(__libc_memalign(align, size));
	if (!fresh)
		return ENOMEM;
	*p = fresh;
	return 0;
}

EXPORT void *aligned_alloc(size_t align, size_t size)
{
	if (is_failing(FAULT_ALLOCATION, "aligned_alloc", ENOMEM, CALLER))
		return NULL;
	return allocated(__libc_memalign(align, size));
}

EXPORT void free(void *p)
{
	if (p && point)
		fault_count(&point->n_allocations, -1);
	__libc_free(p);
}

EXPORT char *strdup(const char *s)
{
	size_t len = strlen(s) + 1;
	char *copy;

	if (is_failing(FAULT_ALLOCATION, "strdup", ENOMEM, CALLER))
		return NULL;
	copy = allocated(__libc_malloc(len));
	return copy ? memcpy(copy, s, len) : NULL;
}
