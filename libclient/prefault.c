// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What the first take would have to wait for: pages of code that has not run yet in this process,
 * and of the heap that no allocation has reached. Each is a page fault, of 10 to 60 us where memory
 * is cold (measured on Linux 6.18, 2 CPUs, in a virtual machine), in a take of less than 100 us.
 *
 * Memory that is not to be had costs nothing but that time, so errors are left alone.
 */
#include "config.h"

#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "libclient/conn.h"

#ifndef MADV_POPULATE_READ /* since Linux 5.14 */
#define MADV_POPULATE_READ 22
#endif

/* More than a take allocates, small enough for malloc() to keep when it is freed. */
#define HEAP_BYTES  ((size_t)16 << 10)
#define STACK_BYTES ((size_t)8 << 10)

/* A library as a whole; of a large program that this one is linked into, what is near. */
#define WHOLE_BYTES ((uintptr_t)4 << 20)
#define NEAR_BYTES  ((uintptr_t)256 << 10)

static void prefault_range(uintptr_t start, uintptr_t end, uintptr_t wanted)
{
	if (end - start > WHOLE_BYTES) {
		start = max_u64(start, wanted - min_u64(wanted, NEAR_BYTES));
		end = min_u64(end, wanted + NEAR_BYTES);
	}
	start = align_down(start, page_size_bytes());
	(void)madvise((void *)start, align_up(end, page_size_bytes()) - start, MADV_POPULATE_READ);
}

/* The code of @info, if it is the object that has @user in it. */
static int prefault_object(struct dl_phdr_info *info, size_t n_bytes, void *user)
{
	const uintptr_t wanted = (uintptr_t)user;

	(void)n_bytes;
	for (size_t i = 0; i < info->dlpi_phnum; i++) {
		uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
		uintptr_t end = start + info->dlpi_phdr[i].p_memsz;

		if (info->dlpi_phdr[i].p_type != PT_LOAD || wanted < start || wanted >= end)
			continue;
		prefault_range(start, end, wanted);
		return 1;
	}
	return 0;
}

/* This library, those that it calls. */
static void prefault_code(void)
{
	(void)dl_iterate_phdr(prefault_object, (void *)(uintptr_t)prefault_object);
	(void)dl_iterate_phdr(prefault_object, (void *)(uintptr_t)protobuf_c_message_pack);
	(void)dl_iterate_phdr(prefault_object, (void *)(uintptr_t)mremap);
}

/* As deep as a take goes; less than the smallest stack that a thread can have. */
static void prefault_stack(void)
{
	volatile char frame[STACK_BYTES];

	for (size_t at = 0; at < STACK_BYTES; at += page_size_bytes())
		frame[at] = 0;
	frame[STACK_BYTES - 1] = frame[0];
}

/* The calling thread's: it is likely that the same thread takes the snapshots. */
static void prefault_heap(void)
{
	volatile char *block = malloc(HEAP_BYTES);

	for (size_t at = 0; block && at < HEAP_BYTES; at += page_size_bytes())
		block[at] = 0;
	free((void *)(uintptr_t)block);
}

void cowi_prefault(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	(void)pthread_once(&once, prefault_code);
	prefault_heap();
	prefault_stack();
}
