#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Comments that a machine can check: every @name of a contract is a parameter or member of what follows
# it, every public symbol has a man page that names it, and no marker of unfinished work is left.
set -eu

src=${abs_top_srcdir:-.}
cd "$src"
status=0

mapped=$(sed -n '/global:/,/local:/s/^[[:space:]]*\([a-z_0-9]*\);.*/\1/p' libclient/libcowclient.map)
[ -n "$mapped" ] || { echo "no symbols in the map"; exit 99; }
for symbol in $mapped; do
	if ! grep -lqE "\*$symbol\*\(" man/*.3.scd; then
		echo "$symbol: no man page in section 3 has its prototype"
		status=1
	fi
	if ! grep -qE "man/$symbol\.3( |$)" man/local.mk; then
		echo "$symbol: no man page of that name"
		status=1
	fi
done

# The word is put together here so that this file has none.
if grep -rnE "\bXX""X\b|\bFIX""ME\b" --include='*.[ch]' --include='*.sh' --include='*.mk' --exclude-dir=lint \
	common proto backends daemon libclient tools examples tests; then
	echo "a marker of unfinished work"
	status=1
fi

# A contract: "/**" … "*/" and then a declaration up to its ';' or '{'.
while IFS= read -r file; do
	awk -v file="$file" '
	function check(name, i) {
		for (i = 1; i <= n_names; i++) {
			if (declaration !~ ("(^|[^a-zA-Z0-9_])" names[i] "([^a-zA-Z0-9_]|$)")) {
				printf "%s:%d: @%s is not part of what follows\n", file, lines[i], names[i]
				bad = 1
			}
		}
		n_names = 0
		state = 0
	}
	/^\/\*\*/ { state = 1; n_names = 0; declaration = "" }
	state == 1 {
		# "@a, @b: text" begins a description; a name elsewhere in the text is prose
		if ($0 ~ /^ \* @[a-z_0-9]+(, @[a-z_0-9]+)*:/) {
			text = $0
			sub(/:.*/, "", text)
			while (match(text, /@[a-z_0-9]+/)) {
				names[++n_names] = substr(text, RSTART + 1, RLENGTH - 1)
				lines[n_names] = FNR
				text = substr(text, RSTART + RLENGTH)
			}
		}
		if ($0 ~ /\*\/[ \t]*$/)
			state = 2
		next
	}
	state == 2 {
		declaration = declaration " " $0
		is_struct = declaration ~ /^ *(struct|enum|union) [a-z_0-9]+ *\{/
		if (is_struct ? $0 ~ /^\}/ : $0 ~ /[;{]/)
			check()
	}
	END { exit bad }
	' "$file" || status=1
done < <(find common backends daemon libclient tools tests -name '*.h' | LC_ALL=C sort)
exit $status
