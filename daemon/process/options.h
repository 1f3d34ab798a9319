/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Settings of cowd: defaults, then the configuration file (INI, cowd.conf(5)), then the command
 * line. base/options.h has the struct.
 */
#ifndef COWD_OPTIONS_H
#define COWD_OPTIONS_H

#include "daemon/base/options.h"

/**
 * options_parse() - defaults, file, command line
 * @argv: lent for as long as @options lives
 *
 * Return: 0; 1: said what was asked for (--help, --version, --check-config), end well; -errno with
 * a sentence that names file, line, key and the values allowed.
 */
int options_parse(struct options *options, int argc, char **argv);
/** options_reload() - read the file again; on an error the old settings stay. 0 or -errno */
int options_reload(struct options *options);
void options_deinit(struct options *options);
/** options_lend_name() - "yes", "no", "user-mode-only" */
const char *options_lend_name(enum lend_policy lend);

#endif
