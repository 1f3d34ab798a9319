#!/bin/bash
# What newer kernels do better has a fallback for older ones. Each is switched off by itself, and the
# invariants of mode uffd hold all the same. Linux 6.1 itself is vm.sh's matter.
set -eu
here=${abs_top_builddir:?is set by make check}/tests/system
failed=0

for feature in continue-wp minor-shmem thread-id; do
	for program in ordered-pairs invariants; do
		echo "--- without $feature: $program"
		COWD_PROOF_MODES=uffd COWD_PROOF_WITHOUT=$feature "$here/$program" || failed=1
	done
done
exit $failed
