// SPDX-License-Identifier: LGPL-2.1-or-later
/* Which library this is. */
#include "config.h"

#include "libclient/cowclient.h"

const char *cow_version(void)
{
	return PACKAGE_VERSION;
}
