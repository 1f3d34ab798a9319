/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A measuring process: a child that measures and ends, so that no memory, thread or page table of an
 * earlier measurement is left.
 */
#ifndef COW_TOOLS_BENCH_CHILD_H
#define COW_TOOLS_BENCH_CHILD_H

#include <sys/types.h>

/**
 * struct bench_child - in memory that the process shares with its child
 * @cowd_pid: of the child's private cowd, which the child notes; 0: none
 * @error:    of the child, with its sentence
 */
struct bench_child {
	pid_t cowd_pid;
	int error;
	char sentence[512];
};

/**
 * bench_child_run() - @measure(@arg) in a child, until that and its cowd have ended
 *
 * Return: 0; what @measure returned; -EIO: the child was ended. With a sentence.
 */
int bench_child_run(struct bench_child *child, int (*measure)(void *arg), void *arg);

#endif
