// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowctl check: find out what this machine, this user and the cowd at this address can do, and say
 * what to do about the rest. Each mode is tried: a small region is made, frozen, written to and
 * read back. If no cowd answers, a private one is started for that, so that the user learns what
 * would work.
 */
#include "config.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/err.h"
#include "libclient/conn/conn.h"
#include "tools/check-machine.h"
#include "tools/cli.h"
#include "tools/cowctl.h"
#include "tools/report.h"

enum {
	LEND_NO,
	LEND_YES,
	LEND_USER_MODE_ONLY
}; /* of HelloReply, cow.proto */

/**
 * struct check - one run
 * @client:     of the cowd at the address, or of a private one; NULL if there is neither
 * @is_private: @client is of a private one
 * @status:     CLI_OK; CLI_NO_DAEMON or CLI_DENIED: there is no connection; CLI_FAILED: a mode does
 *              not work
 */
struct check {
	const char *address;
	struct cow_client *client;
	bool is_private;
	int status;
	struct machine machine;
	struct json_object *kernel, *limits, *cowd, *modes;
};

/* --- cowd ------------------------------------------------------------------------------------- */

static void check_connection(struct check *check)
{
	char finding[160];
	int r;

	r = cow_client_new(&check->client, check->address);
	if (!r) {
		snprintf(finding, sizeof(finding), "answers at %s, process %d", check->address,
			 (int)check->client->conn->daemon_pid);
		check_row(check->cowd, "connection", CHECK_YES, finding, "");
		return;
	}
	check->status = r == -EACCES || r == -EPERM ? CLI_DENIED : CLI_NO_DAEMON;
	check_row(check->cowd, "connection", CHECK_NO, cow_last_error(), "");
	check->is_private = !cow_client_new(&check->client, cli_private_cowd());
	if (check->is_private)
		check_row(check->cowd, "private cowd", CHECK_YES,
			  "could be started, so modes were tried with that", "");
	else
		check_row(check->cowd, "private cowd", CHECK_NO, cow_last_error(), "");
}

static void check_lending(struct check *check)
{
	if (!check->client)
		return;
	switch (check->client->lend) {
	case LEND_YES:
		check_row(check->cowd, "lends a userfaultfd", CHECK_YES,
			  "programs need no right of their own", "");
		break;
	case LEND_USER_MODE_ONLY:
		check_row(check->cowd, "lends a userfaultfd", CHECK_SLOWER,
			  "for faults of user mode only: system calls that touch protected memory "
			  "fail with EFAULT",
			  "lend = yes in cowd.conf(5), unless that is wanted");
		break;
	default:
		check_row(check->cowd, "lends a userfaultfd", CHECK_NO,
			  "its policy forbids it, or it cannot open /dev/userfaultfd itself",
			  "cowd says which when it starts (journalctl -u cowd); cowd(8), LENDING");
	}
}

/* --- modes ------------------------------------------------------------------------------------ */

/* Freeze a region of some pages, change it, and read back what it was. 0 or -errno, a sentence. */
static int try_region(struct cow_region *region)
{
	struct cow_snapshot *snap = NULL;
	char *bytes = cow_region_address(region);
	char byte = 0;
	int r;

	*bytes = 'a';
	r = cow_snapshot_new(&snap, region);
	if (r)
		return r;
	*bytes = 'b';
	r = cow_snapshot_read(snap, &byte, 1, 0);
	if (!r && byte != 'a')
		r = err_raise(-EIO, "a snapshot shows what was written after it was taken");
	cow_snapshot_unref(snap);
	return r;
}

static int try_mode(struct cow_client *client, enum cow_mode mode)
{
	struct cow_region_params params = {
		.size_bytes = 4 * page_size_bytes(), .mode = mode, .name = "cowctl check"};
	struct cow_region *region = NULL;
	int r;

	r = cow_region_new(&region, client, &params);
	if (r)
		return r;
	r = try_region(region);
	cow_region_unref(region);
	return r;
}

struct reasons {
	char finding[512];
	char advice[256];
};

static void because(struct reasons *reasons, const char *finding, const char *advice)
{
	size_t n = strlen(reasons->finding), k = strlen(reasons->advice);

	snprintf(reasons->finding + n, sizeof(reasons->finding) - n, "%s%s", n ? "; " : "",
		 finding);
	snprintf(reasons->advice + k, sizeof(reasons->advice) - k, "%s%s", k && *advice ? "; " : "",
		 advice);
}

