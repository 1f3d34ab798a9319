// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * dlclose() of the library while threads of it still run: its code stays.
 *
 * The program loads the built library as a plug-in would be loaded, so it links no code of it. Seen
 * to fail, with SIGSEGV, without -z nodelete.
 */
#include "config.h"

#include <check.h>
#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libclient/cowclient.h"
#include "system/daemon-fixture.h"

static struct daemon_fixture cowd = DAEMON_FIXTURE_NULL;

/* Those of the library's calls that are needed, as dlsym() finds them. */
struct library {
	void *handle;
	int (*client_new)(struct cow_client **, const char *);
	int (*region_new)(struct cow_region **, struct cow_client *,
			  const struct cow_region_params *);
	int (*snapshot_new)(struct cow_snapshot **, struct cow_region *);
	void *(*region_address)(struct cow_region *);
	struct cow_snapshot *(*snapshot_unref)(struct cow_snapshot *);
	struct cow_region *(*region_unref)(struct cow_region *);
	struct cow_client *(*client_unref)(struct cow_client *);
};

static void *symbol(void *handle, const char *name)
{
	void *found = dlsym(handle, name);

	ck_assert_msg(found != NULL, "%s", dlerror());
	return found;
}

static void library_open(struct library *lib)
{
	char path[4096];

	ck_assert_int_lt(snprintf(path, sizeof(path), "%s/.libs/libcowclient.so.0",
				  getenv("abs_top_builddir")),
			 (int)sizeof(path));
	lib->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	ck_assert_msg(lib->handle != NULL, "%s", dlerror());
	*(void **)&lib->client_new = symbol(lib->handle, "cow_client_new");
	*(void **)&lib->region_new = symbol(lib->handle, "cow_region_new");
	*(void **)&lib->snapshot_new = symbol(lib->handle, "cow_snapshot_new");
	*(void **)&lib->region_address = symbol(lib->handle, "cow_region_address");
	*(void **)&lib->snapshot_unref = symbol(lib->handle, "cow_snapshot_unref");
	*(void **)&lib->region_unref = symbol(lib->handle, "cow_region_unref");
	*(void **)&lib->client_unref = symbol(lib->handle, "cow_client_unref");
}

/* A region with a snapshot, both ended. Between them @fork_child, if any, gets the memory. */
static void use(const struct library *lib, pid_t *fork_child)
{
	const struct cow_region_params params = {.size_bytes = 4 << 20, .mode = COW_MODE_SCOOT};
	struct cow_client *client = NULL;
	struct cow_region *region = NULL;
	struct cow_snapshot *snap = NULL;
	int pipes[2];
	char byte;

	ck_assert_int_eq(lib->client_new(&client, cowd.socket), 0);
	ck_assert_int_eq(lib->region_new(&region, client, &params), 0);
	ck_assert_int_eq(lib->snapshot_new(&snap, region), 0);
	memset(lib->region_address(region), 1, params.size_bytes);
	if (fork_child) {
		ck_assert_int_eq(pipe(pipes), 0);
		*fork_child = fork();
		if (!*fork_child) { /* ends when the parent closes the pipe */
			(void)close(pipes[1]);
			_exit(read(pipes[0], &byte, 1) != 0);
		}
		(void)close(pipes[0]);
	}
	lib->snapshot_unref(snap);
	lib->region_unref(region);
	lib->client_unref(client);
	(void)dlclose(lib->handle);
	if (fork_child)
		(void)close(pipes[1]);
}

/* Tasks of the client's thread hold the last references, so the thread outlives dlclose(). */
START_TEST(client_thread_outlives_dlclose)
{
	for (int i = 0; i < 50; i++) {
		struct library lib;

		library_open(&lib);
		use(&lib, NULL);
	}
	/* A thread whose code is gone has this long to show it. */
	(void)poll(NULL, 0, 100);
}
END_TEST

/* The thread that watches fork children waits for the child's end. */
START_TEST(watching_thread_outlives_dlclose)
{
	struct library lib;
	pid_t child = 0;
	int status;

	library_open(&lib);
	use(&lib, &child);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	/* The library's fork handlers are code, too. */
	child = fork();
	if (!child)
		_exit(0);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
}
END_TEST

int main(void)
{
	SRunner *runner;
	Suite *suite = suite_create("unload");
	TCase *tcase = tcase_create("unload");
	int n_failed;

	if (daemon_fixture_start(&cowd, NULL))
		return 99;
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, client_thread_outlives_dlclose);
	tcase_add_test(tcase, watching_thread_outlives_dlclose);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (!daemon_fixture_stop(&cowd))
		return 1;
	return n_failed ? 1 : 0;
}
