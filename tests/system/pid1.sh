#!/bin/bash
# pid1.sh DIR: boot a real systemd as PID 1 and run DIR/run.sh under it.
#
# systemd gets pid, mount, uts, ipc, net and cgroup namespaces of its own and, as its root, a
# throw-away overlay over this machine's, so that nothing it does is seen outside. DIR is there as /t.
# DIR/root, if it exists, is copied over the root first: an installation by `make install DESTDIR=`.
# The output of run.sh goes to DIR/out.log; its status is ours, 77 when this machine does not allow
# such namespaces (a sentence says which).
#
# The cgroup comes first and matters most: a service manager that sees the machine's root cgroup moves
# every process in it. So a new one is made below it and entered before the cgroup namespace is.
set -eu

self=$(readlink -f "$0")
dir=$(readlink -f "$1")

skip()
{
	echo "$*"
	exit 77
}

# --- outside ---------------------------------------------------------------------------------------

outside()
{
	local cgroup2 work rc=0

	[ "$(id -u)" -eq 0 ] || skip "systemd as PID 1 in namespaces needs root"
	[ -x /lib/systemd/systemd ] || skip "systemd is not installed"
	unshare --pid --fork --mount --uts --ipc --net --cgroup true 2>/dev/null ||
		skip "namespaces are not allowed here"
	cgroup2=$(findmnt -rn -t cgroup2 -o TARGET | head -n 1)
	[ -n "$cgroup2" ] || skip "no cgroup2 hierarchy is mounted"
	work=$(mktemp -d)
	cgroup=$cgroup2/cowd-test.$$
	mkdir "$cgroup" 2>/dev/null || { rmdir "$work"; skip "no cgroup can be made in $cgroup2"; }
	rm -f "$dir/out.log"
	export PID1_STAGE=inside PID1_WORK=$work PID1_CGROUP=$cgroup
	# shellcheck disable=SC2016 # expanded by the inner shell
	unshare --pid --fork --kill-child --mount --uts --ipc --net --propagation private -- \
		bash -c 'echo 0 >"$PID1_CGROUP/cgroup.procs" && exec unshare --cgroup -- bash "$@"' \
		pid1 "$self" "$dir" </dev/null || rc=$?
	# what systemd left is empty as soon as the kernel has reaped the last of its processes
	find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
	rmdir "$work"
	return "$rc"
}

# --- inside ------------------------------------------------------------------------------------------

make_root()
{
	mount -t tmpfs tmpfs "$PID1_WORK"
	mkdir "$PID1_WORK"/{upper,work,root}
	root=$PID1_WORK/root
	mount -t overlay overlay \
		-o "lowerdir=/,upperdir=$PID1_WORK/upper,workdir=$PID1_WORK/work" "$root"
	mount -t proc proc "$root/proc"
	mount -t sysfs -o ro sysfs "$root/sys"
	mount -t cgroup2 none "$root/sys/fs/cgroup"
	mount -t tmpfs -o mode=755 tmpfs "$root/run"
	mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
}

make_devices()
{
	local spec name major minor

	mount -t tmpfs -o mode=755 tmpfs "$root/dev"
	mkdir "$root/dev/pts" "$root/dev/shm"
	mount -t tmpfs tmpfs "$root/dev/shm"
	mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
	ln -s pts/ptmx "$root/dev/ptmx"
	for spec in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
		IFS=: read -r name major minor <<<"$spec"
		mknod -m 666 "$root/dev/$name" c "$major" "$minor"
	done
	# a node of its own: to change the mode of a bind-mounted one is to change the machine's
	minor=$(awk '$2 == "userfaultfd" { print $1 }' /proc/misc)
	[ -z "$minor" ] || mknod -m 600 "$root/dev/userfaultfd" c 10 "$minor"
}

inside()
{
	make_root
	make_devices
	if [ -d "$dir/root" ]; then cp -a "$dir/root/." "$root/"; fi
	mkdir -p "$root/t"
	mount --bind "$dir" "$root/t"
	cat >"$root/etc/systemd/system/cowd-test.service" <<-'E'
		[Unit]
		Requires=basic.target sockets.target
		After=basic.target sockets.target
		SuccessAction=exit
		FailureAction=exit
		[Service]
		Type=oneshot
		ExecStart=/t/run.sh
		StandardOutput=file:/t/out.log
		StandardError=inherit
		TimeoutStartSec=90
	E
	mkdir "$root/.old"
	cd "$root"
	pivot_root . .old
	umount -l /.old
	export container=unshare
	exec /lib/systemd/systemd systemd.unit=cowd-test.service
}

if [ "${PID1_STAGE:-}" = inside ]; then inside; else outside; fi
