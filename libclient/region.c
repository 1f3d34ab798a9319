// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Regions: their life, and their being handed to the next cowd when a connection is made again.
 *
 * The memory belongs to this process; cowd's end takes nothing from it. What goes is cowd's
 * knowledge: region->id is 0 from the end of a connection until the region was restored on the next
 * one. A region that could not be restored stays usable memory, and says why when a snapshot is
 * asked for.
 */
#include "config.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "backends/extents.h"
#include "common/clock.h"
#include "libclient/conn/conn.h"
#include "libclient/modes.h"
#include "libclient/requests.h"

/* Between two attempts to hand over a region that cowd could not take. */
#define REFUSED_PERIOD_MSEC 200

#define ALL_FLAGS (COW_REGION_POPULATE | COW_REGION_NO_FORK | COW_REGION_STOP_THREADS)

static int check_params(const struct cow_region_params *params)
{
	if (!params)
		return err_raise(-EINVAL, "cow_region_new() was given no parameters");
	if (!params->size_bytes)
		return err_raise(-EINVAL, "a region of 0 bytes is none");
	if (params->size_bytes > INT64_MAX - 2 * page_size_bytes())
		return err_raise(-EINVAL, "a region cannot have %llu bytes",
				 (unsigned long long)params->size_bytes);
	if (!cowi_mode_ops(params->mode))
		return err_raise(-EINVAL,
				 "%u is no mode of a region: use COW_MODE_UFFD, COW_MODE_SCOOT or "
				 "COW_MODE_MMAPCOPY",
				 params->mode);
	if (params->flags & ~ALL_FLAGS)
		return err_raise(-EINVAL, "%#x are no flags that this library, %s, knows",
				 params->flags & ~ALL_FLAGS, cow_version());
#ifndef COW_STOP_THREADS
	if (params->flags & COW_REGION_STOP_THREADS)
		return err_raise(-EOPNOTSUPP,
				 "this library was built without COW_REGION_STOP_THREADS: "
				 "configure --enable-stop-threads builds it with it");
#endif
	for (size_t i = 0; i < ARRAY_SIZE(params->reserved); i++) {
		if (params->reserved[i])
			return err_raise(-EINVAL,
					 "a reserved member of the parameters is not 0: this "
					 "library, %s, does not know what it means",
					 cow_version());
	}
	return 0;
}

static int region_alloc(struct cow_region **out, struct cow_client *client,
			const struct cow_region_params *params)
{
	struct cow_region *region = calloc(1, sizeof(*region));

	if (!region)
		return err_oom(sizeof(*region), "a region");
	region->n_refs = 1;
	region->client = cow_client_ref(client);
	region->ops = cowi_mode_ops(params->mode);
	region->mode = params->mode;
	region->flags = params->flags;
	region->size_bytes = align_up(params->size_bytes, page_size_bytes());
	if (params->name)
		(void)snprintf(region->name, sizeof(region->name), "%s", params->name);
	pthread_mutex_init(&region->take_lock, NULL);
	*out = region;
	return 0;
}

static int take_backing(struct cow_region *region, struct fdset *fds)
{
	AUTO_FD int fd = fdset_take(fds, 0);
	AUTO_FD int ro_fd = fdset_take(fds, 1);
	int r = memfile_new(&region->backing, &fd, &ro_fd, region->size_bytes);

	if (!r)
		atomic_store(&region->backing->id, region->backing_id);
	return r;
}

/* Have cowd make the memory. region->generation is the connection that it was made on. */
static int create(struct cow_region *region)
{
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	int r;

	region->generation = cowi_generation(region->client);
	if (!region->generation)
		return cowi_conn_raise_down(region->client);
	r = cowi_ask_region_create(region, &fds);
	if (r)
		return r;
	if (fds.n_fds != 2)
		return err_raise(-EPROTO, "cowd answered with %zu descriptors for a region, not 2",
				 fds.n_fds);
	return take_backing(region, &fds);
}

/* From now on reconnections know of @region; one that took place meanwhile is made up for. */
static void list_add(struct cow_region *region)
{
	struct cow_client *client = region->client;

	pthread_mutex_lock(&client->lock);
	region->next = client->regions;
	client->regions = region;
	region->is_listed = 1;
	if (!cowi_conn_is_there(client->conn) || region->generation != client->generation) {
		region->id = 0;
		region->generation = 0;
		cowi_mode_forget(region);
		cowi_conn_ask_up(client);
	}
	pthread_mutex_unlock(&client->lock);
}

static void list_remove(struct cow_region *region)
{
	struct cow_client *client = region->client;

	pthread_mutex_lock(&client->lock);
	for (struct cow_region **p = &client->regions; *p; p = &(*p)->next) {
		if (*p == region) {
			*p = region->next;
			break;
		}
	}
	region->is_listed = 0;
	pthread_mutex_unlock(&client->lock);
}

