#!/bin/bash
# with-huge-pages.sh SETTING COMMAND [ARGUMENT...]: run COMMAND while shared memory gets huge pages as
# SETTING says: `always`, `within_size` or another word of shmem_enabled, or `hugepages-64kB/always` for
# one size. The whole machine has that setting meanwhile. It is put back however this ends: by a process
# with a session of its own, which waits for the end of this one.
#
# Its status is COMMAND's, or 77 with the reason in the last line if the setting cannot be made.
set -u
setting=$1
shift
folder=/sys/kernel/mm/transparent_hugepage
case $setting in
*/*) file=$folder/${setting%/*}/shmem_enabled ;;
*) file=$folder/shmem_enabled ;;
esac

skip()
{
	echo "$*"
	exit 77
}

[ "$(id -u)" -eq 0 ] || skip "only root can have huge pages for shared memory"
[ -w "$file" ] || skip "there is no $file to write to here"
exec {lock}<"$folder/shmem_enabled"
flock -n "$lock" || skip "somebody else has huge pages for shared memory tried out"
old=$(sed 's/.*\[\(.*\)\].*/\1/' "$file")

# The lock is its own too, so nobody sees the setting before it is put back.
exec {end}> >(exec setsid bash -c '
	trap "" TERM INT HUP
	cat >/dev/null
	echo "$1" >"$2"' keeper "$old" "$file")
keeper=$!

status=0
if echo "${setting##*/}" >"$file"; then
	"$@" {end}>&- {lock}<&- || status=$?
else
	echo "this kernel does not take ${setting##*/} for $file"
	status=77
fi
exec {end}>&-
wait "$keeper"
[ "$(sed 's/.*\[\(.*\)\].*/\1/' "$file")" = "$old" ] || echo "$file is not what it was: $old" >&2
exit "$status"
