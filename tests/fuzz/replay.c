// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Runs the fuzzer's target without a fuzzer: on conversations that make sense, on those cut off at
 * every byte and with bits turned over, and on files.
 *
 *	replay [FILE…]      what was said above, then each FILE
 *	replay --seeds DIR  write the conversations into DIR, to begin fuzzing with
 *
 * Seen to fail: with a hold that session_end() does not let go of, and with a descriptor of a
 * request that no handler took left open by call_free().
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/util.h"
#include "proto/cow.pb-c.h"

enum {
	CONVERSATION_MAX = 4096,
	FLIPS_PER_CONVERSATION = 400,
	REGION_BYTES = 1 << 16,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct conversation {
	uint8_t bytes[CONVERSATION_MAX];
	size_t n_bytes;
	uint64_t next_id;
};

/* @head: as in the input's format, fuzz-dispatch.c */
static void say(struct conversation *talk, Cow__V1__Request *request, unsigned int head)
{
	uint8_t *at = talk->bytes + talk->n_bytes;
	size_t n_bytes;

	request->id = ++talk->next_id;
	request->n_fds = head & 3;
	n_bytes = cow__v1__request__get_packed_size(request);
	if (talk->n_bytes + 3 + n_bytes > sizeof(talk->bytes))
		abort();
	at[0] = (uint8_t)head;
	at[1] = (uint8_t)n_bytes;
	at[2] = (uint8_t)(n_bytes >> 8);
	cow__v1__request__pack(request, at + 3);
	talk->n_bytes += 3 + n_bytes;
}

/* Head of a packet with one descriptor: a pipe's write end. */
#define A_PIPE (1 | 2 << 2)

/* One message type: SAY(talk, HELLO, hello, Hello, head, .version = 1) */
#define SAY(talk, ID, member, head, ...)                                                           \
	do {                                                                                       \
		__typeof__(*((Cow__V1__Request *)NULL)->member) message_;                          \
		Cow__V1__Request request_ = COW__V1__REQUEST__INIT;                                \
		cow__v1__##member##__init(&message_);                                              \
		set_##member(&message_, ##__VA_ARGS__);                                            \
		request_.call_case = COW__V1__REQUEST__CALL_##ID;                                  \
		request_.member = &message_;                                                       \
		say(talk, &request_, head);                                                        \
	} while (0)

static void set_hello(Cow__V1__Hello *message, uint32_t version)
{
	static char program[] = "fuzz";

	message->version = version;
	message->program = program;
}

static void set_region_create(Cow__V1__RegionCreate *message, int mode)
{
	message->mode = (Cow__V1__Mode)mode;
	message->size_bytes = REGION_BYTES;
}

static void set_region_attach(Cow__V1__RegionAttach *message, uint64_t id)
{
	message->region_id = id;
	message->addr = REGION_BYTES;
}

static void set_region_restore(Cow__V1__RegionRestore *message, int mode)
{
	message->mode = (Cow__V1__Mode)mode;
	message->size_bytes = REGION_BYTES;
}

static void set_region_free(Cow__V1__RegionFree *message, uint64_t id)
{
	message->region_id = id;
}

static void set_region_child(Cow__V1__RegionChild *message, uint64_t id)
{
	message->region_id = id;
	message->key = 1;
}

static void set_region_child_end(Cow__V1__RegionChildEnd *message)
{
	message->key = 1;
}

static void set_backing_create(Cow__V1__BackingCreate *message)
{
	message->size_bytes = REGION_BYTES;
}

static void set_backing_release(Cow__V1__BackingRelease *message, uint64_t id)
{
	message->backing_id = id;
}

static void set_snapshot_take(Cow__V1__SnapshotTake *message, uint64_t id,
			      Cow__V1__Extent **extents, size_t n_extents)
{
	message->region_id = id;
	message->extents = extents;
	message->n_extents = n_extents;
}

static void set_snapshot_open(Cow__V1__SnapshotOpen *message, uint64_t id)
{
	message->snapshot_id = id;
}

static void set_snapshot_release(Cow__V1__SnapshotRelease *message, uint64_t id)
{
	message->snapshot_id = id;
}

static void set_snapshot_read(Cow__V1__SnapshotRead *message, uint64_t id, uint64_t off)
{
	message->snapshot_id = id;
	message->off = off;
	message->size_bytes = 4096;
}

static void set_snapshot_map(Cow__V1__SnapshotMap *message, uint64_t id)
{
	message->snapshot_id = id;
	message->addr = REGION_BYTES;
}

static void set_snapshot_unmap(Cow__V1__SnapshotUnmap *message, uint64_t id)
{
	message->view_id = id;
}

static void set_snapshot_save(Cow__V1__SnapshotSave *message, uint64_t id)
{
	message->snapshot_id = id;
}

static void set_save_cancel(Cow__V1__SaveCancel *message, uint64_t id)
{
	message->request_id = id;
}

static void set_status(Cow__V1__Status *message)
{
	(void)message;
}

static void set_stats(Cow__V1__Stats *message)
{
	(void)message;
}

static void set_list_clients(Cow__V1__ListClients *message)
{
	(void)message;
}

static void set_list_regions(Cow__V1__ListRegions *message)
{
	(void)message;
}

static void set_list_snapshots(Cow__V1__ListSnapshots *message)
{
	(void)message;
}

/* Ids count from 1 in every conversation: session, backing, region, snapshots. Others are tried
 * too. */
#define EACH_ID(id) for (uint64_t id = 1; id <= 6; id++)

static void talk_of_regions(struct conversation *talk)
{
	SAY(talk, HELLO, hello, 0, 1);
	SAY(talk, REGION_CREATE, region_create, 0, COW__V1__MODE__MODE_SCOOT);
	SAY(talk, REGION_CREATE, region_create, 0, COW__V1__MODE__MODE_UFFD);
	SAY(talk, REGION_RESTORE, region_restore, 1, COW__V1__MODE__MODE_SCOOT);
	SAY(talk, BACKING_CREATE, backing_create, 0);
	EACH_ID(id)
	SAY(talk, REGION_ATTACH, region_attach, 0, id);
	EACH_ID(id)
	SAY(talk, REGION_CHILD, region_child, 1, id);
	SAY(talk, REGION_CHILD_END, region_child_end, 0);
	SAY(talk, LIST_REGIONS, list_regions, 0);
	EACH_ID(id)
	SAY(talk, REGION_FREE, region_free, 0, id);
	EACH_ID(id)
	SAY(talk, BACKING_RELEASE, backing_release, 0, id);
}

static void talk_of_snapshots(struct conversation *talk)
{
	Cow__V1__Extent whole = COW__V1__EXTENT__INIT, part = COW__V1__EXTENT__INIT;
	Cow__V1__Extent *extents[] = {&whole, &part};

	SAY(talk, HELLO, hello, 0, 1);
	SAY(talk, REGION_CREATE, region_create, 0, COW__V1__MODE__MODE_SCOOT);
	SAY(talk, REGION_ATTACH, region_attach, 0, 3);
	whole.size_bytes = REGION_BYTES;
	part.off = 4096;
	part.size_bytes = 4096;
	part.sparse = true;
	EACH_ID(id)
	{
		whole.backing_id = part.backing_id = id;
		SAY(talk, SNAPSHOT_TAKE, snapshot_take, A_PIPE, 3, extents, 2);
	}
	EACH_ID(id)
	SAY(talk, SNAPSHOT_READ, snapshot_read, 0, id + 3, 4096);
	SAY(talk, LIST_SNAPSHOTS, list_snapshots, 0);
	EACH_ID(id)
	SAY(talk, SNAPSHOT_RELEASE, snapshot_release, 0, id + 3);
}

static void talk_of_saves(struct conversation *talk)
{
	Cow__V1__Extent whole = COW__V1__EXTENT__INIT;
	Cow__V1__Extent *extents[] = {&whole};

	SAY(talk, HELLO, hello, 0, 1);
	SAY(talk, REGION_CREATE, region_create, 0, COW__V1__MODE__MODE_SCOOT);
	whole.size_bytes = REGION_BYTES;
	whole.backing_id = 2;
	SAY(talk, SNAPSHOT_TAKE, snapshot_take, A_PIPE, 3, extents, 1);
	for (unsigned int kind = 0; kind < 6; kind++)
		SAY(talk, SNAPSHOT_SAVE, snapshot_save, 1 | kind << 2, 4);
	EACH_ID(id)
	SAY(talk, SAVE_CANCEL, save_cancel, 0, id + 3);
	SAY(talk, SNAPSHOT_OPEN, snapshot_open, 0, 4);
	SAY(talk, SNAPSHOT_MAP, snapshot_map, 1, 4);
	SAY(talk, SNAPSHOT_UNMAP, snapshot_unmap, 0, 5);
}

static void talk_of_state(struct conversation *talk)
{
	SAY(talk, STATUS, status, 0);
	SAY(talk, HELLO, hello, 0, 7);
	SAY(talk, STATUS, status, 0);
	SAY(talk, STATS, stats, 0);
	SAY(talk, LIST_CLIENTS, list_clients, 0);
	SAY(talk, STATUS, status, 3);
	SAY(talk, HELLO, hello, 0, 1);
}

static void talk_of_nothing(struct conversation *talk)
{
	(void)talk;
}

static const struct {
	const char *name;
	void (*make)(struct conversation *talk);
} talks[] = {
	{"regions", talk_of_regions}, {"snapshots", talk_of_snapshots}, {"saves", talk_of_saves},
	{"state", talk_of_state},     {"nothing", talk_of_nothing},
};

static void replay(const struct conversation *talk)
{
	static uint8_t changed[CONVERSATION_MAX];
	uint64_t state = 88172645463325252ULL;

	(void)LLVMFuzzerTestOneInput(talk->bytes, talk->n_bytes);
	for (size_t n = 0; n < talk->n_bytes; n += 1 + talk->n_bytes / 64)
		(void)LLVMFuzzerTestOneInput(talk->bytes, n);
	for (int i = 0; talk->n_bytes && i < FLIPS_PER_CONVERSATION; i++) {
		memcpy(changed, talk->bytes, talk->n_bytes);
		for (int k = 0; k < 1 + i % 4; k++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			changed[state % talk->n_bytes] ^= (uint8_t)(1u << (state >> 60));
		}
		(void)LLVMFuzzerTestOneInput(changed, talk->n_bytes);
	}
}

static int replay_file(const char *path)
{
	AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	CLEANUP(freep) uint8_t *bytes = NULL;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) || !(bytes = malloc((size_t)st.st_size + 1)) ||
	    read(fd, bytes, (size_t)st.st_size) != st.st_size) {
		(void)printf("%s: %s\n", path, strerror(errno));
		return -1;
	}
	return LLVMFuzzerTestOneInput(bytes, (size_t)st.st_size);
}

static int write_seed(const char *dir, const char *name, const struct conversation *talk)
{
	char path[512];
	AUTO_FD int fd = -1;

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, talk->bytes, talk->n_bytes) != (ssize_t)talk->n_bytes) {
		perror(path);
		return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *seeds = argc == 3 && !strcmp(argv[1], "--seeds") ? argv[2] : NULL;

	/* the daemon's log of thousands of broken connections */
	if (!seeds && !freopen("/dev/null", "w", stderr))
		return EXIT_FAILURE;
	for (size_t i = 0; i < ARRAY_SIZE(talks); i++) {
		struct conversation talk = {.n_bytes = 0};

		talks[i].make(&talk);
		if (!seeds)
			replay(&talk);
		else if (write_seed(seeds, talks[i].name, &talk))
			return EXIT_FAILURE;
	}
	for (int i = 1; !seeds && i < argc; i++) {
		if (replay_file(argv[i]))
			return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
