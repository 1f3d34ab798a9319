#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Every allocation in a program that uses the library fails once.
set -eu
: "${abs_top_builddir:?run by make check}"
"$abs_top_builddir/tests/torture/torture" library allocation
