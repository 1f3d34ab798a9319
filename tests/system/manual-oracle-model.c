/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Choices, words and checks of manual-oracle.c. */
#include "config.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "system/manual-oracle.h"

uint64_t oracle_random(struct oracle *oracle)
{
	uint64_t x = oracle->random += 0x9e3779b97f4a7c15;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

size_t oracle_below(struct oracle *oracle, size_t n)
{
	return oracle_random(oracle) % n;
}

bool oracle_one_in(struct oracle *oracle, size_t n)
{
	return !oracle_below(oracle, n);
}

void oracle_note(struct oracle *oracle, const char *format, ...)
{
	char *line = oracle->common->lines[oracle->common->n_steps % N_LINES];
	size_t used = strlen(line);
	va_list args;

	va_start(args, format);
	(void)vsnprintf(line + used, sizeof(oracle->common->lines[0]) - used, format, args);
	va_end(args);
}

void oracle_complain(struct oracle *oracle, const char *format, ...)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	va_list args;

	pthread_mutex_lock(&lock);
	if (!atomic_load(&oracle->common->is_wrong)) {
		va_start(args, format);
		(void)vsnprintf(oracle->common->text, sizeof(oracle->common->text), format, args);
		va_end(args);
		atomic_store(&oracle->common->is_wrong, true);
	}
	pthread_mutex_unlock(&lock);
}

void oracle_fill(uint8_t *at, size_t n_bytes, uint64_t seed)
{
	size_t i = 0;

	for (; i + sizeof(seed) <= n_bytes; i += sizeof(seed)) {
		seed = seed * 6364136223846793005 + 1442695040888963407;
		memcpy(at + i, &seed, sizeof(seed));
	}
	for (; i < n_bytes; i++)
		at[i] = (uint8_t)(seed >> (8 * (i % sizeof(seed))));
}

/* --- memory that may not be there ---------------------------------------------------------------
 */

static _Thread_local sigjmp_buf back;
static _Thread_local volatile sig_atomic_t is_touching;

static void on_fault(int number)
{
	if (is_touching)
		siglongjmp(back, 1);
	(void)signal(number, SIG_DFL); /* the access is made again, and ends the process */
}

void oracle_catch_touches(void)
{
	struct sigaction action = {.sa_handler = on_fault};

	(void)sigaction(SIGBUS, &action, NULL);
	(void)sigaction(SIGSEGV, &action, NULL);
}

bool oracle_touch(void (*touch)(void *user), void *user)
{
	if (sigsetjmp(back, 1)) {
		is_touching = 0;
		return false;
	}
	is_touching = 1;
	touch(user);
	is_touching = 0;
	return true;
}

/* --- checks ----------------------------------------------------------------------------------- */

bool oracle_compare(struct oracle *oracle, const char *what, unsigned int serial,
		    const uint8_t *has, const uint8_t *want, size_t n_bytes)
{
	size_t first = 0, n_wrong_pages = 0;

	if (!memcmp(has, want, n_bytes))
		return true;
	while (first < n_bytes && has[first] == want[first])
		first++;
	for (size_t off = 0; off < n_bytes; off += oracle->page) {
		size_t len = n_bytes - off < oracle->page ? n_bytes - off : oracle->page;

		n_wrong_pages += memcmp(has + off, want + off, len) != 0;
	}
	if (first == n_bytes)
		oracle_complain(oracle, "%s %u differed, and does not any more", what, serial);
	else
		oracle_complain(
			oracle,
			"%s %u: byte %#zx of %#zx compared is %#x, has to be %#x; %zu pages "
			"are wrong",
			what, serial, first, n_bytes, has[first], want[first], n_wrong_pages);
	return false;
}

void oracle_check_area(struct oracle *oracle, const struct area *area)
{
	(void)oracle_compare(oracle, "memory of region", area->serial, area->mem, area->shadow,
			     area->n_bytes);
}

bool oracle_may_fail(struct oracle *oracle, struct held *held, int r)
{
	if (!held->may_be_lost || (r != -ESTALE && r != -ENOTCONN) ||
	    (r == -ENOTCONN && oracle->mode != COW_MODE_UFFD && !oracle->is_unsure)) {
		oracle_complain(oracle, "snapshot %u: error %d: %s", held->serial, r,
				cow_last_error());
		return false;
	}
	if (r == -ESTALE)
		held->is_lost = true;
	return true;
}

