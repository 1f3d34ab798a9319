// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The way in: before there is a client, modes and fork() are plugged into what lies below them.
 *
 * This is the top of the library: only here are modes called by name.
 */
#include "config.h"

#include "libclient/modes.h"

int cow_client_new(struct cow_client **out, const char *address)
{
	COWI_ENTRY();
	static const struct cowi_plugs plugs = {
		.uffd = &cowi_mode_uffd,
		.scoot = &cowi_mode_scoot,
		.restored = cowi_guards_tell,
	};
	int r;

	if (!out)
		return err_raise(-EINVAL, "cow_client_new() was given no place for the client");
	cowi_plug(&plugs);
	r = cowi_fork_init();
	return r ? r : cowi_client_new(out, address);
}
