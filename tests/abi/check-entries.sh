#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Every exported function begins with COWI_ENTRY(), which keeps signal handlers and cancellation out
# (libclient/base/entry.h), or is one of those that take no lock.
# Seen to fail: without COWI_ENTRY() in cow_region_discard().
set -eu

src=${abs_top_srcdir:-.}
# They read what never changes, count a reference, or hand all on to one that is an entry.
# cow_mmapcopy() is one where it maps: what it copies may need a handler of SIGSEGV of the program's.
exempt='cow_client_ref cow_region_ref cow_snapshot_ref cow_region_address cow_region_size cow_snapshot_size'
exempt="$exempt cow_snapshot_cost cow_last_error cow_version cow_snapshot_new cow_mmapcopy"
status=0
n=0
while read -r symbol; do
	n=$((n + 1))
	case " $exempt " in *" $symbol "*) continue ;; esac
	# From the line that begins its definition to the first line of its body.
	first=$(awk -v name="$symbol" '
		$0 ~ "^[a-z].*[ *]" name "\\(" { is_found = 1 }
		is_found && /;$/ && !is_body { is_found = 0 }
		is_body { print; exit }
		is_found && /^{/ { is_body = 1 }' "$src"/libclient/*.c "$src"/libclient/*/*.c)
	case $first in
	*"COWI_ENTRY();"*) ;;
	*)
		echo "$symbol() does not begin with COWI_ENTRY()"
		status=1
		;;
	esac
done < <(sed -n 's/^\t\([a-z_]*\);$/\1/p' "$src/libclient/libcowclient.map")
[ "$n" -ge 20 ] || { echo "only $n symbols were found"; status=1; }
exit $status
