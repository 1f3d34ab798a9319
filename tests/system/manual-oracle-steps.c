/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Steps of manual-oracle.c that one thread makes: on memory, and on what was taken of it. */
#include "config.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "system/manual-oracle.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* since Linux 6.1 */
#endif

/* A range of whole pages, mostly short. */
static void pick_pages(struct oracle *oracle, const struct area *area, size_t *off, size_t *len)
{
	size_t n_pages = area->n_bytes / oracle->page, first = oracle_below(oracle, n_pages);
	size_t most = n_pages - first;

	if (!oracle_one_in(oracle, 4) && most > 16)
		most = 16;
	*off = first * oracle->page;
	*len = (1 + oracle_below(oracle, most)) * oracle->page;
}

/* Any range of bytes. */
static void pick_bytes(struct oracle *oracle, size_t n_bytes, size_t *off, size_t *len)
{
	size_t most = oracle_one_in(oracle, 4) ? n_bytes : 3 * oracle->page;

	*off = oracle_below(oracle, n_bytes);
	*len = oracle_below(oracle, (most < n_bytes - *off ? most : n_bytes - *off) + 1);
}

static void write_bytes(struct oracle *oracle, struct area *area)
{
	size_t n = 1 + oracle_below(oracle, 40);

	oracle_note(oracle, " %zu bytes", n);
	for (size_t i = 0; i < n; i++) {
		size_t off = oracle_below(oracle, area->n_bytes);

		area->mem[off] = area->shadow[off] = (uint8_t)oracle_random(oracle);
	}
}

/* By the kernel, whose faults are served in another way. */
static void write_by_kernel(struct oracle *oracle, struct area *area)
{
	size_t off, len;
	off_t from = (off_t)oracle_below(oracle, oracle->page);
	ssize_t n;

	pick_bytes(oracle, area->n_bytes, &off, &len);
	oracle_note(oracle, " read(2) %#zx+%#zx", off, len);
	n = pread(oracle->source_fd, area->mem + off, len, from);
	if (n != (ssize_t)len) {
		oracle_complain(oracle, "read(2) into region %u: %zd of %zu bytes: %s",
				area->serial, n, len, strerror(errno));
		return;
	}
	if (pread(oracle->source_fd, area->shadow + off, len, from) != (ssize_t)len)
		oracle_complain(oracle, "read(2) of the source: %s", strerror(errno));
}

void step_write(struct oracle *oracle)
{
	struct area *area = oracle_area(oracle);
	uint64_t seed = oracle_random(oracle);
	size_t off, len;

	if (!area)
		return;
	oracle_note(oracle, " region %u", area->serial);
	pick_pages(oracle, area, &off, &len);
	switch (oracle_below(oracle, 8)) {
	case 0:
		off = 0;
		len = area->n_bytes;
		/* fall through */
	case 1:
	case 2:
		oracle_note(oracle, " fill %#zx+%#zx", off, len);
		oracle_fill(area->mem + off, len, seed);
		oracle_fill(area->shadow + off, len, seed);
		break;
	case 3:
		oracle_note(oracle, " zero %#zx+%#zx", off, len);
		memset(area->mem + off, 0, len);
		memset(area->shadow + off, 0, len);
		break;
	case 4:
		oracle_note(oracle, " the same %#zx+%#zx", off, len);
		memcpy(area->mem + off, area->shadow + off, len);
		break;
	case 5:
		write_by_kernel(oracle, area);
		break;
	default:
		write_bytes(oracle, area);
	}
	if (oracle_one_in(oracle, 8))
		oracle_check_area(oracle, area);
}

/* --- snapshots -------------------------------------------------------------------------------- */

static int take_once(struct oracle *oracle, struct area *area, struct cow_snapshot **snap,
		     bool *may_be_lost)
{
	struct cow_snapshot_params params = {.name = "by the manual"};

	if (oracle->mode == COW_MODE_UFFD && oracle_one_in(oracle, 8)) {
		params.budget_bytes = (1 + oracle_below(oracle, 64)) * oracle->page;
		*may_be_lost = true;
		oracle_note(oracle, " budget %#llx", (unsigned long long)params.budget_bytes);
	}
	if (params.budget_bytes || oracle_one_in(oracle, 4))
		return cow_snapshot_new_with(snap, area->region, &params);
	return cow_snapshot_new(snap, area->region);
}

