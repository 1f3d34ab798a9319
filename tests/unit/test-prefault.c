// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * cowi_prefault(): code that was dropped from page tables, a stack and a heap that nothing has
 * touched are there afterwards. Each of the three was seen to fail without its part of
 * cowi_prefault().
 *
 * In a thread with a stack and a heap of its own, so that nothing else has come there before. A
 * sanitizer has others: in its builds only code is looked at.
 */
#include "config.h"

#include <check.h>
#include <link.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "backends/pagemap.h"
#include "libclient/conn/conn.h"
#include "tests/skip.h"

#define STACK_BYTES ((size_t)256 << 10)

/* Of [@start, @end): pages in this process's page tables. */
static size_t count_present(uintptr_t start, uintptr_t end)
{
	const size_t page = page_size_bytes();
	unsigned char is_there[4096];
	struct pagemap pagemap;
	size_t n = 0;

	start = align_down(start, page);
	end = align_down(end, page);
	ck_assert_uint_le((end - start) / page, sizeof(is_there));
	ck_assert_int_eq(pagemap_init(&pagemap), 0);
	ck_assert_int_eq(
		pagemap_present(&pagemap, (const char *)start, (end - start) / page, is_there), 0);
	for (size_t i = 0; i < (end - start) / page; i++)
		n += is_there[i];
	return n;
}

struct code {
	const void *inside;
	uintptr_t start, end;
};

static int find_code(struct dl_phdr_info *info, size_t n_bytes, void *user)
{
	struct code *code = user;

	(void)n_bytes;
	for (size_t i = 0; i < info->dlpi_phnum; i++) {
		uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;

		if (info->dlpi_phdr[i].p_type != PT_LOAD ||
		    (uintptr_t)code->inside - start >= info->dlpi_phdr[i].p_memsz)
			continue;
		code->start = align_down(start, page_size_bytes());
		code->end = align_down(start + info->dlpi_phdr[i].p_memsz, page_size_bytes());
		return 1;
	}
	return 0;
}

START_TEST(code_is_there)
{
	struct code code = {.inside = (const void *)(uintptr_t)mremap};
	size_t n_pages;

	ck_assert_int_eq(dl_iterate_phdr(find_code, &code), 1);
	n_pages = (code.end - code.start) / page_size_bytes();
	ck_assert(!madvise((void *)code.start, code.end - code.start, MADV_DONTNEED));
	ck_assert_uint_lt(count_present(code.start, code.end), n_pages);
	cowi_prefault();
	ck_assert_uint_eq(count_present(code.start, code.end), n_pages);
}
END_TEST

/* Gives its frame's address; to look at the stack from here would use it. */
static void *prefault_there(void *user)
{
	cowi_prefault();
	*(uintptr_t *)user = (uintptr_t)__builtin_frame_address(0);
	return NULL;
}

START_TEST(a_stack_is_there)
{
	char *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	pthread_attr_t attr;
	pthread_t thread;
	uintptr_t frame;

	ck_assert(stack != MAP_FAILED);
	(void)madvise(stack, STACK_BYTES, MADV_NOHUGEPAGE);
	ck_assert(!pthread_attr_init(&attr));
	ck_assert(!pthread_attr_setstack(&attr, stack, STACK_BYTES));
	ck_assert(!pthread_create(&thread, &attr, prefault_there, &frame));
	ck_assert(!pthread_join(thread, NULL));
	pthread_attr_destroy(&attr);
	/* As much as cowi_prefault() says. */
	ck_assert_uint_eq(count_present(frame - 2 * page_size_bytes(), frame), 2);
	ck_assert(!munmap(stack, STACK_BYTES));
}
END_TEST

static void *allocate_there(void *user)
{
	char *block;

	(void)user;
	cowi_prefault();
	block = malloc(3 * page_size_bytes());
	ck_assert_ptr_nonnull(block);
	ck_assert_uint_eq(count_present((uintptr_t)block, (uintptr_t)block + 3 * page_size_bytes()),
			  3);
	free(block);
	return NULL;
}

START_TEST(a_heap_is_there)
{
	pthread_t thread;

	ck_assert(!pthread_create(&thread, NULL, allocate_there, NULL));
	ck_assert(!pthread_join(thread, NULL));
}
END_TEST

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED true
#else
#define IS_SANITIZED false
#endif

int main(void)
{
	Suite *suite = suite_create("prefault");
	TCase *tcase = tcase_create("prefault");
	SRunner *runner = srunner_create(suite);
	int failed;

	suite_add_tcase(suite, tcase);
	tcase_add_test(tcase, code_is_there);
	if (!IS_SANITIZED) {
		tcase_add_test(tcase, a_stack_is_there);
		tcase_add_test(tcase, a_heap_is_there);
	} else {
		tests_left_out("stack and heap: the sanitizer has its own");
	}
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
