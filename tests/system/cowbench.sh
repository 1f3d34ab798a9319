#!/bin/bash
# cowbench: every mode once with the talk's options, and all of them compared, with a small region. What
# is checked is that the figures are there and mean what they should (memory, frames, keys), never how
# fast anything is.
#
# Seen to fail with: a duplicate that is the origin; pages of the copy counted nowhere; a JSON key that is
# spelled otherwise; a mode left out.
set -u
case ${COWD_SANITIZERS:-no} in
*thread*)
	echo "cowbench measures memory, of which the thread sanitizer takes a multiple"
	exit 77
	;;
esac
tool=${COWBENCH_PROGRAM:?is set by make check}
. "$(dirname "$0")/tool.sh.inc"
export COWD_ADDRESS="exec:${COWD_PROGRAM:?is set by make check}${sandbox[*]/#/ }"

expect 2 'is missing' 'no arguments'
expect 2 "did you mean 'compare'" 'a mistyped subcommand' compair
expect 2 "did you mean 'scoot'" 'a mistyped mode' -m scot
expect 2 'memcpy.* is no mode' 'a mode that the talk did not have' -m memcpy
expect 2 '-s wants a size' 'no size' -m fork -s 0
expect 2 '-s wants a size' 'a size that is none' -m fork -s 12x
# Seen to fail with MiB only, which took no unit, and with a bound that the sentence did not name.
expect 2 'from 1M to 16T' 'a size that is too large' -m fork -s 99999999
expect 2 'from 1M to 16T' 'a size that is too small' compare -s 64K
expect 2 'from 1M to 16T' 'a unit that there is not' fork -s 1X
expect 2 'is more than the 4096 pages of -s 16' 'more pages than there are' rollback -s 16 --dirty 999999
# cowd was asked before, and a wrong argument ended as a missing daemon does.
expect 2 'wat is none of minor-shmem, .*pagemap-scan' 'a feature that there is not' compare --without-feature wat
for words in -V --version; do
	expect 0 '^cowbench [0-9]' "$words" $words
done
for words in -h --help help; do
	expect 0 '^Usage: cowbench ' "$words" $words
done
expect 2 '-x wants db or snap' 'a moment that there is not' -m fork -x now
expect 2 'is missing' 'no mode' -s 4
expect 2 'compare has no option -q' 'an option that compare has not' compare -q
expect 2 '-n wants' 'no runs' compare -n 0
expect 2 "did you mean 'faults'" 'a mistyped subcommand' fault
expect 2 'faults has no option --no-such' 'an option that faults has not' faults --no-such
expect 2 '--clients wants a number from 1' 'no clients' faults --clients 0
expect 2 '--threads wants a number from 1' 'no threads' faults --threads 0
expect 2 'random or sequential' 'a pattern that there is not' faults --pattern backwards
expect 2 'fork has no option --dirty' 'an option that fork has not' fork --dirty 1
expect 2 '-n wants' 'no forks' fork -n 0
expect 2 '--again wants milliseconds' 'a time that is none' fork --again soon
expect 2 '--again wants milliseconds' 'a time without end' fork --again 600001
expect 2 '--again needs a value' 'no time' fork --again
expect 3 "$dir/none" 'no daemon for snapshots again and again' repeat -s 1 -n 1 --socket "$dir/none"
expect 3 "$dir/none" 'no daemon to roll back with' rollback -s 1 -n 1 --socket "$dir/none"
expect 2 '--dirty wants 0 to 100' 'more than all pages' repeat --dirty 101
expect 2 '--hold wants none, newest or how many' 'a hold that is none' repeat --hold some
expect 2 '--hold wants .* up to 16' 'more held than there is room for' repeat --hold=17
expect 2 "'more' is an argument too many" 'a word after that of --hold' repeat --hold 2 more
expect 2 '--period wants 10 to 600000 milliseconds' 'a period that is too short' repeat --period 9
expect 2 '--spread wants random, hot or sequential' 'a spread that there is not' repeat --spread wide
expect 1 'choose a smaller -s' 'more memory for copies than there is' repeat -s 16000000
expect 1 'choose a smaller -s' 'more memory for forks than there is' fork -s 16000000
expect 3 "$dir/none" 'no daemon for forks' fork -s 1 -n 1 --socket "$dir/none"
expect 1 'choose a smaller -s' 'more memory for faults than there is' faults -s 16000000
expect 1 'choose a smaller -s' 'more memory than there is' compare -s 16000000
expect 0 'compare' 'help' --help
expect 0 '^cowbench [0-9]' 'version' --version
expect 2 'for a private cowd' 'a feature less of a cowd that runs' compare --socket "$dir/none" \
	--without-feature wp-async
