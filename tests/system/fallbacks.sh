#!/bin/bash
# Mode uffd on a kernel that lacks one thing after the other, by cowd's --without-feature: each fallback
# has to be as right as what it stands in for, by the oracle. Lazy arming has the largest one, arming
# eagerly (kernels before 6.4), so that the invariants are tested in it as well. Linux 6.1 itself is vm.sh's
# matter.
#
# Seen to fail with: arming without the region's served.lock, so that faults were resolved meanwhile.
set -u
here=${abs_top_builddir:?is set by make check}/tests/system
export COW_ORACLE_STEPS=${COW_ORACLE_STEPS:-60} COWD_PROOF_MODES=uffd
failed=0

# without FEATURE PROGRAM: PROGRAM, whose every cowd does without FEATURE
without()
{
	local status=0 said

	said=$(COWD_PROOF_WITHOUT=$1 "$here/$2" 2>&1) || status=$?
	if [ "$status" -eq 77 ]; then
		echo "$said"
		exit 77 # this kernel cannot do mode uffd at all
	fi
	[ "$status" -eq 0 ] && echo "ok: $2 without $1" && return
	echo "FAILED: $2 without $1: status $status"
	echo "$said"
	failed=1
}

for program in ordered-pairs invariants; do without continue-wp "$program"; done
for feature in minor-shmem continue-wp dontunmap thread-id poison exact-address; do
	without "$feature" uffd-oracle
done
exit "$failed"
