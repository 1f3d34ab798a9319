// SPDX-License-Identifier: GPL-2.0-or-later
/* See writer.h. */
#include "config.h"

#include "tools/bench/writer.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "common/err.h"
#include "tools/bench/bench.h"

/* --- CPUs ------------------------------------------------------------------------------------- */

/* Read once, before anything is pinned; inherited by the writers. */
static cpu_set_t cpus;

unsigned int bench_n_cpus(void)
{
	if (!CPU_COUNT(&cpus) && sched_getaffinity(0, sizeof(cpus), &cpus))
		CPU_SET(0, &cpus);
	return (unsigned int)CPU_COUNT(&cpus);
}

void bench_pin(unsigned int idx)
{
	cpu_set_t one;
	int cpu = -1;

	idx %= bench_n_cpus();
	for (unsigned int i = 0; i <= idx; i++)
		do
			cpu++;
		while (!CPU_ISSET(cpu, &cpus));
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	(void)sched_setaffinity(0, sizeof(one), &one);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* One thread of a writer, for one round. */
struct hand {
	struct writer *writer;
	pthread_barrier_t *start;
	pthread_t thread;
	unsigned int idx;
	uint64_t begin_nsec;
	uint64_t end_nsec;
};

/* Index in writer->order at which the pages of thread @idx begin. */
static uint64_t share_of(const struct writer *writer, unsigned int idx)
{
	return writer->n_pages * idx / writer->spec.n_threads;
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void shuffle(struct writer *writer, uint64_t first, uint64_t end)
{
	for (uint64_t i = end - 1; end > first && i > first; i--) {
		uint64_t j = first + next_random(&writer->seed) % (i - first + 1);
		uint32_t page = writer->order[i];

		writer->order[i] = writer->order[j];
		writer->order[j] = page;
	}
}

static void pause_for(unsigned int pause_usec, uint64_t *seed)
{
	struct timespec ts = {0};

	if (!pause_usec)
		return;
	ts.tv_nsec = (long)(next_random(seed) % (2ULL * pause_usec + 1)) * 1000;
	clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

static void *hand_main(void *arg)
{
	struct hand *hand = arg;
	struct writer *writer = hand->writer;
	uint64_t seed = writer->seed + hand->idx * 0x9e3779b97f4a7c15ULL + 1;
	uint64_t end = share_of(writer, hand->idx + 1), page_size = page_size_bytes();

	bench_pin(writer->spec.first_cpu + hand->idx);
	pthread_barrier_wait(hand->start);
	hand->begin_nsec = now_nsec();
	for (uint64_t i = share_of(writer, hand->idx); i < end; i++) {
		volatile uint64_t *word;
		uint64_t before;

		pause_for(writer->spec.pause_usec, &seed);
		word = (volatile uint64_t *)(void *)(writer->addr + writer->order[i] * page_size);
		before = now_nsec();
		*word = before;
		writer->lane->latency_nsec[i] = (uint32_t)min_u64(now_nsec() - before, UINT32_MAX);
	}
	hand->end_nsec = now_nsec();
	return NULL;
}

static int write_all(struct writer *writer)
{
	unsigned int n_hands = writer->spec.n_threads, n_started = 0;
	CLEANUP(freep) struct hand *hands = calloc(n_hands, sizeof(*hands));
	struct writer_lane *lane = writer->lane;
	pthread_barrier_t start;

	if (!hands)
		return err_oom(n_hands * sizeof(*hands), "threads");
	next_random(&writer->seed);
	for (unsigned int i = 0; writer->spec.is_random && i < n_hands; i++)
		shuffle(writer, share_of(writer, i), share_of(writer, i + 1));
	pthread_barrier_init(&start, NULL, n_hands);
	for (; n_started < n_hands; n_started++) {
		struct hand *hand = &hands[n_started];

		*hand = (struct hand){.writer = writer, .start = &start, .idx = n_started};
		/* Those that wait at the barrier already end with this process. */
		if (pthread_create(&hand->thread, NULL, hand_main, hand))
			return err_raise(-EAGAIN, "no more than %u threads can be made", n_started);
	}
	for (unsigned int i = 0; i < n_hands; i++) {
		pthread_join(hands[i].thread, NULL);
		if (!i || hands[i].begin_nsec < lane->begin_nsec)
			lane->begin_nsec = hands[i].begin_nsec;
		if (!i || hands[i].end_nsec > lane->end_nsec)
			lane->end_nsec = hands[i].end_nsec;
	}
	pthread_barrier_destroy(&start);
	lane->n_written += writer->n_pages;
	return 0;
}

static bool is_told_to_calm(struct writer *writer)
{
	char command;

	return recv(writer->sock, &command, 1, MSG_DONTWAIT) >= 0;
}

static int storm(struct writer *writer)
{
	uint64_t begin_nsec = now_nsec();
	int r = 0;

	writer->lane->n_written = 0;
	while (!r && !is_told_to_calm(writer)) {
		r = writer->spec.kind->freeze(writer);
		if (!r)
			r = write_all(writer);
		writer->spec.kind->thaw(writer);
	}
	writer->lane->begin_nsec = begin_nsec;
	writer->lane->end_nsec = now_nsec();
	return r;
}

static int open_memory(struct writer *writer)
{
	writer->order = malloc(writer->n_pages * sizeof(*writer->order));
	if (!writer->order)
		return err_oom(writer->n_pages * sizeof(*writer->order), "the order of pages");
	for (uint64_t i = 0; i < writer->n_pages; i++)
		writer->order[i] = (uint32_t)i;
	/* Touched now, so that none of our own faults falls between two readings of the clock. */
	memset(writer->lane->latency_nsec, 0, writer->n_pages * sizeof(uint32_t));
	return writer->spec.kind->open(writer);
}

/* --- the writer's process --------------------------------------------------------------------- */

static int obey(struct writer *writer, char command)
{
	switch (command) {
	case WRITER_OPEN:
		return open_memory(writer);
	case WRITER_FREEZE:
		return writer->spec.kind->freeze(writer);
	case WRITER_WRITE:
		writer->lane->n_written = 0;
		return write_all(writer);
	case WRITER_THAW:
		writer->spec.kind->thaw(writer);
		return 0;
	case WRITER_STORM:
		return storm(writer);
	default:
		return 0; /* told to be calm after a storm that had ended by itself */
	}
}

static _Noreturn void writer_main(struct writer *writer)
{
	char command;

	while (recv(writer->sock, &command, 1, 0) == 1) {
		int r = obey(writer, command);

		if (r)
			snprintf(writer->lane->sentence, sizeof(writer->lane->sentence), "%s",
				 err_sentence());
		if (command != WRITER_CALM &&
		    send(writer->sock, &r, sizeof(r), MSG_NOSIGNAL) != sizeof(r))
			break;
	}
	_exit(0);
}

/* --- the process that measures ---------------------------------------------------------------- */

int writer_start(struct writer *writer, const struct writer_spec *spec)
{
	int socks[2];

	(void)bench_n_cpus(); /* known before anything is pinned */
	*writer = (struct writer){.spec = *spec, .sock = -1, .uffd = -1};
	writer->n_pages = spec->size_bytes / page_size_bytes();
	writer->lane_bytes = sizeof(struct writer_lane) + writer->n_pages * sizeof(uint32_t);
	writer->seed = 0x2545f4914f6cdd1dULL + (uint64_t)spec->first_cpu * 0x9e3779b97f4a7c15ULL;
	writer->lane = mmap(NULL, writer->lane_bytes, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (writer->lane == MAP_FAILED) {
		writer->lane = NULL;
		return err_oom(writer->lane_bytes, "the measured values");
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks))
		return err_raise_errno("no socket for a writer");
	(void)fflush(NULL);
	writer->pid = fork();
	if (!writer->pid) {
		/* Ours alone, so that either side sees the end of the other. */
		close_range(3, (unsigned int)socks[1] - 1, 0);
		close_range((unsigned int)socks[1] + 1, ~0U, 0);
		writer->sock = socks[1];
		writer_main(writer);
	}
	(void)close(socks[1]);
	writer->sock = socks[0];
	if (writer->pid < 0) {
		writer->pid = 0;
		return err_raise_errno("no process for a writer");
	}
	return 0;
}

int writer_ask(struct writer *writer, enum writer_command command)
{
	char byte = (char)command;

	if (send(writer->sock, &byte, 1, MSG_NOSIGNAL) != 1)
		return err_raise(-EPIPE, "a process that writes has ended");
	return 0;
}

int writer_await(struct writer *writer)
{
	int r = 0;

	if (recv(writer->sock, &r, sizeof(r), 0) != sizeof(r))
		return err_raise(-EPIPE, "a process that writes has ended");
	return r ? err_raise(r, "%s", writer->lane->sentence) : 0;
}

int writer_all(struct writer *writers, size_t n_writers, enum writer_command command)
{
	size_t n_asked = 0;
	int r = 0, r2;

	while (!r && n_asked < n_writers) {
		r = writer_ask(&writers[n_asked], command);
		n_asked += !r;
	}
	for (size_t i = 0; i < n_asked; i++) {
		r2 = writer_await(&writers[i]);
		r = r ? r : r2;
	}
	return r;
}

void writer_end(struct writer *writer)
{
	writer->sock = writer->pid || writer->lane ? fd_close(writer->sock) : -1;
	if (writer->pid > 0)
		while (waitpid(writer->pid, NULL, 0) < 0 && errno == EINTR)
			continue;
	writer->pid = 0;
	if (writer->lane)
		munmap(writer->lane, writer->lane_bytes);
	writer->lane = NULL;
}
