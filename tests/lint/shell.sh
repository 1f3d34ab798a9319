#!/bin/bash
# No script gives shellcheck anything to say.
. "$(dirname "$0")/files.sh.inc"
need shellcheck
mapfile -t files < <(
	{
		project_files '*.sh'
		for path in check .ci/run quickstart; do [ -f "$path" ] && echo "$path"; done
	} | sort -u
)
[ ${#files[@]} -gt 0 ] || { echo "no scripts found"; exit 1; }
exec shellcheck --severity=warning --external-sources --source-path=SCRIPTDIR "${files[@]}"
