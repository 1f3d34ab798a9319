#!/bin/bash
# The C sources are as clang-format would write them. To mend: make format
. "$(dirname "$0")/files.sh.inc"
need clang-format
mapfile -t files < <(project_files '*.c' '*.h')
[ ${#files[@]} -gt 0 ] || { echo "no C files found"; exit 1; }
if [ "${1:-}" = --fix ]; then
	exec clang-format -i "${files[@]}"
fi
exec clang-format --dry-run --Werror "${files[@]}"
