// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Every region of this process by address: an array sorted by address, searched by halving.
 *
 * It holds no references, so that a region ends when its last user lets go: cowi_registry_find()
 * takes one only from a region that has not come to its end yet, and that end removes the region
 * from here, under the same lock, before its memory goes.
 *
 * Adopted memory does not go, but while it becomes a region, and while it is given back, a fork
 * child would find it in pieces. So a fork waits until it is one or the other, and whoever adopts
 * waits until a fork is over. Giving back waits for nothing: the last reference may go in a thread
 * that others wait for. What a fork is to find it has references to.
 */
#include "config.h"

#include <string.h>

#include "libclient/internal.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct cow_region **regions;
static size_t n_regions, capacity;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER; /* with lock: the following */
static size_t n_adopting;
static bool is_forking;

/* Index of the first region that begins after @addr. */
static size_t upper_bound(uintptr_t addr)
{
	size_t low = 0, high = n_regions;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if ((uintptr_t)regions[mid]->addr <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

int cowi_registry_add(struct cow_region *region)
{
	size_t idx;
	int r = 0;

	pthread_mutex_lock(&lock);
	if (n_regions == capacity) {
		size_t wanted = capacity ? 2 * capacity : 16;
		struct cow_region **grown =
			(struct cow_region **)realloc((void *)regions, wanted * sizeof(*grown));

		if (grown) {
			regions = grown;
			capacity = wanted;
		} else {
			r = err_oom(wanted * sizeof(*grown), "the list of regions");
		}
	}
	if (!r) {
		idx = upper_bound((uintptr_t)region->addr);
		memmove((void *)&regions[idx + 1], (const void *)&regions[idx],
			(n_regions - idx) * sizeof(*regions));
		regions[idx] = region;
		n_regions++;
	}
	pthread_mutex_unlock(&lock);
	return r;
}

void cowi_registry_remove(struct cow_region *region)
{
	pthread_mutex_lock(&lock);
	for (size_t idx = upper_bound((uintptr_t)region->addr); idx > 0; idx--) {
		if (regions[idx - 1] != region)
			continue;
		n_regions--;
		memmove((void *)&regions[idx - 1], (const void *)&regions[idx],
			(n_regions - idx + 1) * sizeof(*regions));
		break;
	}
	if (!n_regions) {
		free((void *)regions);
		regions = NULL;
		capacity = 0;
	}
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/* Regions do not overlap: of those that begin before the end, the last one ends last. */
_Bool cowi_registry_covers(const void *addr, size_t len)
{
	const uintptr_t start = (uintptr_t)addr;
	bool is_covered;
	size_t idx;

	pthread_mutex_lock(&lock);
	idx = upper_bound(start + len - 1);
	is_covered =
		idx > 0 && (uintptr_t)regions[idx - 1]->addr + regions[idx - 1]->size_bytes > start;
	pthread_mutex_unlock(&lock);
	return is_covered;
}

struct cow_region *cowi_registry_find(const void *addr)
{
	struct cow_region *found = NULL;
	size_t idx;

	pthread_mutex_lock(&lock);
	idx = upper_bound((uintptr_t)addr);
	if (idx > 0 &&
	    (uintptr_t)addr - (uintptr_t)regions[idx - 1]->addr < regions[idx - 1]->size_bytes &&
	    cowi_ref_unless_zero(&regions[idx - 1]->n_refs))
		found = regions[idx - 1];
	pthread_mutex_unlock(&lock);
	return found;
}

static int list_all(struct cow_region ***out, size_t *n_out)
{
	struct cow_region **list = (struct cow_region **)malloc((n_regions + 1) * sizeof(*list));
	size_t n = 0;

	if (!list)
		return err_oom((n_regions + 1) * sizeof(*list), "the list of regions");
	for (size_t i = 0; i < n_regions; i++) {
		if (cowi_ref_unless_zero(&regions[i]->n_refs))
			list[n++] = regions[i];
	}
	*out = list;
	*n_out = n;
	return 0;
}

int cowi_registry_list(struct cow_region ***out, size_t *n_out)
{
	int r;

	pthread_mutex_lock(&lock);
	r = list_all(out, n_out);
	pthread_mutex_unlock(&lock);
	return r;
}

void cowi_registry_adopt_begin(void)
{
	pthread_mutex_lock(&lock);
	while (is_forking)
		pthread_cond_wait(&changed, &lock);
	n_adopting++;
	pthread_mutex_unlock(&lock);
	cowi_entry_lock(); /* a fork() in a signal handler would wait for its own thread */
}

void cowi_registry_adopt_end(void)
{
	pthread_mutex_lock(&lock);
	n_adopting--;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	cowi_entry_unlock();
}

/* Whether the memory of a region that has come to its end is being given back. */
static bool is_giving_back(void)
{
	for (size_t i = 0; i < n_regions; i++) {
		if (regions[i]->adopted && !atomic_load(&regions[i]->n_refs))
			return true;
	}
	return false;
}

int cowi_registry_fork_list(struct cow_region ***out, size_t *n_out)
{
	int r;

	pthread_mutex_lock(&lock);
	while (n_adopting || is_giving_back())
		pthread_cond_wait(&changed, &lock);
	is_forking = true;
	r = list_all(out, n_out);
	pthread_mutex_unlock(&lock);
	return r;
}

void cowi_registry_fork_end(void)
{
	pthread_mutex_lock(&lock);
	is_forking = false;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/* Who waited for the lock's owner is not in this process. */
void cowi_registry_fork_child(void)
{
	pthread_cond_init(&changed, NULL);
}

void cowi_registry_fork_prepare(void)
{
	pthread_mutex_lock(&lock);
}

void cowi_registry_fork_done(void)
{
	pthread_mutex_unlock(&lock);
}
