/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The few words that every other file uses: scope-bound cleanup, ownership of pointers and
 * descriptors, and page arithmetic.
 *
 * Descriptors: a parameter that takes ownership is `int *` and is set to -1 when it was taken,
 * left alone otherwise; a plain `int` is lent for the call.
 */
#ifndef COW_COMMON_UTIL_H
#define COW_COMMON_UTIL_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARRAY_SIZE(a)   (sizeof(a) / sizeof((a)[0]))
#define CLEANUP(fn)     __attribute__((cleanup(fn)))
#define PRINTF(fmt, va) __attribute__((format(printf, fmt, va)))
#define MUST_CHECK      __attribute__((warn_unused_result))

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define steal_ptr(pp)                                                                              \
	__extension__({                                                                            \
		__typeof__(*(pp)) stolen_ = *(pp);                                                 \
		*(pp) = NULL;                                                                      \
		stolen_;                                                                           \
	})

/* x_free()/x_unref() as a cleanup for `struct x *`: DEFINE_CLEANUP(x_unref, struct x *) */
#define DEFINE_CLEANUP(fn, type)                                                                   \
	static inline void fn##p(type *p)                                                          \
	{                                                                                          \
		if (*p)                                                                            \
			fn(*p);                                                                    \
	}

static inline void freep(void *p)
{
	free(*(void **)p);
}

static inline int fd_steal(int *fd)
{
	int stolen = *fd;

	*fd = -1;
	return stolen;
}

/* Closes @fd unless it is negative; keeps errno. Return: -1, to be assigned to the variable. */
static inline int fd_close(int fd)
{
	int saved_errno = errno;

	if (fd >= 0)
		(void)close(fd);
	errno = saved_errno;
	return -1;
}

static inline void fd_closep(int *fd)
{
	*fd = fd_close(*fd);
}

#define AUTO_FD CLEANUP(fd_closep)

/* Size of a base page in bytes, as the kernel says; the same for the life of the process. */
static inline size_t page_size_bytes(void)
{
	static size_t cached;
	size_t size = __atomic_load_n(&cached, __ATOMIC_RELAXED);

	if (!size) {
		size = (size_t)sysconf(_SC_PAGESIZE);
		__atomic_store_n(&cached, size, __ATOMIC_RELAXED);
	}
	return size;
}

/* Whether all of @len bytes, of which there is at least one, are zero. */
static inline bool is_zero(const void *bytes, size_t len)
{
	const char *first = bytes;

	return !*first && !memcmp(first, first + 1, len - 1);
}

/* @align is a power of two */
static inline uint64_t align_down(uint64_t value, uint64_t align)
{
	return value & ~(align - 1);
}

static inline uint64_t align_up(uint64_t value, uint64_t align)
{
	return align_down(value + align - 1, align);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

#endif
