/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cowbench faults: a writer, which is a process of its own that owns some memory, has it protected
 * and writes once to every page of it, in one or more threads.
 *
 * The process that measures makes all writers before it has any thread itself, tells them what to
 * do over a socket, one byte at a time, and reads latencies out of memory that it shares with them.
 * A writer ends when its socket does, so none outlives the measurement, however that ends.
 */
#ifndef COW_TOOLS_BENCH_WRITER_H
#define COW_TOOLS_BENCH_WRITER_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct writer;

/**
 * struct writer_kind - a way to catch first writes to pages; runs in the writer's process
 * @open:   memory at writer->addr, every page of it written; 0 or -errno with a sentence
 * @freeze: from now on the first write to every page faults
 * @thaw:   no longer
 */
struct writer_kind {
	int (*open)(struct writer *writer);
	int (*freeze)(struct writer *writer);
	void (*thaw)(struct writer *writer);
};

extern const struct writer_kind writer_cowd; /* a snapshot of a region of mode uffd */
extern const struct writer_kind writer_bare; /* a userfaultfd and a thread of the writer's own */

/**
 * struct writer_spec - what a writer is to be
 * @address:     of cowd, lent until the end
 * @n_threads:   that write, each to pages of its own
 * @first_cpu:   index into the CPUs of this process; thread i is pinned to the i-th from there on
 * @handler_cpu: the same, of writer_bare's thread that serves
 * @pause_usec:  of each thread between two writes, from 0 to twice this; 0: none
 */
struct writer_spec {
	const struct writer_kind *kind;
	const char *address;
	uint64_t size_bytes;
	unsigned int n_threads;
	bool is_random;
	unsigned int first_cpu;
	unsigned int handler_cpu;
	unsigned int pause_usec;
};

/* Memory that a writer shares with the process that measures. */
struct writer_lane {
	uint64_t begin_nsec; /* of the last round's first write */
	uint64_t end_nsec;
	uint64_t n_written; /* since the start of the round, or of the storm */
	char sentence[512]; /* about the error that was answered */
	uint32_t latency_nsec[];
};

struct writer {
	struct writer_spec spec;
	struct writer_lane *lane;
	size_t lane_bytes;
	uint64_t n_pages;
	int sock;
	pid_t pid; /* 0: none */

	/* in its own process */
	char *addr;
	struct cow_client *client;
	struct cow_region *region;
	struct cow_snapshot *snap;
	int uffd;
	char *store;
	uint32_t *order; /* pages of each thread after another */
	uint64_t seed;
};

enum writer_command {
	WRITER_OPEN = 'o',
	WRITER_FREEZE = 'f',
	WRITER_WRITE = 'w', /* every page once */
	WRITER_THAW = 't',
	WRITER_STORM = 's', /* freeze, write, thaw again and again until WRITER_CALM */
	WRITER_CALM = 'c',
};

/** writer_start() - make the process; before there is any thread. 0 or -errno with a sentence */
int writer_start(struct writer *writer, const struct writer_spec *spec);
/** writer_ask() - have @command begin. 0 or -errno with a sentence */
int writer_ask(struct writer *writer, enum writer_command command);
/** writer_await() - until what was asked for is done. 0; or its -errno, with its sentence */
int writer_await(struct writer *writer);
/** writer_all() - ask all, then wait for all: they do it at the same time */
int writer_all(struct writer *writers, size_t n_writers, enum writer_command command);
/** writer_end() - end the process, and wait for it; idempotent */
void writer_end(struct writer *writer);

/** bench_n_cpus() - CPUs that this process may use */
unsigned int bench_n_cpus(void);
/** bench_pin() - the calling thread to the @idx-th of them, modulo their number */
void bench_pin(unsigned int idx);

#endif