void oracle_check_held(struct oracle *oracle, struct held *held, size_t off, size_t len)
{
	uint8_t *bytes = proof_alloc(len + 1);
	int r;

	bytes[len] = 0x5a;
	r = cow_snapshot_read(held->snap, bytes, len, off);
	if (r)
		(void)oracle_may_fail(oracle, held, r);
	else if (held->is_lost)
		oracle_complain(oracle, "snapshot %u was lost and reads now", held->serial);
	else
		(void)oracle_compare(oracle, "snapshot", held->serial, bytes,
				     held->shadow->bytes + off, len);
	if (bytes[len] != 0x5a)
		oracle_complain(oracle, "snapshot %u: read past the length", held->serial);
	free(bytes);
}

struct viewing {
	struct oracle *oracle;
	struct held *held;
};

static void look(void *user)
{
	struct viewing *viewing = user;
	struct held *held = viewing->held;

	(void)oracle_compare(viewing->oracle, "view of snapshot", held->serial, held->view,
			     held->shadow->bytes, held->shadow->n_bytes);
}

void oracle_check_view(struct oracle *oracle, struct held *held)
{
	struct viewing viewing = {oracle, held};

	if (oracle_touch(look, &viewing))
		return;
	if (!held->may_be_lost)
		oracle_complain(oracle, "view of snapshot %u ended by a signal", held->serial);
	held->is_lost = true;
}

/* --- slots ------------------------------------------------------------------------------------ */

struct shadow *shadow_new(const struct area *area)
{
	struct shadow *shadow = proof_alloc(sizeof(*shadow) + area->n_bytes);

	shadow->n_refs = 1;
	shadow->area = area->serial;
	shadow->n_bytes = area->n_bytes;
	memcpy(shadow->bytes, area->shadow, area->n_bytes);
	return shadow;
}

struct shadow *shadow_unref(struct shadow *shadow)
{
	if (shadow && !--shadow->n_refs)
		free(shadow);
	return NULL;
}

struct area *oracle_area(struct oracle *oracle)
{
	size_t start = oracle_below(oracle, N_AREAS);

	for (size_t i = 0; i < N_AREAS; i++) {
		struct area *area = &oracle->areas[(start + i) % N_AREAS];

		if (area->region)
			return area;
	}
	return NULL;
}

struct area *oracle_free_area(struct oracle *oracle)
{
	for (size_t i = 0; i < N_AREAS; i++)
		if (!oracle->areas[i].region)
			return &oracle->areas[i];
	return NULL;
}

struct held *oracle_held(struct oracle *oracle)
{
	size_t start = oracle_below(oracle, N_HELD);

	for (size_t i = 0; i < N_HELD; i++) {
		struct held *held = &oracle->held[(start + i) % N_HELD];

		if (held->snap)
			return held;
	}
	return NULL;
}

struct held *oracle_free_held(struct oracle *oracle)
{
	for (size_t i = 0; i < N_HELD; i++)
		if (!oracle->held[i].snap)
			return &oracle->held[i];
	return NULL;
}

void oracle_held_new(struct oracle *oracle, struct held *held, struct cow_snapshot *snap,
		     struct area *area, struct shadow *shadow)
{
	*held = (struct held){
		.snap = snap,
		.serial = ++oracle->n_serials,
		.area = area,
		.shadow = shadow,
	};
	if (cow_snapshot_size(snap) != shadow->n_bytes)
		oracle_complain(oracle, "snapshot %u has a wrong size", held->serial);
	oracle_note(oracle, " -> snapshot %u", held->serial);
}

void oracle_release(struct oracle *oracle, struct held *held)
{
	oracle_note(oracle, " release %u", held->serial);
	held->snap = cow_snapshot_unref(held->snap);
	if (held->snap)
		oracle_complain(oracle, "cow_snapshot_unref() did not give NULL");
	shadow_unref(held->shadow);
	*held = (struct held){.snap = NULL};
}
