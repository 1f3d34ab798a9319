// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Saves: snapshots written to descriptors that clients lent.
 *
 * A save is done in slices by the threads of the savers' pool, so that any number of saves share
 * them fairly. No slice waits for room in a pipe or socket (sink.h says how that is had): one that
 * takes no more ends the slice, and the loop watches the descriptor until it does. What was read
 * and not taken is read again: the snapshot does not change. So a client that lends a pipe that
 * nobody reads holds up nobody, and costs a descriptor.
 *
 * Regular files are written at their offset with holes left out, existing data under a hole is
 * punched out, and the offset ends up behind the snapshot, as after write(2). With O_APPEND every
 * byte is written, and a file is closed before the reply. A file on a FUSE file system may still
 * make a thread wait for the process that serves it.
 */
#include "config.h"

#include "daemon/snapshot/save.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>

#include "common/clock.h"
#include "common/err.h"
#include "daemon/base/closer.h"
#include "daemon/base/outcome.h"
#include "daemon/daemon.h"
#include "daemon/session.h"
#include "daemon/snapshot/sink.h"
#include "daemon/snapshot/snapshot.h"

#define BUF_BYTES            ((size_t)256 * 1024)
#define STREAM_BYTES         ((size_t)64 * 1024) /* what a pipe holds */
#define SLICE_BYTES          ((uint64_t)16 << 20)
#define PEER_WAIT_MSEC       2
#define PROGRESS_PERIOD_USEC 100000u

/* How a slice ended, when it did not fail. */
enum slice_end {
	SLICE_MORE,
	SLICE_WAIT,
	SLICE_DONE
};

/**
 * struct save
 * @watch: waits until @fd takes more
 * @off:   of the snapshot: all before it is written
 */
struct save {
	struct job job;
	struct watch watch;
	bool is_watching;
	const struct save_events *events;
	void *arg;               /* theirs */
	struct session *session; /* in whose list it is; arg outlives it */
	uint64_t id;             /* what the session cancels it by */
	struct snapshot *snap;   /* a reference */
	struct charge charge;
	int fd;
	_Atomic bool is_cancelled; /* set by the loop thread */
	uint64_t told_usec;        /* 0: not yet, so that the client hears of it at once */
	struct save *next;         /* in session->saves */

	/* one slice's thread, or the loop between slices */
	struct sink sink;
	enum slice_end end;
	bool is_over; /* there is no slice after this one */
	uint64_t off;
	uint64_t written_bytes;
	struct outcome outcome;
};

/* --- writing ---------------------------------------------------------------------------------- */

/* A peer that is reading takes more within moments; one that is not is left to the loop. */
static bool takes_more_soon(const struct save *save)
{
	struct pollfd pollfd = {.fd = save->fd, .events = POLLOUT};

	return poll(&pollfd, 1, PEER_WAIT_MSEC) > 0;
}

/* Moves save->off. 0; -errno; save->end is SLICE_WAIT when the descriptor takes no more. */
static int write_bytes(struct save *save, const char *buf, size_t n_bytes)
{
	size_t n_done = 0;

	while (n_done < n_bytes) {
		ssize_t n = sink_write(&save->sink, save->fd, buf + n_done, n_bytes - n_done,
				       save->off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN && sink_is_stream(&save->sink)) {
			if (takes_more_soon(save))
				continue;
			save->end = SLICE_WAIT;
			return 0;
		}
		if (n <= 0)
			return n ? err_raise_errno("cannot save snapshot %llu at byte %llu",
						   (unsigned long long)save->snap->id,
						   (unsigned long long)save->off)
				 : err_raise(-EIO, "the file to save to takes no bytes");
		n_done += (size_t)n;
		save->off += (size_t)n;
		save->written_bytes += (size_t)n;
	}
	return 0;
}

/* A run of zeroes, which @buf has, stays a hole in a regular file. */
static int skip_zeroes(struct save *save, const char *buf, uint64_t n_bytes)
{
	uint64_t pos = save->sink.base + save->off;
	uint64_t n_old =
		save->sink.file_bytes > pos ? min_u64(save->sink.file_bytes - pos, n_bytes) : 0;

	if (n_old && fallocate(save->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)pos,
			       (off_t)n_old) < 0)
		return write_bytes(save, buf, n_old); /* this file system has no holes */
	save->off += n_bytes;
	return 0;
}

