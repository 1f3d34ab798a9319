// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Stage "calls" of the sandbox: the system calls that cowd makes once it serves, each with its
 * reason.
 *
 * All other calls are refused. Two answers are possible, and each is wrong for one half of them:
 *  - Calls that no library calls on cowd's behalf, in any version, and that are the next step of
 *    somebody who has taken over the process (execve, ptrace, mount, …): the process is killed.
 *    Nothing that honest code does can meet this.
 *  - All the rest: EPERM, and a line in the audit log. A new glibc or libsystemd may well take
 *    another call for an old purpose, and every one of them can cope with EPERM or has a fallback;
 *    killing the daemon for it would take the snapshots of every client with it. The call is not
 *    made in either case, so an attacker gains nothing but further attempts. With --strict-sandbox
 *    the rest kills too, so that the test suite sees a gap in this list as a dead daemon with
 *    SIGSYS.
 *
 * Memory can never become executable: mmap and mprotect are let through without PROT_EXEC only.
 * Files are opened for reading only. Sockets are AF_UNIX. ioctl is for userfaultfd and /proc's
 * pagemap.
 */
#include "config.h"

#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "common/err.h"
#include "daemon/process/sandbox.h"

/* Type bytes of ioctl numbers, _IOC_TYPE(): userfaultfd.h and fs.h. */
#define IOCTL_TYPE_MASK 0xff00
#define IOCTL_UFFD      0xaa00
#define IOCTL_PAGEMAP   ('f' << 8)

struct allowed {
	const char *call;
	const char *reason;
};

static const struct allowed allowed[] = {
	/* the loop and its threads */
	{"epoll_wait", "the loop"},
	{"epoll_pwait", "the loop, where there is no epoll_wait"},
	{"epoll_ctl", "connections and workers' descriptors come and go"},
	{"eventfd2", "waking of loop and workers"},
	{"timerfd_create", "the watchdog's timer, made once cowd serves"},
	{"timerfd_settime", "the watchdog's timer; pause of accepting"},
	{"poll", "savers wait for pipes and sockets; libsystemd"},
	{"ppoll", "poll, where there is no such call"},
	{"futex", "mutexes and conditions"},
	{"set_robust_list", "a thread that has not quite started when the list closes"},
	{"rseq", "the same"},
	{"sched_setaffinity", "the same: workers pin themselves"},
	{"sched_getaffinity", "a library that asks for the number of CPUs, as glibc's malloc does"},
	{"sched_yield", "jobs give way; a fault that the kernel cannot resolve yet is tried again"},
	{"getcpu", "where a worker runs, where the vDSO does not say"},
	{"restart_syscall", "the kernel, after a stop"},
	{"clock_gettime", "where the vDSO does not say"},
	/* connections */
	{"accept4", "new clients"},
	{"recvmsg", "requests and descriptors"},
	{"sendmsg", "replies; journal; notifications"},
	{"sendto", "notifications"},
	{"connect", "notifications and journal"},
	{"getsockopt", "who is at the other end"},
	{"setsockopt", "buffer size of the journal's socket"},
	{"getsockname", "what a passed descriptor is"},
	{"getpeername", "the same"},
	{"pidfd_open", "a client's process, before 6.5"},
	{"shutdown", "ending a connection"},
	/* descriptors */
	{"close", "everything"},
	{"fcntl", "duplicates, seals, non-blocking"},
	{"fstat", "what a passed descriptor is"},
	{"fstatfs", "whether a memfd of an earlier daemon is one; whose file a save is to"},
	{"fchmod", "that nobody opens a memfd anew for writing"},
	{"newfstatat", "fstat in newer glibc"},
	{"statx", "the same, where libc has only that"},
	{"readlinkat", "what a passed descriptor is, by /proc/self/fd"},
	{"unlink", "the socket file, at the end"},
	{"unlinkat", "the same, where there is no unlink"},
	{"read", "faults, eventfds, the configuration file"},
	{"pread64", "/proc/self/statm, memory of regions"},
	{"preadv2", "faults: a userfaultfd that a client left blocking must not block us"},
	{"preadv", "a page about to change, from its memfd into a store"},
	{"write", "log lines, eventfds, saves to pipes and sockets"},
	{"writev", "saves"},
	{"pwrite64", "saves to files; stores"},
	{"pwritev", "saves"},
	{"pwritev2", "saves"},
	{"pipe2", "saves to pipes without RWF_NOWAIT: daemon/snapshot/sink.h"},
	{"splice", "the same"},
	{"lseek", "the offset of a file to save to"},
	{"fallocate", "holes in files; giving memory of stores back"},
	{"ftruncate", "size of memfds and of saved files"},
	/* memory */
	{"memfd_create", "regions and stores"},
	{"brk", "malloc"},
	{"munmap", "malloc; stores"},
	{"mremap", "malloc; mappings that grow"},
	{"madvise", "populating ahead, giving back"},
	{"mincore", "what a sweep finds in memory"},
	{"getrandom", "malloc and hash tables"},
	/* itself */
	{"getpid", "replies, log"},
	{"gettid", "abort()"},
	{"getuid", "libsystemd"},
	{"geteuid", "who counts as an administrator"},
	{"getgid", "libsystemd"},
	{"getegid", "libsystemd"},
	{"prlimit64", "its limits"},
	{"sysinfo", "shares of memory in limits, at a reload"},
	{"uname", "libraries"},
	{"rt_sigaction", "abort()"},
	{"rt_sigprocmask", "abort(); masks of threads"},
	{"rt_sigreturn", "the kernel, after a signal handler"},
	{"sigaltstack", "libraries"},
	{"exit", "end of a thread"},
	{"exit_group", "end of the process"},
};

