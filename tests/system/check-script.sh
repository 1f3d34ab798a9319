#!/bin/bash
# ./check tells the truth: what it does not know it refuses, what was not tested it does not call passed.
#
# Seen to fail with: any word taken for the name of a step, so that `--only=plan` built nothing and passed;
# tests that return at once counted as passed.
set -u
check=${abs_top_srcdir:?is set by make check}/check
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

# expect STATUS REGEX WHAT ARGUMENT...: run ./check with these; all it says has REGEX in it
expect()
{
	local status=$1 regex=$2 what=$3 rc=0
	shift 3

	bash "$check" "$@" >"$dir/out" 2>&1 </dev/null || rc=$?
	[ "$rc" -eq "$status" ] && grep -Eq -- "$regex" "$dir/out" && echo "ok: $what" && return
	echo "FAILED: $what: status $rc, not $status, or no '$regex' in:"
	cat "$dir/out"
	failed=1
}

expect 2 "no step 'plan', only plain, .*lint, dist" 'a step that there is not' --only=plan
expect 2 "no step 'lnt'" 'one of several' --only=plain,lnt
expect 2 'names no step' 'no step' --only=
expect 2 'unknown argument: --kernel' 'an option that there is not' --kernel
expect 0 '^usage: .*check' 'help' -h
expect 0 'minutes' 'help says how long it takes' --help

# What people are told to type.
known=,$(sed -n 's/^steps=\([a-z,]*\)$/\1/p' "$check"),
for words in $(cat "$abs_top_srcdir"/*.md | grep -o -- '--only=[a-z,]*'); do
	for word in $(tr , ' ' <<<"${words#*=}"); do
		case $known in *",$word,"*) continue ;; esac
		echo "FAILED: a document has $words, and $word is none of $known"
		failed=1
	done
done

# What the script counts, by its own functions: one libcheck program of four tests, two of which returned
# at once, one program that skipped itself, one script that left a part out.
mkdir "$dir/tests"
printf ':test-result: PASS\n' >"$dir/tests/a.trs"
printf '%s\n' 'LEFT OUT mode uffd: none' 'SKIPPED b: no root' 'SKIPPED b: no root' \
	'100%: Checks: 4, Failures: 0, Errors: 0' >"$dir/tests/a.log"
printf ':test-result: SKIP\n' >"$dir/tests/b.trs"
printf 'no namespaces\nSKIP b (exit status: 77)\n' >"$dir/tests/b.log"
printf ':test-result: PASS\n' >"$dir/tests/c.trs"
printf 'ok: one\nLEFT OUT another: no mount\n' >"$dir/tests/c.log"

# shellcheck disable=SC1090 # the functions of ./check, without its run
source <(sed -n '/^complain()/,/^}/p; /^list_skipped()/,/^}/p; /^count_tests()/,/^}/p' "$check")
passed=0 skipped=0 n_tested=0
left_out=() unhappy=()
count_tests "$dir" plain >"$dir/out"
printf '%s\n' "${left_out[@]}" >>"$dir/out"
echo "passed $passed skipped $skipped tested $n_tested unhappy ${#unhappy[@]}" >>"$dir/out"
cat >"$dir/want" <<'E2'
            plain tests: 3 passed, 0 failed, 5 skipped
plain tests/a: mode uffd: none
plain tests/a: b: no root
plain tests/b: no namespaces
plain tests/c: another: no mount
passed 3 skipped 5 tested 3 unhappy 0
E2
if diff "$dir/want" "$dir/out"; then
	echo 'ok: what was not tested is not passed'
else
	echo 'FAILED: what was counted'
	failed=1
fi
exit "$failed"