static int populate(struct cow_region *region)
{
	if (!(region->flags & COW_REGION_POPULATE))
		return 0;
	/* A kernel that cannot do it ahead does it on first touch. */
	if (!madvise(region->addr, region->size_bytes, MADV_POPULATE_WRITE) || errno == EINVAL)
		return 0;
	return err_raise_errno("cannot allocate the %llu bytes of region \"%s\" now",
			       (unsigned long long)region->size_bytes, region->name);
}

static bool is_in(const struct cow_region *region, const void *object)
{
	return (uintptr_t)object - (uintptr_t)region->adopted < region->size_bytes;
}

/*
 * Whoever moves pages waits for himself if he needs what lies in them: the library's objects, which
 * malloc() gave, or this thread's stack.
 */
static int check_own(const struct cow_region *region)
{
	const struct cow_client *client = region->client;

	if (!is_in(region, region) && !is_in(region, client) && !is_in(region, client->conn) &&
	    !cowi_stands_in(region->adopted, region->size_bytes))
		return 0;
	return err_raise(-EINVAL,
			 "%p-%p has objects of this library or the calling thread's stack in it, "
			 "which it needs while threads are kept out of that memory",
			 (void *)region->adopted, (void *)(region->adopted + region->size_bytes));
}

static int set_up(struct cow_region *region, const struct cow_region_params *params)
{
	int r;

	r = region->adopted ? check_own(region) : 0;
	if (!r)
		r = create(region);
	if (r)
		return r;
	r = cowi_mode_attach(region, params);
	if (r)
		return r;
	region->is_attached = 1;
	if (cowi_mode_warms(region))
		cowi_warm_soon(region->client);
	r = populate(region);
	if (r)
		return r;
	r = cowi_registry_add(region);
	if (r)
		return r;
	list_add(region);
	region->is_set_up = 1;
	return 0;
}

/* On an error the reference is given back, and with it what was begun. */
static int set_up_or_end(struct cow_region *region, const struct cow_region_params *params)
{
	char sentence[512];
	int r = set_up(region, params);

	if (!r)
		return 0;
	(void)snprintf(sentence, sizeof(sentence), "%s", err_sentence());
	cow_region_unref(region);
	return err_raise(r, "%s", sentence);
}

static int adopt_or_end(struct cow_region *region, const struct cow_region_params *params)
{
	int r;

	cowi_registry_adopt_begin();
	r = set_up_or_end(region, params);
	cowi_registry_adopt_end();
	return r;
}

/* @addr: memory to be adopted, or NULL */
static int region_new(struct cow_region **out, struct cow_client *client,
		      const struct cow_region_params *params, void *addr)
{
	struct cow_region *region = NULL;
	int r;

	r = check_params(params);
	if (!r)
		r = cowi_connect(client);
	if (!r)
		r = region_alloc(&region, client, params);
	if (r)
		return r;
	region->adopted = addr;
	r = addr ? adopt_or_end(region, params) : set_up_or_end(region, params);
	if (r)
		return r;
	cowi_prefault();
	*out = region;
	return 0;
}

int cow_region_new(struct cow_region **out, struct cow_client *client,
		   const struct cow_region_params *params)
{
	COWI_ENTRY();
	if (!out || !client)
		return err_raise(-EINVAL, "cow_region_new() was given no %s",
				 out ? "client" : "place for the region");
	return region_new(out, client, params, NULL);
}

int cow_region_adopt(struct cow_region **out, struct cow_client *client, void *addr, uint64_t len,
		     const struct cow_region_params *params)
{
	COWI_ENTRY();
	struct cow_region_params of_range;

	if (!out || !client || !addr || !params)
		return err_raise(-EINVAL, "cow_region_adopt() was given no %s",
				 !out      ? "place for the region"
				 : !client ? "client"
				 : !addr   ? "memory"
					   : "parameters");
	if (((uint64_t)(uintptr_t)addr | len) & (page_size_bytes() - 1))
		return err_raise(-EINVAL, "%llu bytes at %p are not whole pages of %zu bytes",
				 (unsigned long long)len, addr, page_size_bytes());
	if (params->mode != COW_MODE_SCOOT && params->mode != COW_MODE_MMAPCOPY)
		return err_raise(-EINVAL, "only modes scoot and mmapcopy can adopt memory");
	of_range = *params;
	of_range.size_bytes = len;
	return region_new(out, client, &of_range, addr);
}

struct cow_region *cow_region_ref(struct cow_region *region)
{
	atomic_fetch_add(&region->n_refs, 1);
	return region;
}

struct cow_region *cow_region_unref(struct cow_region *region)
{
	COWI_ENTRY();
	if (!region || atomic_fetch_sub(&region->n_refs, 1) != 1)
		return NULL;
	if (region->is_attached && !region->adopted)
		cowi_registry_remove(region);
	if (region->is_listed)
		list_remove(region);
	/* A fork child has no mapping of it, but may have other memory there by now. */
	if (region->is_attached && region->client->pid == getpid())
		cowi_mode_detach(region);
	if (region->is_attached && region->adopted)
		cowi_registry_remove(region); /* now a fork finds memory that is the program's */
	cowi_tell_region_free(region->client, region->generation, region->id);
	memfile_unref(region->backing);
	pthread_mutex_destroy(&region->take_lock);
	cow_client_unref(region->client);
	free(region);
	return NULL;
}