bool oracle_take(struct oracle *oracle, struct area *area, struct cow_snapshot **snap,
		 bool *may_be_lost)
{
	for (;;) {
		int r = take_once(oracle, area, snap, may_be_lost);

		if (!r && oracle->is_unsure && !cow_snapshot_id(*snap)) {
			*snap = cow_snapshot_unref(*snap); /* the old cowd was told of it */
			continue;
		}
		if (!r) {
			oracle->is_unsure = false;
			return true;
		}
		if (r == -ENOTCONN && oracle->is_unsure)
			continue; /* until the next one is found; the test's limit is the limit */
		if (r == -EAGAIN)
			oracle->n_again++;
		else if (r != -E2BIG || !area->has_parts)
			oracle_complain(oracle, "taking one of region %u: error %d: %s",
					area->serial, r, cow_last_error());
		oracle_note(oracle, " (error %d)", r);
		return false;
	}
}

void step_take_quietly(struct oracle *oracle)
{
	struct area *area = oracle_area(oracle);
	struct held *held = oracle_free_held(oracle);
	struct cow_snapshot *snap = NULL;
	bool may_be_lost = false;

	if (!area || !held)
		return;
	oracle_note(oracle, " region %u", area->serial);
	if (!oracle_take(oracle, area, &snap, &may_be_lost))
		return;
	oracle_held_new(oracle, held, snap, area, shadow_new(area));
	held->may_be_lost = may_be_lost;
}

void step_read(struct oracle *oracle)
{
	struct held *held = oracle_held(oracle);
	size_t off, len, n_bytes;
	uint8_t byte;
	int r;

	if (!held)
		return;
	n_bytes = held->shadow->n_bytes;
	pick_bytes(oracle, n_bytes, &off, &len);
	oracle_note(oracle, " snapshot %u %#zx+%#zx", held->serial, off, len);
	oracle_check_held(oracle, held, off, len);
	if (held->view && oracle_one_in(oracle, 3))
		oracle_check_view(oracle, held);
	if (!oracle_one_in(oracle, 10))
		return;
	r = cow_snapshot_read(held->snap, &byte, 1, n_bytes);
	if (r != -EINVAL && !(held->may_be_lost && r == -ESTALE))
		oracle_complain(oracle, "a read past the end gave %d", r);
}

void step_map(struct oracle *oracle)
{
	struct held *held = oracle_held(oracle);
	const void *view = NULL;
	int r;

	if (!held)
		return;
	oracle_note(oracle, " snapshot %u", held->serial);
	r = cow_snapshot_map(held->snap, &view);
	if (r) {
		(void)oracle_may_fail(oracle, held, r);
		return;
	}
	if (held->view && held->view != view)
		oracle_complain(oracle, "a second mapping of snapshot %u", held->serial);
	held->view = view;
	if (oracle_one_in(oracle, 2))
		oracle_check_view(oracle, held);
}

void step_release(struct oracle *oracle)
{
	struct held *held = oracle_held(oracle);
	struct area *area = oracle_area(oracle);

	if (!held)
		return;
	company_begin(oracle, area, held);
	oracle_release(oracle, held);
	company_finish(oracle, area);
}

void step_open(struct oracle *oracle)
{
	struct held *held = oracle_held(oracle), *slot = oracle_free_held(oracle);
	struct cow_client *client = oracle_one_in(oracle, 3) ? oracle->client : oracle->second;
	struct cow_snapshot *snap = NULL;
	uint64_t id;
	int r;

	if (!held || !slot)
		return;
	oracle_note(oracle, " snapshot %u", held->serial);
	id = cow_snapshot_id(held->snap);
	if (!id) {
		(void)oracle_may_fail(oracle, held, -ESTALE);
		return;
	}
	r = cow_snapshot_open(&snap, client, id);
	if (r) {
		if (!held->may_be_lost && !(oracle->is_unsure && r == -ENOTCONN))
			oracle_complain(oracle, "opening snapshot %u: error %d: %s", held->serial,
					r, cow_last_error());
		return;
	}
	held->shadow->n_refs++;
	oracle_held_new(oracle, slot, snap, NULL, held->shadow);
	slot->may_be_lost = held->may_be_lost;
}

/* --- memory ----------------------------------------------------------------------------------- */

void step_roll_back(struct oracle *oracle)
{
	struct held *held = oracle_held(oracle);
	struct area *area;
	int r;

	if (!held || !held->area)
		return;
	area = held->area;
	oracle_note(oracle, " region %u to %u", area->serial, held->serial);
	r = cow_region_rollback(area->region, held->snap);
	if (!r) {
		memcpy(area->shadow, held->shadow->bytes, area->n_bytes);
		oracle_check_area(oracle, area);
		return;
	}
	if (!oracle_may_fail(oracle, held, r))
		return;
	/* Of a lost one nothing is rolled back; if cowd ended meanwhile part may be. */
	if (r == -ENOTCONN)
		memcpy(area->shadow, area->mem, area->n_bytes);
	else
		oracle_check_area(oracle, area);
}

