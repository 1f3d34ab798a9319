#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Mode uffd against its oracle on a kernel that lacks one thing after the other, by cowd's
# --without-feature: each fallback has to be as right as what it stands in for.
set -u

cowd=${COWD_EXECUTABLE:-./cowd}
oracle=${abs_top_builddir:-.}/tests/system/uffd-oracle
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
n_failed=0

export COWD_EXECUTABLE=$dir/cowd
export COW_ORACLE_STEPS=${COW_ORACLE_STEPS:-60}

for feature in minor-shmem continue-wp dontunmap thread-id poison exact-address; do
	printf '#!/bin/sh\nexec %q --without-feature %s "$@"\n' "$cowd" "$feature" >"$COWD_EXECUTABLE"
	chmod +x "$COWD_EXECUTABLE"
	"$oracle" >"$dir/log" 2>&1
	status=$?
	# The oracle itself has nothing to say where the kernel cannot do mode uffd at all.
	[[ $status -eq 77 ]] && exit 77
	if [[ $status -ne 0 ]]; then
		echo "without $feature: status $status"
		cat "$dir/log"
		n_failed=$((n_failed + 1))
	fi
done
exit $((n_failed > 0))
