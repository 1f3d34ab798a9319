#!/bin/sh
# run-test.sh PROGRAM [ARGUMENT...]: run one test so that it can neither hang the run nor leave
# processes behind. Its time limit is $COWD_TEST_SECONDS, by default 120, or 360 with a sanitizer;
# a test over it fails with status 124. Each test has a session of its own, so that all it started can be ended by its id.
set -u
case ${COWD_SANITIZERS:-no} in
no) seconds=${COWD_TEST_SECONDS:-120} ;;
*)
	seconds=${COWD_TEST_SECONDS:-360}
	export CK_TIMEOUT_MULTIPLIER="${CK_TIMEOUT_MULTIPLIER:-4}"
	;;
esac

# A finding of a sanitizer ends the process with a status that no test takes for its own.
ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=0:exitcode=98}
UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1:exitcode=98}
TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1:exitcode=98:suppressions=${abs_top_srcdir:-.}/tests/thread-sanitizer.supp}
export ASAN_OPTIONS UBSAN_OPTIONS TSAN_OPTIONS

setsid timeout --kill-after=5 "$seconds" "$@" </dev/null &
leader=$!
trap 'kill -KILL "-$leader" 2>/dev/null; exit 143' TERM INT HUP
wait "$leader"
status=$?
# What is left of the session's process group is the test's own; nothing else has that id.
kill -KILL "-$leader" 2>/dev/null
[ "$status" -eq 124 ] && echo "run-test.sh: not done after $seconds seconds: $*" >&2
exit "$status"