/* Why a mode that works is slower here than it could be; nothing if it is not. */
static void find_reasons(const struct check *check, enum cow_mode mode, struct reasons *reasons)
{
	if (mode == COW_MODE_UFFD) {
		if (!check->machine.has_lazy)
			because(reasons, "the stall grows with the region's size", "Linux 6.4");
		return;
	}
	if (check->client->lend == LEND_NO)
		because(reasons,
			"without a userfaultfd nothing is settled in the background: a program of "
			"one thread settles in its next snapshot, one of several copies in each "
			"all that was written since its region was made",
			"have cowd lend a userfaultfd");
	if (!check->machine.has_scan)
		because(reasons, "written pages are found by reading /proc/self/pagemap",
			"Linux 6.7");
	if (!check->machine.has_shadow)
		because(reasons, "page tables are built anew after each snapshot",
			"see address space");
}

static void check_mode(struct check *check, const char *name, enum cow_mode mode)
{
	struct reasons reasons = {.finding = ""};

	if (!check->client) {
		check_row(check->modes, name, CHECK_UNKNOWN, "not tried, as there is no cowd", "");
		return;
	}
	if (try_mode(check->client, mode)) {
		check_row(check->modes, name, CHECK_NO, cow_last_error(),
			  check->client->lend == LEND_NO && mode == COW_MODE_UFFD
				  ? "have cowd lend a userfaultfd"
				  : "");
		if (!check->status)
			check->status = CLI_FAILED;
		return;
	}
	find_reasons(check, mode, &reasons);
	check_row(check->modes, name, *reasons.finding ? CHECK_SLOWER : CHECK_YES,
		  *reasons.finding ? reasons.finding : "a region was frozen, changed and read back",
		  reasons.advice);
}

/* --- what is printed -------------------------------------------------------------------------- */

static const char *member(struct json_object *row, const char *key)
{
	return json_object_get_string(json_object_object_get(row, key));
}

static void print_rows(const char *title, struct json_object *rows)
{
	unsigned int width = report_width();

	printf("%s\n", title);
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		struct json_object *row = json_object_array_get_idx(rows, i);
		CLEANUP(freep) char *line = NULL;

		if (asprintf(&line, "%s: %s", member(row, "name"), member(row, "finding")) < 0)
			continue;
		printf("  %-7s ", member(row, "state"));
		report_paragraph(line, 10, width);
		if (*member(row, "advice")) {
			printf("          -> ");
			report_paragraph(member(row, "advice"), 13, width);
		}
	}
}

static void print_all(const struct check *check)
{
	print_rows("Kernel", check->kernel);
	print_rows("Limits and settings", check->limits);
	print_rows("cowd", check->cowd);
	print_rows(check->is_private ? "Modes, with a private cowd" : "Modes", check->modes);
}

static int print_json(struct check *check)
{
	struct json_object *document = json_object_new_object();
	int r;

	json_object_object_add(document, "address", report_text(check->address));
	json_object_object_add(document, "uid", json_object_new_uint64(geteuid()));
	json_object_object_add(document, "private", json_object_new_boolean(check->is_private));
	json_object_object_add(document, "kernel", json_object_get(check->kernel));
	json_object_object_add(document, "limits", json_object_get(check->limits));
	json_object_object_add(document, "cowd", json_object_get(check->cowd));
	json_object_object_add(document, "modes", json_object_get(check->modes));
	r = report_json(document);
	json_object_put(document);
	return r;
}

int ctl_check(struct ctl *ctl, char **args)
{
	struct check check = {.address = ctl->address,
			      .kernel = json_object_new_array(),
			      .limits = json_object_new_array(),
			      .cowd = json_object_new_array(),
			      .modes = json_object_new_array()};
	int r = 0;

	(void)args;
	check_connection(&check);
	check_lending(&check);
	check_kernel(check.kernel, &check.machine,
		     check.client ? check.client->uffd_device_fd : -1);
	check_limits(check.limits, &check.machine);
	check_mode(&check, "uffd", COW_MODE_UFFD);
	check_mode(&check, "scoot", COW_MODE_SCOOT);
	check_mode(&check, "mmapcopy", COW_MODE_MMAPCOPY);
	cow_client_unref(check.client);
	if (ctl->is_json)
		r = print_json(&check);
	else
		print_all(&check);
	json_object_put(check.kernel);
	json_object_put(check.limits);
	json_object_put(check.cowd);
	json_object_put(check.modes);
	return r ? cli_fail(r, err_sentence(), "check") : check.status;
}
