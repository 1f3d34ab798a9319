// SPDX-License-Identifier: GPL-2.0-or-later
/* Finding out where threads run; follow.h says what for. */
#include "config.h"

#include "daemon/uffd/follow.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"

#define SAMPLE_PERIOD_NS 1000000u
/* When nothing speaks for another CPU. */
#define CALM_PERIOD_NS   8000000u
#define MOVE_PERIOD_NS   20000000u
#define N_AHEAD_TO_MOVE  4
/* In /proc/PID/stat: fields after the name, which ends with the last ')'; processor is field 39. */
#define FIELD_AFTER_NAME 3
#define FIELD_PROCESSOR  39

bool follow_vote(struct follow *follow, int cpu, int now_cpu, uint64_t now_ns)
{
	if (follow->n_ahead && cpu != follow->cpu) {
		follow->n_ahead--;
		return false;
	}
	if (cpu == now_cpu)
		return false;
	follow->cpu = cpu;
	follow->n_ahead++;
	if (follow->n_ahead < N_AHEAD_TO_MOVE || now_ns - follow->moved_ns < MOVE_PERIOD_NS) {
		follow->n_ahead =
			follow->n_ahead > N_AHEAD_TO_MOVE ? N_AHEAD_TO_MOVE : follow->n_ahead;
		return false;
	}
	follow->n_ahead = 0;
	follow->moved_ns = now_ns;
	return true;
}

bool follow_is_due(struct follow *follow, uint64_t now_ns)
{
	if (now_ns - follow->sampled_ns < (follow->n_ahead ? SAMPLE_PERIOD_NS : CALM_PERIOD_NS))
		return false;
	follow->sampled_ns = now_ns;
	return true;
}

int follow_cpu_of(pid_t tid)
{
	AUTO_FD int fd = -1;
	char path[32], stat[768];
	const char *field;
	ssize_t n;

	if (tid <= 0)
		return -1;
	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, stat, sizeof(stat) - 1);
	if (n <= 0)
		return -1;
	stat[n] = 0;
	field = strrchr(stat, ')');
	for (int i = FIELD_AFTER_NAME - 1; field && i < FIELD_PROCESSOR; i++)
		field = strchr(field + 1, ' ');
	return field ? (int)strtol(field, NULL, 10) : -1;
}
