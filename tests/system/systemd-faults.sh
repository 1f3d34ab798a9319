#!/bin/bash
# What goes wrong on an operator's first days, under a real systemd: a device that cannot be opened, a
# mistyped setting, a daemon that is killed, snapshots that are lost. Each time the service says what is
# wrong where an operator looks, the socket stays, and the repair is all that it takes.
#
# Seen to fail with a reload that only sends SIGHUP, with Restart=on-failure, and without StartLimitIntervalSec=
# or FlushPending=; and with a cowd that looks at the device only when it starts, logs no lost snapshot, or
# refreshes its status with the watchdog only.
set -eu
. "$(dirname "$(readlink -f "$0")")/systemd.sh.inc"

cat >>"$dir/run.sh" <<'E'
conf=$confdir/cowd/cowd.conf

status_is()
{
	cowctl status --json | jq -e "$1" >/dev/null || { cowctl status; return 1; }
}

text_is()
{
	[ "$(property StatusText)" = "$1" ] || { echo "status is $(property StatusText), want $1"; return 1; }
}

text_begins()
{
	case $(property StatusText) in "$1"*) return 0 ;; esac
	echo "status is $(property StatusText), want $1..."
	return 1
}

main_is_not()
{
	[ "$(property MainPID)" != 0 ] && [ "$(property MainPID)" != "$1" ]
}

# --- a device that cowd may not open: mode 0000 is not what the kernel makes, so somebody wanted it ------

chmod 0000 /dev/userfaultfd
check "the socket starts" systemctl start cowd.socket
check "the service starts without the device" cowctl status
check "and says that it lends nothing" status_is '.lend == "no"'
check "nor serves mode uffd" status_is '.mechanisms | index("uffd") | not'
check "with a reason" status_is '.lend_hint | test("/dev/userfaultfd") and test("reload")'
check "a warning says what to do" logged warning '/dev/userfaultfd.*reload'
main=$(property MainPID)
check "a reload changes nothing" systemctl reload cowd.service
check "which is said" await logged warning 'settings were read.*/dev/userfaultfd\|/dev/userfaultfd.*reload'
chgrp cowd /dev/userfaultfd
chmod 0660 /dev/userfaultfd
check "a reload once the mode is right" systemctl reload cowd.service
check "lends it" await status_is '.lend == "yes" and (.mechanisms | index("uffd")) and .lend_hint == ""'
check "in the same process" is_property MainPID "$main"
check "a client uses it" as_nobody cowd-test-client

# --- who is connected ------------------------------------------------------------------------------------

coproc ONE { exec setpriv --reuid=65534 --regid=65534 --clear-groups cowd-test-client hold; }
one=$ONE_PID
check "a client" read -r -t 10 _ <&"${ONE[0]}"
cowd-test-client hold >/t/two.log 2>&1 &
two=$!
check "and another" await grep -q connected /t/two.log
check "are counted at once" await text_begins "2 clients, "
kill "$one" "$two"
check "and their ends" await text_begins "0 clients, "

# --- a mistyped setting ------------------------------------------------------------------------------------

cp "$conf" /t/cowd.conf.good
main=$(property MainPID)
printf '[daemon]\ncolour = red\n' >>"$conf"
check "a reload of a mistyped file fails" not systemctl reload cowd.service
check "naming the key, as an error" logged err 'colour.*unknown key'
check "the service goes on" systemctl -q is-active cowd.service
check "in the same process, too" is_property MainPID "$main"
check "and serves" as_nobody cowd-test-client

check "a restart with it fails" not systemctl restart cowd.service
check "the socket listens all the same" systemctl -q is-active cowd.socket
check "and nothing starts what would fail once more" is_property SubState failed
status=3
for ((i = 0; i < 30 && status == 3; i++)); do
	timeout 5 cowctl status >/t/refused.log 2>&1
	status=$?
done
check "clients are refused, not kept waiting" [ "$status" = 3 ]
cat /t/refused.log
check "and the socket listens still" systemctl -q is-active cowd.socket
cp /t/cowd.conf.good "$conf"
check "after the repair a start works at once" systemctl start cowd.service
check "for clients" as_nobody cowd-test-client

printf '[daemon]\ncolour = red\n' >>"$conf"
check "the same, and nobody starts it: stop" systemctl stop cowd.service
check "refused" not cowctl status
cp /t/cowd.conf.good "$conf"
check "after the repair the next client starts it" as_nobody cowd-test-client
check "the user that is to be has to exist" not "$sbindir/cowd" --user nope --check-config

# --- killed, and killed again ------------------------------------------------------------------------------

for _ in {1..8}; do
	main=$(property MainPID)
	[ "$main" -gt 1 ] && kill -KILL "$main"
	await main_is_not "$main" && await systemctl -q is-active cowd.service || break
done
check "back after each of eight kills" main_is_not "$main"
check "with its socket" systemctl -q is-active cowd.socket
check "for clients, too" as_nobody cowd-test-client

# --- lost snapshots ------------------------------------------------------------------------------------------

printf '[limits]\nkept-bytes = 1M\n' >>"$conf"
check "reload with a small limit" systemctl reload cowd.service
check "it is in effect" await logged info 'settings read again' "_PID=$(property MainPID)"
check "snapshots are lost" as_nobody cowd-test-client lose 40
lost()
{
	journalctl --sync
	journalctl -q -o cat -p warning _SYSTEMD_UNIT=cowd.service "$@" | grep -c "is lost"
}
check "which is a warning with its reason" logged warning 'is lost:.*kept-bytes' COWD_UID=65534
check "and says which region's it was" logged warning 'too-large' COWD_UID=65534
check "that can be asked for" sh -c \
	'journalctl -q -o json -p warning COWD_UID=65534 | jq -es "map(select(.COWD_SNAPSHOT and .COWD_REGION)) | length > 0" >/dev/null'
check "not forty times" [ "$(lost COWD_UID=65534)" -le 12 ]
check "but with a word about those left out" logged warning 'more than [0-9]* .*cowctl stats' COWD_UID=65534
E
boot
