// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowctl save: cowd writes the bytes. cowctl opens the file (so that the operator's rights count),
 * shows the progress, and gives the file its name once all of it is on disk.
 *
 * Ctrl-C cancels a save to a file in an orderly way, and a second Ctrl-C ends cowctl like any other
 * program. In a save to a pipe or a FIFO the first Ctrl-C ends cowctl: the save may stand still for
 * as long as nobody reads, and there is nothing to tidy up. Either way cowd ends the save with the
 * connection.
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/err.h"
#include "tools/cli.h"
#include "tools/cowctl.h"
#include "tools/progress.h"
#include "tools/savefile.h"

static volatile sig_atomic_t is_interrupted;

static void on_signal(int signal)
{
	(void)signal;
	is_interrupted = 1;
}

static void catch_signals(void)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_RESETHAND};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		struct sigaction old;

		/* Signals that the caller ignored (nohup, a background job) stay ignored. */
		if (!sigaction(signals[i], NULL, &old) && old.sa_handler != SIG_IGN)
			sigaction(signals[i], &action, NULL);
	}
}

static int on_progress(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
	struct progress *progress = user;

	progress_update(progress, done_bytes, total_bytes);
	return is_interrupted;
}

static int save_to(struct cow_snapshot *snap, struct savefile *file)
{
	struct progress progress;
	int r;

	if (!file->is_stream)
		catch_signals();
	progress_init(&progress);
	progress_update(&progress, 0, cow_snapshot_size(snap));
	r = cow_snapshot_save(snap, file->fd, on_progress, &progress);
	if (!r) /* of a short save only the end was heard */
		progress.done_bytes = cow_snapshot_size(snap);
	progress_finish(&progress, !r);
	if (r)
		return cli_fail(r,
				r == -ECANCELED ? "interrupted; nothing was left behind"
						: cow_last_error(),
				file->path);
	r = savefile_commit(file);
	return r ? cli_fail(r, err_sentence(), "save") : CLI_OK;
}

/* Write @snap to @path, and print any error. Return: enum cli_status */
static int save(const struct ctl *ctl, struct cow_snapshot *snap, const char *path)
{
	struct savefile file;
	int r;

	/* A reader of our pipe that goes away is an error of the save, which cowd reports. */
	signal(SIGPIPE, SIG_IGN);
	r = savefile_open(&file, path, ctl->is_forced);
	/* Errors of the file are the file's: a folder that is not there is no missing snapshot. */
	if (r) {
		cli_say("save: %s", err_sentence());
		r = r == -EACCES || r == -EPERM ? CLI_DENIED : CLI_FAILED;
	} else {
		r = save_to(snap, &file);
	}
	savefile_deinit(&file);
	return r;
}

static int check_path(const char *path)
{
	if (!path[0])
		return cli_usage("save: FILE is empty");
	if (!strcmp(path, "-") && isatty(STDOUT_FILENO))
		return cli_usage(
			"save: FILE is - but standard output is a terminal, which has no use"
			" for a process's memory");
	return CLI_OK;
}

int ctl_save_parse(struct ctl *ctl, char **args)
{
	if (!cli_parse_u64(&ctl->id, args[0], 1, UINT64_MAX))
		return cli_usage(
			"save: SNAPSHOT is a number that 'cowctl snapshots' shows, not '%s'",
			args[0]);
	return check_path(args[1]);
}

int ctl_save(struct ctl *ctl, char **args)
{
	struct cow_snapshot *snap = NULL;
	int r;

	r = cow_snapshot_open(&snap, ctl->client, ctl->id);
	if (r)
		return cli_fail(r, cow_last_error(), args[0]);
	r = save(ctl, snap, args[1]);
	cow_snapshot_unref(snap);
	return r;
}

/*
 * Print the snapshot's number and hold the snapshot until a signal comes. Check it every second, so
 * that cowctl ends soon after cowd has ended or could not keep the snapshot.
 */
static int hold(struct cow_snapshot *snap)
{
	const struct timespec second = {.tv_sec = 1};
	sigset_t set;
	int r, signal;
	char byte;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	printf("snapshot %llu, held until this program ends\n",
	       (unsigned long long)cow_snapshot_id(snap));
	if (fflush(stdout))
		return CLI_FAILED;
	while ((signal = sigtimedwait(&set, NULL, &second)) < 0) {
		r = cow_snapshot_read(snap, &byte, 1, 0);
		if (r)
			return cli_fail(-ESTALE, cow_last_error(), "snapshot: there is no more");
	}
	/* SIGTERM is how a script or a service ends it; Ctrl-C says that somebody broke it off. */
	return signal == SIGINT ? CLI_INTERRUPTED : CLI_OK;
}

/*
 * EAGAIN is a moment's: the program is changing its address space just then. Nothing tells when
 * that is over, so ask again in growing intervals, for as long as an operator would.
 */
#define RETRY_NSEC ((uint64_t)2 * 1000 * 1000 * 1000)
#define PAUSE_NSEC 100000000L

static int take(struct cow_snapshot **snap, struct ctl *ctl)
{
	struct timespec pause = {.tv_nsec = 1000000};
	uint64_t begin_nsec = now_nsec();
	int r;

	while ((r = cow_snapshot_new_outside(snap, ctl->client, ctl->id)) == -EAGAIN &&
	       now_nsec() - begin_nsec < RETRY_NSEC) {
		(void)nanosleep(&pause, NULL);
		pause.tv_nsec = pause.tv_nsec < PAUSE_NSEC ? 2 * pause.tv_nsec : PAUSE_NSEC;
	}
	return r;
}

int ctl_snapshot_parse(struct ctl *ctl, char **args)
{
	if (!cli_parse_u64(&ctl->id, args[0], 1, UINT64_MAX))
		return cli_usage(
			"snapshot: REGION is a number that 'cowctl regions' shows, not '%s'",
			args[0]);
	return ctl->save_path ? check_path(ctl->save_path) : CLI_OK;
}

int ctl_snapshot(struct ctl *ctl, char **args)
{
	struct cow_snapshot *snap = NULL;
	int r;

	r = take(&snap, ctl);
	if (r)
		return cli_fail(r, cow_last_error(), args[0]);
	r = ctl->save_path ? save(ctl, snap, ctl->save_path) : hold(snap);
	cow_snapshot_unref(snap);
	return r;
}
