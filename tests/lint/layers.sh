#!/bin/bash
# Fails if a file needs one of a folder above its own. The order of folders stands below, ground floor first; a file that
# stands there by name is a floor of its own. A file may need its own floor and those before it.
#
# Two sources show what a file needs: its #include lines, and nm(1) of its object file (calls, function pointers
# and data).
#
# Seen to fail with: an include that runs up, a call that runs up by a declaration of its own, a folder that is not in
# the order, a source without an object.
set -u -o pipefail
. "$(dirname "$0")/files.sh.inc"
build=${1:-build-check}

order='
common/
libclient/cowclient.h
libclient/scoot.h
libclient/version.c
proto/
backends/
daemon/base/
daemon/daemon.h
daemon/session.h
daemon/process/
daemon/region/
daemon/snapshot/
daemon/uffd/
daemon/rpc/
daemon/
libclient/base/
libclient/snapshot-state.h
libclient/internal.h
libclient/conn/
libclient/
libclient/uffd/
libclient/scoot/
libclient/fork/
libclient/start.c
libclient/mmapcopy.c
libclient/scoot.c
tools/
tools/bench/
'
bad=0
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

complain()
{
	echo "$*"
	bad=1
}

# symbols_of OBJECT SOURCE: the symbols that OBJECT defines (D) and needs (U).
symbols_of()
{
	nm "$1" | awk -v source="$2" '
		$1 == "U" { print "U", source, $2 }
		$2 ~ /^[BCDRTVW]$/ { print "D", source, $3 }'
}

# object_of SOURCE: its object file: SOURCE may belong to a library or to a program, which automake names in the object.
object_of()
{
	local folder=${1%/*} name=${1##*/} object

	name=${name%.c}
	for object in "$build/$folder"/{,.libs/}{,*-}"$name.o"; do
		[ -f "$object" ] || continue
		# tools/x-cli.o may be an object of tools/x-cli.c, not of tools/cli.c.
		[ "${object##*/}" = "$name.o" ] || [ ! -f "$folder/$(basename "$object" .o).c" ] || continue
		echo "$object"
		return
	done
	return 1
}

[ -f "$build/config.h" ] || { echo "$build has no build"; exit 1; }
project_files 'common/*.[ch]' 'proto/*.[ch]' 'backends/*.[ch]' 'daemon/*.[ch]' 'libclient/*.[ch]' 'tools/*.[ch]' |
	grep -v '\.pb-c\.' | sort -u >"$work/files"
[ -s "$work/files" ] || { echo 'no sources were found'; exit 1; }

while IFS= read -r path; do
	sed -nE 's/^#include "([a-z][a-z0-9/-]*\.h)".*/\1/p' "$path" | while IFS= read -r header; do
		[ ! -f "$header" ] || echo "$path $header includes"
	done
	case $path in
	*.h) continue ;;
	backends/stop.c) grep -q '^#define COW_STOP_THREADS' "$build/config.h" || continue ;;
	esac
	if object=$(object_of "$path"); then
		symbols_of "$object" "$path" >>"$work/symbols"
	else
		echo "$path: $build has no object of it" >>"$work/strays"
	fi
done <"$work/files" >"$work/needs"
awk '$1 == "D" { by[$3] = $2 } $1 == "U" { source[NR] = $2; symbol[NR] = $3 }
	END { for (i in source) if (symbol[i] in by && by[symbol[i]] != source[i]) print source[i], by[symbol[i]], symbol[i] }' \
	"$work/symbols" >>"$work/needs"

awk -v order="$order" '
	function floor_of(path,   folder) {
		if (path in at) return at[path]
		folder = path
		while (sub(/[^\/]*\/?$/, "", folder) && folder != "") if (folder in at) return at[folder]
		print path ": its folder is not in the order of tests/lint/layers.sh" >"/dev/stderr"
		return 0
	}
	BEGIN { n = split(order, names, "\n"); for (i = 1; i <= n; i++) if (names[i] != "") at[names[i]] = ++top }
	{ if (floor_of($2) > floor_of($1)) what[$1 " " $2] = what[$1 " " $2] " " $3 }
	END { for (pair in what) print pair ":" what[pair] }' "$work/needs" 2>>"$work/strays" | sort >"$work/up"
while IFS= read -r line; do complain "$line"; done < <(sort -u "$work/strays")
while IFS= read -r line; do complain "runs up: $line"; done <"$work/up"
exit $bad
