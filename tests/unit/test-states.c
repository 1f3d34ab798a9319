// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Lifecycles of regions, trackers and snapshots: their tables, and that cowd ends rather than make
 * a change that a table does not have.
 *
 * Seen to fail: with a name left out, with AWAITING_MOVE left out of what may follow TAKING, with
 * FROZEN among what may follow LEFT, and with state_check() that goes on.
 */
#include "config.h"

#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/util.h"
#include "daemon/snapshot/snapshot.h"
#include "daemon/uffd/tracker.h"
#include "unit/frame.h"

/* A lifecycle, how an object of it changes, and the states that nothing may follow. */
struct cycle {
	const struct state_table *table;
	void (*set)(unsigned int from, unsigned int to);
	uint32_t last;
};

static void set_region(unsigned int from, unsigned int to)
{
	struct region region = {.daemon = &frame, .id = 7, .state = (enum region_state)from};

	region_set_state(&region, (enum region_state)to);
	ck_assert_uint_eq(region.state, to);
}

static void set_tracker(unsigned int from, unsigned int to)
{
	struct tracker tracker = {.region = {.id = 7}, .state = (enum tracker_state)from};

	tracker_set_state(&tracker, (enum tracker_state)to);
	ck_assert_uint_eq(tracker.state, to);
}

static void set_snapshot(unsigned int from, unsigned int to)
{
	struct snapshot snap = {.daemon = &frame, .id = 7, .state = (enum snapshot_state)from};

	snapshot_set_state(&snap, (enum snapshot_state)to);
	ck_assert_uint_eq(snap.state, to);
}

static const struct cycle cycles[] = {
	{&region_states, set_region, STATE_BIT(REGION_ENDING)},
	{&tracker_states, set_tracker, STATE_BIT(TRACKER_CLOSING)},
	/* Those of modes scoot and mmapcopy end as they are. */
	{&snapshot_states, set_snapshot, STATE_BIT(SNAPSHOT_LEFT)},
};

START_TEST(every_state_has_a_name_of_its_own)
{
	const struct state_table *table = cycles[_i].table;

	for (unsigned int i = 0; i < table->n; i++) {
		ck_assert_ptr_nonnull(table->names[i]);
		ck_assert_uint_gt(strlen(table->names[i]), 0);
		for (unsigned int j = 0; j < i; j++)
			ck_assert_str_ne(table->names[i], table->names[j]);
	}
}
END_TEST

START_TEST(every_state_is_reached_and_those_that_end_are_known)
{
	const struct state_table *table = cycles[_i].table;
	uint32_t reached = STATE_BIT(0), before = 0,
		 all = (uint32_t)((UINT64_C(1) << table->n) - 1);

	while (reached != before) {
		before = reached;
		for (unsigned int i = 0; i < table->n; i++)
			if (reached & STATE_BIT(i))
				reached |= table->next[i];
	}
	ck_assert_uint_eq(reached, all);
	for (unsigned int i = 0; i < table->n; i++)
		ck_assert_int_eq(!table->next[i], !!(cycles[_i].last & STATE_BIT(i)));
}
END_TEST

/* What a child that makes the change says; its end goes to @status. */
static void change_in_child(const struct cycle *cycle, unsigned int from, unsigned int to,
			    int *status, char *said, size_t size)
{
	ssize_t n;
	pid_t pid;
	int ends[2];

	ck_assert_int_eq(pipe(ends), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		(void)dup2(ends[1], STDERR_FILENO);
		cycle->set(from, to);
		_exit(0);
	}
	ck_assert_int_eq(close(ends[1]), 0);
	ck_assert_int_eq(waitpid(pid, status, 0), pid);
	n = read(ends[0], said, size - 1);
	ck_assert_int_ge(n, 0);
	said[n] = '\0';
	ck_assert_int_eq(close(ends[0]), 0);
}

START_TEST(cowd_ends_rather_than_make_a_change_that_is_not_allowed)
{
	const struct cycle *cycle = &cycles[_i];
	const struct state_table *table = cycle->table;
	char said[512], want[512];
	unsigned int n_forbidden = 0;
	int status;

	for (unsigned int from = 0; from < table->n; from++) {
		for (unsigned int to = 0; to < table->n; to++) {
			if (state_may_follow(table, from, to))
				continue;
			n_forbidden++;
			change_in_child(cycle, from, to, &status, said, sizeof(said));
			ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
			(void)snprintf(want, sizeof(want), "%s 7 is %s and was to be %s",
				       table->what, table->names[from], table->names[to]);
			ck_assert_ptr_nonnull(strstr(said, want));
		}
	}
	ck_assert_uint_gt(n_forbidden, 0);
}
END_TEST

START_TEST(changes_that_are_allowed_are_made)
{
	const struct cycle *cycle = &cycles[_i];

	for (unsigned int from = 0; from < cycle->table->n; from++)
		for (unsigned int to = 0; to < cycle->table->n; to++)
			if (state_may_follow(cycle->table, from, to))
				cycle->set(from, to);
}
END_TEST

/* What no table may ever allow: each would show memory as it never was. */
START_TEST(nothing_comes_back_from_its_end)
{
	ck_assert(!state_may_follow(&snapshot_states, SNAPSHOT_LEAVING, SNAPSHOT_FROZEN));
	ck_assert(!state_may_follow(&snapshot_states, SNAPSHOT_LEFT, SNAPSHOT_FROZEN));
	ck_assert(!state_may_follow(&snapshot_states, SNAPSHOT_NEW, SNAPSHOT_FROZEN));
	ck_assert(!state_may_follow(&region_states, REGION_FREED, REGION_RESUMED));
	ck_assert(!state_may_follow(&region_states, REGION_NEW, REGION_RESUMED));
	ck_assert(!state_may_follow(&tracker_states, TRACKER_GONE, TRACKER_SERVED));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("states");
	TCase *tcase = tcase_create("states");
	SRunner *runner;
	int n_failed;

	tcase_add_unchecked_fixture(tcase, frame_start, frame_stop);
	tcase_add_loop_test(tcase, every_state_has_a_name_of_its_own, 0, (int)ARRAY_SIZE(cycles));
	tcase_add_loop_test(tcase, every_state_is_reached_and_those_that_end_are_known, 0,
			    (int)ARRAY_SIZE(cycles));
	tcase_add_loop_test(tcase, cowd_ends_rather_than_make_a_change_that_is_not_allowed, 0,
			    (int)ARRAY_SIZE(cycles));
	tcase_add_loop_test(tcase, changes_that_are_allowed_are_made, 0, (int)ARRAY_SIZE(cycles));
	tcase_add_test(tcase, nothing_comes_back_from_its_end);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
