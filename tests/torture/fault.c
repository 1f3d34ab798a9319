// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The layer that lets a numbered call of a program fail; fault.h says how it is told.
 *
 * It stands before libc by LD_PRELOAD, so that it sees the calls of cowd, of the library and of all
 * that they link, and libc's own calls of malloc(). Any thread of the program is in here. Nothing
 * here allocates, and nothing but arming and the two counts is shared; a child of fork() is left
 * alone, because its counts would go into its parent's.
 *
 * Each call fails with an errno that it may really have on a machine that runs out of something.
 * What has no such errno with correct arguments is not in here, because the program may rely on it:
 * munmap(2) of a whole mapping, MADV_DONTNEED, lifting a write protection, waking, close(2).
 */
#include "config.h"

#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/torture/layer.h"

/* Not malloc()ed on the first use in a thread, as other models are. */
static __thread int n_pauses __attribute__((tls_model("initial-exec")));

struct fault_point *point;
static uint64_t base;

EXPORT void fault_pause(void);
EXPORT void fault_resume(void);

/** fault_pause() - calls of this thread are not counted, and none fails */
void fault_pause(void)
{
	n_pauses++;
}

void fault_resume(void)
{
	n_pauses--;
}

static long raw(long number, long a, long b, long c, long d, long e, long f)
{
	static long (*real)(long, ...);

	if (!real)
		real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	return real(number, a, b, c, d, e, f);
}

static void leave_child_alone(void)
{
	point = NULL;
}

static __attribute__((constructor)) void begin(void)
{
	const char *path = getenv("COW_TORTURE_FILE");
	const char *target = getenv("COW_TORTURE_TARGET");
	struct torture *torture;
	int fd;

	if (!path || !target)
		return;
	fd = (int)raw(SYS_openat, AT_FDCWD, (long)path, O_RDWR | O_CLOEXEC, 0, 0, 0);
	torture = (void *)raw(SYS_mmap, 0, sizeof(*torture), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			      0);
	(void)raw(SYS_close, fd, 0, 0, 0, 0, 0);
	if (torture == MAP_FAILED)
		return;
	base = getauxval(AT_PHDR) - sizeof(Elf64_Ehdr);
	(void)pthread_atfork(NULL, NULL, leave_child_alone);
	point = !strcmp(target, "daemon") ? &torture->daemon : &torture->library;
	atomic_store(&point->pid, (int32_t)getpid());
}

/* One that waits for the counts to be what they were looks at them again. */
void fault_count(_Atomic int64_t *what, int by)
{
	if (!point)
		return;
	atomic_fetch_add(what, by);
	atomic_fetch_add(&point->n_events, 1);
	if (atomic_load(&point->n_waiting))
		(void)raw(SYS_futex, (long)&point->n_events, FUTEX_WAKE, INT_MAX, 0, 0, 0);
}

/* Whether this call is the one; then errno is @error. */
bool is_failing(enum fault_kind kind, const char *name, int error, uint64_t caller)
{
	if (!point || n_pauses || !atomic_load(&point->is_armed) ||
	    atomic_load(&point->kind) != kind)
		return false;
	if (atomic_fetch_add(&point->n_calls, 1) + 1 != atomic_load(&point->fail_at))
		return false;
	(void)strncpy(point->name, name, sizeof(point->name) - 1);
	point->caller = caller - base;
	atomic_store(&point->is_hit, 1);
	errno = error;
	return true;
}

/* --- the rest: the next one of that name ------------------------------------------------------ */

#define REAL(type, name, ...)                                                                      \
	static type (*real)(__VA_ARGS__);                                                          \
	if (!real)                                                                                 \
	real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int made(int fd)
{
	if (fd >= 0 && point)
		fault_count(&point->n_fds, 1);
	return fd;
}

