/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Declarations that the files of cowbench share. A *subject* is memory of one size in one mode,
 * alive from subject_open() to subject_close(). cowbench measures freezing it.
 */
#ifndef COW_TOOLS_BENCH_H
#define COW_TOOLS_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "common/clock.h"
#include "libclient/cowclient.h"
#include "tools/cli.h"

struct subject;

/**
 * struct bench_mode - one way to get a frozen copy
 * @open:   allocate subject->addr
 * @freeze: until the program can go on
 * @view:   make the frozen copy readable: subject->view, and touch it; called once after @freeze.
 *          Sets subject->readable_nsec if another thread or process did that
 * @peek:   first byte of page @page_idx of the copy, and its pagemap entry there
 * @thaw:   give the copy up
 * @close:  free all; after a failed @open too
 * @in_talk: one of the four that the talk's interface knows
 * @needs_device: cowd has to have /dev/userfaultfd, and to lend it
 */
struct bench_mode {
	const char *name;
	bool in_talk;
	bool needs_cowd;
	bool needs_device;
	int (*open)(struct subject *subject);
	int (*freeze)(struct subject *subject);
	int (*view)(struct subject *subject);
	int (*peek)(struct subject *subject, uint64_t page_idx, uint8_t *byte, uint64_t *entry);
	void (*thaw)(struct subject *subject);
	void (*close)(struct subject *subject);
};

extern const struct bench_mode bench_modes[];
extern const size_t n_bench_modes;

/** bench_mode_find() - by name, or NULL */
const struct bench_mode *bench_mode_find(const char *name);

/**
 * struct subject - memory to be frozen
 * @address:       of cowd, for cow_client_new()
 * @is_populated:  memory is allocated at once rather than on first touch
 * @addr, @view:   the origin, and the frozen copy as this process sees it (NULL in mode fork)
 * @readable_nsec: clock of the moment when the copy could be read, if @view set it; else 0
 */
struct subject {
	const struct bench_mode *mode;
	const char *address;
	uint64_t size_bytes;
	bool is_populated;
	char *addr;
	const char *view;
	uint64_t readable_nsec;

	struct cow_client *client;
	struct cow_region *region;
	struct cow_region *copy_region; /* mode mmapcopy */
	struct cow_snapshot *snap;
	char *copy; /* mode memcpy */
	pid_t child;
	int ask_fd; /* mode fork: to the child; closing it ends the child */
	int answer_fd;
};

/** subject_open() - 0 or -errno with a sentence; then there is nothing to close */
int subject_open(struct subject *subject, const struct bench_mode *mode, const char *address,
		 uint64_t size_bytes, bool is_populated);
void subject_close(struct subject *subject);
/** bench_private_cowd() - pid of the cowd at @address that was started for @client alone; 0 if
 * there is none */
pid_t bench_private_cowd(struct cow_client *client, const char *address);
/** subject_warm() - freeze and thaw once, and wait for what that left to do. 0 or -errno */
int subject_warm(struct subject *subject, const struct bench_mode *mode);
/** subject_fill() - write to every page, so that there is something to copy */
void subject_fill(struct subject *subject);

/* --- memory.c --------------------------------------------------------------------------- */

/** memory_check() - is there memory for @n_copies of @size_bytes? 0 or -ENOMEM with a sentence */
int memory_check(uint64_t size_bytes, unsigned int n_copies);

/** memory_held() - bytes of memory that @subject holds now, wherever: see memory.c */
int memory_held(struct subject *subject, uint64_t *n_bytes);
/** memory_held_by() - the same of this process, @children of fork(), and @client; it may be NULL */
int memory_held_by(struct cow_client *client, const pid_t *children, size_t n_children,
		   uint64_t *n_bytes);

#define PAGE_PRESENT  (1ULL << 63)
#define PAGE_FRAME(e) ((e) & ((1ULL << 55) - 1))

/** page_entry() - pagemap entry of @addr in this process; 0 if it cannot be had */
uint64_t page_entry(const void *addr);

/** page_describe() - "0x00000001242a3000", or why it is not known. Return: @buf */
#define PAGE_DESCRIBE_MAX 64
const char *page_describe(char buf[static PAGE_DESCRIBE_MAX], uint64_t entry);

/* --- subcommands: @argv[0] is the subcommand's name. Return: enum cli_status ------------------ */

int bench_measure(int argc, char **argv);
int bench_compare(int argc, char **argv);
int bench_repeat(int argc, char **argv);
int bench_rollback(int argc, char **argv);
int bench_faults(int argc, char **argv);
int bench_fork(int argc, char **argv);

/** bench_address() - of the cowd to be used: @socket if given, else a private one */
const char *bench_address(const char *socket);

/**
 * bench_connect() - cow_client_new() to bench_address(@socket)
 *
 * Whatever it was that failed, there is no daemon; only a lack of rights is another matter.
 * Return: 0; -ENOTCONN; -EACCES, -EPERM; with a sentence.
 */
int bench_connect(struct cow_client **client, const char *socket);

/**
 * bench_parse_size() - "64", which is MiB, or "64M", "1.5 GiB" to bytes, rounded up to whole MiB
 *
 * Return: whether it is a size, and none that is too small or too large.
 */
#define BENCH_SIZE_WANTS "a size from 1M to 16T (a number alone is MiB)"
bool bench_parse_size(uint64_t *size_bytes, const char *text);

#endif
