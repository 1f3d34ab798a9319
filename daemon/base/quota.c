// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Accounts per uid; contracts are in quota.h.
 *
 * An account lives while somebody holds a reference: a session, or a charge, which outlives the
 * session when a snapshot does. Amounts are atomic, because fault workers charge each page they
 * keep; a reference is counted under the table's mutex, because the last one may go in any thread
 * and takes the account out of the table.
 */
#include "config.h"

#include "daemon/base/quota.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <utlist.h>

#include "common/err.h"
#include "common/format.h"
#include "daemon/base/hash.h"

struct quota_user {
	struct quota *quota;
	uid_t uid;
	unsigned int n_refs; /* quota->lock */
	_Atomic uint64_t held[QUOTA_N];
	struct quota_waiter *waiters; /* quota->lock, as changes of the next one */
	_Atomic bool has_waiters;
	struct log_budget log_budget; /* loop thread */
	UT_hash_handle hh;
};

struct quota {
	pthread_mutex_t
		lock; /* table, references, waiters; only what wakes those is locked in it */
	struct quota_user *users;
	_Atomic uint64_t limits[QUOTA_N];
};

static const struct {
	const char *noun;
	const char *key; /* in [limits] of cowd.conf */
	bool is_bytes;
} kinds[] = {
	[QUOTA_SESSIONS] = {"connections", "sessions", false},
	[QUOTA_REGIONS] = {"regions", "regions", false},
	[QUOTA_SNAPSHOTS] = {"snapshots", "snapshots", false},
	[QUOTA_FDS] = {"descriptors", "descriptors", false},
	[QUOTA_REGION_BYTES] = {"region memory", "region-bytes", true},
	[QUOTA_KEPT_BYTES] = {"kept pages", "kept-bytes", true},
	[QUOTA_QUEUED_BYTES] = {"replies and requests under way", "queued-bytes", true},
};
static_assert(ARRAY_SIZE(kinds) == QUOTA_N, "every kind has words");

const char *quota_kind_key(enum quota_kind kind)
{
	return kinds[kind].key;
}

bool quota_kind_is_bytes(enum quota_kind kind)
{
	return kinds[kind].is_bytes;
}

int quota_new(struct quota **out)
{
	struct quota *quota;

	quota = malloc(sizeof(*quota));
	if (!quota)
		return err_oom(sizeof(*quota), "accounts");
	*quota = (struct quota){.lock = PTHREAD_MUTEX_INITIALIZER};
	for (int i = 0; i < QUOTA_N; i++)
		atomic_init(&quota->limits[i], UINT64_MAX);
	*out = quota;
	return 0;
}

struct quota *quota_free(struct quota *quota)
{
	if (!quota)
		return NULL;
	assert(!quota->users); /* a charge or session outlived the accounts */
	pthread_mutex_destroy(&quota->lock);
	free(quota);
	return NULL;
}

/* With the lock held. */
static void wake_all(struct quota_user *user)
{
	atomic_store(&user->has_waiters, false);
	while (user->waiters) {
		struct quota_waiter *waiter = user->waiters;

		DL_DELETE(user->waiters, waiter);
		waiter->wake(waiter);
		atomic_store(&waiter->user, NULL); /* quota_unwait() may return now */
	}
}

void quota_set_limit(struct quota *quota, enum quota_kind kind, uint64_t limit)
{
	atomic_store(&quota->limits[kind], limit);
	if (kind != QUOTA_KEPT_BYTES)
		return;
	pthread_mutex_lock(&quota->lock);
	for (struct quota_user *user = quota->users; user; user = user->hh.next)
		wake_all(user);
	pthread_mutex_unlock(&quota->lock);
}

uint64_t quota_total(struct quota *quota, enum quota_kind kind)
{
	uint64_t total = 0;

	pthread_mutex_lock(&quota->lock);
	for (struct quota_user *user = quota->users; user; user = user->hh.next)
		total += atomic_load(&user->held[kind]);
	pthread_mutex_unlock(&quota->lock);
	return total;
}

static struct quota_user *find_or_add(struct quota *quota, uid_t uid)
{
	struct quota_user *user;

	HASH_FIND(hh, quota->users, &uid, sizeof(uid), user);
	if (user) {
		user->n_refs++;
		return user;
	}
	user = calloc(1, sizeof(*user));
	if (!user)
		return NULL;
	user->quota = quota;
	user->uid = uid;
	user->n_refs = 1;
	HASH_ADD(hh, quota->users, uid, sizeof(uid), user);
	if (!user->hh.tbl) {
		free(user);
		return NULL;
	}
	return user;
}

int quota_user_get(struct quota_user **out, struct quota *quota, uid_t uid)
{
	struct quota_user *user;

	pthread_mutex_lock(&quota->lock);
	user = find_or_add(quota, uid);
	pthread_mutex_unlock(&quota->lock);
	if (!user)
		return err_oom(sizeof(*user), "the account of a user");
	*out = user;
	return 0;
}

struct quota_user *quota_user_ref(struct quota_user *user)
{
	pthread_mutex_lock(&user->quota->lock);
	user->n_refs++;
	pthread_mutex_unlock(&user->quota->lock);
	return user;
}

struct quota_user *quota_user_unref(struct quota_user *user)
{
	struct quota *quota;
	bool is_last;

