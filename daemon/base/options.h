/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The settings that every part of cowd may read. process/options.h reads them from the file and the
 * command line; the loop thread alone writes them.
 */
#ifndef COWD_BASE_OPTIONS_H
#define COWD_BASE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/features.h"
#include "daemon/base/quota.h"

enum lend_policy {
	LEND_NO = 0,
	LEND_YES = 1,
	LEND_USER_MODE_ONLY = 2, /* clients make a uffd that does not serve kernel-mode faults */
};

#define LIMIT_UNLIMITED UINT64_MAX

/**
 * struct options
 *
 * After options_parse() nothing changes but what options_reload() takes over: lend, limits,
 * is_verbose.
 */
struct options {
	char *config_path;
	bool is_config_named; /* by --config: then it must exist */
	char **argv;          /* the command line, lent: it goes before the file at a reload too */
	int argc;
	char *socket_path; /* where to listen when no socket was passed; NULL: only client_fd */
	unsigned int socket_mode;
	char *user;         /* to become when started as root; NULL or "": stay */
	bool is_user_named; /* by the file or the command line: then there has to be one */
	bool is_admin_group_named;
	/* Its members may see what others hold; NULL or "": only root and cowd. */
	char *admin_group;
	enum lend_policy lend;
	uint64_t limits[QUOTA_N]; /* per uid */
	unsigned int n_workers;   /* fault workers; 0: one per CPU */
	unsigned int n_savers;
	int client_fd; /* a private cowd: a connected socket passed by its one client; else -1 */
	bool is_sandboxed; /* seccomp, no capabilities; false only by --no-sandbox */
	bool is_strict;    /* a call outside of the list ends cowd, so that a test sees it */
	bool is_verbose;
	uint64_t without_features; /* uffd feature bits to do without, for tests */
	unsigned int without;      /* enum without */
};

#endif
