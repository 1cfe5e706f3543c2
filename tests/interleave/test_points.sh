#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# usage: test_points.sh CC SOURCE_ROOT
#
# Nothing is left of points and mutants in a build without assertions: no object refers to their variables.
cc=$1 root=$2 failed=0
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
command -v nm >/dev/null || { echo "skipped: no nm"; exit 77; }

# refers DEFINE FILE: does what is compiled so refer to the hook, or to a mutant's number?
refers() {
    "$cc" -std=gnu11 -D_GNU_SOURCE $1 -O2 -I"$root" -I"$root/include" -c "$2" -o "$work/o" || exit 1
    nm "$work/o" | grep -qE ' (point_hook|engine_mutant|q2_mutant)$'
}

for file in $(cd "$root" && grep -lE 'POINT\(|MUTANT\(' -r --include=*.c engine qcow2 backends); do
    if refers -DNDEBUG "$root/$file"; then
        echo "FAILED: $file: something is left in a release build:"
        nm "$work/o" | grep -E ' (point_hook|engine_mutant|q2_mutant)$'
        failed=1
    fi
done
# The test can fail.
if ! refers -UNDEBUG "$root/engine/loop/gate.c"; then
    echo "FAILED: engine/loop/gate.c: no points in a build with assertions"
    failed=1
fi
exit $failed
