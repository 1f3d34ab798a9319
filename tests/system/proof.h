/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the tests of the invariants share: a test case whose every test has a cowd of its own, which
 * it may kill, and short words for what they all do. Anything that goes wrong in one of them fails
 * the test with the library's sentence.
 */
#ifndef TESTS_PROOF_H
#define TESTS_PROOF_H

#include <check.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/util.h"
#include "libclient/cowclient.h"
#include "system/pairs.h"

#define PROOF_MODES_MAX 3

/*
 * For tcase_add_loop_test(…, 0, PROOF_N_MODES): every mode that this machine can do, or only uffd
 * if $COWD_PROOF_MODES is "uffd". With $COWD_PROOF_WITHOUT every cowd does without that feature of
 * newer kernels.
 */
#define PROOF_N_MODES proof_n_modes()
int proof_n_modes(void);

/**
 * proof_has_uffd() - whether this machine lets a test be a client of mode uffd
 *
 * Without, no loop test is in that mode, and tests of that mode alone are not for this machine:
 * a program of theirs calls proof_need_uffd() first.
 */
bool proof_has_uffd(void);
/** proof_need_uffd() - end the program as skipped, with the reason, unless it has */
void proof_need_uffd(void);

DEFINE_CLEANUP(cow_client_unref, struct cow_client *)
DEFINE_CLEANUP(cow_region_unref, struct cow_region *)
DEFINE_CLEANUP(cow_snapshot_unref, struct cow_snapshot *)

/** proof_is_small() - whether $COWD_PROOF_SMALL asks for less of everything (vm.sh: qemu without
 * KVM) */
bool proof_is_small(void);
/** proof_size() - @n_bytes, or an eighth of it */
size_t proof_size(size_t n_bytes);
/** proof_mode() - enum cow_mode of a loop test's _i */
uint32_t proof_mode(int i);

/** proof_tcase() - a case each of whose tests starts and ends a cowd, within @seconds each */
TCase *proof_tcase(const char *name, double seconds);
/** proof_run() - run @tcase alone; the status that main() returns */
int proof_run(TCase *tcase);

/** proof_ok() - fail unless @result, of a call of the library, is 0 */
#define proof_ok(result)                                                                           \
	do {                                                                                       \
		int proof_result_ = (result);                                                      \
		ck_assert_msg(!proof_result_, #result ": %d: %s", proof_result_,                   \
			      cow_last_error());                                                   \
	} while (0)

/* --- the daemon ------------------------------------------------------------------------------- */

/** proof_address() - of the test's cowd, for cow_client_new() */
const char *proof_address(void);
pid_t proof_cowd(void);
/** proof_cowd_kill() - SIGKILL, and wait until it is gone */
void proof_cowd_kill(void);
/** proof_cowd_start() - a cowd at the same address, after proof_cowd_kill(); @config: lines, or
 * NULL */
void proof_cowd_start(const char *config);
/** proof_cowd_log() - what the cowds of this test wrote, malloc()ed */
char *proof_cowd_log(void);

/* What cowd holds, as it says itself and as the kernel says. */
struct proof_holdings {
	uint64_t n_clients, n_regions, n_snapshots, region_bytes, kept_bytes, n_fds;
};

/** proof_await_lost() - until reads of @snap say so: the library notices an end in its own time */
void proof_await_lost(struct cow_snapshot *snap);

void proof_holdings(struct proof_holdings *holdings);
/** proof_wait_for_holdings() - until cowd holds exactly @want;
 * the test's time limit is the limit */
void proof_wait_for_holdings(const struct proof_holdings *want);

/* --- short words ------------------------------------------------------------------------------ */

/** proof_client() - a new connection to the test's cowd */
struct cow_client *proof_client(void);
/** proof_region() - a region of a client of its own */
struct cow_region *proof_region(uint32_t mode, uint64_t size_bytes);
/** proof_is_settled() - whether all of a region of mode scoot or mmapcopy is owned, none of it
 * frozen */
bool proof_is_settled(struct cow_region *region);
/**
 * proof_wait_until_settled() - the test's time limit is the limit
 *
 * A region without a userfaultfd never settles by itself: then this returns at once.
 */
void proof_wait_until_settled(struct cow_region *region);
/** proof_file() - an unlinked regular file, open for reading and writing */
int proof_file(void);
void *proof_alloc(size_t n_bytes);

/** proof_fill() - write a pattern that @seed and the offset decide */
void proof_fill(void *base, size_t n_bytes, uint64_t seed);
/** proof_is_filled() - whether [@base, …) has what proof_fill() with @seed wrote at @off */
int proof_is_filled(const void *base, size_t n_bytes, uint64_t seed, uint64_t off);
/** proof_check_snapshot() - fail unless all of @snap reads as proof_fill() with @seed wrote it */
void proof_check_snapshot(struct cow_snapshot *snap, uint64_t seed);

/**
 * proof_fork() - run @child in a new process, which then ends with status 0
 *
 * Call it while this process has no client. A failed assertion ends the child with another status.
 */
pid_t proof_fork(void (*child)(void *user), void *user);
/** proof_reap() - wait for @pid; fail unless it ended with status 0 or, if @signal, by that */
void proof_reap(pid_t pid, int signal);

#endif
