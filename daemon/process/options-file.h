/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The configuration file, and readers of values that it shares with the command line. */
#ifndef COWD_OPTIONS_FILE_H
#define COWD_OPTIONS_FILE_H

#include "daemon/process/options.h"

#define OPTION_WORKERS_MAX 1024
#define OPTION_SAVERS_MAX  64

/** options_read_file() - what @path says goes over what @options has. 0, -errno with a sentence */
int options_read_file(struct options *options, const char *path, bool must_exist);

/* Values, as file and command line write them: 0, or -errno with a sentence that says what is
 * allowed. */
int option_set_string(char **out, const char *value);
int option_parse_bool(bool *out, const char *value);
int option_parse_count(unsigned int *out, const char *value, unsigned int min, unsigned int max);
int option_parse_lend(enum lend_policy *out, const char *value);

/** option_memory_bytes() - the machine's memory */
uint64_t option_memory_bytes(void);

#endif
