#!/bin/bash
# What no compiler looks at: every source names its licence, whose text is there, and says what it is for, no line ends in
# blanks, files end in a newline, a mark of unfinished work names an issue, every exported symbol has
# a man page, and no file outgrows one thing.
. "$(dirname "$0")/files.sh.inc"
bad=0

complain()
{
	echo "$*"
	bad=1
}

while IFS= read -r path; do
	head -n 1 "$path" | grep -q 'SPDX-License-Identifier: \(LGPL-2.1\|GPL-2.0\)-or-later' ||
		complain "$path:1: no SPDX-License-Identifier"
	case $path in
	*.c | *.h) sed -n 2p "$path" | grep -q '^/[*/]' || complain "$path:2: no comment saying what it is for" ;;
	esac
	lines=$(wc -l <"$path")
	[ "$lines" -le 600 ] || complain "$path: $lines lines; is it still one thing?"
	grep -nE '(//|/?\*).*\b(XXX|FIXME|HACK)\b' "$path" /dev/null && bad=1
	grep -nE '\bTODO\b' "$path" /dev/null | grep -vE 'TODO\(#[0-9]+\)' && bad=1
done < <(project_files '*.c' '*.h' '*.proto')

while IFS= read -r path; do
	grep -nIE '[[:blank:]]+$' "$path" /dev/null && complain "$path: blanks at the end of a line"
	[ ! -s "$path" ] || [ -z "$(tail -c 1 "$path")" ] || complain "$path: no newline at its end"
done < <(project_files '*.c' '*.h' '*.sh' '*.am' '*.ac' '*.mk' '*.proto' '*.md' '*.scd' '*.map')

while read -r id; do
	[ -s "LICENSES/$id.txt" ] || complain "LICENSES/$id.txt: no text of a licence that sources name"
done < <(project_files '*.c' '*.h' '*.proto' '*.sh' '*.in' | xargs -d '\n' sed -n '1,3s/.*SPDX-License-Identifier: \([^ ]*\).*/\1/p' | sort -u)

# One page may describe several calls: its name is the page of the first, or it is named in a page.
if [ -n "$(project_files 'man/*.scd')" ]; then
	mapfile -t pages < <(project_files 'man/*.scd')
	while read -r symbol; do
		grep -qw -- "$symbol" "${pages[@]}" || complain "libcowclient.map: $symbol is in no man page"
	done < <(sed -n 's/^\t\([a-z_]*\);$/\1/p' libclient/libcowclient.map)
fi
exit $bad
