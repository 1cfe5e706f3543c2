#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# usage: test_headers.sh SOURCE
#
# Each public header alone compiles, without a warning, in every standard that a program may be written in.
set -u
source=$1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
count=0
status=0

# check COMPILER SUFFIX STANDARD
check() {
    for header in vdisk.h vdisk-space.h vdisk-image.h vdisk-bulk.h vdisk-backend.h vdisk-lab.h; do
        printf '#include <%s>\nint here;\n' $header >"$tmp/x.$2"
        count=$((count + 1))
        "$1" -std="$3" -pedantic -Wall -Wextra -Wundef -Werror -I "$source/include" -fsyntax-only "$tmp/x.$2" \
            2>"$tmp/said" && continue
        echo "FAILED: $header, $1 -std=$3:" >&2
        cat "$tmp/said" >&2
        status=1
    done
}

for compiler in gcc clang; do
    command -v $compiler >/dev/null || { echo "note: there is no $compiler"; continue; }
    for standard in c99 c11 c17 gnu99 gnu11 gnu17 gnu2x; do check $compiler c $standard; done
done
for compiler in g++ clang++; do
    command -v $compiler >/dev/null || { echo "note: there is no $compiler"; continue; }
    for standard in c++11 c++14 c++17 c++20 gnu++20; do check $compiler cc $standard; done
done
[ $count -gt 0 ] || { echo "skipped: there is no compiler"; exit 77; }
echo "$count compilations"
exit $status
