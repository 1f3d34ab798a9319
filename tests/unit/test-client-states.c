// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The states of a snapshot and of its view: each pair of states is tried, and what the tables below
 * do not list ends the process.
 *
 * Seen to fail: with "live" among the states that may follow "lost".
 */
#include "config.h"

#include <check.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libclient/snapshot-state.h"

/* One character for each state that may follow, in the order of the enum. */
static const char *const snapshot_table[COWI_SNAPSHOT_N_STATES] = {
	[COWI_SNAPSHOT_NEW] = ".xxx",
	[COWI_SNAPSHOT_PENDING] = "x.xx",
	[COWI_SNAPSHOT_LIVE] = "...x",
	[COWI_SNAPSHOT_LOST] = "....",
};

static const char *const view_table[COWI_VIEW_N_STATES] = {
	[COWI_VIEW_NONE] = ".x..",
	[COWI_VIEW_MAKING] = "x.x.",
	[COWI_VIEW_READY] = "...x",
	[COWI_VIEW_BROKEN] = "....",
};

static void enter_snapshot(int from, int to)
{
	enum cowi_snapshot_state state = (enum cowi_snapshot_state)from;

	cowi_snapshot_enter(&state, (enum cowi_snapshot_state)to);
	ck_assert_int_eq((int)state, to);
}

static void enter_view(int from, int to)
{
	enum cowi_view_state state = (enum cowi_view_state)from;

	cowi_view_enter(&state, (enum cowi_view_state)to);
	ck_assert_int_eq((int)state, to);
}

/* Return: the signal that ended a child which did it, or 0. */
static int signal_of(void (*enter)(int from, int to), int from, int to)
{
	pid_t pid = fork();
	int status;

	ck_assert_int_ge(pid, 0);
	if (!pid) {
		(void)prctl(PR_SET_DUMPABLE, 0); /* no core file */
		(void)signal(SIGABRT, SIG_DFL);
		enter(from, to);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void try_all(void (*enter)(int from, int to), const char *const *table, int n_states)
{
	for (int from = 0; from < n_states; from++) {
		ck_assert_int_eq((int)strlen(table[from]), n_states);
		for (int to = 0; to < n_states; to++) {
			if (table[from][to] == 'x')
				enter(from, to);
			else
				ck_assert_msg(signal_of(enter, from, to) == SIGABRT,
					      "%d -> %d did not abort", from, to);
		}
	}
}

START_TEST(only_the_transitions_of_a_snapshot_are_possible)
{
	try_all(enter_snapshot, snapshot_table, COWI_SNAPSHOT_N_STATES);
}
END_TEST

START_TEST(only_the_transitions_of_a_view_are_possible)
{
	try_all(enter_view, view_table, COWI_VIEW_N_STATES);
}
END_TEST

START_TEST(each_state_has_a_name_of_its_own)
{
	for (int a = 0; a < COWI_SNAPSHOT_N_STATES; a++) {
		const char *name = cowi_snapshot_state_name((enum cowi_snapshot_state)a);

		ck_assert_ptr_nonnull(name);
		for (int b = 0; b < a; b++)
			ck_assert_str_ne(name,
					 cowi_snapshot_state_name((enum cowi_snapshot_state)b));
	}
	for (int a = 0; a < COWI_VIEW_N_STATES; a++) {
		const char *name = cowi_view_state_name((enum cowi_view_state)a);

		ck_assert_ptr_nonnull(name);
		for (int b = 0; b < a; b++)
			ck_assert_str_ne(name, cowi_view_state_name((enum cowi_view_state)b));
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("client-states");
	TCase *tcase = tcase_create("states");
	SRunner *runner;
	int n_failed;

	tcase_add_test(tcase, only_the_transitions_of_a_snapshot_are_possible);
	tcase_add_test(tcase, only_the_transitions_of_a_view_are_possible);
	tcase_add_test(tcase, each_state_has_a_name_of_its_own);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return n_failed ? 1 : 0;
}
