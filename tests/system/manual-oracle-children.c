/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Other processes of manual-oracle.c, each told what to do on a socket pair.
 *
 * A child is forked with the regions, and has the shadows as any fork child has memory: what it is
 * to see it knows from them, and what it writes it writes to its own. It answers each command with
 * a byte; end of file is the order to end. What it finds wrong it says in the common memory, and
 * ends. The reader is forked before there is a client, and opens snapshots by their ids.
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "system/manual-oracle.h"

/* --- fork children -------------------------------------------------------------------------------
 */

struct checking {
	struct oracle *oracle;
	const struct area *area;
};

static void check_in_child(void *user)
{
	struct checking *checking = user;

	(void)oracle_compare(checking->oracle, "in a child, region", checking->area->serial,
			     checking->area->mem, checking->area->shadow, checking->area->n_bytes);
}

/* Ends the child if something is wrong. Regions that it rightly does not have become free slots. */
static void child_check(struct oracle *oracle, bool by_cow_fork)
{
	for (size_t i = 0; i < N_AREAS; i++) {
		struct area *area = &oracle->areas[i];
		bool may_lack = oracle->mode != COW_MODE_UFFD && !by_cow_fork && area->has_parts;
		bool must_lack = oracle->mode == COW_MODE_UFFD ||
				 (!by_cow_fork && area->flags & COW_REGION_NO_FORK);
		struct checking checking = {oracle, area};

		if (!area->region)
			continue;
		if (oracle_touch(check_in_child, &checking)) {
			if (must_lack)
				oracle_complain(oracle, "a child has region %u", area->serial);
			continue;
		}
		if (!must_lack && !may_lack)
			oracle_complain(oracle, "a child does not have region %u", area->serial);
		area->region = NULL;
	}
	if (atomic_load(&oracle->common->is_wrong))
		_exit(EXIT_FAILURE);
}

static void child_write(struct oracle *oracle)
{
	for (size_t n = 1 + oracle_below(oracle, 30); n; n--) {
		struct area *area = oracle_area(oracle);
		size_t page, len;

		if (!area)
			return;
		page = oracle_below(oracle, area->n_bytes / oracle->page) * oracle->page;
		len = oracle_one_in(oracle, 2) ? oracle->page : 1;
		oracle_fill(area->mem + page, len, n);
		oracle_fill(area->shadow + page, len, n);
	}
}

static void child_fork(struct oracle *oracle)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		oracle_complain(oracle, "a child cannot fork: %s", strerror(errno));
	if (pid < 0)
		_exit(EXIT_FAILURE);
	if (!pid) {
		/* what this child made of it: a region without NO_FORK is in its children too */
		child_check(oracle, true);
		child_write(oracle);
		child_check(oracle, true);
		_exit(EXIT_SUCCESS);
	}
	if (waitpid(pid, &status, 0) != pid || status) {
		oracle_complain(oracle, "a child's child ended with status %#x", (unsigned)status);
		_exit(EXIT_FAILURE);
	}
}

/* "In the child the client and its regions and snapshots answer -ECHILD." */
static void child_check_echild(struct oracle *oracle)
{
	struct held *held = oracle_held(oracle);
	struct cow_snapshot *snap = NULL;
	struct area *area = oracle_area(oracle);
	char byte;
	int r;

	if (area) {
		r = cow_snapshot_new(&snap, area->region);
		if (r != -ECHILD)
			oracle_complain(oracle, "in a child, cow_snapshot_new() gave %d", r);
	}
	if (held) {
		r = cow_snapshot_read(held->snap, &byte, 1, 0);
		if (r != -ECHILD)
			oracle_complain(oracle, "in a child, cow_snapshot_read() gave %d", r);
		held->snap = cow_snapshot_unref(held->snap); /* changes nothing for the parent */
	}
	if (atomic_load(&oracle->common->is_wrong))
		_exit(EXIT_FAILURE);
}

static void child_run(struct oracle *oracle, int fd, bool by_cow_fork)
{
	char command = 'c';

	oracle->random ^= 1;
	child_check(oracle, by_cow_fork);
	child_check_echild(oracle);
	do {
		child_check(oracle, true);
		if (command == 'w')
			child_write(oracle);
		if (command == 'f')
			child_fork(oracle);
		child_check(oracle, true);
		if (write(fd, "k", 1) != 1)
			break;
	} while (read(fd, &command, 1) == 1);
	child_check(oracle, true);
	_exit(EXIT_SUCCESS);
}

