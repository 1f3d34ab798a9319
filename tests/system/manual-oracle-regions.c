/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Steps of manual-oracle.c that begin and end regions. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "system/manual-oracle.h"

static size_t pick_size(struct oracle *oracle)
{
	switch (oracle_below(oracle, 6)) {
	case 0:
		return (1 + oracle_below(oracle, 40)) * oracle->page;
	case 1:
		return (2 << 20) + oracle_below(oracle, 8) * oracle->page - 4 * oracle->page;
	case 2:
		return (8 << 20) + oracle_below(oracle, 4) * oracle->page;
	default:
		return (1 + oracle_below(oracle, 1023)) * oracle->page;
	}
}

static struct cow_region_params pick_params(struct oracle *oracle, size_t n_bytes)
{
	struct cow_region_params params = {
		.size_bytes = n_bytes, .mode = oracle->mode, .name = "manual"};

	if (oracle_one_in(oracle, 4))
		params.flags |= COW_REGION_POPULATE;
	if (oracle->mode != COW_MODE_UFFD && oracle_one_in(oracle, 6))
		params.flags |= COW_REGION_NO_FORK;
	if (oracle->may_stop_threads && oracle->mode != COW_MODE_UFFD)
		params.flags |= COW_REGION_STOP_THREADS;
	return params;
}

void step_new(struct oracle *oracle)
{
	struct area *area = oracle_free_area(oracle);
	size_t n_bytes = pick_size(oracle);
	struct cow_region_params params = pick_params(oracle, n_bytes);
	struct cow_region *region = NULL;
	int r;

	if (!area)
		return;
	do
		r = cow_region_new(&region, oracle->client, &params);
	while (r == -ENOTCONN && oracle->is_unsure);
	if (r) {
		oracle_complain(oracle, "cow_region_new: error %d: %s", r, cow_last_error());
		return;
	}
	*area = (struct area){.region = region,
			      .serial = ++oracle->n_serials,
			      .flags = params.flags,
			      .mem = cow_region_address(region),
			      .n_bytes = n_bytes};
	area->shadow = proof_alloc(n_bytes);
	memset(area->shadow, 0, n_bytes);
	oracle_note(oracle, " region %u of %#zx, flags %u", area->serial, n_bytes, area->flags);
	if (cow_region_size(region) != n_bytes)
		oracle_complain(oracle, "region %u has a wrong size", area->serial);
	else if (oracle_one_in(oracle, 2))
		oracle_check_area(oracle, area);
}

void oracle_area_end(struct oracle *oracle, struct area *area)
{
	oracle_note(oracle, " region %u%s", area->serial, area->is_adopted ? " (adopted)" : "");
	for (size_t i = 0; i < N_HELD; i++) {
		if (!oracle->held[i].snap || oracle->held[i].area != area)
			continue;
		if (area->is_adopted)
			oracle_release(oracle, &oracle->held[i]);
		else
			oracle->held[i].area = NULL;
	}
	area->region = cow_region_unref(area->region);
	if (area->is_adopted) {
		oracle_check_area(oracle, area); /* its memory stays, with all that is in it */
		area->mem[0] = area->shadow[0] = 1;
		oracle_check_area(oracle, area);
		(void)munmap(area->mem, area->n_bytes);
	}
	free(area->shadow);
	*area = (struct area){.region = NULL};
}

void step_free(struct oracle *oracle)
{
	struct area *area = oracle_area(oracle);

	if (area)
		oracle_area_end(oracle, area);
}

void step_adopt(struct oracle *oracle)
{
	struct area *area = oracle_free_area(oracle);
	struct cow_region_params params = pick_params(oracle, 0);
	size_t n_bytes = pick_size(oracle);
	void *mem;
	int r;

	if (!area || oracle->mode == COW_MODE_UFFD || oracle->is_unsure)
		return;
	mem = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED) {
		oracle_complain(oracle, "mmap: %s", strerror(errno));
		return;
	}
	*area = (struct area){.serial = ++oracle->n_serials,
			      .flags = params.flags,
			      .mem = mem,
			      .n_bytes = n_bytes,
			      .is_adopted = true};
	area->shadow = proof_alloc(n_bytes);
	memset(area->shadow, 0, n_bytes);
	if (oracle_one_in(oracle, 2)) {
		size_t len = 1 + oracle_below(oracle, n_bytes);

		oracle_fill(area->mem, len, n_bytes);
		oracle_fill(area->shadow, len, n_bytes);
	}
	oracle_note(oracle, " region %u of %#zx, flags %u", area->serial, n_bytes, area->flags);
	company_begin(oracle, area, NULL);
	r = cow_region_adopt(&area->region, oracle->client, mem, n_bytes, &params);
	company_finish(oracle, area);
	oracle_check_area(oracle, area);
	if (!r && (oracle->lends || oracle->is_unsure))
		return;
	if (r != -EPERM || oracle->lends)
		oracle_complain(oracle, "cow_region_adopt: %d: %s", r, cow_last_error());
	if (!r)
		return;
	(void)munmap(mem, n_bytes); /* it is anonymous memory, as it was */
	free(area->shadow);
	*area = (struct area){.region = NULL};
}
