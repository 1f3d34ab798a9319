#!/bin/sh
# Make configure and the Makefile.in files; wanted after a checkout and after a change to *.ac, *.am, *.mk.
set -eu
cd "$(dirname "$0")"
exec autoreconf --install --force --warnings=all
