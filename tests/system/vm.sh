#!/bin/bash
# vm.sh VERSION BUILD [TEST...]: boot Debian's kernel VERSION (6.1, 6.12) under qemu and run test
# programs of the build directory BUILD in it: what newer kernels do better must work on the oldest
# one too. Regions are an eighth of what they are elsewhere (proof_size()): a fault takes a
# hundred times as long.
#
# The machine is emulated (TCG), so it needs no virtualisation and takes its time. It has busybox, the
# tests, cowd, cowctl and the libraries that they are linked with, all in an initramfs, and no disk.
# Kernels are kept in ${XDG_CACHE_HOME:-~/.cache}/cowd-kernels. Ends with 0 only when every test passed:
# who asks for an old kernel wants to know of it, so neither a machine that cannot be had nor a test that
# skipped itself is good. $VM_SECONDS is the machine's time limit, which is for a host with other work to do: the
# machine takes less than two minutes of a CPU. $SLOWNESS multiplies the limits of tests.
set -eu

version=$1
build=$(readlink -f "$2")
shift 2
[ $# -gt 0 ] || set -- ordered-pairs invariants save save-streams
tests=("$@")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/cowd-kernels
mkdir -p "$cache"

give_up()
{
	echo "vm.sh: $*"
	exit 1
}

for tool in qemu-system-x86_64 busybox cpio apt-get dpkg; do
	command -v "$tool" >/dev/null ||
		give_up "$tool is missing: apt-get install qemu-system-x86 busybox-static cpio"
done

# newest package of that series that there is
kernel_package()
{
	apt-cache search --names-only "^linux-image-$version\\..*-cloud-amd64\$" |
		awk '{ print $1 }' | grep -v -e -dbg -e unsigned | sort -V | tail -n 1
}

for one in "${tests[@]}"; do
	[ -x "$build/tests/system/$one" ] || give_up "$build/tests/system/$one was not built: make check TESTS="
done

package=$(kernel_package)
[ -n "$package" ] || give_up "no package linux-image-$version.*-cloud-amd64 is known to apt"
if [ ! -d "$cache/$package" ]; then
	(cd "$cache" && apt-get download -qq "$package" && dpkg -x "$package"_*.deb "$package.part" &&
		mv "$package.part" "$package" && rm -f "$package"_*.deb) ||
		give_up "$package could not be downloaded"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,tmp,etc,run}
cp "$(command -v busybox)" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
printf 'root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"

# with_libraries FILE: copy it to / and what it is linked with to where the loader looks
with_libraries()
{
	local library

	cp "$1" "$root/bin/"
	ldd "$1" | grep -o '/[^ ]*' | while read -r library; do
		mkdir -p "$root$(dirname "$library")"
		cp -Ln "$library" "$root$library" 2>/dev/null || true
	done
}

with_libraries "$build/cowd"
with_libraries "$build/cowctl"
for one in "${tests[@]}"; do with_libraries "$build/tests/system/$one"; done

cat >"$root/init" <<E
#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc p /proc
mount -t sysfs s /sys
mount -t devtmpfs d /dev
mount -t tmpfs t /tmp
mkdir -p /dev/shm
mount -t tmpfs s /dev/shm
ln -s /proc/self/fd /dev/fd
ip link set lo up
uname -r
export COWD_EXECUTABLE=/bin/cowd COWD_PROGRAM=/bin/cowd CK_TIMEOUT_MULTIPLIER=${SLOWNESS:-4} COWD_PROOF_SMALL=1
status=0
for one in ${tests[*]}; do
	echo "VM-BEGIN \$one"
	/bin/\$one
	rc=\$?
	echo "VM-TEST \$one \$rc after \$(cut -d. -f1 /proc/uptime) s"
	[ "\$rc" -eq 0 ] || status=1
done
echo "VM-EXIT-STATUS \$status"
poweroff -f
E
chmod +x "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc) >"$work/initrd"

# no_timer_check: on a busy host the kernel's own look at whether the timer ticks comes to the answer no
set +e
timeout --kill-after=5 "${VM_SECONDS:-1500}" qemu-system-x86_64 -nodefaults -no-user-config \
	-machine q35 -accel tcg,thread=multi -cpu max -m 2048 -smp 2 -nographic -serial stdio \
	-no-reboot -kernel "$cache/$package"/boot/vmlinuz-* -initrd "$work/initrd" \
	-append "console=ttyS0 quiet panic=-1 no_timer_check" </dev/null | stdbuf -oL tr -d '\r' | tee "$work/log"
rc=${PIPESTATUS[0]}
set -e
status=$(sed -n 's/^VM-EXIT-STATUS //p' "$work/log")
if [ -z "$status" ]; then
	at=$(sed -n 's/^VM-BEGIN //p' "$work/log" | tail -n 1)
	why="the machine ended by itself, with status $rc"
	[ "$rc" -ne 124 ] || why="not done after ${VM_SECONDS:-1500} seconds"
	give_up "$package: $why, in ${at:-no test yet: it did not come up}"
fi
sed -n "s/^VM-TEST \\([^ ]*\\) \\([1-9].*\\)/FAILED: $package: \\1: status \\2/p" "$work/log"
echo "$package: $(grep -c '^VM-TEST [^ ]* 0 ' "$work/log") of ${#tests[@]} test programs passed"
exit "$status"