/* What mode uffd has instead of a discard: all that was taken of the region may be lost by it. */
static void remove_pages(struct oracle *oracle, struct area *area, size_t off, size_t len)
{
	bool is_removal = oracle_one_in(oracle, 2);

	if (cow_region_discard(area->region, off, len) != -ENOSYS)
		oracle_complain(oracle, "a discard in mode uffd was not refused");
	oracle_note(oracle, " madvise %s", is_removal ? "REMOVE" : "DONTNEED");
	for (size_t i = 0; i < N_HELD; i++)
		if (oracle->held[i].snap && oracle->held[i].shadow->area == area->serial)
			oracle->held[i].may_be_lost = true;
	for (size_t i = 0; i < N_OUTSIDE; i++)
		if (oracle->outside[i].shadow && oracle->outside[i].shadow->area == area->serial)
			oracle->outside[i].may_be_lost = true;
	if (madvise(area->mem + off, len, is_removal ? MADV_REMOVE : MADV_DONTNEED))
		oracle_complain(oracle, "madvise: %s", strerror(errno));
	else if (is_removal)
		memset(area->shadow + off, 0, len);
	oracle_check_area(oracle, area);
}

void step_discard(struct oracle *oracle)
{
	struct area *area = oracle_area(oracle);
	size_t off, len;
	int r;

	if (!area)
		return;
	pick_pages(oracle, area, &off, &len);
	oracle_note(oracle, " region %u %#zx+%#zx", area->serial, off, len);
	if (oracle->mode == COW_MODE_UFFD) {
		if (oracle_one_in(oracle, 4))
			remove_pages(oracle, area, off, len);
		return;
	}
	r = cow_region_discard(area->region, off, len);
	if (r) {
		oracle_complain(oracle, "discard: error %d: %s", r, cow_last_error());
		return;
	}
	memset(area->shadow + off, 0, len);
	oracle_check_area(oracle, area);
}

void step_copy(struct oracle *oracle)
{
	struct area *from = oracle_area(oracle), *to = oracle_area(oracle);
	size_t from_off, to_off, len, most;

	if (!from || oracle->mode == COW_MODE_UFFD)
		return;
	from_off = oracle_below(oracle, from->n_bytes);
	to_off = oracle_below(oracle, to->n_bytes);
	if (!oracle_one_in(oracle, 4))
		to_off = to_off / oracle->page * oracle->page + from_off % oracle->page;
	if (to_off >= to->n_bytes)
		return;
	most = from->n_bytes - from_off;
	if (most > to->n_bytes - to_off)
		most = to->n_bytes - to_off;
	len = 1 + oracle_below(oracle, most);
	oracle_note(oracle, " region %u %#zx to %u %#zx, %#zx bytes", from->serial, from_off,
		    to->serial, to_off, len);
	if (cow_mmapcopy(to->mem + to_off, from->mem + from_off, len) != to->mem + to_off)
		oracle_complain(oracle, "cow_mmapcopy() did not return where to");
	memmove(to->shadow + to_off, from->shadow + from_off, len);
	from->has_parts = to->has_parts = true;
	oracle_check_area(oracle, to);
	oracle_check_area(oracle, from);
}

/* Advice may be refused, and harms nothing either way. */
void step_advise(struct oracle *oracle)
{
	static const struct {
		int advice;
		const char *name;
	} all[] = {
		{MADV_PAGEOUT, "PAGEOUT"},       {MADV_COLD, "COLD"},
		{MADV_HUGEPAGE, "HUGEPAGE"},     {MADV_NOHUGEPAGE, "NOHUGEPAGE"},
		{MADV_COLLAPSE, "COLLAPSE"},     {MADV_MERGEABLE, "MERGEABLE"},
		{MADV_WILLNEED, "WILLNEED"},     {MADV_POPULATE_READ, "POPULATE_READ"},
		{MADV_SEQUENTIAL, "SEQUENTIAL"}, {MADV_POPULATE_WRITE, "POPULATE_WRITE"},
	};
	size_t which = oracle_below(oracle, ARRAY_SIZE(all)), off, len;
	struct area *area = oracle_area(oracle);

	if (!area)
		return;
	pick_pages(oracle, area, &off, &len);
	if (oracle_one_in(oracle, 2)) {
		off = 0;
		len = area->n_bytes;
	}
	oracle_note(oracle, " region %u %s %#zx+%#zx", area->serial, all[which].name, off, len);
	if (madvise(area->mem + off, len, all[which].advice))
		oracle_note(oracle, " (%s)", strerror(errno));
	if (oracle_one_in(oracle, 2))
		oracle_check_area(oracle, area);
}
