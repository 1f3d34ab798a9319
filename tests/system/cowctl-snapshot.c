/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cowctl snapshot, as an operator uses it: this program writes ordered pairs of pages (pairs.h) and
 * does nothing else, while cowctl freezes its region and writes it to a file, or holds it for
 * another cowctl to save. Others than its user are refused, and so are other modes.
 *
 * Seen to fail with: first writes that are let through without being kept; a region that is found
 * for whoever asks.
 */
#include "config.h"

#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "libclient/internal.h"
#include "system/proof.h"
#include "tests/skip.h"

enum {
	REGION_PAGES = 2048,
	N_SAVES = 4,
	N_ROUNDS = 40,
	UID_NOBODY = 65534
};

static char dir[] = "/tmp/cowctl-snapshot-XXXXXX";
static char path[64];

static size_t region_bytes(void)
{
	return REGION_PAGES * page_size_bytes();
}

static void make_dir(void)
{
	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/saved", dir);
}

static void remove_dir(void)
{
	(void)unlink(path);
	(void)rmdir(dir);
}

/* --- a cowctl --------------------------------------------------------------------------------- */

struct ctl_run {
	pid_t pid;
	int said_fd; /* its standard output and error */
	char said[1024];
};

/* In a process of its own: a region's id, or a snapshot's, then further arguments up to NULL. */
static void ctl_start(struct ctl_run *ctl, uid_t uid, const char *verb, uint64_t id, const char *a,
		      const char *b)
{
	const char *program = getenv("COWCTL_PROGRAM");
	char number[32];
	int fds[2];

	if (!program)
		program = "./cowctl";
	(void)snprintf(number, sizeof(number), "%" PRIu64, id);
	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	*ctl = (struct ctl_run){.said_fd = fds[0]};
	ctl->pid = fork();
	ck_assert_int_ge(ctl->pid, 0);
	if (!ctl->pid) {
		/* Opened before the rights to are given up: a build tree is not for everybody. */
		int program_fd = open(program, O_PATH | O_CLOEXEC);
		const char *argv[] = {"cowctl", "--socket", proof_address(), verb, number, a,
				      b,        NULL};

		if (program_fd < 0 || dup2(fds[1], STDOUT_FILENO) < 0 ||
		    dup2(fds[1], STDERR_FILENO) < 0 || (uid && (setgid(uid) || setuid(uid))))
			_exit(126);
		fexecve(program_fd, (char **)(uintptr_t)argv, environ);
		_exit(127);
	}
	(void)close(fds[1]);
}

/* What it says, up to a newline or the end. */
static void ctl_hear(struct ctl_run *ctl)
{
	size_t n_said = strlen(ctl->said);
	ssize_t n;

	while (!strchr(ctl->said, '\n') && n_said < sizeof(ctl->said) - 1) {
		n = read(ctl->said_fd, ctl->said + n_said, sizeof(ctl->said) - 1 - n_said);
		if (n <= 0)
			break;
		n_said += (size_t)n;
		ctl->said[n_said] = '\0';
	}
}

static void ctl_end(struct ctl_run *ctl, int status_wanted, const char *sentence)
{
	int status;

	ctl_hear(ctl);
	ck_assert_int_eq(waitpid(ctl->pid, &status, 0), ctl->pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == status_wanted,
		      "cowctl ended with %#x: %s", (unsigned int)status, ctl->said);
	ck_assert_msg(!sentence || strstr(ctl->said, sentence), "cowctl said: %s", ctl->said);
	(void)close(ctl->said_fd);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void check_file(const struct pairs *pairs, const uint64_t *before, const char *what)
{
	CLEANUP(freep) char *bytes = proof_alloc(region_bytes());
	AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t after[PAIRS_THREADS_MAX];

	pairs_rounds(pairs, after);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, bytes, region_bytes(), 0), region_bytes());
	pairs_check(pairs, bytes, before, after, what);
	ck_assert_int_eq(unlink(path), 0);
}

START_TEST(a_file_of_a_region_being_written_is_of_one_instant)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_UFFD, region_bytes());
	uint64_t before[PAIRS_THREADS_MAX];
	struct ctl_run ctl;
	struct pairs pairs;

	make_dir();
	pairs_start(&pairs, cow_region_address(region), region_bytes(), 4);
	pairs_wait(&pairs, 2);
	for (int i = 0; i < N_SAVES; i++) {
		pairs_rounds(&pairs, before);
		ctl_start(&ctl, 0, "snapshot", region->id, "--save", path);
		ctl_end(&ctl, 0, NULL);
		check_file(&pairs, before, "saved from outside");
	}
	pairs_stop(&pairs);
	pairs_check_final(&pairs);
	remove_dir();
}
END_TEST

START_TEST(without_a_file_it_is_held_until_cowctl_ends)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_UFFD, region_bytes());
	struct proof_holdings none, one;
	struct ctl_run holder, saver;
	unsigned long long id = 0;
	struct pairs pairs;

	make_dir();
	proof_holdings(&none);
	pairs_start(&pairs, cow_region_address(region), region_bytes(), 4);
	pairs_wait(&pairs, 2);
	ctl_start(&holder, 0, "snapshot", region->id, NULL, NULL);
	ctl_hear(&holder);
	ck_assert_int_eq(sscanf(holder.said, "snapshot %llu", &id), 1);
	proof_holdings(&one);
	ck_assert_uint_eq(one.n_snapshots, none.n_snapshots + 1);
	pairs_wait(&pairs, 2);
	ctl_start(&saver, 0, "save", id, path, NULL);
	ctl_end(&saver, 0, NULL);
	check_file(&pairs, NULL, "held from outside");
	ck_assert_int_eq(kill(holder.pid, SIGTERM), 0);
	ctl_end(&holder, 0, NULL);
	pairs_stop(&pairs);
	pairs_check_final(&pairs);
	do
		proof_holdings(&one);
	while (one.n_snapshots != none.n_snapshots); /* cowd hears of the end a moment later */
	remove_dir();
}
END_TEST

