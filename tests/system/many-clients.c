/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Many clients at once, mode uffd: each with a region and a snapshot of its own, all written to by
 * several threads, with one client that faults without end among them; every snapshot is what it
 * was, and everything is given back at the end.
 *
 * COW_CLIENTS sets how many (default 60; 1000 is what cowd is made for).
 */
#include "config.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "system/proof.h"

#define REGION_PAGES 24
#define STORM_PAGES  512
#define N_WRITERS    4

struct tenant {
	struct cow_client *client;
	struct cow_region *region;
	struct cow_snapshot *snap;
};

static size_t n_tenants;
static struct tenant *tenants;
static _Atomic bool storm_is_over;

static size_t region_bytes(void)
{
	return REGION_PAGES * page_size_bytes();
}

static void tenant_init(struct tenant *tenant, uint64_t seed)
{
	struct cow_region_params params = {.size_bytes = region_bytes(), .mode = COW_MODE_UFFD};

	proof_ok(cow_client_new(&tenant->client, proof_address()));
	proof_ok(cow_region_new(&tenant->region, tenant->client, &params));
	proof_fill(cow_region_address(tenant->region), region_bytes(), seed);
	proof_ok(cow_snapshot_new(&tenant->snap, tenant->region));
}

static void tenant_deinit(struct tenant *tenant)
{
	tenant->snap = cow_snapshot_unref(tenant->snap);
	tenant->region = cow_region_unref(tenant->region);
	tenant->client = cow_client_unref(tenant->client);
}

/* Every N_WRITERS-th tenant's memory, all of it. */
static void *write_share(void *arg)
{
	size_t number = (size_t)(uintptr_t)arg;

	for (size_t i = number; i < n_tenants; i += N_WRITERS)
		memset(cow_region_address(tenants[i].region), 0x77, region_bytes());
	return NULL;
}

/* Snapshots are taken and all is written, again and again. */
static void *storm(void *arg)
{
	size_t n_bytes = STORM_PAGES * page_size_bytes();
	struct cow_region *region = arg;

	while (!atomic_load(&storm_is_over)) {
		struct cow_snapshot *snap = NULL;

		proof_ok(cow_snapshot_new(&snap, region));
		memset(cow_region_address(region), 0x11, n_bytes);
		cow_snapshot_unref(snap);
	}
	return NULL;
}

static void write_all(void)
{
	pthread_t writers[N_WRITERS];

	for (size_t i = 0; i < N_WRITERS; i++)
		ck_assert_int_eq(pthread_create(&writers[i], NULL, write_share, (void *)i), 0);
	for (size_t i = 0; i < N_WRITERS; i++)
		pthread_join(writers[i], NULL);
}

START_TEST(each_of_many_clients_has_its_own)
{
	CLEANUP(cow_region_unrefp) struct cow_region *stormy = NULL;
	struct proof_holdings before, holdings;
	pthread_t storm_thread;
	const char *text = getenv("COW_CLIENTS");

	n_tenants = text ? strtoull(text, NULL, 0) : 60;
	tenants = proof_alloc(n_tenants * sizeof(*tenants));
	memset(tenants, 0, n_tenants * sizeof(*tenants));
	proof_holdings(&before);
	for (size_t i = 0; i < n_tenants; i++)
		tenant_init(&tenants[i], i);
	proof_holdings(&holdings);
	ck_assert_uint_eq(holdings.n_clients, before.n_clients + n_tenants);
	ck_assert_uint_eq(holdings.n_snapshots, n_tenants);

	stormy = proof_region(COW_MODE_UFFD, STORM_PAGES * page_size_bytes());
	ck_assert_int_eq(pthread_create(&storm_thread, NULL, storm, stormy), 0);
	write_all();
	atomic_store(&storm_is_over, true);
	pthread_join(storm_thread, NULL);
	stormy = cow_region_unref(stormy);

	for (size_t i = 0; i < n_tenants; i++)
		proof_check_snapshot(tenants[i].snap, i);
	for (size_t i = 0; i < n_tenants; i++)
		tenant_deinit(&tenants[i]);
	free(tenants);
	proof_wait_for_holdings(&before);
}
END_TEST

int main(void)
{
	TCase *tcase = proof_tcase("many-clients", 300);

	proof_need_uffd();
	tcase_add_test(tcase, each_of_many_clients_has_its_own);
	return proof_run(tcase);
}
