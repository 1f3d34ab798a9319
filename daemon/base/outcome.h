/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a piece of work that ran in another thread ended: the error and its sentence, carried from
 * the thread that raised it to the one that reports it. Sentences are kept per thread
 * (common/err.h).
 */
#ifndef COWD_OUTCOME_H
#define COWD_OUTCOME_H

#include <stdio.h>

#include "common/err.h"

struct outcome {
	int error;
	char sentence[200];
};

static inline void outcome_set(struct outcome *outcome, int error)
{
	outcome->error = error;
	if (error)
		(void)snprintf(outcome->sentence, sizeof(outcome->sentence), "%s", err_sentence());
}

/* Raise it again in this thread. Return: 0 or the error. */
static inline int outcome_raise(const struct outcome *outcome)
{
	return outcome->error ? err_raise(outcome->error, "%s", outcome->sentence) : 0;
}

#endif
