/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file that appears under its name whole or not at all.
 *
 * The bytes go to a file without a name (O_TMPFILE), which gets its name by link(2) when it is
 * complete and on disk. So whatever happens before, a kill -9 and a power cut included, leaves
 * nothing behind, and link(2) refuses to replace what came to be there meanwhile. To replace a file
 * on demand the complete one is linked beside it and renamed over it. File systems that cannot do
 * O_TMPFILE get a file with a name of its own beside the target; there a kill -9 leaves that one
 * behind, still never half a file under the name that was asked for.
 *
 * A FIFO that is there under the name is written to as it is, and "-" is standard output.
 */
#ifndef COW_TOOLS_SAVEFILE_H
#define COW_TOOLS_SAVEFILE_H

#include <stdbool.h>

struct savefile {
	const char *path; /* borrowed */
	char *folder;     /* that @path is in */
	char *temp_path;  /* while the file has another name than it is to have; NULL otherwise */
	int fd;           /* to write to; belongs to the savefile */
	bool is_stream;   /* no file of ours: nothing to finish, nothing to remove */
	bool may_replace;
};

/**
 * savefile_open() - begin
 * @path: borrowed until savefile_deinit()
 *
 * The file can be read by its owner alone: it will hold a process's memory.
 * Return: 0; -EEXIST; an errno of open(2); always with a sentence. Call savefile_deinit() in any
 * case.
 */
int savefile_open(struct savefile *file, const char *path, bool may_replace);
/** savefile_commit() - to disk, and under its name. Return: 0 or -errno with a sentence */
int savefile_commit(struct savefile *file);
/** savefile_deinit() - close; a file that was not committed is removed */
void savefile_deinit(struct savefile *file);

#endif