/* Seen to fail with a status of 0, as of a snapshot that was held for as long as was wanted. */
START_TEST(ctrl_c_is_told_from_an_ordinary_end)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_UFFD, region_bytes());
	struct ctl_run holder;

	ctl_start(&holder, 0, "snapshot", region->id, NULL, NULL);
	ctl_hear(&holder);
	ck_assert_ptr_nonnull(strstr(holder.said, "held"));
	ck_assert_int_eq(kill(holder.pid, SIGINT), 0);
	ctl_end(&holder, 130, NULL);
}
END_TEST

struct taker {
	struct cow_region *region;
	atomic_bool is_over;
	int n_failed;
};

/* The program takes snapshots of its own: each moves its page tables, an event that cowd reads. */
static void *take_on_and_on(void *user)
{
	struct taker *taker = user;

	while (!atomic_load(&taker->is_over)) {
		struct cow_snapshot *snap = NULL;

		taker->n_failed += cow_snapshot_new(&snap, taker->region) != 0;
		(void)cow_snapshot_unref(snap);
	}
	return NULL;
}

/*
 * While such an event is unread the kernel refuses to protect pages, and cowd answers EAGAIN, which
 * an operator can do nothing with. Seen to fail with a cowctl that does not ask again.
 */
START_TEST(operators_are_not_told_to_try_again)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_UFFD, region_bytes());
	struct taker taker = {.region = region};
	struct ctl_run ctls[3];
	struct pairs pairs;
	pthread_t thread;

	pairs_start(&pairs, cow_region_address(region), region_bytes(), 4);
	pairs_wait(&pairs, 2);
	ck_assert_int_eq(pthread_create(&thread, NULL, take_on_and_on, &taker), 0);
	for (int i = 0; i < N_ROUNDS; i++) {
		for (size_t k = 0; k < ARRAY_SIZE(ctls); k++)
			ctl_start(&ctls[k], 0, "snapshot", region->id, NULL, NULL);
		for (size_t k = 0; k < ARRAY_SIZE(ctls); k++) {
			ctl_hear(&ctls[k]);
			(void)kill(ctls[k].pid, SIGTERM);
			ctl_end(&ctls[k], 0, "held");
		}
	}
	atomic_store(&taker.is_over, true);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	pairs_stop(&pairs);
	pairs_check_final(&pairs);
}
END_TEST

START_TEST(who_holds_one_ends_with_cowd)
{
	CLEANUP(cow_region_unrefp)
	struct cow_region *region = proof_region(COW_MODE_UFFD, region_bytes());
	struct ctl_run holder;

	ctl_start(&holder, 0, "snapshot", region->id, NULL, NULL);
	ctl_hear(&holder);
	ck_assert_ptr_nonnull(strstr(holder.said, "held"));
	proof_cowd_kill();
	holder.said[0] = '\0';
	ctl_end(&holder, 6, "no more");
}
END_TEST

START_TEST(another_user_is_refused)
{
	CLEANUP(freep) char *folder = strdup(proof_address());
	struct cow_region *region;
	struct ctl_run ctl;

	if (geteuid() != 0)
		test_skip("another user than cowd's can only be had by root");
	region = proof_region(COW_MODE_UFFD, region_bytes());
	make_dir();
	ck_assert_int_eq(chmod(dir, 0777), 0);
	ck_assert_int_eq(chmod(proof_address(), 0666), 0);
	ck_assert_int_eq(chmod(dirname(folder), 0755), 0);
	ctl_start(&ctl, UID_NOBODY, "snapshot", region->id, "--save", path);
	ctl_end(&ctl, 5, "uid 65534 may freeze");
	ck_assert_int_lt(access(path, F_OK), 0);
	remove_dir();
	cow_region_unref(region);
}
END_TEST

START_TEST(other_modes_are_refused_with_a_reason)
{
	CLEANUP(cow_region_unrefp) struct cow_region *region = NULL;
	struct ctl_run ctl;

	region = proof_region(proof_mode(_i), region_bytes());
	if (proof_mode(_i) == COW_MODE_UFFD)
		return; /* the one that is not refused: the tests above */
	ctl_start(&ctl, 0, "snapshot", region->id, NULL, NULL);
	ctl_end(&ctl, 1, "only its own process can freeze it");
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("cowctl snapshot", 60);

	if (proof_has_uffd()) {
		tcase_add_test(tcase, a_file_of_a_region_being_written_is_of_one_instant);
		tcase_add_test(tcase, without_a_file_it_is_held_until_cowctl_ends);
		tcase_add_test(tcase, ctrl_c_is_told_from_an_ordinary_end);
		tcase_add_test(tcase, operators_are_not_told_to_try_again);
		tcase_add_test(tcase, who_holds_one_ends_with_cowd);
		tcase_add_test(tcase, another_user_is_refused);
	}
	tcase_add_loop_test(tcase, other_modes_are_refused_with_a_reason, 0, PROOF_N_MODES);
	return proof_run(tcase);
}
