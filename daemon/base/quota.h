/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What each uid holds, and how much it may.
 *
 * Everything a client causes is charged to its uid before it takes effect. A struct charge is
 * embedded in the object that causes the cost; its deinit gives back exactly what was taken, so no
 * path can forget a refund or give one twice. Any thread may charge, but one charge belongs to one
 * thread at a time: to whoever owns the object that embeds it.
 */
#ifndef COWD_QUOTA_H
#define COWD_QUOTA_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/util.h"

enum quota_kind {
	QUOTA_SESSIONS,
	QUOTA_REGIONS,
	QUOTA_SNAPSHOTS,
	QUOTA_FDS,
	QUOTA_REGION_BYTES, /* size of backings, whether touched or not */
	QUOTA_KEPT_BYTES,   /* old pages in stores, indices of stores, extents of snapshots */
	QUOTA_QUEUED_BYTES, /* replies that clients have not read, requests under way, holds */
	QUOTA_N,
};

/* Named outcome of quota_charge(): over the limit; nothing was
 * charged, the sentence says by what. */
#define QUOTA_E_EXCEEDED 1

struct quota; /* all users, and the limits */
struct quota_user;

struct charge {
	struct quota_user *user; /* NULL: nothing charged */
	enum quota_kind kind;
	uint64_t amount;
};

/**
 * struct quota_waiter - one who was refused, and wants to know when it is worth to try again
 * @wake: called once, when something of QUOTA_KEPT_BYTES was given back or its limit set; in any
 *        thread, with any lock held: it passes the word on, and calls nothing of quota.h
 *
 * Embedded in its owner. The rest is under the accounts' lock.
 */
struct quota_waiter {
	void (*wake)(struct quota_waiter *waiter);
	struct quota_user *_Atomic user; /* NULL: not waiting */
	struct quota_waiter *prev;
	struct quota_waiter *next;
};

/* Lines that a uid's doings had written to the log, and since when they are counted. */
struct log_budget {
	uint64_t began_usec;
	unsigned int n_lines;
};

/** quota_kind_key() - what @kind is called in [limits] of cowd.conf */
const char *quota_kind_key(enum quota_kind kind);
/** quota_kind_is_bytes() - whether it is counted in bytes rather than in pieces */
bool quota_kind_is_bytes(enum quota_kind kind);

int quota_new(struct quota **out);
struct quota *quota_free(struct quota *quota);
/** quota_set_limit() - limit of @kind for every uid that has none of its own; for reloads too */
void quota_set_limit(struct quota *quota, enum quota_kind kind, uint64_t limit);

/** quota_total() - how much of @kind is charged to all together */
uint64_t quota_total(struct quota *quota, enum quota_kind kind);

/** quota_user_get() - the account of @uid, a reference; loop thread. 0 or -errno */
int quota_user_get(struct quota_user **out, struct quota *quota, uid_t uid);
struct quota_user *quota_user_ref(struct quota_user *user);
struct quota_user *quota_user_unref(struct quota_user *user);
DEFINE_CLEANUP(quota_user_unref, struct quota_user *)
uid_t quota_user_uid(const struct quota_user *user);
/** quota_user_log_budget() - what it had written to the log, of log.c; loop thread */
struct log_budget *quota_user_log_budget(struct quota_user *user);
/** quota_user_held() - how much of @kind is charged now */
uint64_t quota_user_held(const struct quota_user *user, enum quota_kind kind);

/** quota_user_left() - how much more may be charged */
uint64_t quota_user_left(const struct quota_user *user, enum quota_kind kind);

/**
 * quota_charge() - take @amount of @kind
 * @charge: gets it; must be empty (zeroed or deinited) before; holds a reference on @user
 *
 * Context: any thread (counters are atomic). Return: 0; QUOTA_E_EXCEEDED, with a sentence such as
 * "uid 1000 holds 4.0 GiB of 4.0 GiB of kept pages".
 */
int quota_charge(struct charge *charge, struct quota_user *user, enum quota_kind kind,
		 uint64_t amount) MUST_CHECK;
/** quota_charge_more() - add to a charge that is not empty; same outcomes */
int quota_charge_more(struct charge *charge, uint64_t amount) MUST_CHECK;
/**
 * quota_charge_anyway() - the same, whatever the limit says
 *
 * For what cannot be refused and is bounded otherwise. Until the uid holds less than its limit
 * again, it is refused everything else of the kind.
 */
void quota_charge_anyway(struct charge *charge, uint64_t amount);
/** quota_error() - the outcome @r of a charge as an error: QUOTA_E_EXCEEDED becomes -EDQUOT */
static inline int quota_error(int r)
{
	return r == QUOTA_E_EXCEEDED ? -EDQUOT : r;
}
/** quota_refund() - give part back; any thread */
void quota_refund(struct charge *charge, uint64_t amount);
/**
 * quota_wait() - have @waiter woken
 * @user: lent, until it was woken or quota_unwait() was called
 *
 * What is given back after this wakes it: whoever was refused before tries once more. Any thread.
 * Return: whether it was not waiting already.
 */
bool quota_wait(struct quota_waiter *waiter, struct quota_user *user);
/** quota_unwait() - it is not woken any more; idempotent; any thread */
void quota_unwait(struct quota_waiter *waiter);
/** quota_has_waiters() - whether anybody waits for what @user may keep */
bool quota_has_waiters(const struct quota_user *user);

/** charge_deinit() - give everything back; idempotent; any thread */
void charge_deinit(struct charge *charge);

#endif
