#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What a build needs, and what a program needs to be built: cowd is configured where libcheck and scdoc are
# missing, and says what it leaves out; `make check` then fails rather than pass without a test; what a program
# is told by pkg-config needs nothing but libcowclient.
#
# Seen to fail with: libcheck and scdoc required by configure; Requires.private in libcowclient.pc; a make check
# without tests that ended well.
set -u

src=${abs_top_srcdir:-.}
build=${abs_top_builddir:-.}
src=$(cd "$src" && pwd)
build=$(cd "$build" && pwd)
case ${COWD_SANITIZERS:-no} in
no) ;;
*)
	echo "nothing of this depends on sanitizers: the plain build tries it"
	exit 77
	;;
esac
command -v pkg-config >/dev/null || { echo "pkg-config is missing; on Debian: apt-get install pkg-config"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset MAKEFLAGS MAKELEVEL MFLAGS
status=0

bad()
{
	echo "FAILED: $*"
	tail -n 5 "$work/log"
	status=1
}

# --- a program, on a machine that has libcowclient and no other .pc file ------------------------------

flags()
{
	PKG_CONFIG_PATH='' PKG_CONFIG_LIBDIR=$build/libclient pkg-config "$@" libcowclient >"$work/log" 2>&1
}
flags --cflags --libs || bad "pkg-config --cflags --libs libcowclient wants more than libcowclient"
grep -q -- '-lcowclient' "$work/log" || bad "pkg-config does not name the library"
flags --static --libs && grep -q -- '-lprotobuf-c' "$work/log" ||
	bad "pkg-config --static does not name what the library is made with"

# --- a build without libcheck and scdoc ---------------------------------------------------------------

cat >"$work/pkg-config" <<-'E'
	#!/bin/sh
	case " $* " in *" check "*) echo "no package 'check' found" >&2; exit 1 ;; esac
	exec pkg-config "$@"
E
chmod +x "$work/pkg-config"
configure()
{
	mkdir -p "$work/build"
	(cd "$work/build" && ac_cv_path_SCDOC='' timeout 110 "$src/configure" PKG_CONFIG="$work/pkg-config" "$@") \
		>"$work/log" 2>&1
}

if configure; then
	grep -q 'tests: none: .*apt-get install check' "$work/log" || bad "configure does not say why there are no tests"
	grep -q 'manual pages: none: .*apt-get install scdoc' "$work/log" ||
		bad "configure does not say why there are no manual pages"
	make -n -C "$work/build" all install DESTDIR=/none >"$work/log" 2>&1 || bad "make has no way to all that it names"
	grep -q 'daemon/main.c' "$work/log" || bad "make does not build cowd"
	grep -E 'scdoc|tests/|cowd\.8|-lcheck' "$work/log" && bad "make wants what is left out"
	make -C "$work/build" check-local >"$work/log" 2>&1 && bad "make check ends well without tests"
	grep -q 'there are no tests: libcheck was not found' "$work/log" || bad "make check does not say why"
else
	bad "configure fails without libcheck and scdoc"
fi
for part in tests:check man:scdoc; do
	configure "--enable-${part%:*}" && bad "--enable-${part%:*} is content without ${part#*:}"
	grep -q "apt-get install ${part#*:}" "$work/log" || bad "--enable-${part%:*} does not say what is missing"
done
exit $status
