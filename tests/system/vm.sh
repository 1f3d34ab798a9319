#!/bin/bash
# vm.sh VERSION BUILD [TEST...]: boot Debian's kernel VERSION (6.1, 6.12) under qemu and run test
# programs of the build directory BUILD in it: what newer kernels do better must work on the oldest
# one too. Regions are an eighth of what they are elsewhere (proof_size()): a fault takes a
# hundred times as long.
#
# The machine is emulated (TCG), so it needs no virtualisation and takes its time. It has busybox, the
# tests, cowd, cowctl and the libraries that they are linked with, all in an initramfs, and no disk.
# Kernels are kept in ${XDG_CACHE_HOME:-~/.cache}/cowd-kernels. Ends with 0 when every test passed or
# was skipped, 77 when the machine or the kernel cannot be had.
set -eu

version=$1
build=$(readlink -f "$2")
shift 2
[ $# -gt 0 ] || set -- ordered-pairs invariants save
tests=("$@")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/cowd-kernels
mkdir -p "$cache"

skip()
{
	echo "$*"
	exit 77
}

for tool in qemu-system-x86_64 busybox cpio apt-get dpkg; do
	command -v "$tool" >/dev/null ||
		skip "$tool is missing: apt-get install qemu-system-x86 busybox-static cpio"
done

# newest package of that series that there is
kernel_package()
{
	apt-cache search --names-only "^linux-image-$version\\..*-cloud-amd64\$" |
		awk '{ print $1 }' | grep -v -e -dbg -e unsigned | sort -V | tail -n 1
}

package=$(kernel_package)
[ -n "$package" ] || skip "no package linux-image-$version.*-cloud-amd64 is known to apt"
if [ ! -d "$cache/$package" ]; then
	(cd "$cache" && apt-get download -qq "$package" && dpkg -x "$package"_*.deb "$package.part" &&
		mv "$package.part" "$package" && rm -f "$package"_*.deb) ||
		skip "$package could not be downloaded"
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
export COWD_EXECUTABLE=/bin/cowd COWD_PROGRAM=/bin/cowd CK_TIMEOUT_MULTIPLIER=${SLOWNESS:-8} COWD_PROOF_SMALL=1
status=0
for one in ${tests[*]}; do
	/bin/\$one
	rc=\$?
	echo "VM-TEST \$one \$rc"
	case \$rc in 0|77) ;; *) status=1 ;; esac
done
echo "VM-EXIT-STATUS \$status"
poweroff -f
E
chmod +x "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc) >"$work/initrd"

timeout --kill-after=5 "${VM_SECONDS:-800}" qemu-system-x86_64 -nodefaults -no-user-config \
	-machine q35 -accel tcg,thread=multi -cpu max -m 2048 -smp 2 -nographic -serial stdio \
	-no-reboot -kernel "$cache/$package"/boot/vmlinuz-* -initrd "$work/initrd" \
	-append "console=ttyS0 quiet panic=-1" </dev/null | stdbuf -oL tr -d '\r' | tee "$work/log" || true
status=$(sed -n 's/^VM-EXIT-STATUS //p' "$work/log")
echo "$package: ${status:-the machine did not get to its end}"
exit "${status:-1}"
