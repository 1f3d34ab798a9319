// SPDX-License-Identifier: LGPL-2.1-or-later
/* Regions by address, and the address space that they get. */
#include "config.h"

#include <check.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "backends/space.h"
#include "libclient/internal.h"

enum {
	N_REGIONS = 200,
};

/* Regions of one page each, with a page between two of them, in an order that is none. */
static struct cow_region regions[N_REGIONS];

static void add_all(void)
{
	size_t page = page_size_bytes();

	for (size_t i = 0; i < N_REGIONS; i++) {
		size_t place = i * 7919 % N_REGIONS;

		regions[place].addr = (char *)(uintptr_t)((2 * place + 16) * page);
		regions[place].size_bytes = page;
		regions[place].n_refs = 1;
		ck_assert_int_eq(cowi_registry_add(&regions[place]), 0);
	}
}

static void remove_all(void)
{
	for (size_t i = 0; i < N_REGIONS; i++)
		cowi_registry_remove(&regions[i * 7907 % N_REGIONS]);
}

START_TEST(each_byte_finds_its_region)
{
	size_t page = page_size_bytes();

	for (size_t i = 0; i < N_REGIONS; i++) {
		ck_assert_ptr_eq(cowi_registry_find(regions[i].addr), &regions[i]);
		ck_assert_ptr_eq(cowi_registry_find(regions[i].addr + page - 1), &regions[i]);
		ck_assert_ptr_null(cowi_registry_find(regions[i].addr + page));
		ck_assert_ptr_null(cowi_registry_find(regions[i].addr - 1));
		ck_assert_int_eq(regions[i].n_refs, 3);
	}
	ck_assert_ptr_null(cowi_registry_find(NULL));
	ck_assert_ptr_null(cowi_registry_find((void *)UINTPTR_MAX));
}
END_TEST

START_TEST(a_region_at_its_end_is_not_found)
{
	struct cow_region **list = NULL;
	size_t n;

	regions[5].n_refs = 0;
	ck_assert_ptr_null(cowi_registry_find(regions[5].addr));
	ck_assert_int_eq(regions[5].n_refs, 0);
	ck_assert_int_eq(cowi_registry_list(&list, &n), 0);
	ck_assert_uint_eq(n, N_REGIONS - 1);
	for (size_t i = 0; i < n; i++)
		ck_assert_int_eq(list[i]->n_refs, 2);
	free((void *)list);
}
END_TEST

START_TEST(what_was_removed_is_not_found)
{
	for (size_t i = 0; i < N_REGIONS; i += 2)
		cowi_registry_remove(&regions[i]);
	/* twice does no harm */
	cowi_registry_remove(&regions[0]);
	for (size_t i = 0; i < N_REGIONS; i++)
		ck_assert_ptr_eq(cowi_registry_find(regions[i].addr), i % 2 ? &regions[i] : NULL);
}
END_TEST

START_TEST(address_space_is_aligned)
{
	static const struct {
		uint64_t n_bytes;
		uint64_t align;
	} rows[] = {
		{1, 0},
		{1 << 20, 0},
		{2 << 20, 2 << 20},
		{3 << 20, 2 << 20},
		{1 << 30, 1 << 30},
		{UINT64_C(5) << 30, 1 << 30},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t n_bytes = align_up(rows[i].n_bytes, page_size_bytes());
		uint64_t align = rows[i].align ? rows[i].align : page_size_bytes();
		char *addr = NULL;

		ck_assert_int_eq(space_reserve(&addr, n_bytes), 0);
		ck_assert_uint_eq((uintptr_t)addr % align, 0);
		/* all of it is ours */
		ck_assert_int_eq(mprotect(addr, n_bytes, PROT_READ), 0);
		ck_assert_int_eq(munmap(addr, n_bytes), 0);
	}
}
END_TEST

START_TEST(no_address_space_is_a_sentence)
{
	char *addr = NULL;

	ck_assert_int_eq(space_reserve(&addr, UINT64_C(1) << 62), -ENOMEM);
	ck_assert_int_eq(space_reserve(&addr, UINT64_MAX - 4095), -ENOMEM);
	ck_assert_ptr_null(addr);
	ck_assert_ptr_nonnull(strstr(err_sentence(), "address space"));
}
END_TEST

static sigjmp_buf on_bus;

static void handle_bus(int signal)
{
	(void)signal;
	siglongjmp(on_bus, 1);
}

START_TEST(broken_memory_raises_sigbus)
{
	struct sigaction action = {.sa_handler = handle_bus};
	size_t n_bytes = 8 * page_size_bytes();
	char *addr = NULL;

	ck_assert_int_eq(space_reserve(&addr, n_bytes), 0);
	ck_assert_int_eq(mprotect(addr, n_bytes, PROT_READ | PROT_WRITE), 0);
	memset(addr, 1, n_bytes);
	ck_assert_int_eq(cowi_map_broken(addr, n_bytes), 0);
	ck_assert(!sigaction(SIGBUS, &action, NULL));
	for (size_t off = 0; off < n_bytes; off += page_size_bytes()) {
		if (!sigsetjmp(on_bus, 1))
			ck_abort_msg("read %d", ((volatile char *)addr)[off]);
	}
	ck_assert_int_eq(munmap(addr, n_bytes), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("registry");
	TCase *registry = tcase_create("registry");
	TCase *map = tcase_create("map");
	SRunner *runner = srunner_create(suite);
	int n_failed;

	tcase_add_checked_fixture(registry, add_all, remove_all);
	tcase_add_test(registry, each_byte_finds_its_region);
	tcase_add_test(registry, a_region_at_its_end_is_not_found);
	tcase_add_test(registry, what_was_removed_is_not_found);
	suite_add_tcase(suite, registry);
	tcase_add_test(map, address_space_is_aligned);
	tcase_add_test(map, no_address_space_is_a_sentence);
	tcase_add_test(map, broken_memory_raises_sigbus);
	suite_add_tcase(suite, map);
	srunner_run_all(runner, CK_NORMAL);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
