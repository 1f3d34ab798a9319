// SPDX-License-Identifier: LGPL-2.1-or-later
/* See features.h. */
#include "config.h"

#include "backends/features.h"

#include <stdio.h>
#include <string.h>

#include "backends/kernel.h"
#include "common/util.h"

static const struct kernel_feature features[] = {
	{"minor-shmem", UFFD_FEATURE_MINOR_SHMEM, 0},
	{"wp-shmem", UFFD_FEATURE_WP_HUGETLBFS_SHMEM, 0},
	{"wp-unpopulated", UFFD_FEATURE_WP_UNPOPULATED, 0},
	{"wp-async", UFFD_FEATURE_WP_ASYNC, 0},
	{"thread-id", UFFD_FEATURE_THREAD_ID, 0},
	{"exact-address", UFFD_FEATURE_EXACT_ADDRESS, 0},
	{"poison", UFFD_FEATURE_POISON, 0},
	{"move", UFFD_FEATURE_MOVE, 0},
	{"continue-wp", 0, WITHOUT_CONTINUE_WP},
	{"dontunmap", 0, WITHOUT_DONTUNMAP},
	{"pagemap-scan", 0, WITHOUT_PAGEMAP_SCAN},
};

const struct kernel_feature *kernel_feature_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(features); i++)
		if (!strcmp(name, features[i].name))
			return &features[i];
	return NULL;
}

const char *kernel_feature_names(char *buf, size_t size)
{
	size_t n = 0;

	*buf = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(features) && n < size; i++)
		n += (size_t)snprintf(buf + n, size - n, "%s%s", i ? ", " : "", features[i].name);
	return buf;
}
