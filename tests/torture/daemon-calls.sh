#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Every descriptor and every fallible system call of cowd fails once, while a client works.
set -eu
: "${abs_top_builddir:?run by make check}"
"$abs_top_builddir/tests/torture/torture" daemon descriptor
"$abs_top_builddir/tests/torture/torture" daemon call
