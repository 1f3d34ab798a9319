#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Options are the same in three places: what --help of cowd, cowctl and cowbench prints, what their man
# pages explain, and what bash completes.
#
# Seen to fail with: an option left out of each of the three in turn, and one that only a man page had.
set -eu

src=${abs_top_srcdir:-.}
build=${abs_top_builddir:-.}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0

bad()
{
	echo "$*"
	status=1
}

# Options that stand in a text, one a line. A man page has them in bold or underlined: *--json*, _-x_.
options_in()
{
	grep -oE "(^|[^[:alnum:]_-])--?[[:alpha:]][[:alnum:]-]*" | grep -oE -- '--?[[:alpha:]].*' | LC_ALL=C sort -u
}

# same WHAT LIST OTHER LIST
same()
{
	if ! diff <(printf '%s\n' "$2") <(printf '%s\n' "$4") >"$work/diff"; then
		bad "options of $1 (<) and of $3 (>) differ:"
		cat "$work/diff"
	fi
}

# What the page says of its own program: synopsis and descriptions, not those of other programs.
page_options()
{
	sed -nE 's/^(\*-.*)$/\1/p; /^# SYNOPSIS/,/^# DESCRIPTION/p' "$1" | tr '*_[]{}|' ' ' | options_in
}

# complete PROGRAM WORD...: what bash offers after these words for "-"
complete_after()
{
	local COMP_WORDS=("$@" -) COMP_CWORD=$# COMPREPLY=()

	"_${1##*/}"
	printf '%s\n' "${COMPREPLY[@]}" | LC_ALL=C sort -u
}

for page in cowd.8 cowctl.1 cowbench.1; do
	program=${page%.*}
	"$build/$program" --help >"$work/$program"
	help=$(options_in <"$work/$program")
	[ "$(wc -l <<<"$help")" -ge 8 ] || bad "$program --help: only these options were found: $help"
	same "$program --help" "$(grep -vxE -e '-h' <<<"$help")" "$page" \
		"$(page_options "$src/man/$page.scd" | grep -vxE -e '-h')"
done

# shellcheck source=/dev/null
. "$src/tools/completions/cowctl"
# shellcheck source=/dev/null
. "$src/tools/completions/cowbench"
same 'cowctl --help' "$(options_in <"$work/cowctl" | grep -e '^--')" 'its completion' "$(complete_after cowctl)"

# cowbench: what its help says of each subcommand, and of all.
common=$'--help\n--socket\n--version'
subcommands=$(sed -nE '/^Subcommands:/,/^$/s/^  ([a-z]+) .*/\1/p' "$work/cowbench")
[ "$(wc -l <<<"$subcommands")" -ge 4 ] || bad "cowbench --help: only these subcommands were found: $subcommands"
for subcommand in $subcommands; do
	same "cowbench $subcommand in --help" \
		"$({ grep "^  $subcommand " "$work/cowbench" | options_in; echo "$common"; } | LC_ALL=C sort -u)" \
		"its completion" "$(complete_after cowbench "$subcommand")"
	grep -q "^\*cowbench $subcommand\*" "$src/man/cowbench.1.scd" || bad "cowbench.1: no synopsis of $subcommand"
done
same 'one shot in cowbench --help' \
	"$({ sed -n '/^One shot/,/^$/p' "$work/cowbench" | options_in; echo "$common"; } | LC_ALL=C sort -u)" \
	'its completion' "$(complete_after cowbench)"
COMP_WORDS=(cowbench '') COMP_CWORD=1 COMPREPLY=()
_cowbench
[ "$(printf '%s\n' "${COMPREPLY[@]}" | sort)" = "$(sort <<<"$subcommands")" ] ||
	bad "cowbench: completion offers: ${COMPREPLY[*]}"
exit $status
