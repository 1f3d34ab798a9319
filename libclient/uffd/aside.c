// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Where page tables go at a take of mode uffd; see struct cowi_aside.
 *
 * A take should do no more than it must: finding aligned address space is three system calls, and
 * waking the client's thread to clean up behind it takes longer than the move itself. So what was
 * used once is kept as a bare reservation, and the thread is asked beforehand to come by.
 */
#include "config.h"

#include "backends/space.h"
#include "libclient/conn/conn.h"

/* Old page tables dropped at a time; the client's mmap lock is held meanwhile, replies wait. */
#define PIECE_BYTES    ((uint64_t)2 << 20)
#define PIECES_AT_ONCE 2
#define LOOK_MSEC      2
#define READY_MAX      4

static void aside_free(struct cowi_aside *aside)
{
	space_release(aside->addr, aside->size_bytes);
	free(aside);
}

/* Keep it for the next take. */
static void make_ready(struct cowi_aside *aside)
{
	struct cow_client *client = aside->client;
	unsigned int n_ready = 0;

	atomic_store(&aside->state, COWI_ASIDE_EMPTY);
	aside->dropped_bytes = 0;
	pthread_mutex_lock(&client->lock);
	for (const struct cowi_aside *ready = client->asides; ready; ready = ready->next)
		n_ready++;
	if (n_ready < READY_MAX) {
		aside->next = client->asides;
		client->asides = aside;
		aside = NULL;
	}
	pthread_mutex_unlock(&client->lock);
	if (aside)
		aside_free(aside);
}

static struct cowi_aside *take_ready(struct cow_client *client, uint64_t size_bytes)
{
	struct cowi_aside *found = NULL;

	pthread_mutex_lock(&client->lock);
	for (struct cowi_aside **link = &client->asides; *link; link = &(*link)->next) {
		if ((*link)->size_bytes == size_bytes) {
			found = *link;
			*link = found->next;
			break;
		}
	}
	pthread_mutex_unlock(&client->lock);
	return found;
}

/* Whether somebody waits for cowd, whose answer this thread has to hand over. */
static bool is_awaited(struct cow_client *client)
{
	bool is_awaited;

	pthread_mutex_lock(&client->lock);
	is_awaited = client->conn->sender.n_under_way;
	pthread_mutex_unlock(&client->lock);
	return is_awaited;
}

static void drop_piece(struct cowi_aside *aside)
{
	uint64_t n_bytes = min_u64(aside->size_bytes - aside->dropped_bytes, PIECE_BYTES);

	/* If it fails what is mapped there goes with the next move to it. */
	(void)space_clear(aside->addr + aside->dropped_bytes, n_bytes);
	aside->dropped_bytes += n_bytes;
}

/*
 * There is no hurry: the program has what is left of the CPU, and between two pieces whoever waits
 * for its mmap lock, as cowd does to let writers go on.
 */
static unsigned int pause_msec(const struct cowi_aside *aside)
{
	bool is_due = aside->dropped_bytes / PIECE_BYTES % PIECES_AT_ONCE == 0;

	return is_due || is_awaited(aside->client) ? 1 : 0;
}

static void run_task(struct cowi_task *task)
{
	struct cowi_aside *aside = container_of(task, struct cowi_aside, task);

	switch (atomic_load(&aside->state)) {
	case COWI_ASIDE_LENT:
		cowi_post_later(aside->client, task, LOOK_MSEC);
		break;
	case COWI_ASIDE_EMPTY:
		if (aside->addr)
			make_ready(aside);
		else
			free(aside);
		break;
	case COWI_ASIDE_FULL:
		drop_piece(aside);
		if (aside->dropped_bytes < aside->size_bytes) {
			cowi_post_later(aside->client, task, pause_msec(aside));
			break;
		}
		/* The table above those of the pieces: freed by a move to here, it would have the
		 * take wait until all CPUs have been interrupted. */
		(void)space_clear(aside->addr, aside->size_bytes);
		make_ready(aside);
		break;
	}
}

static int aside_new(struct cowi_aside **out, struct cow_client *client, uint64_t size_bytes)
{
	struct cowi_aside *aside = calloc(1, sizeof(*aside));
	int r;

	if (!aside)
		return err_oom(sizeof(*aside), "a snapshot");
	r = space_reserve(&aside->addr, size_bytes);
	if (r) {
		free(aside);
		return r;
	}
	aside->task.run = run_task;
	aside->client = client;
	aside->size_bytes = size_bytes;
	*out = aside;
	return 0;
}

int cowi_aside_get(struct cowi_aside **out, struct cow_client *client, uint64_t size_bytes)
{
	struct cowi_aside *aside = take_ready(client, size_bytes);
	int r = aside ? 0 : aside_new(&aside, client, size_bytes);

	if (r)
		return r;
	atomic_store(&aside->state, COWI_ASIDE_LENT);
	cowi_post_unwoken(client, &aside->task, LOOK_MSEC);
	*out = aside;
	return 0;
}

void cowi_aside_put(struct cowi_aside *aside, _Bool is_full)
{
	atomic_store(&aside->state, is_full ? COWI_ASIDE_FULL : COWI_ASIDE_EMPTY);
}

/*
 * A move that fails may have given its destination up before, and another thread may have mapped
 * something there since. If so the address space is not ours any more. If it was not given up,
 * which looks alike, it stays reserved for nothing.
 */
void cowi_aside_failed(struct cowi_aside *aside)
{
	if (space_reserve_at(aside->addr, aside->size_bytes))
		aside->addr = NULL;
	cowi_aside_put(aside, false);
}

void cowi_asides_prepare(struct cow_client *client, uint64_t size_bytes)
{
	struct cowi_aside *aside;

	if (!aside_new(&aside, client, size_bytes))
		make_ready(aside);
}

void cowi_asides_free(struct cow_client *client)
{
	while (client->asides) {
		struct cowi_aside *aside = client->asides;

		client->asides = aside->next;
		aside_free(aside);
	}
}
