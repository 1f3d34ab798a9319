// SPDX-License-Identifier: GPL-2.0-or-later
/* Fork children that have a region's memory; what for is in children.h. */
#include "config.h"

#include "daemon/region/children.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <utlist.h>

#include "common/err.h"
#include "daemon/daemon.h"
#include "daemon/region/backing.h"
#include "daemon/region/region.h"

/**
 * struct inheritor - a process that has a region's memory
 * @client_id: who told of it, by what number: @key
 */
struct inheritor {
	struct region *region; /* a reference */
	int pidfd;
	struct watch watch;
	struct charge fds_charge;
	uint64_t client_id;
	uint64_t key;
	struct inheritor *prev; /* in daemon->inheritors, a list of utlist.h */
	struct inheritor *next;
};

/* Since 6.9 a pidfd is a file of pidfs, before that an anonymous one. */
bool inherit_is_pidfd(const struct daemon *daemon, int fd)
{
	char name[16], target[64] = "";

	(void)snprintf(name, sizeof(name), "%d", fd);
	if (readlinkat(daemon->proc_self_fd_fd, name, target, sizeof(target) - 1) < 0)
		return false;
	return !strcmp(target, "anon_inode:[pidfd]") || !strncmp(target, "pidfd:[", 7);
}

static void inheritor_free(struct inheritor *inheritor)
{
	struct region *region = inheritor->region;

	DL_DELETE(region->daemon->inheritors, inheritor);
	region->n_children--;
	loop_unwatch(&inheritor->watch);
	inheritor->pidfd = fd_close(inheritor->pidfd);
	charge_deinit(&inheritor->fds_charge);
	region_unref(region);
	free(inheritor);
}

static void on_end(struct watch *watch, uint32_t events)
{
	(void)events;
	inheritor_free(container_of(watch, struct inheritor, watch));
}

int inherit_new(struct region *region, int *pidfd, uint64_t key)
{
	struct inheritor *inheritor = malloc(sizeof(*inheritor));
	int r;

	if (!inheritor)
		return err_oom(sizeof(*inheritor), "a fork child");
	*inheritor = (struct inheritor){
		.pidfd = -1,
		.client_id = region->client_id,
		.key = key,
		.watch = {.fd = *pidfd, .on_ready = on_end},
	};
	r = quota_charge(&inheritor->fds_charge, region->user, QUOTA_FDS, 1);
	if (!r)
		r = loop_watch(region->daemon->loop, &inheritor->watch, EPOLLIN);
	if (r) {
		charge_deinit(&inheritor->fds_charge);
		free(inheritor);
		return r > 0 ? -EDQUOT : r;
	}
	inheritor->pidfd = fd_steal(pidfd);
	inheritor->region = region_ref(region);
	region->n_children++;
	DL_PREPEND(region->daemon->inheritors, inheritor);
	return 0;
}

void inherit_end(struct daemon *daemon, uint64_t client_id, uint64_t key)
{
	struct inheritor *inheritor = NULL, *next = NULL;

	DL_FOREACH_SAFE (daemon->inheritors, inheritor, next) {
		if (inheritor->client_id == client_id && inheritor->key == key)
			inheritor_free(inheritor);
	}
}

void inherit_forget(struct daemon *daemon, dev_t dev, ino_t ino)
{
	struct inheritor *inheritor = NULL, *next = NULL;

	DL_FOREACH_SAFE (daemon->inheritors, inheritor, next) {
		const struct backing *backing = inheritor->region->backing;

		if (backing->memory->key.dev == dev && backing->memory->key.ino == ino)
			inheritor_free(inheritor);
	}
}

void inherit_drop_all(struct daemon *daemon)
{
	while (daemon->inheritors)
		inheritor_free(daemon->inheritors);
}
