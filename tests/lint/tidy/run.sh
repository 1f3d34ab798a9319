#!/bin/bash
# run.sh BUILD FLAG...: clang-tidy with .clang-tidy over all C sources, as `make tidy` compiles them.
build=$1
shift
. "$(dirname "$0")/../files.sh.inc"
need clang-tidy
mapfile -t files < <(project_files '*.c')
# relative -I flags are relative to the build directory
flags=()
for flag in "$@"; do
	case $flag in
	-I/*) flags+=("$flag") ;;
	-I*) flags+=("-I$build/${flag#-I}") ;;
	*) flags+=("$flag") ;;
	esac
done
status=0
printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -I{} \
	clang-tidy --quiet {} -- -std=gnu11 -Itests "${flags[@]}" || status=1
exit $status