/* To a regular file: write the stretches that are not zero. @buf belongs to save->off. */
static int write_sparse(struct save *save, const char *buf, size_t n_bytes)
{
	size_t size = page_size_bytes();
	size_t pos = 0;
	int r = 0;

	while (pos < n_bytes && !r) {
		bool is_hole = is_zero(buf + pos, size);
		size_t end = pos + size;

		while (end < n_bytes && is_zero(buf + end, size) == is_hole)
			end += size;
		if (!is_hole) {
			r = write_bytes(save, buf + pos, end - pos);
		} else {
			uint64_t goal = save->off + (end - pos);

			while (save->off < goal && !r)
				r = skip_zeroes(save, buf + pos, goal - save->off);
		}
		pos = end;
	}
	return r;
}

static int save_piece(struct save *save, char *buf)
{
	const size_t max_bytes = save->sink.kind == SINK_FILE ? BUF_BYTES : STREAM_BYTES;
	size_t n_bytes = (size_t)min_u64(save->snap->size_bytes - save->off, max_bytes);
	int r = snapshot_read(save->snap, buf, n_bytes, save->off);

	if (r)
		return r;
	return save->sink.kind == SINK_FILE ? write_sparse(save, buf, n_bytes)
					    : write_bytes(save, buf, n_bytes);
}

/* The last bytes may have been a hole, and the offset is to be behind them. */
static int finish_file(struct save *save)
{
	uint64_t end = save->sink.base + save->snap->size_bytes;

	if (save->sink.file_bytes < end && ftruncate(save->fd, (off_t)end) < 0)
		return err_raise_errno("cannot set the size of the saved file");
	if (lseek(save->fd, (off_t)end, SEEK_SET) < 0)
		return err_raise_errno("cannot set the offset of the saved file");
	return 0;
}

static int save_slice(struct save *save, char *buf)
{
	uint64_t first_off = save->off;
	int r = 0;

	if (save->sink.kind == SINK_UNKNOWN)
		r = sink_open(&save->sink, save->fd);
	save->end = SLICE_MORE;
	while (!r && save->end == SLICE_MORE && save->off < save->snap->size_bytes) {
		if (save->off - first_off >= SLICE_BYTES)
			return 0;
		r = save_piece(save, buf);
		if (!r && save->snap->is_once)
			snapshot_trim_saved(save->snap, save->off);
	}
	if (r || save->end == SLICE_WAIT)
		return r;
	save->end = SLICE_DONE;
	return save->sink.kind == SINK_FILE ? finish_file(save) : 0;
}

static int save_some(struct save *save)
{
	void *buf = NULL;
	int r;

	if (posix_memalign(&buf, page_size_bytes(), BUF_BYTES) != 0)
		return err_oom(BUF_BYTES, "a save");
	r = save_slice(save, buf);
	sink_pause(&save->sink);
	free(buf);
	return r;
}

/*
 * Before the reply: a file of NFS says only now that its disk is full, and the reader of a pipe may
 * be expected to see its end by then. Nobody waits for the end of a socket, which may take an hour.
 */
static int close_last(struct save *save)
{
	int error;

	if (save->sink.kind == SINK_UNKNOWN || save->sink.kind == SINK_SOCKET)
		return 0; /* save_finish() */
	error = close(fd_steal(&save->fd)) < 0 ? errno : 0;
	if (!error || error == EINTR)
		return 0;
	errno = error;
	return err_raise_errno("cannot write the last of what was saved");
}

static void save_run_job(struct job *job)
{
	struct save *save = container_of(job, struct save, job);
	int r = atomic_load(&save->is_cancelled) ? 0 : save_some(save);

	outcome_set(&save->outcome, r);
	save->is_over = r || save->end == SLICE_DONE || atomic_load(&save->is_cancelled);
	r = save->is_over ? close_last(save) : 0;
	if (!save->outcome.error)
		outcome_set(&save->outcome, r);
}

/* --- in the loop thread ----------------------------------------------------------------------- */

static void tell_progress(const struct save *save)
{
	save->events->progress(save->arg, save->off, save->snap->size_bytes);
}

static void unlink_save(struct save *save)
{
	struct save **pos = &save->session->saves;

	for (; *pos; pos = &(*pos)->next) {
		if (*pos == save) {
			*pos = save->next;
			return;
		}
	}
}

