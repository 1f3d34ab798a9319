#!/bin/bash
# Lazy arming has a fallback for kernels before 6.4, arming eagerly, and the invariants of mode uffd hold in
# it all the same. Other features are switched off one by one in uffd-fallbacks.sh; Linux 6.1 itself is
# vm.sh's matter.
#
# Seen to fail with: arming without the region's served.lock, so that faults were resolved meanwhile.
set -eu
here=${abs_top_builddir:?is set by make check}/tests/system
failed=0

for program in ordered-pairs invariants; do
	COWD_PROOF_MODES=uffd COWD_PROOF_WITHOUT=continue-wp "$here/$program" || failed=1
done
exit $failed
