#!/bin/bash
# The installed units under a real systemd: started by the first client through the socket, used in
# every mode by an unprivileged uid, reloaded, stopped cleanly, logged, and well sandboxed.
#
# Seen to fail with: a socket of another type in cowd.socket; CAP_SYS_PTRACE left to the service; a
# cowd that exits with 1 on SIGTERM; a library that is not installed; a service that leaves
# /dev/userfaultfd to a udev rule that nobody has applied.
set -eu
. "$(dirname "$(readlink -f "$0")")/systemd.sh.inc"

cat >>"$dir/run.sh" <<'E'
# Where udev runs, the rule gives the device to cowd's group from boot on.
rule=$(cat "$prefix"/lib/udev/rules.d/*cowd*.rules /usr/lib/udev/rules.d/*cowd*.rules 2>/dev/null)
check "the udev rule names the device" grep -q 'KERNEL=="userfaultfd".*GROUP="cowd"' <<<"$rule"

check "the socket starts" systemctl start cowd.socket
check "the service waits for a client" not systemctl -q is-active cowd.service
check "an unprivileged client, every mode" as_nobody cowd-test-client
check "the service was started by it" systemctl -q is-active cowd.service
check "type notify" is_property Type notify
check "no capabilities" grep -q '^CapEff:[[:space:]]*0*$' "/proc/$(property MainPID)/status"
check "not root" not grep -q '^Uid:[[:space:]]*0' "/proc/$(property MainPID)/status"
check "seccomp filter" grep -q '^Seccomp:[[:space:]]*2' "/proc/$(property MainPID)/status"
check "no_new_privs" grep -q '^NoNewPrivs:[[:space:]]*1' "/proc/$(property MainPID)/status"
# Seen to fail with ProtectProc=ptraceable: no thread of a client could be followed.
check "it sees where threads of others run" \
	nsenter --target "$(property MainPID)" --mount --setuid "$(id -u cowd)" --setgid "$(id -g cowd)" \
	cat /proc/1/stat
check "cowctl status" cowctl status
check "cowctl --json" sh -c 'cowctl status --json | grep -q "\"pid\""'

main=$(property MainPID)
check "reload" systemctl reload cowd.service
check "the same process after it" is_property MainPID "$main"
check "a client after it" as_nobody cowd-test-client
check "stop" systemctl stop cowd.service
check "it ended well" is_property Result success
check "with status 0" is_property ExecMainStatus 0
check "and starts again for the next client" as_nobody cowd-test-client
check "restart" systemctl restart cowd.service
check "a client after that" as_nobody cowd-test-client
check "a stop of both units, as the README says" systemctl disable --now cowd.socket cowd.service
check "is one for good" not cowctl status
check "which starts nothing" not systemctl -q is-active cowd.service

journalctl --sync
check "the journal has the line of what was found" \
	sh -c 'journalctl -o cat -u cowd.service | grep -qi "mechanisms\|uffd scoot mmapcopy"'
check "nothing was logged as an error" \
	sh -c '! journalctl -o cat -p err -u cowd.service | grep .'
check "exposure at most 0.6" systemd-analyze security --no-pager --offline=true --threshold=6 \
	cowd.service >/t/security.log
grep -i "overall exposure" /t/security.log
check "the units verify" systemd-analyze verify cowd.service cowd.socket
E
boot