expect 2 'is none of minor-shmem' 'two arguments for one' compare --without-feature 'wp-async --user root'
expect 2 'needs a value' 'no feature' compare --without-feature
expect 2 'address of [0-9]+ bytes is too long' 'a long address' compare --socket "$(printf '%05000d' 0)"
expect 3 "$dir/none" 'no daemon to compare with' compare -s 1 -n 1 --socket "$dir/none"
expect 3 "$dir/none" 'no daemon' -m scoot --socket "$dir/none"
expect 3 "$dir/none" 'no daemon for faults' faults -s 1 -n 1 --socket "$dir/none"

# What is completed is what there is.
completions=$(dirname "$0")/../../tools/completions/cowbench
completed=$(sed -n "s/.*local subcommands='\(.*\)'/\1/p" "$completions" | tr ' ' '\n' | sort)
"$tool" --help >"$dir/out"
printf '%s\n' "$completed" >"$dir/completed"
sed -n '/^Subcommands:/,/^Options/s/^  \([a-z]\+\) .*/\1/p' "$dir/out" | sort >"$dir/subcommands"
same 'subcommands are completed' "$dir/completed" "$dir/subcommands"

# Children that do not see their parent's memory end with an error, so figures say that they do.
expect 0 '^fork_of_region ' 'fork as a table' fork -s 4 -n 2
expect 0 '' 'fork as JSON' fork -s 4 -n 2 --json
document 'a member for each way, figures in order' '
	def figures: keys == ["max", "p50", "p99"] and 0 < .p50 and .p50 <= .p99 and .p99 <= .max;
	keys == ["ratio", "runs", "size_bytes", "ways"] and .size_bytes == 4194304 and .runs == 2 and .ratio > 0
	and (.ways | keys == ["cow_fork", "fork", "fork_of_region"])
	and ([.ways[] | keys == ["child_read_us", "parent_write_us", "stall_us"]
		and (.stall_us | figures) and (.child_read_us | figures) and (.parent_write_us | figures)] | all)'

# A second child that does not see the memory ends with an error as well.
expect 0 '^WAY .* AGAIN us p50 +max$' 'the next fork, in the table' fork -s 4 -n 1 --again 0
expect 0 '' 'the next fork as JSON' fork -s 4 -n 2 --again 10 --json
document 'the next fork has figures of its own' '
	.again_ms == 10 and ([.ways[] | .again_us | keys == ["max", "p50", "p99"]
		and 0 < .p50 and .p50 <= .p99 and .p99 <= .max] | all)'

