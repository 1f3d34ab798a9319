// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Tasks: work that any thread posts and the client's thread runs, one at a time and without a lock.
 * The queue is guarded by client->lock; a task belongs to its owner again as soon as it runs.
 */
#include "config.h"

#include "common/clock.h"
#include "libclient/conn/conn.h"

void cowi_post_later(struct cow_client *client, struct cowi_task *task, uint64_t msec)
{
	cowi_post_unwoken(client, task, msec);
	/* The thread itself looks at its tasks before it waits, also without descriptors. */
	if (!cowi_in_client_thread(client))
		cowi_thread_wake(client);
}

void cowi_post_unwoken(struct cow_client *client, struct cowi_task *task, uint64_t msec)
{
	const uint64_t due_msec = msec ? now_msec() + msec : 0;
	struct cowi_conn *conn = client->conn;

	pthread_mutex_lock(&client->lock);
	if (!task->is_queued) {
		task->is_queued = 1;
		task->due_msec = due_msec;
		task->next = NULL;
		*conn->tasks_end = task;
		conn->tasks_end = &task->next;
	}
	pthread_mutex_unlock(&client->lock);
}

/* With client->lock held. */
static void take_task_out(struct cowi_conn *conn, struct cowi_task *task)
{
	struct cowi_task **link;

	for (link = &conn->tasks; *link; link = &(*link)->next) {
		if (*link == task) {
			*link = task->next;
			if (conn->tasks_end == &task->next)
				conn->tasks_end = link;
			break;
		}
	}
	for (link = &conn->due; *link; link = &(*link)->next) {
		if (*link == task) {
			*link = task->next;
			break;
		}
	}
	task->is_queued = 0;
	task->next = NULL;
}

void cowi_cancel(struct cow_client *client, struct cowi_task *task)
{
	struct cowi_conn *conn = client->conn;
	int r = 0;

	pthread_mutex_lock(&client->lock);
	while (!r && conn->running == task && !cowi_in_client_thread(client))
		r = cowi_event_wait(&client->changed, &client->lock, NULL);
	if (task->is_queued)
		take_task_out(conn, task);
	pthread_mutex_unlock(&client->lock);
}

/* With client->lock held: take those tasks out that are due, or all when the client ends. */
static struct cowi_task *take_due(struct cowi_conn *conn)
{
	struct cowi_task *due = NULL, **due_end = &due, **link = &conn->tasks;
	const uint64_t now = now_msec();

	while (*link) {
		struct cowi_task *task = *link;

		if (conn->thread_state != COWI_THREAD_STOPPING && task->due_msec > now) {
			link = &task->next;
			continue;
		}
		*link = task->next;
		task->next = NULL;
		*due_end = task;
		due_end = &task->next;
	}
	conn->tasks_end = link;
	return due;
}

void cowi_tasks_run(struct cow_client *client)
{
	struct cowi_conn *conn = client->conn;
	struct cowi_task *task;

	pthread_mutex_lock(&client->lock);
	conn->due = take_due(conn);
	while ((task = conn->due)) {
		conn->due = task->next;
		task->is_queued = 0;
		task->next = NULL;
		conn->running = task;
		pthread_mutex_unlock(&client->lock);
		task->run(task);
		pthread_mutex_lock(&client->lock);
		conn->running = NULL;
		cowi_event_signal(&client->changed); /* for cowi_cancel() */
	}
	pthread_mutex_unlock(&client->lock);
}

uint64_t cowi_tasks_due_msec(const struct cowi_conn *conn)
{
	uint64_t due_msec = UINT64_MAX;

	for (const struct cowi_task *task = conn->tasks; task; task = task->next)
		due_msec = min_u64(due_msec, task->due_msec);
	return due_msec;
}
