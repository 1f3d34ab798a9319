// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What this kernel can do (backends/trial.h), less what --without-feature takes away; contract in
 * probe.h.
 */
#include "config.h"

#include "daemon/base/probe.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "backends/kernel.h"
#include "backends/trial.h"
#include "daemon/base/options.h"

void probe_uffd(struct probe *probe, const struct options *options, int device_fd)
{
	uint64_t features;

	features = trial_features(device_fd) & ~options->without_features;
	probe->uffd_features = features;
	probe->has_uffd = trial_protect(device_fd, features);
	probe->has_lazy = probe->has_uffd && !(options->without & WITHOUT_CONTINUE_WP) &&
			  trial_continue(device_fd, features);
	probe->has_poison = features & UFFD_FEATURE_POISON;
}

void probe_kernel(struct probe *probe, const struct options *options, int device_fd)
{
	struct utsname name;

	*probe = (struct probe){0};
	if (!uname(&name))
		(void)snprintf(probe->release, sizeof(probe->release), "%s", name.release);
	probe_uffd(probe, options, device_fd);
	probe->has_dontunmap = !(options->without & WITHOUT_DONTUNMAP) && trial_move();
	probe->has_pagemap_scan = !(options->without & WITHOUT_PAGEMAP_SCAN) && trial_scan();
}

const char *probe_mechanisms(const struct probe *probe, bool with_uffd, char *buf, size_t size)
{
	(void)snprintf(buf, size, "%s%s", with_uffd ? "uffd " : "",
		       probe->has_dontunmap ? "scoot mmapcopy" : "");
	if (*buf && buf[strlen(buf) - 1] == ' ')
		buf[strlen(buf) - 1] = '\0';
	return buf;
}
