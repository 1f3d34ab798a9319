/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of the invariants share; the contracts are in proof.h. */
#include "config.h"

#include "system/proof.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "backends/uffdio.h"
#include "libclient/scoot/mode.h"
#include "system/daemon-fixture.h"
#include "tests/skip.h"

static struct daemon_fixture cowd;

static const struct {
	uint32_t mode;
	const char *name;
} modes[PROOF_MODES_MAX] = {
	{COW_MODE_UFFD, "uffd"},
	{COW_MODE_SCOOT, "scoot"},
	{COW_MODE_MMAPCOPY, "mmapcopy"},
};

/* Why there is none, or NULL. The uffd that a test needs is one that cowd could lend. */
static const char *why_no_uffd(void)
{
	static char why[128];
	AUTO_FD int device_fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	AUTO_FD int uffd = -1;
	uint64_t can = 0;

	if (device_fd < 0) {
		(void)snprintf(why, sizeof(why), "/dev/userfaultfd: %s", strerror(errno));
		return why;
	}
	if (uffdio_new_by_device(&uffd, device_fd, false) || uffdio_api(uffd, 0, &can)) {
		(void)snprintf(why, sizeof(why), "%s", cow_last_error());
		return why;
	}
	return can & UFFD_FEATURE_WP_HUGETLBFS_SHMEM
		       ? NULL
		       : "this kernel serves no write-protect faults on shared memory";
}

bool proof_has_uffd(void)
{
	static bool was_said;
	const char *why = why_no_uffd();

	if (why && !was_said)
		tests_left_out("mode uffd: %s", why);
	was_said = true;
	return !why;
}

void proof_need_uffd(void)
{
	if (!proof_has_uffd())
		exit(77);
}

/* The first of modes[] that is tested, and how many are. */
static size_t first_mode(int *n_modes)
{
	const char *names = getenv("COWD_PROOF_MODES");

	if (names && !strcmp(names, "uffd")) {
		proof_need_uffd();
		*n_modes = 1;
		return 0;
	}
	*n_modes = why_no_uffd() ? PROOF_MODES_MAX - 1 : PROOF_MODES_MAX;
	return why_no_uffd() ? 1 : 0;
}

int proof_n_modes(void)
{
	int n_modes;

	(void)first_mode(&n_modes);
	return n_modes;
}

bool proof_is_small(void)
{
	const char *value = getenv("COWD_PROOF_SMALL");

	return value && *value && strcmp(value, "0") != 0;
}

size_t proof_size(size_t n_bytes)
{
	return proof_is_small() ? n_bytes / 8 : n_bytes;
}

uint32_t proof_mode(int i)
{
	int n_modes;
	size_t at = first_mode(&n_modes) + (size_t)i;

	/* in the test's log, which libcheck's loop number alone would not say */
	(void)fprintf(stderr, "mode %s\n", modes[at].name);
	return modes[at].mode;
}

/* --- the test case ---------------------------------------------------------------------------- */

static void start(void)
{
	cowd = DAEMON_FIXTURE_NULL;
	proof_cowd_start(NULL);
}

/* A sanitizer that found something in cowd makes it end badly, and so does the test. */
static void stop(void)
{
	ck_assert_msg(daemon_fixture_stop(&cowd), "cowd did not end cleanly");
}

TCase *proof_tcase(const char *name, double seconds)
{
	TCase *tcase = tcase_create(name);

	tcase_set_timeout(tcase, seconds);
	tcase_add_checked_fixture(tcase, start, stop);
	return tcase;
}