# One snapshot: it takes two seconds. Without a userfaultfd nothing settles, and that is no reason to wait.
# On a busy machine nobody may run in the first 10 ms, and that is a figure too.
repeated='def figures: keys - ["take"] == ["cpu_ms", "dip", "extra_bytes", "ops_per_s", "settle_cpu_us_per_page",
		"stall_us", "worst_write_us", "write_us"]
	and (.cpu_ms | keys == ["children", "cowd", "library", "take"] and .take > 0)
	and (.write_us | keys == ["max", "p999"] and 0 < .p999 and .p999 <= .max)
	and (.stall_us | keys == ["first", "last", "max", "p50", "p99"] and 0 < .p50 and .p50 <= .p99 and .p99 <= .max)
	and (.worst_write_us | keys == ["live", "quiet", "settle", "take"])
	and (.dip | keys == ["100ms", "10ms", "1s"] and ([.[] >= 0] | all) and .["1s"] > 0)
	and (.ops_per_s | keys == ["100ms", "10ms", "1s", "before"] and ([.[] >= 0] | all) and .before > 0);
	keys - ["left_out"] == ["dirty_percent", "hold", "memcpy_us_per_page", "modes", "size_bytes", "snapshots", "spread",
		"threads"]
	and .size_bytes == 4194304 and .dirty_percent == 50 and .snapshots == 1 and .threads == 2
	and .hold == 0 and .spread == "random"
	and ((.modes | keys) + (.left_out // {} | keys) | sort) == ["fork", "mmapcopy", "scoot", "uffd"]
	and ([.modes[] | figures] | all)
	and (.modes.scoot.take | keys == ["kept_bytes", "settled_bytes"])'
expect 0 '' 'repeat' repeat -s 4 -n 1 --dirty 50 --threads 2 --json
document 'repeat as JSON' "$repeated and ([.modes[].extra_bytes >= 1048576] | all)"
[ ! -e /dev/userfaultfd ] || document 'pages are settled' '.modes.scoot.settle_cpu_us_per_page > 0'
# The second take finds the first snapshot held, and keeps half of the 1024 pages for it.
expect 0 '' 'repeat with one held' repeat -s 4 -n 2 --dirty 50 --threads 0 --hold --json
document 'which each take keeps pages for' '.is_held and .modes.scoot.settle_cpu_us_per_page == 0
	and .modes.scoot.take.settled_bytes + .modes.scoot.take.kept_bytes >= 1048576'
# Three are held, and after each half of the pages, 2 MiB, is written: three children of fork() hold three times that.
# Seen to fail with nothing written after the last take.
expect 0 '' 'repeat with a period' repeat -s 4 -n 2 --dirty 50 --threads 0 --hold 3 --period 20 --json
document 'the newest three are held' '.hold == 3 and .is_held and .period_ms == 20
	and ([.modes[] | .stall_us.p50 > 0 and .dip == null and .write_us == null] | all)
	and .modes.fork.extra_bytes >= 5 * 1048576'
expect 0 '' 'repeat with hot pages' repeat -s 4 -n 2 --dirty 25 --threads 0 --hold=newest --period 20 --spread hot --json
document 'which stay the same ones' '.hold == 1 and .spread == "hot" and .dirty_percent == 25
	and .modes.scoot.take.settled_bytes + .modes.scoot.take.kept_bytes >= 1048576'
expect 0 '^4 MiB, .*, the newest 2 held, one each 50 ms, sequential$' 'the same as a table' \
	repeat -s 4 -n 2 --threads 1 --hold 2 --period 50 --spread sequential
for mode in scoot fork mmapcopy; do
	grep -qx "$mode" "$dir/out" || bad "repeat: $mode is not in the table"
done
# The table of all patterns, of one that is measured and one that cannot be, and what is drawn from it. Seen to
# fail with the one that cannot be left out.
scripts=$(dirname "$0")/../../tools/bench
if COWBENCH_PROGRAM=$tool "$scripts/table.sh" --sizes 4,16000000 --dirty 25 --hold newest --period 50 \
	--threads 0 >"$dir/out" 2>"$dir/err"; then
	document 'a cell for each pattern' '(.cells | length == 2) and .cells[0].modes.scoot.stall_us.p50 > 0
		and .cells[0].hold == 1 and (.cells[1].not_measured | test("choose a smaller"))'
	"$scripts/plot.sh" --data "$dir/out" >"$dir/data" 2>"$dir/err" || bad "plot.sh: $(cat "$dir/err")"
	rows=$(grep -cP '^4 MiB 25 % newest 50 ms(\t[0-9.]+){2}' "$dir/data")
	# what is measured by the work of threads is not there
	[ "$rows" = 3 ] && ok 'a row for each figure' || bad "plot.sh: $(cat "$dir/data")"
else
	bad "table.sh: $(cat "$dir/err")"
fi
"$scripts/table.sh" --period >"$dir/out" 2>"$dir/err" && bad 'table.sh takes no period for one'
grep -q -- '--period needs a value' "$dir/err" || bad "table.sh: $(cat "$dir/err")"
"$scripts/plot.sh" "$dir/data" >"$dir/out" 2>"$dir/err" && bad 'plot.sh draws what is no table'
grep -q 'has no cells' "$dir/err" || bad "plot.sh: $(cat "$dir/err")"
COWD_ADDRESS+=' --lend=no' expect 0 '' 'repeat where nothing settles' repeat -s 4 -n 1 --dirty 50 --threads 2 --json
document 'the same as JSON' "$repeated and .modes.scoot.settle_cpu_us_per_page == 0 and (.left_out | keys == [\"uffd\"])"
# Alone, the second take settles what was written since the first: 512 pages of 4 KiB, half of it each.
COWD_ADDRESS+=' --lend=no' expect 0 '' 'repeat by a program that is alone' repeat -s 4 -n 2 --dirty 50 --threads 0 --json
document 'what the take settled by itself' '.threads == 0 and (.modes.scoot | .dip == null and .worst_write_us == null
	and .take.settled_bytes == 1048576 and .take.kept_bytes == 0)'
COWD_ADDRESS+=' --lend=no' expect 0 '^  in the take itself, MiB +settled 0.00' 'the same as a table' \
	repeat -s 4 -n 1 --dirty 50 --threads 0
# Beside others it settles too, if they may be stopped; or keeps, where ptrace(2) is forbidden.
if grep -q '^#define COW_STOP_THREADS' "${abs_top_builddir:?is set by make check}/config.h"; then
	COWD_ADDRESS+=' --lend=no' expect 0 '' 'repeat by a program whose threads are stopped' \
		repeat -s 4 -n 2 --dirty 50 --threads 2 --stop-threads --json
	document 'what the take settled or kept' '.threads == 2
		and (.modes.scoot.take | .settled_bytes + .kept_bytes >= 1048576)'
else
	expect 1 'built without COW_REGION_STOP_THREADS' 'threads that this build cannot stop' \
		repeat -s 4 -n 1 --dirty 50 --threads 2 --stop-threads
fi
expect 0 '' 'rollback' rollback -s 4 -n 11 --dirty 10 --json
document 'rollback as JSON' '
	def figures: keys == ["max", "p50", "p99"] and 0 < .p50 and .p50 <= .p99 and .p99 <= .max;
	def mode: keys == ["cycle_us", "ratio", "rollback_us"] and .ratio > 0
		and (.rollback_us | figures) and (.cycle_us | figures)
		and .rollback_us.p50 <= .cycle_us.p50;
	(keys - ["left_out"]) == ["dirty_pages", "modes", "runs", "size_bytes"]
	and .dirty_pages == 10 and .runs == 11 and .size_bytes == 4194304
	and (.modes.fork | keys == ["cycle_us"] and (.cycle_us | figures)) and (.modes.scoot | mode)
	and ((.modes | keys) + (.left_out // {} | keys) | sort) == ["fork", "scoot", "uffd"]
	and (.modes.uffd == null or (.modes.uffd | mode))'
rolled=$(cat "$dir/out")
expect 0 '^fork .* a second' 'rollback as a table' rollback -s 4 -n 2 --dirty 10
grep -q '^scoot .* times as fast as fork; rolling back alone' "$dir/out" || bad "scoot is not in the table"
COWD_ADDRESS+=' --lend=no' expect 0 '' 'rollback where nothing is lent' rollback -s 4 -n 2 --json
document 'rollback without mode uffd' '(.modes | keys == ["fork", "scoot"]) and (.left_out | keys == ["uffd"])
	and (.left_out.uffd | test("lends no userfaultfd"))'

for size in 4 4M 4096K 3.5MiB; do
	expect 0 '^Working on 4MiB' "-s $size" -m fork -s $size -v --socket "$dir/none"
done
# fork needs no daemon at all, and must not fail without one
expect 0 '^[0-9]+ns \([0-9.]+ms\)$' 'fork without a daemon' -m fork -s 4 -p --socket "$dir/none"

modes=(scoot fork mmapcopy)
"$tool" -m uffd -s 4 -p >"$dir/out" 2>"$dir/err"
if grep -q 'cannot use /dev/userfaultfd' "$dir/err"; then
	echo "LEFT OUT mode uffd, and what compares it with others: $(cat "$dir/err")"
else
	modes+=(uffd)
fi
for mode in "${modes[@]}"; do
	for until in db snap; do
		expect 0 '^[0-9]+ns \([0-9.]+ms\)$' "$mode until $until" -m "$mode" -s 4 -p -x "$until"
		[ "$(wc -l <"$dir/out")" -eq 1 ] || bad "$mode says more than it was asked: $(cat "$dir/out")"
	done
	expect 0 '^Working on 4MiB \([0-9]+ pages @[0-9]+B\)$' "$mode -v" -m "$mode" -s 4 -v
	expect 0 '^Copy first page: 0x0$' "$mode: the duplicate stays" -m "$mode" -s 4 -p -t
	grep -q '^Origin first page: 0x55$' "$dir/out" || bad "$mode: the origin does not change"
	# Four frames: origin and duplicate, before and after the write.
	mapfile -t frames < <(sed -n 's/^0x[0-9a-f]* -> \(0x[0-9a-f]*\)$/\1/p' "$dir/out")
	if [ "${#frames[@]}" -ne 4 ]; then
		echo "LEFT OUT $mode: frames are hidden here"
		continue
	fi
	[ "${frames[2]}" != "${frames[3]}" ] || bad "$mode: one frame after the write: ${frames[*]}"
	[ "$mode" = uffd ] || [ "${frames[0]}" = "${frames[1]}" ] ||
		bad "$mode: the copy was not shared before the write: ${frames[*]}"
done

# What remains when cowd has no device, or does not lend it: everything else, and the reason.
# without_uffd HOW PATTERN: as JSON in $dir/out
without_uffd()
{
	grep -Eq "^cowbench: mode uffd is left out: .*$2" "$dir/err" || bad "$1: no reason: $(cat "$dir/err")"
	document "$1: the other modes are measured" '(.modes | keys == ["fork", "memcpy", "mmapcopy", "scoot"])
		and (.left_out | keys == ["uffd"]) and (.left_out.uffd | test($pattern))
		and ([.modes[] | .stall_us.p50 > 0 and .first_write_us.p999 > 0 and .rewrite_ms > 0] | all)' \
		--arg pattern "$2"
}
COWD_ADDRESS+=' --lend=no' expect 0 '' 'compare where nothing is lent' compare -s 4 -n 1 --json
without_uffd 'nothing is lent' 'lends no userfaultfd'
COWD_ADDRESS+=' --lend=no' expect 0 '^scoot ' 'the same as tables' compare -s 4 -n 1
grep -q '^uffd ' "$dir/out" && bad "uffd is in the tables: $(cat "$dir/out")"
if [ -e /dev/userfaultfd ] && unshare -m mount --bind /dev/null /dev/userfaultfd 2>/dev/null; then
	unshare -m sh -c 'mount --bind /dev/null /dev/userfaultfd && exec "$0" compare -s 4 -n 1 --json' \
		"$tool" >"$dir/out" 2>"$dir/err" || bad "compare without a device: $? $(cat "$dir/err")"
	without_uffd 'there is no device' '/dev/userfaultfd'
else
	echo "LEFT OUT taking the device away takes a mount namespace"
fi

[ ${#modes[@]} -eq 4 ] || exit "$failed"
printf '%s' "$rolled" >"$dir/out"
document 'mode uffd is rolled back too' '.modes | has("uffd")'
# Eagerly armed, which a cowd says of itself at start.
COWD_ADDRESS+=' --verbose' expect 0 '^8.0 MiB, .*, without minor-shmem, wp-async$' 'features less, in the tables' \
	compare -s 8 -n 1 --without-feature minor-shmem --without-feature=wp-async
grep -q 'arming eager' "$dir/err" || bad "not armed eagerly: $(cat "$dir/err")"
expect 0 '' 'features less' compare -s 4 -n 1 --json --without-feature minor-shmem --without-feature wp-async
document 'features less, as JSON' '.without_features == ["minor-shmem", "wp-async"]
	and (.modes | length == 5) and (has("left_out") | not)'
expect 0 '^memcpy ' 'compare as tables' compare -s 4 -n 1
for mode in fork scoot uffd mmapcopy memcpy; do
	[ "$(grep -c "^$mode " "$dir/out")" -eq 2 ] || bad "compare: $mode is not in both tables"
done
expect 0 '' 'compare as JSON' compare -s 8 -n 2 --json
document 'a row for each mode, figures in order' '
	def rising(a): [a] | . == sort and .[0] >= 0;
	.size_bytes == 8388608 and .runs == 2 and .page_bytes >= 4096 and (.kernel | type) == "string"
	and (keys == ["kernel", "modes", "page_bytes", "runs", "size_bytes"])
	and (.modes | keys == ["fork", "memcpy", "mmapcopy", "scoot", "uffd"])
	and ([.modes[]
		| (keys == ["extra_bytes", "first_read_us", "first_write_us", "rewrite_ms", "stall_us"])
		and (.stall_us | keys == ["max", "p50", "p99"])
		and (.first_read_us | keys == ["p50", "p99", "p999"])
		and (.first_write_us | keys == ["p50", "p99", "p999"])
		and rising(.stall_us.p50, .stall_us.p99, .stall_us.max)
		and rising(.first_read_us.p50, .first_read_us.p99, .first_read_us.p999)
		and rising(.first_write_us.p50, .first_write_us.p99, .first_write_us.p999)
		and .stall_us.p50 > 0 and .rewrite_ms > 0] | all)'
# With every page rewritten while the copy lives, a second copy of all pages exists, wherever it is.
document 'the copy is found in memory' '. as $all | [.modes[] | .extra_bytes >= $all.size_bytes * 0.9
	and .extra_bytes <= $all.size_bytes * 1.5] | all'

# What it is that serves first writes: the kinds, never how fast. A private cowd's folder goes with it.
export TMPDIR="$dir/tmp"
mkdir "$TMPDIR"
served='def served: keys == ["latency_us", "served_per_s"] and .served_per_s > 0
	and (.latency_us | keys == ["p50", "p99", "p999"]
		and 0 < .p50 and .p50 <= .p99 and .p99 <= .p999);'
for pattern in random sequential; do
	expect 0 '' "faults, $pattern" faults -s 1 -n 1 --clients 3 --threads 2 --pattern "$pattern" --json
	document "faults, $pattern, as JSON" "$served"'
		keys == ["bare_other_cpu", "bare_same_cpu", "latency_us", "ratio", "served_per_s"]
		and ({latency_us, served_per_s} | served) and (.bare_same_cpu | served)
		and (.bare_other_cpu == null or (.bare_other_cpu | served)) and .ratio > 0'
done
expect 0 '^bare loop, same CPU ' 'faults as a table' faults -s 1 -n 1
expect 0 '' 'a storm' faults --storm -s 1 -n 1 --clients 3 --json
document 'a storm, as JSON' "$served"'
	keys == ["alone", "beside_storm", "ratio", "storm"] and (.alone | served)
	and (.beside_storm | served) and .storm.served_per_s > 0 and .ratio > 0'
left=$(ls -A "$TMPDIR")
[ -z "$left" ] && ok 'nothing is left behind' || bad "left behind: $left"
exit "$failed"
