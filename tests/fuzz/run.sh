#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# run.sh BUILD-DIR: build the fuzzer's target with clang, all of cowd's code instrumented, and run it for
# $FUZZ_SECONDS, 60 by default. What it finds is left in BUILD-DIR/fuzz/; give such a file to
# tests/fuzz/replay to see it again.
set -eu

build=$1
src=$(cd "$(dirname "$0")/../.." && pwd)
out=$build/fuzz
clang=${FUZZ_CC:-clang}
command -v "$clang" >/dev/null || { echo "run.sh: there is no $clang" >&2; exit 77; }

mkdir -p "$out/corpus" "$out/seeds"
packages="libseccomp libsystemd libprotobuf-c inih libcap-ng"
sources=$(find "$src/common" "$src/backends" "$src/daemon" -name '*.c' ! -name main.c)
# shellcheck disable=SC2046,SC2086
"$clang" -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -pthread \
	-DCOW_SBINDIR='"/usr/local/sbin"' -DCOW_SYSCONFDIR='"/usr/local/etc"' \
	-I"$src/tests/fuzz/shim" -I"$src" -I"$build" -I"$src/libclient" -I"$src/tests" $(pkg-config --cflags $packages) \
	$sources "$build/proto/cow.pb-c.c" "$src/tests/fuzz/fuzz-dispatch.c" "$src/tests/unit/frame.c" \
	-o "$out/fuzz-dispatch" $(pkg-config --libs $packages)
"$build/tests/fuzz/replay" --seeds "$out/seeds"
cd "$out"
exec ./fuzz-dispatch -max_total_time="${FUZZ_SECONDS:-60}" -timeout=20 -max_len=4096 -close_fd_mask=2 \
	corpus seeds