static void save_finish(struct save *save, int r)
{
	struct stats *stats = &save->snap->daemon->stats;

	unlink_save(save);
	if (!r)
		tell_progress(save);
	stats_add(stats, saved_bytes, save->written_bytes);
	if (r)
		stats_add(stats, saves_failed, 1);
	else
		stats_add(stats, saves, 1);
	if (save->fd >= 0)
		closer_give(save->snap->daemon->closer, save->session->user, &save->fd, 1,
			    &save->charge, 1);
	charge_deinit(&save->charge);
	save->snap->n_saves--;
	save->events->done(save->arg, r, save->written_bytes); /* last use of the session */
	snapshot_unref(save->snap);
	free(save);
}

static int cancelled(const struct save *save)
{
	return err_raise(-ECANCELED, "the save of snapshot %llu was cancelled",
			 (unsigned long long)save->snap->id);
}

static void save_on_writable(struct watch *watch, uint32_t events)
{
	struct save *save = container_of(watch, struct save, watch);

	(void)events;
	loop_unwatch(&save->watch);
	save->is_watching = false;
	job_submit(save->snap->daemon->savers, &save->job);
}

static int wait_writable(struct save *save)
{
	int r;

	save->watch = (struct watch){.fd = save->fd, .on_ready = save_on_writable};
	r = loop_watch(save->snap->daemon->loop, &save->watch, EPOLLOUT);
	save->is_watching = !r;
	return r;
}

static void save_slice_done(struct job *job)
{
	struct save *save = container_of(job, struct save, job);
	uint64_t now = now_usec();
	int r;

	save->snap->saved_bytes = save->off;
	r = outcome_raise(&save->outcome);
	if (!r && save->is_cancelled && !save->is_over) {
		job_submit(save->snap->daemon->savers,
			   &save->job); /* while it was on its way here */
		return;
	}
	if (!r && save->is_cancelled)
		r = cancelled(save);
	if (!r && save->end == SLICE_WAIT)
		r = wait_writable(save);
	if (r || save->end == SLICE_DONE) {
		save_finish(save, r);
		return;
	}
	if (now - save->told_usec >= PROGRESS_PERIOD_USEC) {
		save->told_usec = now;
		tell_progress(save);
	}
	if (save->end == SLICE_MORE)
		job_submit(save->snap->daemon->savers, &save->job);
}

static void cancel(struct save *save)
{
	save->is_cancelled = true;
	if (!save->is_watching)
		return; /* save_slice_done() sees it */
	loop_unwatch(&save->watch);
	save->is_watching = false;
	job_submit(save->snap->daemon->savers, &save->job);
}

void save_drop_all(struct session *session)
{
	struct save *next;

	for (struct save *save = session->saves; save; save = next) {
		next = save->next;
		cancel(save);
	}
}

int save_cancel(struct session *session, uint64_t id)
{
	for (struct save *save = session->saves; save; save = save->next) {
		if (save->id == id) {
			cancel(save);
			return 0;
		}
	}
	return err_raise(-ENOENT, "there is no save %llu under way", (unsigned long long)id);
}

size_t save_memory_bytes(void)
{
	return sizeof(struct save);
}

static int check_access(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return err_raise_errno("cannot look at the descriptor to save to");
	if (flags & O_PATH || (flags & O_ACCMODE) == O_RDONLY)
		return err_raise(-EBADF, "the descriptor to save to is not open for writing");
	return 0;
}

int save_check(const struct snapshot *snap, int fd)
{
	if (snap->is_lost)
		return snapshot_stale(snap);
	if (snap->is_saving)
		return err_raise(-EBUSY, "snapshot %llu is for one save, which was begun",
				 (unsigned long long)snap->id);
	return check_access(fd);
}

int save_begin(struct session *session, uint64_t id, struct snapshot *snap, int *fd,
	       const struct save_events *events, void *arg)
{
	struct save *save;
	int r;

	save = malloc(sizeof(*save));
	if (!save)
		return err_oom(sizeof(*save), "a save");
	*save = (struct save){.session = session,
			      .id = id,
			      .events = events,
			      .arg = arg,
			      .fd = -1,
			      .sink = SINK_INIT};
	r = quota_charge(&save->charge, session->user, QUOTA_FDS, 1);
	if (r) {
		free(save);
		return quota_error(r);
	}
	save->fd = fd_steal(fd);
	save->snap = snapshot_ref(snap);
	snap->is_saving = snap->is_once;
	snap->n_saves++;
	snap->saved_bytes = 0;
	save->job = (struct job){
		.run = save_run_job, .done = save_slice_done, .client_id = session->id};
	save->next = session->saves;
	session->saves = save;
	job_submit(snap->daemon->savers, &save->job);
	return 0;
}
