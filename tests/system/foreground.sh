#!/bin/bash
# A cowd that somebody starts by hand: it says where it listens, and at its end its socket goes, also if
# root started it and it became another user. Where that user may not remove it, it says so at the start.
#
# Seen to fail with: a socket file that stays root's; no line about where cowd listens; a cowd that takes a
# user that there is not and stays root.
set -u
dir=$(mktemp -d)
chmod 755 "$dir"
trap 'rm -rf "$dir"' EXIT
sandbox=()
[ "${COWD_SANITIZERS:-no}" = no ] || sandbox=(--no-sandbox)
failed=0

bad()
{
	echo "FAILED: $*"
	cat "$dir/log"
	failed=1
}

# run_cowd SOCKET [ARGUMENT...]: until it answers there; its pid is in $cowd
run_cowd()
{
	local socket=$1
	shift

	"${COWD_PROGRAM:?}" --socket "$socket" --config /dev/null ${sandbox[@]+"${sandbox[@]}"} "$@" \
		2>"$dir/log" &
	cowd=$!
	until "${COWCTL_PROGRAM:?}" --socket "$socket" status >/dev/null 2>&1; do
		kill -0 "$cowd" 2>/dev/null || { bad "cowd $* did not start"; exit 1; }
		read -r -t 0.02 _ <> <(:)
	done
}

end_cowd()
{
	kill -TERM "$cowd"
	wait "$cowd" || bad "it ended with $? by SIGTERM"
}

# --- as whoever runs this -----------------------------------------------------------------------------

run_cowd "$dir/s" --user ''
grep -q "listening on $dir/s\$" "$dir/log" || bad "it does not say where it listens"
end_cowd
[ ! -e "$dir/s" ] || bad "its socket is still there"
"${COWD_PROGRAM:?}" --help | grep -q '^Usage: cowd ' || bad "--help has no usage"
"${COWD_PROGRAM:?}" --user nope --check-config >"$dir/log" 2>&1
[ $? -eq 2 ] || bad "a user that there is not is taken"
grep -q '"nope"' "$dir/log" || bad "it does not name the user that there is not"

if [ "$(id -u)" -ne 0 ] || ! id nobody >/dev/null 2>&1; then
	echo "what follows takes root, and a user nobody"
	[ "$failed" -eq 0 ] && exit 77
	exit 1
fi

# --- as root, which becomes nobody -------------------------------------------------------------------

mkdir -m 1777 "$dir/sticky"
run_cowd "$dir/sticky/s" --user nobody
[ "$(awk '/^Uid:/ { print $2 }' "/proc/$cowd/status")" -ne 0 ] || bad "it is root"
grep -q 'cannot remove' "$dir/log" && bad "it takes its socket for one that it cannot remove"
end_cowd
[ ! -e "$dir/sticky/s" ] || bad "its socket is still there, in a directory like /tmp"

mkdir -m 755 "$dir/roots"
run_cowd "$dir/roots/s" --user nobody
grep -q "cannot remove $dir/roots/s" "$dir/log" || bad "it does not say at its start that the socket will stay"
end_cowd
# and the next one takes its place
run_cowd "$dir/roots/s" --user nobody
grep -q "removed the stale socket $dir/roots/s" "$dir/log" || bad "the next cowd does not replace it"
end_cowd
exit $failed
