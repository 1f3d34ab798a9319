// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cowbench -m MODE: one shot of one mode, with the options and the output of the talk's measuring
 * tool.
 *
 * -x db stops the clock when the program can go on, -x snap when the first byte of the frozen copy
 * was read. -t then looks at page frames: before a write origin and duplicate have one frame in the
 * modes that share, after it they have two, and the duplicate's byte is the old one. For the
 * duplicate a snapshot is mapped into this process (scoot, uffd), the child is asked (fork), or it
 * is the region copied into (mmapcopy).
 */
#include "config.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/err.h"
#include "tools/bench/bench.h"

/**
 * struct measure - what was asked for
 * @is_test:       -t
 * @until_view:    -x snap
 * @is_verbose:    -v, and with -t always
 */
struct measure {
	const struct bench_mode *mode;
	const char *socket;
	uint64_t size_bytes;
	bool is_populated;
	bool is_test;
	bool until_view;
	bool is_verbose;
};

static void PRINTF(2, 3) tell(const struct measure *measure, const char *fmt, ...)
{
	va_list args;

	if (!measure->is_verbose)
		return;
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
}

static int freeze_timed(const struct measure *measure, struct subject *subject, uint64_t *nsec)
{
	uint64_t begin, end;
	int r;

	begin = now_nsec();
	r = measure->mode->freeze(subject);
	if (!r && measure->until_view)
		r = measure->mode->view(subject);
	end = now_nsec();
	if (r)
		return r;
	if (measure->until_view && subject->readable_nsec)
		end = subject->readable_nsec;
	*nsec = end - begin;
	/* -t looks at the view; with -x db it is made after the clock has stopped. */
	return measure->until_view ? 0 : measure->mode->view(subject);
}

static const char *duplicate_address(const struct subject *subject)
{
	/* A forked child has the duplicate at the address of the parent's origin. */
	return subject->view ? subject->view : subject->addr;
}

static void print_frames(const struct subject *subject, uint64_t origin, uint64_t duplicate)
{
	char buf[PAGE_DESCRIBE_MAX];

	printf("Origin:\n%p -> %s\n", (void *)subject->addr, page_describe(buf, origin));
	printf("Duplicate:\n%p -> %s\n", (const void *)duplicate_address(subject),
	       page_describe(buf, duplicate));
}

/* Writes to the origin and looks at both. CLI_OK; CLI_FAILED if the duplicate changed, said. */
static int test_duplicate(const struct measure *measure, struct subject *subject)
{
	uint8_t old_byte, duplicate_byte, new_byte = 0x55;
	uint64_t entry;
	int r;

	/* A page of the origin that nobody touched since may not be mapped: look at it first. */
	old_byte = *(volatile uint8_t *)subject->addr;
	r = measure->mode->peek(subject, 0, &duplicate_byte, &entry);
	if (r)
		return cli_fail(r, err_sentence(), measure->mode->name);
	print_frames(subject, page_entry(subject->addr), entry);
	if (old_byte == new_byte)
		new_byte = 0xaa;

	printf("Testing deduplication by writing to origin\n");
	*(volatile uint8_t *)subject->addr = new_byte;
	r = measure->mode->peek(subject, 0, &duplicate_byte, &entry);
	if (r)
		return cli_fail(r, err_sentence(), measure->mode->name);
	printf("Origin first page: 0x%x\n", *(volatile uint8_t *)subject->addr);
	printf("Copy first page: 0x%x\n", duplicate_byte);
	print_frames(subject, page_entry(subject->addr), entry);
	if (duplicate_byte != old_byte) {
		cli_say("%s: the duplicate changed from 0x%x to 0x%x when the origin was written",
			measure->mode->name, old_byte, duplicate_byte);
		return CLI_FAILED;
	}
	return CLI_OK;
}

static int run(const struct measure *measure)
{
	uint64_t n_pages = measure->size_bytes / page_size_bytes(), nsec;
	struct subject subject;
	int r;

	tell(measure, "My PID: %d\n", (int)getpid());
	tell(measure, "Working on %" PRIu64 "MiB (%" PRIu64 " pages @%zuB)\n",
	     measure->size_bytes >> 20, n_pages, page_size_bytes());
	r = subject_open(&subject, measure->mode, bench_address(measure->socket),
			 measure->size_bytes, measure->is_populated);
	if (r)
		return cli_fail(r, err_sentence(), measure->mode->name);
	tell(measure, "Allocated %" PRIu64 " pages at %p\n", n_pages, (void *)subject.addr);
	fflush(stdout); /* a forked child must not print it a second time */

	r = freeze_timed(measure, &subject, &nsec);
	if (r) {
		r = cli_fail(r, err_sentence(), measure->mode->name);
	} else {
		tell(measure, "Origin virtual address: %p\nDuplicate virtual address: %p%s\n",
		     (void *)subject.addr, (const void *)duplicate_address(&subject),
		     subject.view ? "" : " (in the child)");
		printf("%" PRIu64 "ns (%.2fms)\n", nsec, (double)nsec / 1e6);
		r = measure->is_test ? test_duplicate(measure, &subject) : CLI_OK;
	}
	subject_close(&subject);
	return r;
}

static int parse_mode(struct measure *measure, const char *name)
{
	measure->mode = bench_mode_find(name);
	if (measure->mode && measure->mode->in_talk)
		return CLI_OK;
	return cli_unknown(
		"mode of -m {scoot|fork|mmapcopy|uffd}", name,
		cli_nearest(name, &bench_modes[0].name, n_bench_modes - 1, sizeof(bench_modes[0])));
}

static int parse_options(struct measure *measure, int argc, char **argv)
{
	static const struct option long_options[] = {
		{"socket", required_argument, NULL, 'S'},
		{0},
	};
	int c, r = CLI_OK;

	opterr = 0;
	while (!r && (c = getopt_long(argc, argv, ":m:s:ptx:v", long_options, NULL)) != -1) {
		switch (c) {
		case 'm':
			r = parse_mode(measure, optarg);
			break;
		case 's':
			if (!bench_parse_size(&measure->size_bytes, optarg))
				r = cli_usage("-s wants " BENCH_SIZE_WANTS ", not '%s'", optarg);
			break;
		case 'p':
			measure->is_populated = true;
			break;
		case 't':
			measure->is_test = measure->is_verbose = true;
			break;
		case 'x':
			measure->until_view = !strcmp(optarg, "snap");
			if (!measure->until_view && strcmp(optarg, "db") != 0)
				r = cli_usage("-x wants db or snap, not '%s'", optarg);
			break;
		case 'v':
			measure->is_verbose = true;
			break;
		case 'S':
			measure->socket = optarg;
			break;
		case ':':
			return cli_usage("%s needs a value", argv[optind - 1]);
		default:
			if (optopt)
				return cli_usage("there is no option -%c here", optopt);
			return cli_usage("there is no option %s here", argv[optind - 1]);
		}
	}
	if (!r && optind < argc)
		return cli_usage("'%s' is an argument too many", argv[optind]);
	if (!r && !measure->mode)
		return cli_usage("-m {scoot|fork|mmapcopy|uffd} is missing");
	return r;
}

int bench_measure(int argc, char **argv)
{
	struct measure measure = {.size_bytes = 1 << 20};
	int r;

	r = parse_options(&measure, argc, argv);
	if (r)
		return r;
	r = memory_check(measure.size_bytes, measure.is_populated ? 1 : 0);
	if (r)
		return cli_fail(r, err_sentence(), "cannot measure");
	return run(&measure);
}
