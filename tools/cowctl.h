/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Declarations that the files of cowctl share: one run of it, and the verbs. */
#ifndef COW_TOOLS_COWCTL_H
#define COW_TOOLS_COWCTL_H

#include <stdbool.h>
#include <stdint.h>

#include "libclient/cowclient.h"

/**
 * struct ctl - one run of cowctl
 * @address:   address of cowd, for cow_client_new() and for sentences
 * @is_json:   print JSON rather than tables
 * @is_wide:   print all columns of a table, whatever the terminal holds
 * @is_help:   explain, do nothing
 * @is_forced: replace a file that is there
 * @save_path: file that "snapshot" writes to, or NULL
 * @id:        the snapshot or region that the arguments name
 * @client:    connected before a verb is called, if it wants that
 */
struct ctl {
	const char *address;
	bool is_json;
	bool is_wide;
	bool is_help;
	bool is_forced;
	const char *save_path;
	uint64_t id;
	struct cow_client *client;
};

/* Parse the arguments of a verb, before there is a connection. Return: enum cli_status */
int ctl_save_parse(struct ctl *ctl, char **args);
int ctl_snapshot_parse(struct ctl *ctl, char **args);

/*
 * Verbs: @args holds as many arguments as the table names, NULL where one was left out. Return:
 * enum cli_status
 */
int ctl_check(struct ctl *ctl, char **args);
int ctl_status(struct ctl *ctl, char **args);
int ctl_clients(struct ctl *ctl, char **args);
int ctl_regions(struct ctl *ctl, char **args);
int ctl_snapshots(struct ctl *ctl, char **args);
int ctl_stats(struct ctl *ctl, char **args);
int ctl_save(struct ctl *ctl, char **args);
int ctl_snapshot(struct ctl *ctl, char **args);

#endif
