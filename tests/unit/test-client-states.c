// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The states of a connection, of a client's thread, of a snapshot and of its view: each pair of
 * states is tried, and what the tables below do not list ends the process.
 *
 * Seen to fail: with "up" among the states that may follow "down", with "live" among those that may
 * follow "lost", and with an enter function that goes on.
 */
#include "config.h"

#include <check.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/util.h"
#include "libclient/conn/state.h"
#include "libclient/snapshot-state.h"

static const char *const conn_table[COWI_CONN_N_STATES] = {
	[COWI_CONN_DOWN] = ".x.x.x",        [COWI_CONN_CONNECTING] = "x.xx.x",
	[COWI_CONN_UP] = "x..x.x",          [COWI_CONN_ROBBED] = "....xx",
	[COWI_CONN_ROBBED_TOLD] = ".....x", [COWI_CONN_FORKED] = ".....x",
};

static const char *const thread_table[COWI_THREAD_N_STATES] = {
	[COWI_THREAD_NONE] = "xx..",
	[COWI_THREAD_RUNS] = "x.x.",
	[COWI_THREAD_STOPPING] = "x..x",
	[COWI_THREAD_ENDED] = "x...",
};

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

static void enter_conn(int from, int to)
{
	enum cowi_conn_state state = (enum cowi_conn_state)from;

	cowi_conn_enter(&state, (enum cowi_conn_state)to);
	ck_assert_int_eq((int)state, to);
}

static void enter_thread(int from, int to)
{
	_Atomic enum cowi_thread_state state = (enum cowi_thread_state)from;

	cowi_thread_enter(&state, (enum cowi_thread_state)to);
	ck_assert_int_eq((int)state, to);
}

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

/* A lifecycle, how an object of it changes, and the transitions (x) that there must be. */
static const struct cycle {
	const struct state_table *states;
	void (*enter)(int from, int to);
	const char *const *table;
} cycles[] = {
	{&cowi_conn_states, enter_conn, conn_table},
	{&cowi_thread_states, enter_thread, thread_table},
	{&cowi_snapshot_states, enter_snapshot, snapshot_table},
	{&cowi_view_states, enter_view, view_table},
};

START_TEST(only_these_transitions_are_possible)
{
	try_all(cycles[_i].enter, cycles[_i].table, (int)cycles[_i].states->n);
}
END_TEST

START_TEST(each_state_has_a_name_of_its_own)
{
	const struct state_table *states = cycles[_i].states;

	for (unsigned int a = 0; a < states->n; a++) {
		ck_assert_ptr_nonnull(state_name(states, a));
		for (unsigned int b = 0; b < a; b++)
			ck_assert_str_ne(state_name(states, a), state_name(states, b));
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("client-states");
	TCase *tcase = tcase_create("states");
	SRunner *runner;
	int n_failed;

	tcase_add_loop_test(tcase, only_these_transitions_are_possible, 0, ARRAY_SIZE(cycles));
	tcase_add_loop_test(tcase, each_state_has_a_name_of_its_own, 0, ARRAY_SIZE(cycles));
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return n_failed ? 1 : 0;
}