static const char *const fatal[] = {
	"execve",
	"execveat",
	"fork",
	"vfork",
	"ptrace",
	"process_vm_readv",
	"process_vm_writev",
	"pidfd_getfd",
	"mount",
	"umount2",
	"move_mount",
	"open_tree",
	"pivot_root",
	"chroot",
	"setns",
	"unshare",
	"init_module",
	"finit_module",
	"delete_module",
	"kexec_load",
	"kexec_file_load",
	"bpf",
	"perf_event_open",
	"keyctl",
	"add_key",
	"request_key",
	"setuid",
	"setgid",
	"setresuid",
	"setresgid",
	"setgroups",
	"capset",
	"personality",
	"open_by_handle_at",
	"reboot",
	"swapon",
};

static int fail(int r, const char *call)
{
	return err_raise(r, "cannot put %s on the list of system calls: %s", call,
			 strerrordesc_np(-r));
}

/* Calls that an architecture does not have have a negative pseudo-number or none: nothing to do. */
static int add(scmp_filter_ctx ctx, uint32_t action, const char *call)
{
	int number = seccomp_syscall_resolve_name(call);
	int r;

	if (number < 0)
		return 0;
	r = seccomp_rule_add(ctx, action, number, 0);
	return r ? fail(r, call) : 0;
}

static int add_if(scmp_filter_ctx ctx, const char *call, struct scmp_arg_cmp condition)
{
	int number = seccomp_syscall_resolve_name(call);
	int r;

	if (number < 0)
		return 0;
	r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, number, 1, condition);
	return r ? fail(r, call) : 0;
}

static int add_conditional(scmp_filter_ctx ctx)
{
	const struct {
		const char *call;
		struct scmp_arg_cmp condition;
	} rules[] = {
		{"mmap", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)},
		{"mprotect", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)},
		{"openat",
		 SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND, O_RDONLY)},
		{"socket", SCMP_A0(SCMP_CMP_EQ, AF_UNIX)},
		{"ioctl", SCMP_A1(SCMP_CMP_MASKED_EQ, IOCTL_TYPE_MASK, IOCTL_UFFD)},
		{"ioctl", SCMP_A1(SCMP_CMP_MASKED_EQ, IOCTL_TYPE_MASK, IOCTL_PAGEMAP)},
		{"prctl", SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME)},
		{"prctl", SCMP_A0(SCMP_CMP_EQ, PR_SET_VMA)},
		/* priority.h: the first region whose program waits comes, or the last one goes */
		{"sched_setscheduler", SCMP_A1(SCMP_CMP_EQ, SCHED_OTHER)},
		{"sched_setscheduler", SCMP_A1(SCMP_CMP_EQ, SCHED_BATCH)},
		{"tgkill", SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid())},
	};
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(rules); i++)
		r = add_if(ctx, rules[i].call, rules[i].condition);
	return r;
}

static int fill(scmp_filter_ctx ctx, bool is_strict)
{
	int r = add_conditional(ctx);

	for (size_t i = 0; !r && i < ARRAY_SIZE(allowed); i++)
		r = add(ctx, SCMP_ACT_ALLOW, allowed[i].call);
	for (size_t i = 0; !r && !is_strict && i < ARRAY_SIZE(fatal); i++)
		r = add(ctx, SCMP_ACT_KILL_PROCESS, fatal[i]);
	return r;
}

int sandbox_restrict_calls(bool is_strict)
{
	scmp_filter_ctx ctx;
	int r;

	ctx = seccomp_init(is_strict ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(EPERM));
	if (!ctx)
		return err_oom(0, "the list of system calls");
	r = fill(ctx, is_strict);
	if (!r)
		r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
	if (!r)
		r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_LOG, 1);
	if (!r)
		r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree, not a chain */
	if (!r) {
		r = seccomp_load(ctx);
		if (r)
			r = err_raise(r, "cannot close the list of system calls: %s",
				      strerrordesc_np(-r));
	}
	seccomp_release(ctx);
	return r;
}
