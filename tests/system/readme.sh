#!/bin/bash
# README.md is true: its program of ten lines, as printed, compiles with what libcowclient.pc of an
# installation says and does what its comments say, with a private cowd; so does the example that it
# names, by the command that it gives. What its other commands and links name is there.
#
# Without a daemon both end with a sentence, and the file of the last run is what it was.
#
# Seen to fail with a program that checks nothing (SIGSEGV), and with an example that empties its file
# before it connects. And, in README.md, with a call misspelt, one left out, a link to a file and a manual page
# that there are not, a socket unit of another name.
set -u
src=${abs_top_srcdir:?is set by make check}
build=${abs_top_builddir:?is set by make check}
for program in pkg-config make; do
	command -v $program >/dev/null || { echo "$program is missing; on Debian: apt-get install $program"; exit 77; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0
# a library that was built with a sanitizer wants it in the program, too; cowd cannot lock itself up then
sanitizer=() options=
if [ "${COWD_SANITIZERS:-no}" != no ]; then
	sanitizer=("-fsanitize=$COWD_SANITIZERS")
	options=' --no-sandbox'
fi

bad()
{
	echo "FAILED: $*"
	failed=1
}

# need WHAT COMMAND...: without that nothing else can be tried
need()
{
	local what=$1
	shift

	"$@" >"$dir/log" 2>&1 && return
	tail -n 30 "$dir/log"
	echo "FAILED: $what"
	exit 1
}

# The indented lines of a section, up to the next paragraph that is not.
block_after()
{
	awk -v start="$1" '
		index($0, start) == 1 { on = 1; next }
		on && /^    / { seen = 1; print substr($0, 5); next }
		on && seen && /^[^ ]/ { exit }' "$src/README.md"
}

# --- installed, as the README says, under another root ------------------------------------------------

unset MAKEFLAGS MAKELEVEL MFLAGS
root=$dir/root
need 'make install' make -C "$build" install "DESTDIR=$root"
pc=$(find "$root" -name libcowclient.pc)
[ -n "$pc" ] || { bad 'no libcowclient.pc is installed'; exit 1; }
# one place only: not a libcowclient that this machine has already
export PKG_CONFIG_PATH=${pc%/*} PKG_CONFIG_SYSROOT_DIR=$root
export LD_LIBRARY_PATH=${pc%/pkgconfig/*}
export PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1
COWD_ADDRESS="exec:$(find "$root" -name cowd -type f -perm -u+x | head -n 1)$options"
export COWD_ADDRESS
read -r -a flags < <(pkg-config --cflags --libs libcowclient)
[ "$(pkg-config --modversion libcowclient)" = "$("${COWD_PROGRAM:?}" --version | awk 'NR == 1 { print $2 }')" ] ||
	bad 'the .pc has another version than cowd'

# --- the program ----------------------------------------------------------------------------------------

lines=$(block_after '## A program of ten lines')
[ "$(wc -l <<<"$lines")" -ge 10 ] || bad "the README has no program of ten lines: $lines"
cat >"$dir/program.c" <<END
#include <cowclient.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static int step;

/* As printed: here it is only counted how many were made. */
#define cow_client_new(...) (step++, cow_client_new(__VA_ARGS__))
#define cow_region_new(...) (step++, cow_region_new(__VA_ARGS__))
#define cow_snapshot_new(...) (step++, cow_snapshot_new(__VA_ARGS__))
#define cow_snapshot_save(...) (step++, cow_snapshot_save(__VA_ARGS__))

int main(void)
{
	int fd = open("saved", O_WRONLY | O_CREAT | O_EXCL, 0600);

$lines
	puts(cow_region_address(region));
	cow_snapshot_unref(snap);
	cow_region_unref(region);
	cow_client_unref(client);
	return step != 4;
}
END
cd "$dir" || exit 1
# shellcheck disable=SC2086 # CC may be a command with arguments
need 'the program compiles' ${CC:-cc} "${sanitizer[@]}" -Wall -Wextra -Werror program.c "${flags[@]}" -o program
./program >out 2>err || bad "the program ended with status $?"
[ -s err ] && bad "the program failed: $(cat err)"
[ "$(cat out)" = 'as it went on' ] || bad "the region has: $(cat out)"
[ "$(head -c 9 saved | tr '\0' '?')" = 'as it was' ] || bad "the snapshot has: $(head -c 20 saved | tr '\0' '?')"
[ "$(stat -c %s saved)" -eq $((64 << 20)) ] || bad "the snapshot's size is $(stat -c %s saved)"

# without_daemon PROGRAM: ends with status 1 and a sentence that says what to do
without_daemon()
{
	local got=0

	COWD_ADDRESS=$dir/none "$1" >out 2>err || got=$?
	[ "$got" -eq 1 ] && grep -q "$dir/none.*is cowd running" err ||
		bad "$1 without a daemon: status $got: $(cat out err)"
}
rm -f saved
without_daemon ./program

# --- its example, by its command ------------------------------------------------------------------------

# shellcheck disable=SC2016 # as it is printed
command='cc ten-lines.c $(pkg-config --cflags --libs libcowclient)'
grep -qF "\`$command\`" "$src/README.md" || bad "the README has no: $command"
cp "$src/examples/ten-lines.c" .
cc()
{
	# shellcheck disable=SC2086 # see above
	command ${CC:-cc} "${sanitizer[@]}" "$@"
}
eval "$command" >log 2>&1 || bad "$command: $(cat log)"
echo 'the last good one' >heap.snapshot
without_daemon ./a.out
[ "$(cat heap.snapshot)" = 'the last good one' ] || bad 'ten-lines.c loses the last snapshot without a daemon'
ln -s /dev/full heap.snapshot.new # which cowd cannot save to
./a.out >out 2>&1 && bad 'ten-lines.c ends with 0 though its file could not be written'
[ "$(cat heap.snapshot)" = 'the last good one' ] || bad "ten-lines.c loses the last snapshot: $(cat out)"
[ ! -L heap.snapshot.new ] || bad 'ten-lines.c leaves half a file behind'
./a.out >out 2>&1 || bad "ten-lines.c: $(cat out)"
[ "$(head -c 9 heap.snapshot | tr '\0' '?')" = 'as it was' ] || bad 'ten-lines.c saved something else'

# --- what its commands and links name ----------------------------------------------------------------------

for word in $(block_after '## Try it' | grep -oE '^\./[a-z]+'); do
	[ -x "$src/$word" ] || bad "the README has $word, which is no program"
	bash -n "$src/$word" || bad "$word"
done
install=$(block_after 'To install it:')
grep -q '^sudo systemctl enable --now ' <<<"$install" || bad "the README does not say how to install: $install"
for unit in $(grep -oE '[^ ]+\.(socket|service)' <<<"$install"); do
	[ -n "$(find "$root" -path "*/systemd/system/$unit")" ] || bad "no $unit is installed"
done
for option in $(grep -oE -- '--(prefix|sysconfdir|with|enable)[a-z-]*=' <<<"$install"); do
	[ ! -x "$src/configure" ] || "$src/configure" --help | grep -q -- "$option" || bad "configure has no $option"
done
for kind in sysusers tmpfiles; do
	grep -q "systemd-$kind" <<<"$install" && [ -n "$(find "$root" -path "*/$kind.d/cowd*.conf")" ] ||
		bad "nothing is installed for systemd-$kind"
done
for link in $(grep -oE '\]\([^)]+\)' "$src/README.md" | tr -d '])('); do
	[ -e "$src/$link" ] || bad "the README links $link, which is not there"
done
for page in $(grep -oE '\b[a-z.-]+\([1-8]\)' "$src/README.md" | sort -u); do
	name=${page%(*}.${page##*(}
	[ -n "$(find "$root" -path "*/man/*/${name%)}")" ] || bad "the README names $page, which is not installed"
done
exit "$failed"