#define DESCRIPTOR(name, params, ...)                                                              \
	EXPORT int name params                                                                     \
	{                                                                                          \
		static int(*real) params;                                                          \
		if (!real)                                                                         \
			real = (int(*) params)dlsym(RTLD_NEXT, #name);                             \
		if (is_failing(FAULT_DESCRIPTOR, #name, EMFILE, CALLER))                           \
			return -1;                                                                 \
		return made(real(__VA_ARGS__));                                                    \
	}

DESCRIPTOR(socket, (int domain, int type, int protocol), domain, type, protocol)
DESCRIPTOR(accept4, (int fd, struct sockaddr *addr, socklen_t *len, int flags), fd, addr, len,
	   flags)
DESCRIPTOR(eventfd, (unsigned int initial, int flags), initial, flags)
DESCRIPTOR(timerfd_create, (clockid_t clock, int flags), clock, flags)
DESCRIPTOR(epoll_create1, (int flags), flags)
DESCRIPTOR(memfd_create, (const char *name, unsigned int flags), name, flags)
DESCRIPTOR(dup, (int fd), fd)
DESCRIPTOR(pidfd_open, (pid_t pid, unsigned int flags), pid, flags)
DESCRIPTOR(signalfd, (int fd, const sigset_t *mask, int flags), fd, mask, flags)

static mode_t mode_of(int flags, va_list args)
{
	return flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
}

EXPORT int open(const char *path, int flags, ...)
{
	va_list args;
	mode_t mode;

	REAL(int, open, const char *, int, ...);
	va_start(args, flags);
	mode = mode_of(flags, args);
	va_end(args);
	if (is_failing(FAULT_DESCRIPTOR, "open", EMFILE, CALLER))
		return -1;
	return made(real(path, flags, mode));
}

EXPORT int openat(int dir_fd, const char *path, int flags, ...)
{
	va_list args;
	mode_t mode;

	REAL(int, openat, int, const char *, int, ...);
	va_start(args, flags);
	mode = mode_of(flags, args);
	va_end(args);
	if (is_failing(FAULT_DESCRIPTOR, "openat", EMFILE, CALLER))
		return -1;
	return made(real(dir_fd, path, flags, mode));
}

static int made_two(int r, uint64_t n)
{
	if (!r && point)
		fault_count(&point->n_fds, (int)n);
	return r;
}

EXPORT int pipe2(int fds[2], int flags)
{
	REAL(int, pipe2, int *, int);
	if (is_failing(FAULT_DESCRIPTOR, "pipe2", EMFILE, CALLER))
		return -1;
	return made_two(real(fds, flags), 2);
}

EXPORT int socketpair(int domain, int type, int protocol, int fds[2])
{
	REAL(int, socketpair, int, int, int, int *);
	if (is_failing(FAULT_DESCRIPTOR, "socketpair", EMFILE, CALLER))
		return -1;
	return made_two(real(domain, type, protocol, fds), 2);
}

EXPORT FILE *fopen(const char *path, const char *mode)
{
	FILE *file;

	REAL(FILE *, fopen, const char *, const char *);
	if (is_failing(FAULT_DESCRIPTOR, "fopen", EMFILE, CALLER))
		return NULL;
	file = real(path, mode);
	(void)made(file ? 0 : -1);
	return file;
}

EXPORT int fclose(FILE *file)
{
	REAL(int, fclose, FILE *);
	if (point)
		fault_count(&point->n_fds, -1);
	return real(file);
}

EXPORT DIR *opendir(const char *path)
{
	DIR *dir;

	REAL(DIR *, opendir, const char *);
	if (is_failing(FAULT_DESCRIPTOR, "opendir", EMFILE, CALLER))
		return NULL;
	dir = real(path);
	(void)made(dir ? 0 : -1);
	return dir;
}

EXPORT int closedir(DIR *dir)
{
	REAL(int, closedir, DIR *);
	if (point)
		fault_count(&point->n_fds, -1);
	return real(dir);
}

EXPORT int close(int fd)
{
	int r = (int)raw(SYS_close, fd, 0, 0, 0, 0, 0);

	if (!r && point)
		fault_count(&point->n_fds, -1);
	return r;
}

EXPORT int fcntl(int fd, int command, ...)
{
	va_list args;
	long arg;

	va_start(args, command);
	arg = va_arg(args, long);
	va_end(args);
	if (command != F_DUPFD && command != F_DUPFD_CLOEXEC)
		return (int)raw(SYS_fcntl, fd, command, arg, 0, 0, 0);
	if (is_failing(FAULT_DESCRIPTOR, "F_DUPFD", EMFILE, CALLER))
		return -1;
	return made((int)raw(SYS_fcntl, fd, command, arg, 0, 0, 0));
}

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

EXPORT int getsockopt(int fd, int level, int option, void *value, socklen_t *len)
{
	int r;

	if (level != SOL_SOCKET || option != SO_PEERPIDFD)
		return (int)raw(SYS_getsockopt, fd, level, option, (long)value, (long)len, 0);
	if (is_failing(FAULT_DESCRIPTOR, "SO_PEERPIDFD", EMFILE, CALLER))
		return -1;
	r = (int)raw(SYS_getsockopt, fd, level, option, (long)value, (long)len, 0);
	return made_two(r, 1);
}

/* Without room for them descriptors do not arrive, and the rest of the packet does. */
static void receive_fds(struct msghdr *msg, uint64_t caller)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(msg);
	size_t n;

	for (; c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		if (!is_failing(FAULT_DESCRIPTOR, "recvmsg", 0, caller)) {
			(void)made_two(0, n);
			continue;
		}
		for (size_t i = 0; i < n; i++)
			(void)raw(SYS_close, ((int *)(void *)CMSG_DATA(c))[i], 0, 0, 0, 0, 0);
		msg->msg_controllen = 0;
		msg->msg_flags |= MSG_CTRUNC;
		return;
	}
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
	ssize_t n;

	REAL(ssize_t, recvmsg, int, struct msghdr *, int);
	n = real(fd, msg, flags);
	if (n >= 0)
		receive_fds(msg, CALLER);
	return n;
}

/* --- system calls that make no descriptor ----------------------------------------------------- */

#define CALL(type, error, name, params, ...)                                                       \
	EXPORT type name params                                                                    \
	{                                                                                          \
		static type(*real) params;                                                         \
		if (!real)                                                                         \
			real = (type(*) params)dlsym(RTLD_NEXT, #name);                            \
		if (is_failing(FAULT_CALL, #name, error, CALLER))                                  \
			return (type)-1;                                                           \
		return real(__VA_ARGS__);                                                          \
	}

CALL(void *, ENOMEM, mmap, (void *addr, size_t len, int prot, int flags, int fd, off_t off), addr,
     len, prot, flags, fd, off)
CALL(int, ENOMEM, mprotect, (void *addr, size_t len, int prot), addr, len, prot)
CALL(int, EAGAIN, mincore, (void *addr, size_t len, unsigned char *vec), addr, len, vec)
CALL(int, ENOMEM, ftruncate, (int fd, off_t len), fd, len)
/*
 * What is in swap may not come back; what procfs says takes memory. A userfaultfd, a pipe and a
 * socket give what they have.
 */
static int error_of_read(int fd)
{
	struct stat st;

	if (!point || n_pauses || !atomic_load(&point->is_armed) ||
	    raw(SYS_fstat, fd, (long)&st, 0, 0, 0, 0) || !S_ISREG(st.st_mode))
		return 0;
	return st.st_size ? EIO : ENOMEM;
}

#define READ(name, params, fd, ...)                                                                \
	EXPORT ssize_t name params                                                                 \
	{                                                                                          \
		static ssize_t(*real) params;                                                      \
		int error = error_of_read(fd);                                                     \
		if (!real)                                                                         \
			real = (ssize_t(*) params)dlsym(RTLD_NEXT, #name);                         \
		if (error && is_failing(FAULT_CALL, #name, error, CALLER))                         \
			return -1;                                                                 \
		return real(fd, __VA_ARGS__);                                                      \
	}

READ(pread, (int fd, void *buf, size_t len, off_t off), fd, buf, len, off)
READ(preadv, (int fd, const struct iovec *iov, int n, off_t off), fd, iov, n, off)
READ(preadv2, (int fd, const struct iovec *iov, int n, off_t off, int flags), fd, iov, n, off,
     flags)

CALL(ssize_t, ENOSPC, pwrite, (int fd, const void *buf, size_t len, off_t off), fd, buf, len, off)
CALL(ssize_t, ENOSPC, pwritev2, (int fd, const struct iovec *iov, int n, off_t off, int flags), fd,
     iov, n, off, flags)
CALL(ssize_t, ENOMEM, splice,
     (int in, off_t *in_off, int out, off_t *out_off, size_t len, unsigned int flags), in, in_off,
     out, out_off, len, flags)
CALL(ssize_t, ENOBUFS, sendmsg, (int fd, const struct msghdr *msg, int flags), fd, msg, flags)
CALL(ssize_t, ENOBUFS, send, (int fd, const void *buf, size_t len, int flags), fd, buf, len, flags)
CALL(int, EAGAIN, connect, (int fd, const struct sockaddr *addr, socklen_t len), fd, addr, len)
CALL(pid_t, EAGAIN, fork, (void))

/* What only goes on with what there is, or gives memory back, has no reason to fail. */
static bool may_fail_advice(int advice)
{
	return advice != MADV_DONTNEED && advice != MADV_FREE && advice != MADV_COLD &&
	       advice != MADV_PAGEOUT;
}

EXPORT int madvise(void *addr, size_t len, int advice)
{
	bool is_populate = advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE;

	if (may_fail_advice(advice) &&
	    is_failing(FAULT_CALL, "madvise", is_populate ? ENOMEM : EAGAIN, CALLER))
		return -1;
	return (int)raw(SYS_madvise, (long)addr, (long)len, advice, 0, 0, 0);
}

EXPORT void *mremap(void *addr, size_t old_len, size_t new_len, int flags, ...)
{
	va_list args;
	long to;

	va_start(args, flags);
	to = va_arg(args, long);
	va_end(args);
	if (is_failing(FAULT_CALL, "mremap", ENOMEM, CALLER))
		return MAP_FAILED;
	return (void *)raw(SYS_mremap, (long)addr, (long)old_len, (long)new_len, flags, to, 0);
}

EXPORT int fallocate(int fd, int mode, off_t off, off_t len)
{
	if (!(mode & FALLOC_FL_PUNCH_HOLE) && is_failing(FAULT_CALL, "fallocate", ENOSPC, CALLER))
		return -1;
	return (int)raw(SYS_fallocate, fd, mode, off, len, 0, 0);
}

EXPORT int epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event)
{
	if (op == EPOLL_CTL_ADD && is_failing(FAULT_CALL, "epoll_ctl", ENOSPC, CALLER))
		return -1;
	return (int)raw(SYS_epoll_ctl, epoll_fd, op, fd, (long)event, 0, 0);
}

/* Files only: a counter of an eventfd has room. */
EXPORT ssize_t write(int fd, const void *buf, size_t len)
{
	struct stat st;
	int saved_errno = errno;

	if (point && !n_pauses && atomic_load(&point->is_armed) &&
	    !raw(SYS_fstat, fd, (long)&st, 0, 0, 0, 0) && S_ISREG(st.st_mode) &&
	    is_failing(FAULT_CALL, "write", ENOSPC, CALLER))
		return -1;
	errno = saved_errno;
	return raw(SYS_write, fd, (long)buf, (long)len, 0, 0, 0);
}

/* Lifting a protection needs no memory, and whoever waits for it could not be helped. */
static bool may_fail_ioctl(unsigned long request, const void *arg)
{
	switch (request) {
	case UFFDIO_WRITEPROTECT:
		return ((const struct uffdio_writeprotect *)arg)->mode &
		       UFFDIO_WRITEPROTECT_MODE_WP;
	case UFFDIO_WAKE:
	case UFFDIO_API:
		return false;
	default:
		return true;
	}
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
#ifdef USERFAULTFD_IOC_NEW
	if (request == (unsigned long)USERFAULTFD_IOC_NEW) {
		if (is_failing(FAULT_DESCRIPTOR, "USERFAULTFD_IOC_NEW", EMFILE, CALLER))
			return -1;
		return made((int)raw(SYS_ioctl, fd, (long)request, (long)arg, 0, 0, 0));
	}
#endif
	if (may_fail_ioctl(request, arg) && is_failing(FAULT_CALL, "ioctl", ENOMEM, CALLER))
		return -1;
	return (int)raw(SYS_ioctl, fd, (long)request, (long)arg, 0, 0, 0);
}

EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
			  void *arg)
{
	REAL(int, pthread_create, pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
	if (is_failing(FAULT_CALL, "pthread_create", EAGAIN, CALLER))
		return EAGAIN;
	return real(thread, attr, run, arg);
}

/* In the child of SYS_clone the counts are its parent's, and so are its threads' locks. */
static long system_call(long number, const long a[6])
{
	long r = raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);

	if (number == SYS_clone && !r)
		point = NULL;
	return r;
}

static int error_of(long number, enum fault_kind *kind)
{
	*kind = FAULT_CALL;
	switch (number) {
	case SYS_userfaultfd:
	case SYS_pidfd_open:
	case SYS_openat:
		*kind = FAULT_DESCRIPTOR;
		return EMFILE;
	case SYS_mmap:
	case SYS_process_madvise:
		return ENOMEM;
	case SYS_clone:
		return EAGAIN;
	default:
		return 0;
	}
}

EXPORT long syscall(long number, ...)
{
	enum fault_kind kind;
	int error = error_of(number, &kind);
	va_list args;
	long a[6], r;

	va_start(args, number);
	for (size_t i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	if (error && is_failing(kind, "syscall", error, CALLER))
		return -1;
	r = system_call(number, a);
	if (error && kind == FAULT_DESCRIPTOR)
		(void)made((int)r);
	if (number == SYS_close && !r && point)
		fault_count(&point->n_fds, -1);
	return r;
}
