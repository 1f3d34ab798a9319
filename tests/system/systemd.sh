#!/bin/bash
# The installed units under a real systemd: started by the first client through the socket, used in
# every mode by an unprivileged uid, reloaded, stopped cleanly, logged, and well sandboxed.
#
# Seen to fail with: a socket of another type in cowd.socket; CAP_SYS_PTRACE left to the service; a
# cowd that exits with 1 on SIGTERM; a library that is not installed.
set -eu
here=$(dirname "$(readlink -f "$0")")
build=${abs_top_builddir:?is set by make check}

case ${COWD_SANITIZERS:-no} in
no) ;;
*)
	echo "a sanitizer's runtime does not work in the unit's sandbox"
	exit 77
	;;
esac

dir=$(mktemp -d)
chmod 755 "$dir"
trap 'rm -rf "$dir"' EXIT
if ! env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS make -s -C "$build" install DESTDIR="$dir/root" \
	>"$dir/install.log" 2>&1; then
	cat "$dir/install.log"
	exit 1
fi
cp "$here/systemd-client.c" "$dir/client.c"
sbindir=$(sed -n 's/^sbindir = //p' "$build/Makefile")
prefix=$(sed -n 's/^prefix = //p' "$build/Makefile")
case $sbindir in *exec_prefix*) sbindir=$prefix/sbin ;; esac

cat >"$dir/run.sh" <<E
#!/bin/bash
prefix=$prefix
sbindir=$sbindir
E
cat >>"$dir/run.sh" <<'E'
set -u
failed=0

check()
{
	local what=$1
	shift
	if "$@"; then
		echo "ok: $what"
	else
		echo "FAILED: $what"
		failed=1
	fi
}

not()
{
	! "$@"
}

property()
{
	systemctl show -P "$1" cowd.service
}

is_property()
{
	[ "$(property "$1")" = "$2" ] || { echo "$1 is $(property "$1"), want $2"; return 1; }
}

# what a package would run after installing
ldconfig
check "sysusers" systemd-sysusers
check "tmpfiles" systemd-tmpfiles --create
# udev does not run here: set the device's group and mode as the rule says
rule=$(cat "$prefix"/lib/udev/rules.d/*cowd*.rules /usr/lib/udev/rules.d/*cowd*.rules 2>/dev/null)
group=$(sed -n 's/.*GROUP="\([^"]*\)".*/\1/p' <<<"$rule" | head -n 1)
mode=$(sed -n 's/.*MODE="\([^"]*\)".*/\1/p' <<<"$rule" | head -n 1)
check "the udev rule names the device" grep -q 'KERNEL=="userfaultfd"' <<<"$rule"
check "group of the device" chgrp "${group:-root}" /dev/userfaultfd
check "mode of the device" chmod "${mode:-0600}" /dev/userfaultfd
systemctl daemon-reload

export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
check "a client builds against what is installed" \
	sh -c 'cc -o /usr/local/bin/cowd-test-client /t/client.c $(pkg-config --cflags --libs libcowclient)'

check "the socket starts" systemctl start cowd.socket
check "the service waits for a client" not systemctl -q is-active cowd.service
check "an unprivileged client, every mode" \
	setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all --no-new-privs \
	cowd-test-client
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
check "a client after it" setpriv --reuid=65534 --regid=65534 --clear-groups cowd-test-client
check "stop" systemctl stop cowd.service
check "it ended well" is_property Result success
check "with status 0" is_property ExecMainStatus 0
check "and starts again for the next client" \
	setpriv --reuid=65534 --regid=65534 --clear-groups cowd-test-client
check "restart" systemctl restart cowd.service
check "a client after that" setpriv --reuid=65534 --regid=65534 --clear-groups cowd-test-client

journalctl --sync
check "the journal has the line of what was found" \
	sh -c 'journalctl -o cat -u cowd.service | grep -qi "mechanisms\|uffd scoot mmapcopy"'
check "nothing was logged as an error" \
	sh -c '! journalctl -o cat -p err -u cowd.service | grep .'
check "exposure at most 0.6" systemd-analyze security --no-pager --offline=true --threshold=6 \
	cowd.service >/t/security.log
grep -i "overall exposure" /t/security.log
check "the units verify" systemd-analyze verify cowd.service cowd.socket
[ "$failed" -eq 0 ] || journalctl --no-pager -o short -u cowd.service -u cowd.socket | tail -n 40
exit $failed
E
chmod +x "$dir/run.sh"

rc=0
timeout --kill-after=5 100 bash "$here/pid1.sh" "$dir" >"$dir/boot.log" 2>&1 || rc=$?
[ ! -f "$dir/out.log" ] || cat "$dir/out.log"
[ "$rc" -eq 0 ] || tail -n 20 "$dir/boot.log"
if [ "$rc" -eq 0 ] && ! grep -q '^ok:' "$dir/out.log"; then
	echo "run.sh did not run"
	rc=1
fi
exit $rc
