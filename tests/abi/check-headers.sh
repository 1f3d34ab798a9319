#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The public headers compile by themselves, in either order, as C99 and as C++17, without a warning; and
# the structs whose layout programs have compiled in keep it.
set -eu

src=${abs_top_srcdir:-.}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/use.c" <<'END'
#include HEADER
#include <stddef.h>
#include "cowclient.h"
#include "scoot.h"
#include "cowclient.h"

typedef char params_is_as_large_as_ever[sizeof(struct cow_region_params) == 88 ? 1 : -1];
typedef char snapshot_params_too[sizeof(struct cow_snapshot_params) == 88 ? 1 : -1];
typedef char name_is_where_it_was[offsetof(struct cow_region_params, name) == 16 ? 1 : -1];
int use(struct cow_client *client, struct cow_region **region);
int use(struct cow_client *client, struct cow_region **region)
{
	struct cow_region_params params = {4096, COW_MODE_SCOOT, 0, "x", {0, 0, 0, 0, 0, 0, 0, 0}};

	return cow_region_new(region, client, &params);
}
END
cp "$work/use.c" "$work/use.cc"
for header in cowclient.h scoot.h; do
	${CC:-cc} -std=c99 -pedantic-errors -Wall -Wextra -Werror -DHEADER="\"$header\"" \
		-I"$src/libclient" -c "$work/use.c" -o "$work/use.o"
	${CXX:-c++} -std=c++17 -pedantic-errors -Wall -Wextra -Werror -DHEADER="\"$header\"" \
		-I"$src/libclient" -c "$work/use.cc" -o "$work/use.o"
done
