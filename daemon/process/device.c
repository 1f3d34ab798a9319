// SPDX-License-Identifier: GPL-2.0-or-later
/* /dev/userfaultfd; contracts are in device.h. */
#include "config.h"

#include "daemon/process/device.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "backends/uffdio.h"
#include "common/util.h"
#include "daemon/daemon.h"

/*
 * For reading only: the driver looks at nothing but that it is open, and the sandbox lets cowd open
 * nothing for writing. Tried as well as opened: a container may have another file, /dev/null say,
 * in the place of what it is not to have.
 */
bool device_open(struct daemon *daemon)
{
	AUTO_FD int device_fd = -1;
	AUTO_FD int uffd = -1;

	if (daemon->uffd_device_fd >= 0)
		return true;
	device_fd = open(DEVICE_PATH, O_RDONLY | O_CLOEXEC);
	if (device_fd < 0 || uffdio_new_by_device(&uffd, device_fd, true)) {
		daemon->uffd_device_errno = errno;
		return false;
	}
	daemon->uffd_device_fd = fd_steal(&device_fd);
	return true;
}

enum lend_policy device_lend(const struct daemon *daemon)
{
	return daemon->uffd_device_fd < 0 ? LEND_NO : daemon->options.lend;
}

bool device_has_mode_uffd(const struct daemon *daemon)
{
	return daemon->probe.has_uffd && device_lend(daemon) != LEND_NO;
}

static const char *way_out(int error)
{
	switch (error) {
	case EACCES:
	case EPERM:
		return "let the user of cowd read it (chgrp cowd, chmod 0660), then reload cowd";
	case ENOENT:
	case ENXIO:
	case ENODEV:
		return "it needs Linux 6.1, and a container needs a node of its own (mknod); then "
		       "restart cowd";
	default:
		return "see DIAGNOSTICS in cowd(8)";
	}
}

const char *device_hint(const struct daemon *daemon, char *buf, size_t size)
{
	*buf = '\0';
	if (daemon->options.lend != LEND_NO && daemon->uffd_device_fd < 0)
		(void)snprintf(buf, size,
			       "nothing to lend: " DEVICE_PATH
			       ": %s; mode uffd is refused until cowd can open it: %s; cowd(8)",
			       strerrordesc_np(daemon->uffd_device_errno),
			       way_out(daemon->uffd_device_errno));
	return buf;
}
