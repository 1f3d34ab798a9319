/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of cowctl share: one run of it, and the verbs. */
#ifndef COW_TOOLS_COWCTL_H
#define COW_TOOLS_COWCTL_H

#include <stdbool.h>

#include "libclient/cowclient.h"

/**
 * struct ctl - one run of cowctl
 * @address:   where cowd is, for cow_client_new() and for sentences
 * @is_json:   print JSON rather than tables
 * @is_forced: replace a file that is there
 * @save_path: where "snapshot" writes it, or NULL
 * @client:    connected before a verb is called
 */
struct ctl {
	const char *address;
	bool is_json;
	bool is_forced;
	const char *save_path;
	struct cow_client *client;
};

/* Verbs: @args holds exactly as many arguments as the table names. Return: enum cli_status */
int ctl_status(struct ctl *ctl, char **args);
int ctl_clients(struct ctl *ctl, char **args);
int ctl_regions(struct ctl *ctl, char **args);
int ctl_snapshots(struct ctl *ctl, char **args);
int ctl_stats(struct ctl *ctl, char **args);
int ctl_save(struct ctl *ctl, char **args);
int ctl_snapshot(struct ctl *ctl, char **args);

#endif
