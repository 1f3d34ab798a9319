/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The step of manual-oracle.c that saves, to each kind of descriptor. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "system/manual-oracle.h"

struct sink {
	int fd;
	uint8_t *bytes;
	size_t n_bytes, n_room;
};

static void *drain(void *arg)
{
	struct sink *sink = arg;
	ssize_t n;

	while (sink->n_bytes < sink->n_room) {
		n = read(sink->fd, sink->bytes + sink->n_bytes, sink->n_room - sink->n_bytes);
		if (n <= 0)
			break;
		sink->n_bytes += (size_t)n;
	}
	return NULL;
}

static int stop_at(void *user, uint64_t done, uint64_t total)
{
	uint64_t *limit = user;

	return done >= *limit && done < total;
}

/* To a file that may have other bytes in it, from an odd offset on. */
static void save_to_file(struct oracle *oracle, struct held *held)
{
	AUTO_FD int fd = proof_file();
	size_t n_bytes = held->shadow->n_bytes;
	off_t start = oracle_one_in(oracle, 2) ? (off_t)oracle_below(oracle, 9000) : 0;
	bool is_used = oracle_one_in(oracle, 3), is_cut = oracle_one_in(oracle, 8);
	uint64_t limit = oracle_below(oracle, n_bytes);
	uint8_t *bytes = proof_alloc(n_bytes + 1);
	int r;

	oracle_note(oracle, " file+%#llx%s%s", (unsigned long long)start, is_used ? " used" : "",
		    is_cut ? " to be cancelled" : "");
	memset(bytes, 0x77, n_bytes);
	if ((is_used && pwrite(fd, bytes, n_bytes, start) != (ssize_t)n_bytes) ||
	    lseek(fd, start, SEEK_SET) != start)
		oracle_complain(oracle, "the file to save to: %s", strerror(errno));
	r = cow_snapshot_save(held->snap, fd, is_cut ? stop_at : NULL, &limit);
	if (r) {
		if (r != -ECANCELED || !is_cut)
			(void)oracle_may_fail(oracle, held, r);
	} else if (pread(fd, bytes, n_bytes + 1, start) != (ssize_t)n_bytes) {
		oracle_complain(oracle, "snapshot %u: the file has a wrong size", held->serial);
	} else {
		(void)oracle_compare(oracle, "file of snapshot", held->serial, bytes,
				     held->shadow->bytes, n_bytes);
	}
	free(bytes);
}

static void save_to_stream(struct oracle *oracle, struct held *held)
{
	size_t n_bytes = held->shadow->n_bytes;
	struct sink sink = {.bytes = proof_alloc(n_bytes + 1), .n_room = n_bytes + 1};
	bool is_pipe = oracle_one_in(oracle, 2);
	pthread_t thread;
	int fds[2], r;

	oracle_note(oracle, is_pipe ? " pipe" : " socket");
	if (is_pipe ? pipe2(fds, O_CLOEXEC)
		    : socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds)) {
		oracle_complain(oracle, "a stream to save to: %s", strerror(errno));
		free(sink.bytes);
		return;
	}
	sink.fd = fds[0];
	ck_assert(!pthread_create(&thread, NULL, drain, &sink));
	r = cow_snapshot_save(held->snap, fds[1], NULL, NULL);
	(void)close(fds[1]);
	pthread_join(thread, NULL);
	(void)close(fds[0]);
	if (r)
		(void)oracle_may_fail(oracle, held, r);
	else if (sink.n_bytes != n_bytes)
		oracle_complain(oracle, "snapshot %u: %zu of %zu bytes came", held->serial,
				sink.n_bytes, n_bytes);
	else
		(void)oracle_compare(oracle, "stream of snapshot", held->serial, sink.bytes,
				     held->shadow->bytes, n_bytes);
	free(sink.bytes);
}

void step_save(struct oracle *oracle)
{
	struct held *held = oracle_held(oracle);
	struct area *area = oracle_area(oracle);

	if (!held)
		return;
	oracle_note(oracle, " snapshot %u", held->serial);
	company_begin(oracle, area, NULL);
	if (oracle_one_in(oracle, 2))
		save_to_file(oracle, held);
	else
		save_to_stream(oracle, held);
	company_finish(oracle, area);
}
