#!/bin/bash
# The whole table of repeated copies as one JSON document on stdout: `cowbench repeat` with each size, share
# of pages written, hold and period. tools/bench/plot.sh draws it.
#
# Bounded in time: a run that takes longer than --cell seconds is ended, and once --minutes are over no
# other is begun. A run that was not made, or failed, is in the document too, with the reason.
set -u

sizes=64,1024,8192 dirty=1,25,100 hold=none,newest,3 period=100,500,5000 threads=2 minutes=180 cell=900
program=${COWBENCH_PROGRAM:-cowbench}

usage()
{
	cat <<-END
		Usage: tools/bench/table.sh [OPTION LIST]... >FILE
		  --sizes LIST    MiB [$sizes]
		  --dirty LIST    percent written between takes [$dirty]
		  --hold LIST     as for cowbench repeat --hold [$hold]
		  --period LIST   milliseconds [$period]
		  --threads N     that read and write [$threads]
		  --minutes N     begin no run after that [$minutes]
		  --cell N        seconds that one run may take [$cell]
		\$COWBENCH_PROGRAM is the cowbench that is run, if it is not in PATH.
	END
}

wrong()
{
	echo "table.sh: $1" >&2
	usage >&2
	exit 2
}

while [ $# -gt 0 ]; do
	case $1 in
	-h | --help)
		usage
		exit
		;;
	--sizes | --dirty | --hold | --period | --threads | --minutes | --cell)
		[ $# -gt 1 ] || wrong "$1 needs a value"
		[ -n "$2" ] || wrong "$1 needs a value"
		printf -v "${1#--}" %s "$2"
		shift 2
		;;
	*) wrong "there is no option $1" ;;
	esac
done
for number in "$threads" "$minutes" "$cell"; do
	[[ $number =~ ^[0-9]+$ ]] || wrong "'$number' is no number"
done
for tool in jq timeout "$program"; do
	command -v "$tool" >/dev/null || { echo "table.sh: $tool is missing" >&2; exit 1; }
done

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Takes that count: at least four, and five seconds of them, but no more than fifty.
takes()
{
	local n=$((5000 / $1))

	[ "$n" -ge 4 ] || n=4
	[ "$n" -le 50 ] || n=50
	echo "$n"
}

# run SIZE DIRTY HOLD PERIOD: one cell, on stdout
run()
{
	local reason status=0 n

	n=$(takes "$4")
	if [ "$SECONDS" -ge $((minutes * 60)) ]; then
		echo "after $minutes minutes no other run is begun" >"$folder/err"
		status=-1
	else
		timeout "$cell" "$program" repeat -s "$1" --dirty "$2" --hold "$3" --period "$4" -n "$n" \
			--threads "$threads" --json >"$folder/out" 2>"$folder/err" || status=$?
		[ "$status" -ne 124 ] || echo "it was ended after $cell seconds" >"$folder/err"
	fi
	if [ "$status" -eq 2 ]; then
		cat "$folder/err" >&2
		return 2
	fi
	if [ "$status" -eq 0 ]; then
		jq -c --arg name "$3" '. + {hold_name: $name}' "$folder/out"
		return
	fi
	reason=$(head -n 1 "$folder/err")
	jq -nc --argjson size "$1" --argjson dirty "$2" --arg name "$3" --argjson period "$4" --arg reason "$reason" \
		'{size_bytes: ($size * 1048576), dirty_percent: $dirty, hold_name: $name, period_ms: $period,
		not_measured: $reason}'
}

IFS=, read -ra all_sizes <<<"$sizes"
IFS=, read -ra all_dirty <<<"$dirty"
IFS=, read -ra all_hold <<<"$hold"
IFS=, read -ra all_period <<<"$period"
# The short ones first, so that what time does not suffice for is the least.
for size in "${all_sizes[@]}"; do
	for ms in "${all_period[@]}"; do
		for percent in "${all_dirty[@]}"; do
			for held in "${all_hold[@]}"; do
				[ ! -t 2 ] || printf '\r%s MiB, %s %%, %s, %s ms   ' "$size" "$percent" "$held" "$ms" >&2
				run "$size" "$percent" "$held" "$ms" >>"$folder/cells" || exit
			done
		done
	done
done
[ ! -t 2 ] || echo >&2
jq -s --arg version "$("$program" --version)" --arg kernel "$(uname -r)" --argjson cpus "$(nproc)" \
	--arg begun "$(date -u -d "-$SECONDS seconds" +%FT%TZ)" \
	'{version: $version, kernel: $kernel, cpus: $cpus, begun: $begun, cells: .}' "$folder/cells"