int proof_run(TCase *tcase)
{
	Suite *suite = suite_create("proof");
	SRunner *runner;
	int n_failed;

	(void)proof_has_uffd(); /* says so if loop tests are in two modes only */

	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* --- the daemon ------------------------------------------------------------------------------- */

const char *proof_address(void)
{
	return cowd.socket;
}

pid_t proof_cowd(void)
{
	return cowd.pid;
}

void proof_cowd_kill(void)
{
	ck_assert_int_ne(daemon_fixture_kill(&cowd, SIGKILL), -1);
}

char *proof_cowd_log(void)
{
	return daemon_fixture_log(&cowd);
}

void proof_cowd_start(const char *config)
{
	char path[] = "/tmp/cowd-proof-XXXXXX";
	const char *without = getenv("COWD_PROOF_WITHOUT");
	const char *args[] = {"--config", path, "--strict-sandbox", NULL, NULL, NULL};
	AUTO_FD int fd = mkostemp(path, O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fchmod(fd, 0644), 0);
	if (config)
		ck_assert_int_eq(write(fd, config, strlen(config)), (ssize_t)strlen(config));
	if (without) {
		args[3] = "--without-feature";
		args[4] = without;
	}
	ck_assert_int_eq(daemon_fixture_start(&cowd, args), 0);
	ck_assert_int_eq(unlink(path), 0); /* read at start; these tests do not reload */
}

static size_t n_fds_of(pid_t pid)
{
	char path[64];
	size_t n = 0;
	DIR *dir;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	if (!dir && errno == EACCES) { /* cowd lets nobody look into it but root */
		tests_left_out("what descriptors cowd holds: %s: %s", path, strerror(errno));
		return 0;
	}
	ck_assert_msg(dir, "%s: %s", path, strerror(errno));
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

void proof_await_lost(struct cow_snapshot *snap)
{
	char byte;
	int r;

	do {
		(void)sched_yield();
		r = cow_snapshot_read(snap, &byte, 1, 0);
	} while (r == 0 || r == -ENOTCONN);
	ck_assert_int_eq(r, -ESTALE);
	ck_assert_ptr_nonnull(strstr(cow_last_error(), "lost"));
}

void proof_holdings(struct proof_holdings *holdings)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	Cow__V1__Request request = COW__V1__REQUEST__INIT;
	Cow__V1__Status status = COW__V1__STATUS__INIT;
	Cow__V1__Reply *reply = NULL;

	request.call_case = COW__V1__REQUEST__CALL_STATUS;
	request.status = &status;
	proof_ok(cowi_call(client, &request, NULL, 0, &reply, NULL));
	ck_assert_int_eq(reply->result_case, COW__V1__REPLY__RESULT_STATUS);
	*holdings = (struct proof_holdings){
		.n_clients = reply->status->n_clients,
		.n_regions = reply->status->n_regions,
		.n_snapshots = reply->status->n_snapshots,
		.region_bytes = reply->status->region_bytes,
		.kept_bytes = reply->status->kept_bytes,
		.n_fds = n_fds_of(cowd.pid),
	};
	cow__v1__reply__free_unpacked(reply, NULL);
}

static int is_same(const struct proof_holdings *a, const struct proof_holdings *b)
{
	return !memcmp(a, b, sizeof(*a)); /* all members have 64 bits: no padding */
}

void proof_wait_for_holdings(const struct proof_holdings *want)
{
	const struct timespec pause = {.tv_nsec = 5000000};
	struct proof_holdings now;

	/* cowd hears of a death a moment after us, and tells nobody: ask again, for ten seconds */
	for (int i = 0; i < 2000; i++) {
		proof_holdings(&now);
		if (is_same(&now, want))
			return;
		nanosleep(&pause, NULL);
	}
	ck_abort_msg("cowd still holds: clients %" PRIu64 " (want %" PRIu64 "), regions %" PRIu64
		     " (%" PRIu64 "), snapshots %" PRIu64 " (%" PRIu64 "), region bytes %" PRIu64
		     " (%" PRIu64 "), kept bytes %" PRIu64 " (%" PRIu64 "), descriptors %" PRIu64
		     " (%" PRIu64 ")",
		     now.n_clients, want->n_clients, now.n_regions, want->n_regions,
		     now.n_snapshots, want->n_snapshots, now.region_bytes, want->region_bytes,
		     now.kept_bytes, want->kept_bytes, now.n_fds, want->n_fds);
}

/* --- short words ------------------------------------------------------------------------------ */

struct cow_client *proof_client(void)
{
	struct cow_client *client = NULL;

	proof_ok(cow_client_new(&client, cowd.socket));
	return client;
}

struct cow_region *proof_region(uint32_t mode, uint64_t size_bytes)
{
	CLEANUP(cow_client_unrefp) struct cow_client *client = proof_client();
	struct cow_region *region = NULL;

	proof_ok(cow_region_new(&region, client,
				&(struct cow_region_params){
					.size_bytes = size_bytes, .mode = mode, .name = "proof"}));
	return region;
}

bool proof_is_settled(struct cow_region *region)
{
	bool is_owned;

	pthread_mutex_lock(&region->take_lock);
	is_owned = extents_is_owned(&region->scoot->map);
	pthread_mutex_unlock(&region->take_lock);
	return is_owned;
}

void proof_wait_until_settled(struct cow_region *region)
{
	const struct timespec pause = {.tv_nsec = 2000000};

	while (region->scoot->uffd >= 0 && !proof_is_settled(region))
		nanosleep(&pause, NULL);
}

int proof_file(void)
{
	char path[] = "/tmp/cowd-proof-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);

	ck_assert_msg(fd >= 0, "%s: %s", path, strerror(errno));
	ck_assert_int_eq(unlink(path), 0);
	return fd;
}

void *proof_alloc(size_t n_bytes)
{
	void *memory = malloc(n_bytes);

	ck_assert_ptr_nonnull(memory);
	return memory;
}

/* Never 0, so that bytes which were not there show. */
static uint64_t pattern(uint64_t seed, uint64_t off)
{
	return (off * 0x9e3779b97f4a7c15 + seed * 0xbf58476d1ce4e5b9) | 1;
}

void proof_fill(void *base, size_t n_bytes, uint64_t seed)
{
	uint64_t *words = base;

	for (size_t i = 0; i < n_bytes / sizeof(*words); i++)
		words[i] = pattern(seed, i * sizeof(*words));
}

int proof_is_filled(const void *base, size_t n_bytes, uint64_t seed, uint64_t off)
{
	const uint64_t *words = base;

	for (size_t i = 0; i < n_bytes / sizeof(*words); i++) {
		if (words[i] == pattern(seed, off + i * sizeof(*words)))
			continue;
		(void)fprintf(stderr, "at byte %" PRIu64 ": %#" PRIx64 ", want %#" PRIx64 "\n",
			      off + i * sizeof(*words), words[i],
			      pattern(seed, off + i * sizeof(*words)));
		return 0;
	}
	return 1;
}

void proof_check_snapshot(struct cow_snapshot *snap, uint64_t seed)
{
	size_t piece = (size_t)1 << 20;
	CLEANUP(freep) char *buf = proof_alloc(piece);
	uint64_t size = cow_snapshot_size(snap);

	for (uint64_t off = 0; off < size; off += piece) {
		size_t len = min_u64(piece, size - off);

		proof_ok(cow_snapshot_read(snap, buf, len, off));
		ck_assert_msg(proof_is_filled(buf, len, seed, off), "snapshot is not as taken");
	}
}

/*
 * libcheck has every assertion note where it was, in a file that a child shares. One that is killed
 * while it writes spoils what the test says, so a child's notes go nowhere: its status says enough.
 */
static void forget_notes(void)
{
	AUTO_FD int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct stat st;

	for (int fd = STDERR_FILENO + 1; fd < 64; fd++) {
		char path[32], target[64] = "";

		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_nlink ||
		    readlink(path, target, sizeof(target) - 1) < 0 ||
		    !strncmp(target, "/memfd:", strlen("/memfd:")))
			continue;
		(void)dup3(nowhere, fd, O_CLOEXEC);
	}
}

pid_t proof_fork(void (*child)(void *user), void *user)
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid)
		return pid;
	forget_notes();
	child(user);
	_exit(EXIT_SUCCESS);
}

void proof_reap(pid_t pid, int signal)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	if (signal && WIFSIGNALED(status) && WTERMSIG(status) == signal)
		return;
	ck_assert_msg(WIFEXITED(status) && !WEXITSTATUS(status), "child ended with status %#x",
		      (unsigned int)status);
}
