#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What libcowclient.so exports is what its map lists, and what its headers declare: no more, no less.
# -fvisibility=hidden beats the map, so a declaration without COW_PUBLIC vanishes without a word.
set -eu

src=${abs_top_srcdir:-.}
build=${abs_top_builddir:-.}
lib=$build/.libs/libcowclient.so
[ -e "$lib" ] || { echo "there is no $lib"; exit 99; }

sort_c() { LC_ALL=C sort -u; }

mapped=$(sed -n '/global:/,/local:/p' "$src/libclient/libcowclient.map" |
	sed -n 's/^[[:space:]]*\([a-z_0-9]*\);.*/\1/p' | sort_c)
exported=$(nm -D --defined-only "$lib" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort_c)
declared=$(cat "$src/libclient/cowclient.h" "$src/libclient/scoot.h" | tr '\n' ' ' |
	grep -oE 'COW_PUBLIC [^;#]*\(' | grep -oE '[a-z_0-9]+\(' | grep -E '^(cow|scoot)_' | tr -d '(' | sort_c)

status=0
compare() { # TITLE LIST OTHER-TITLE LIST
	if ! diff <(echo "$2") <(echo "$4") >/dev/null; then
		echo "$1 (<) and $3 (>) differ:"
		diff <(echo "$2") <(echo "$4") || true
		status=1
	fi
}
compare "the map" "$mapped" "the library" "$exported"
compare "the headers" "$declared" "the map" "$mapped"

# Every symbol is of a version, so that a later library can keep an old one.
unversioned=$(nm -D --defined-only --with-symbol-versions "$lib" | awk '$2 == "T" && $3 !~ /@@?COWCLIENT_/ { print $3 }')
if [ -n "$unversioned" ]; then
	echo "without a version: $unversioned"
	status=1
fi
# A library says nothing by itself, ends nobody and leaves signals alone. _exit() is for a child of its own,
# and assert() for what only a defect of the library itself can bring about.
# Seen to fail with: a perror() in the library.
rude=$(nm -D --undefined-only "$lib" | awk '{ sub(/@.*/, "", $2); print $2 }' |
	grep -xE '_*(v?f?printf|v?dprintf|puts|fputs|putchar|perror|warnx?|errx?|syslog)(_chk)?|abort|exit|quick_exit|sigaction|signal|bsd_signal|sigset' || true)
if [ -n "$rude" ]; then
	echo "the library calls: $rude"
	status=1
fi
n=$(echo "$exported" | wc -l)
[ "$n" -ge 20 ] || { echo "only $n symbols were found"; status=1; }
exit $status
