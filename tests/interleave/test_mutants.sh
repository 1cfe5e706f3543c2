#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# usage: test_mutants.sh TEST_INTERLEAVE
#
# The scheduler can find something: each rule between threads, broken on purpose, fails one of the programs.
interleave=$1
failed=0
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT

for mutant in $("$interleave" --list-mutants); do
    "$interleave" --mutant "$mutant" --preemptions 2 --random 0 >"$out" 2>&1
    status=$?
    if [ $status = 0 ]; then
        "$interleave" --mutant "$mutant" >"$out" 2>&1
        status=$?
    fi
    if [ $status = 1 ] && grep -q '^FAILED' "$out"; then
        echo "$mutant: $(grep '^FAILED' "$out"); $(sed -n 's/.*--schedule //p' "$out")"
    else
        echo "FAILED: $mutant survives (status $status)"
        tail -n 5 "$out"
        failed=1
    fi
done
exit $failed
