#!/bin/bash
# Draws what tools/bench/table.sh measured: four pictures, each with all cells side by side and a line for
# each mode. gnuplot, which nothing else needs, draws them: on Debian gnuplot-nox.
set -eu

usage()
{
	cat <<-END
		Usage: tools/bench/plot.sh [--data] FILE [FOLDER]
		FILE is what tools/bench/table.sh wrote; repeat-*.svg are put into FOLDER [doc].
		With --data the figures are printed as a table, and nothing is drawn.
	END
}

wrong()
{
	echo "plot.sh: $1" >&2
	usage >&2
	exit 2
}

data=
case ${1-} in
-h | --help)
	usage
	exit
	;;
--data)
	data=yes
	shift
	;;
-*) wrong "there is no option $1" ;;
esac
[ $# -ge 1 ] || wrong "FILE is missing"
[ $# -le 2 ] || wrong "'$3' is an argument too many"
file=$1 folder=${2:-doc}
command -v jq >/dev/null || { echo "plot.sh: jq is missing" >&2; exit 1; }
jq -es 'length == 1 and (.[0].cells | type == "array")' "$file" >/dev/null 2>&1 ||
	{ echo "plot.sh: $file has no cells" >&2; exit 1; }

modes=(fork scoot uffd mmapcopy)

# figures PATH: a line for each cell: its name, then the figure at PATH of each mode, or NaN.
figures()
{
	jq -r --argjson path "$1" '.cells[] | select(.modes) | . as $cell
		| ["\(.size_bytes / 1048576) MiB \(.dirty_percent) % \(.hold_name) \(.period_ms) ms"]
		+ ["fork", "scoot", "uffd", "mmapcopy" | . as $mode | $cell.modes[$mode] | getpath($path) // "NaN"]
		| @tsv' "$file"
}

if [ -n "$data" ]; then
	for path in '["stall_us","p50"]' '["stall_us","max"]' '["write_us","max"]' '["ops_per_s","100ms"]' '["extra_bytes"]'; do
		printf '%s\t%s\n' "$(jq -r 'join(".")' <<<"$path")" "$(IFS=$'\t'; echo "${modes[*]}")"
		figures "$path"
	done
	exit
fi
command -v gnuplot >/dev/null || { echo "plot.sh: gnuplot is missing; on Debian: apt-get install gnuplot-nox" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# draw NAME TITLE PATH
draw()
{
	local plots='' i

	figures "$3" >"$work/$1"
	[ -s "$work/$1" ] || { echo "plot.sh: nothing was measured" >&2; exit 1; }
	for i in "${!modes[@]}"; do
		plots+="${plots:+, }'$work/$1' using 0:$((i + 2)):xtic(1) with linespoints title '${modes[i]}'"
	done
	gnuplot <<-END
		set terminal svg size $((420 + 20 * $(wc -l <"$work/$1"))),600 background rgb 'white'
		set output '$folder/repeat-$1.svg'
		set datafile separator '\t'
		set datafile missing 'NaN'
		set title '$2'
		set logscale y
		set grid
		set key outside right
		set bmargin 13
		set lmargin 18
		set offsets 0.5, 0.5, 0, 0
		set xtics rotate by 60 right noenhanced
		plot $plots
	END
}

draw stall 'Longest stall of a take, us' '["stall_us","max"]'
draw write 'Longest wait of a write, us' '["write_us","max"]'
draw operations 'Operations a second in the first 100 ms after a take' '["ops_per_s","100ms"]'
draw memory 'Extra memory, bytes' '["extra_bytes"]'