static void await_child(struct oracle *oracle, struct child *child)
{
	char answer;

	if (read(child->fd, &answer, 1) != 1)
		oracle_complain(oracle, "child %d ended: no answer", (int)child->pid);
}

static void end_child(struct oracle *oracle, struct child *child)
{
	int status;

	(void)close(child->fd);
	if (waitpid(child->pid, &status, 0) != child->pid || status)
		oracle_complain(oracle, "child %d ended with status %#x", (int)child->pid,
				(unsigned int)status);
	child->pid = 0;
}

static bool has_parts(const struct oracle *oracle)
{
	for (size_t i = 0; i < N_AREAS; i++)
		if (oracle->areas[i].region && oracle->areas[i].has_parts)
			return true;
	return false;
}

void step_fork(struct oracle *oracle)
{
	bool by_cow_fork = oracle_one_in(oracle, 2);
	struct child *child = oracle->children;
	int fds[2];
	pid_t pid;

	while (child < oracle->children + N_CHILDREN && child->pid)
		child++;
	if (child == oracle->children + N_CHILDREN)
		return;
	oracle_note(oracle, by_cow_fork ? " cow_fork" : " fork");
	ck_assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
	pid = by_cow_fork ? cow_fork(oracle->client) : fork();
	if (!pid) {
		for (size_t i = 0; i < N_CHILDREN; i++)
			if (oracle->children[i].pid)
				(void)close(oracle->children[i].fd);
		(void)close(oracle->reader_fd);
		(void)close(fds[0]);
		child_run(oracle, fds[1], by_cow_fork);
	}
	(void)close(fds[1]);
	if (pid < 0) {
		(void)close(fds[0]);
		if (pid == -EAGAIN)
			oracle->n_again++;
		if (!by_cow_fork || (pid != -EAGAIN && pid != -ENOMEM) ||
		    (pid == -ENOMEM && !has_parts(oracle)))
			oracle_complain(oracle, "fork: error %d: %s", (int)pid, cow_last_error());
		return;
	}
	*child = (struct child){pid, fds[0]};
	oracle_note(oracle, " -> child %d", (int)pid);
	if (oracle_one_in(oracle, 2)) /* while it checks what it got */
		step_write(oracle);
	await_child(oracle, child);
}

static struct child *any_child(struct oracle *oracle)
{
	struct child *child = &oracle->children[oracle_below(oracle, N_CHILDREN)];

	return child->pid ? child : NULL;
}

void step_ask_child(struct oracle *oracle)
{
	static const char commands[] = {'c', 'w', 'w', 'f'};
	struct child *child = any_child(oracle);
	char command = commands[oracle_below(oracle, sizeof(commands))];

	if (!child)
		return;
	oracle_note(oracle, " child %d %c", (int)child->pid, command);
	if (write(child->fd, &command, 1) != 1)
		oracle_complain(oracle, "child %d takes no command", (int)child->pid);
	if (oracle_one_in(oracle, 2))
		step_write(oracle);
	await_child(oracle, child);
}

void step_end_child(struct oracle *oracle)
{
	struct child *child = any_child(oracle);

	if (!child)
		return;
	oracle_note(oracle, " child %d", (int)child->pid);
	end_child(oracle, child);
}

void children_stop(struct oracle *oracle)
{
	for (size_t i = 0; i < N_CHILDREN; i++)
		if (oracle->children[i].pid)
			end_child(oracle, &oracle->children[i]);
}

/* --- the reader ------------------------------------------------------------------------------- */

enum {
	READER_OPEN = 1,
	READER_READ,
	READER_CLOSE,
};

struct ask {
	int what;
	size_t slot, n_bytes;
	uint64_t id;
};

