// SPDX-License-Identifier: GPL-2.0-or-later
/* Fork children that have a region's memory; see children.h. */
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
 * struct fork_child - a process that has a region's memory
 * @client_id: who told of it, by what number: @key
 */
struct fork_child {
	struct region *region; /* a reference */
	int pidfd;
	struct watch watch;
	struct charge fds_charge;
	uint64_t client_id;
	uint64_t key;
	struct fork_child *prev; /* in daemon->fork_children, a list of utlist.h */
	struct fork_child *next;
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

static void fork_child_free(struct fork_child *fork_child)
{
	struct region *region = fork_child->region;

	DL_DELETE(region->daemon->fork_children, fork_child);
	region->n_children--;
	loop_unwatch(&fork_child->watch);
	fork_child->pidfd = fd_close(fork_child->pidfd);
	charge_deinit(&fork_child->fds_charge);
	region_unref(region);
	free(fork_child);
}

static void on_end(struct watch *watch, uint32_t events)
{
	(void)events;
	fork_child_free(container_of(watch, struct fork_child, watch));
}

int inherit_new(struct region *region, int *pidfd, uint64_t key)
{
	struct fork_child *fork_child = malloc(sizeof(*fork_child));
	int r;

	if (!fork_child)
		return err_oom(sizeof(*fork_child), "a fork child");
	*fork_child = (struct fork_child){
		.pidfd = -1,
		.client_id = region->client_id,
		.key = key,
		.watch = {.fd = *pidfd, .on_ready = on_end},
	};
	r = quota_charge(&fork_child->fds_charge, region->user, QUOTA_FDS, 1);
	if (!r)
		r = loop_watch(region->daemon->loop, &fork_child->watch, EPOLLIN);
	if (r) {
		charge_deinit(&fork_child->fds_charge);
		free(fork_child);
		return quota_error(r);
	}
	fork_child->pidfd = fd_steal(pidfd);
	fork_child->region = region_ref(region);
	region->n_children++;
	DL_PREPEND(region->daemon->fork_children, fork_child);
	return 0;
}

void inherit_end(struct daemon *daemon, uint64_t client_id, uint64_t key)
{
	struct fork_child *fork_child = NULL, *next = NULL;

	DL_FOREACH_SAFE (daemon->fork_children, fork_child, next) {
		if (fork_child->client_id == client_id && fork_child->key == key)
			fork_child_free(fork_child);
	}
}

void inherit_forget(struct daemon *daemon, dev_t dev, ino_t ino)
{
	struct fork_child *fork_child = NULL, *next = NULL;

	DL_FOREACH_SAFE (daemon->fork_children, fork_child, next) {
		const struct backing *backing = fork_child->region->backing;

		if (backing->memory->key.dev == dev && backing->memory->key.ino == ino)
			fork_child_free(fork_child);
	}
}

void inherit_drop_all(struct daemon *daemon)
{
	while (daemon->fork_children)
		fork_child_free(daemon->fork_children);
}