void *cow_region_address(const struct cow_region *region)
{
	return region->addr;
}

uint64_t cow_region_size(const struct cow_region *region)
{
	return region->size_bytes;
}

/* With the lock held; others compare it with themselves only. */
static void set_owner(struct cow_region *region, pthread_t owner)
{
	atomic_store_explicit(&region->owner, owner, memory_order_relaxed);
}

static void begin_busy(struct cow_region *region)
{
	struct cow_client *client = region->client;

	pthread_mutex_lock(&client->lock);
	while (region->is_busy) /* in a fork child it is not */
		(void)cowi_event_wait(&client->changed, &client->lock, NULL);
	region->is_busy = true;
	set_owner(region, pthread_self());
	pthread_mutex_unlock(&client->lock);
}

static void end_busy(struct cow_region *region)
{
	struct cow_client *client = region->client;

	pthread_mutex_lock(&client->lock);
	region->is_busy = false;
	set_owner(region, 0);
	cowi_event_signal(&client->changed);
	pthread_mutex_unlock(&client->lock);
}

void cowi_region_lock(struct cow_region *region)
{
	assert(cowi_entry_is_active());
	if (region->mode == COW_MODE_UFFD) {
		begin_busy(region);
		return;
	}
	cowi_entry_lock();
	atomic_fetch_add(&region->n_takers, 1);
	pthread_mutex_lock(&region->take_lock);
	set_owner(region, pthread_self());
	atomic_fetch_sub(&region->n_takers, 1);
}

bool cowi_region_trylock(struct cow_region *region)
{
	cowi_entry_lock();
	if (!pthread_mutex_trylock(&region->take_lock)) {
		set_owner(region, pthread_self());
		return true;
	}
	cowi_entry_unlock();
	return false;
}

void cowi_region_unlock(struct cow_region *region)
{
	if (region->mode == COW_MODE_UFFD) {
		end_busy(region);
		return;
	}
	set_owner(region, 0);
	pthread_mutex_unlock(&region->take_lock);
	cowi_entry_unlock();
}

bool cowi_region_is_mine(const struct cow_region *region)
{
	return atomic_load_explicit(&region->owner, memory_order_relaxed) == pthread_self();
}

void cowi_regions_forget(struct cow_client *client)
{
	pthread_mutex_lock(&client->lock);
	for (struct cow_region *region = client->regions; region; region = region->next) {
		region->id = 0;
		region->generation = 0;
		cowi_mode_forget(region);
	}
	pthread_mutex_unlock(&client->lock);
}

/* A region that the present cowd does not know, with a reference; NULL when there is none. */
static struct cow_region *next_to_restore(struct cow_client *client)
{
	struct cow_region *region = NULL;

	pthread_mutex_lock(&client->lock);
	if (cowi_conn_is_there(client->conn)) {
		for (region = client->regions; region; region = region->next) {
			if (region->generation != client->generation &&
			    cowi_ref_unless_zero(&region->n_refs))
				break;
		}
	}
	pthread_mutex_unlock(&client->lock);
	return region;
}

static int restore(struct cow_region *region, uint64_t generation)
{
	int r = memfile_check(region->backing);

	if (!r)
		r = cowi_ask_region_restore(region, generation);
	return r ? r : cowi_mode_restore(region);
}

/*
 * What cowd refused it would mostly refuse again. But what the earlier connection had may not have
 * been given back yet, nor what other programs have that will end.
 */
static bool may_pass(int error)
{
	return error == -EBUSY || error == -EDQUOT || error == -ENOMEM || error == -EMFILE ||
	       error == -ENFILE || error == -EAGAIN;
}

void cowi_regions_retry(struct cowi_task *task)
{
	struct cow_client *client = container_of(task, struct cow_client, refused_task);

	pthread_mutex_lock(&client->lock);
	for (struct cow_region *region = client->regions; region; region = region->next) {
		if (!region->id && may_pass(region->restore_error))
			region->generation = 0;
	}
	cowi_conn_ask_up(client);
	pthread_mutex_unlock(&client->lock);
}

void cowi_regions_restore(struct cow_client *client)
{
	uint64_t generation = cowi_generation(client);
	struct cow_region *region;

	for (region = next_to_restore(client); region; region = next_to_restore(client)) {
		uint64_t failed_id = 0;
		int r = restore(region, generation);

		pthread_mutex_lock(&client->lock);
		region->restore_error = r;
		region->is_restored = false;
		if (r) {
			(void)snprintf(region->restore_because, sizeof(region->restore_because),
				       "%s", err_sentence());
			failed_id = region->id;
			region->id = 0;
			region->generation = generation;
		}
		pthread_mutex_unlock(&client->lock);
		if (may_pass(r))
			cowi_post_later(client, &client->refused_task, REFUSED_PERIOD_MSEC);
		cowi_tell_region_free(client, generation, failed_id);
		cow_region_unref(region);
	}
}
