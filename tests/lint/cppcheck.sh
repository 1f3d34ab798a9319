#!/bin/bash
# cppcheck finds nothing. A false alarm is suppressed where it is, inline, with a reason.
. "$(dirname "$0")/files.sh.inc"
need cppcheck
mapfile -t files < <(project_files '*.c')
[ ${#files[@]} -gt 0 ] || { echo "no C files found"; exit 1; }
# Leaks are the address sanitizer's matter: cppcheck does not know what CLEANUP and AUTO_FD free.
# The type of a member written as that of ((struct x *)NULL)->member is no dereference, and an array
# that a loop fills is not without values.
# Libraries' headers are not read: cppcheck knows the standard ones, and says nothing of unknown calls.
exec cppcheck --quiet -j "$(nproc)" --std=c11 --language=c --inline-suppr --error-exitcode=1 \
	--enable=warning,performance,portability --suppress=missingInclude \
	--suppress=nullPointer:tests/fuzz/replay.c --suppress=uninitvar:tests/unit/test-tools.c \
	--suppress=memleak --suppress=resourceLeak --suppress=unmatchedSuppression \
	--template='{file}:{line}: {id}: {message}' \
	-I. -Ilibclient -D_GNU_SOURCE -D__x86_64__ -UCOW_SANITIZED \
	'-DSTART_TEST(name)=static void name(int _i)' -DEND_TEST= \
	"${files[@]}"