	if (!user)
		return NULL;
	quota = user->quota;
	pthread_mutex_lock(&quota->lock);
	is_last = --user->n_refs == 0;
	if (is_last)
		HASH_DEL(quota->users, user);
	pthread_mutex_unlock(&quota->lock);
	if (is_last) {
		for (int i = 0; i < QUOTA_N; i++)
			assert(atomic_load(&user->held[i]) == 0);
		free(user);
	}
	return NULL;
}

uid_t quota_user_uid(const struct quota_user *user)
{
	return user->uid;
}

struct log_budget *quota_user_log_budget(struct quota_user *user)
{
	return &user->log_budget;
}

uint64_t quota_user_held(const struct quota_user *user, enum quota_kind kind)
{
	return atomic_load(&user->held[kind]);
}

uint64_t quota_user_left(const struct quota_user *user, enum quota_kind kind)
{
	uint64_t limit = atomic_load(&user->quota->limits[kind]);

	return limit - min_u64(limit, atomic_load(&user->held[kind]));
}

static int raise_exceeded(const struct quota_user *user, enum quota_kind kind, uint64_t held,
			  uint64_t limit, uint64_t amount)
{
	char held_text[FORMAT_BYTES_MAX];
	char limit_text[FORMAT_BYTES_MAX];
	char amount_text[FORMAT_BYTES_MAX];

	if (!kinds[kind].is_bytes)
		return err_raise(QUOTA_E_EXCEEDED,
				 "uid %u holds %" PRIu64 " of %" PRIu64
				 " %s; the limit is \"%s\" in cowd.conf",
				 (unsigned int)user->uid, held, limit, kinds[kind].noun,
				 kinds[kind].key);
	return err_raise(QUOTA_E_EXCEEDED,
			 "uid %u holds %s of %s of %s, and %s more were asked for; the limit is "
			 "\"%s\" in cowd.conf",
			 (unsigned int)user->uid, format_bytes(held_text, held),
			 format_bytes(limit_text, limit), kinds[kind].noun,
			 format_bytes(amount_text, amount), kinds[kind].key);
}

static int take(struct quota_user *user, enum quota_kind kind, uint64_t amount)
{
	uint64_t limit = atomic_load(&user->quota->limits[kind]);
	uint64_t held = atomic_load(&user->held[kind]);

	do {
		/* A reload may have put the limit below what is held. */
		if (held > limit || amount > limit - held)
			return raise_exceeded(user, kind, held, limit, amount);
	} while (!atomic_compare_exchange_weak(&user->held[kind], &held, held + amount));
	return 0;
}

static void give_back(struct quota_user *user, enum quota_kind kind, uint64_t amount)
{
	uint64_t before = atomic_fetch_sub(&user->held[kind], amount);

	assert(before >= amount);
	(void)before;
	/*
	 * Whoever begins to wait is in the list before it looks at what is held once more: either
	 * it sees that less is, or it is seen here.
	 */
	if (!amount || kind != QUOTA_KEPT_BYTES || !atomic_load(&user->has_waiters))
		return;
	pthread_mutex_lock(&user->quota->lock);
	wake_all(user);
	pthread_mutex_unlock(&user->quota->lock);
}

bool quota_wait(struct quota_waiter *waiter, struct quota_user *user)
{
	bool is_new;

	pthread_mutex_lock(&user->quota->lock);
	is_new = !atomic_load(&waiter->user);
	if (is_new) {
		atomic_store(&waiter->user, user);
		DL_PREPEND(user->waiters, waiter);
		atomic_store(&user->has_waiters, true);
	}
	pthread_mutex_unlock(&user->quota->lock);
	return is_new;
}

void quota_unwait(struct quota_waiter *waiter)
{
	/* The owner guarantees that the account is there: only the list may change meanwhile. */
	struct quota_user *user = atomic_load(&waiter->user);

	if (!user)
		return;
	pthread_mutex_lock(&user->quota->lock);
	if (atomic_load(&waiter->user)) {
		DL_DELETE(user->waiters, waiter);
		atomic_store(&waiter->user, NULL);
		atomic_store(&user->has_waiters, user->waiters != NULL);
	}
	pthread_mutex_unlock(&user->quota->lock);
}

bool quota_has_waiters(const struct quota_user *user)
{
	return atomic_load(&user->has_waiters);
}

int quota_charge(struct charge *charge, struct quota_user *user, enum quota_kind kind,
		 uint64_t amount)
{
	int r;

	assert(!charge->user);
	r = take(user, kind, amount);
	if (r)
		return r;
	*charge = (struct charge){.user = quota_user_ref(user), .kind = kind, .amount = amount};
	return 0;
}

int quota_charge_more(struct charge *charge, uint64_t amount)
{
	int r;

	assert(charge->user);
	r = take(charge->user, charge->kind, amount);
	if (r)
		return r;
	charge->amount += amount;
	return 0;
}

void quota_charge_anyway(struct charge *charge, uint64_t amount)
{
	assert(charge->user);
	atomic_fetch_add(&charge->user->held[charge->kind], amount);
	charge->amount += amount;
}

void quota_refund(struct charge *charge, uint64_t amount)
{
	assert(charge->user && amount <= charge->amount);
	charge->amount -= amount;
	give_back(charge->user, charge->kind, amount);
}

void charge_deinit(struct charge *charge)
{
	if (!charge->user)
		return;
	give_back(charge->user, charge->kind, charge->amount);
	charge->amount = 0;
	charge->user = quota_user_unref(charge->user);
}