static int reader_do(struct oracle *oracle, struct cow_client **client, struct cow_snapshot **snaps,
		     const struct ask *ask)
{
	int r = 0;

	if (!*client)
		r = cow_client_new(client, proof_address());
	if (r)
		return r;
	switch (ask->what) {
	case READER_OPEN:
		return cow_snapshot_open(&snaps[ask->slot], *client, ask->id);
	case READER_READ:
		return cow_snapshot_read(snaps[ask->slot], oracle->common->bytes, ask->n_bytes, 0);
	default:
		snaps[ask->slot] = cow_snapshot_unref(snaps[ask->slot]);
		return 0;
	}
}

static void reader_run(struct oracle *oracle, int fd)
{
	struct cow_snapshot *snaps[N_OUTSIDE] = {NULL};
	struct cow_client *client = NULL;
	struct ask ask;

	while (read(fd, &ask, sizeof(ask)) == sizeof(ask)) {
		int r = reader_do(oracle, &client, snaps, &ask);

		if (write(fd, &r, sizeof(r)) != sizeof(r))
			break;
	}
	for (size_t i = 0; i < N_OUTSIDE; i++)
		cow_snapshot_unref(snaps[i]);
	cow_client_unref(client);
	_exit(EXIT_SUCCESS);
}

void reader_start(struct oracle *oracle)
{
	int fds[2];

	ck_assert(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
	oracle->reader = fork();
	ck_assert_int_ge(oracle->reader, 0);
	if (!oracle->reader) {
		(void)close(fds[0]);
		reader_run(oracle, fds[1]);
	}
	(void)close(fds[1]);
	oracle->reader_fd = fds[0];
}

void reader_stop(struct oracle *oracle)
{
	int status;

	(void)close(oracle->reader_fd);
	if (waitpid(oracle->reader, &status, 0) != oracle->reader || status)
		oracle_complain(oracle, "the reader ended with status %#x", (unsigned int)status);
	for (size_t i = 0; i < N_OUTSIDE; i++)
		oracle->outside[i].shadow = shadow_unref(oracle->outside[i].shadow);
}

static int ask_reader(struct oracle *oracle, int what, size_t slot, size_t n_bytes, uint64_t id)
{
	struct ask ask = {.what = what, .slot = slot, .n_bytes = n_bytes, .id = id};
	int r = -EPIPE;

	if (write(oracle->reader_fd, &ask, sizeof(ask)) != sizeof(ask) ||
	    read(oracle->reader_fd, &r, sizeof(r)) != sizeof(r))
		oracle_complain(oracle, "the reader has ended");
	return r;
}

static void reader_opens(struct oracle *oracle, size_t slot)
{
	struct held *held = oracle_held(oracle);
	uint64_t id = held ? cow_snapshot_id(held->snap) : 0;
	int r;

	if (!held)
		return;
	oracle_note(oracle, " opens snapshot %u", held->serial);
	if (!id) {
		(void)oracle_may_fail(oracle, held, -ESTALE);
		return;
	}
	r = ask_reader(oracle, READER_OPEN, slot, 0, id);
	if (!r) {
		held->shadow->n_refs++;
		oracle->outside[slot] = (struct outside){held->shadow, held->may_be_lost};
	} else if (!held->may_be_lost) {
		oracle_complain(oracle, "another process opens snapshot %u: error %d", held->serial,
				r);
	}
}

void step_ask_reader(struct oracle *oracle)
{
	size_t slot = oracle_below(oracle, N_OUTSIDE);
	struct outside *outside = &oracle->outside[slot];
	int r;

	if (!outside->shadow) {
		reader_opens(oracle, slot);
		return;
	}
	if (oracle_one_in(oracle, 3)) {
		oracle_note(oracle, " releases");
		r = ask_reader(oracle, READER_CLOSE, slot, 0, 0);
		outside->shadow = shadow_unref(outside->shadow);
		if (r)
			oracle_complain(oracle, "release in another process: error %d", r);
		return;
	}
	oracle_note(oracle, " reads");
	r = ask_reader(oracle, READER_READ, slot, outside->shadow->n_bytes, 0);
	if (!r)
		(void)oracle_compare(oracle, "in another process, snapshot of region",
				     outside->shadow->area, oracle->common->bytes,
				     outside->shadow->bytes, outside->shadow->n_bytes);
	else if (!outside->may_be_lost || (r != -ESTALE && r != -ENOTCONN))
		oracle_complain(oracle, "in another process, a read: error %d", r);
}
