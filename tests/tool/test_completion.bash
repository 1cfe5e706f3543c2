#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What bash completes is what the tool takes: all options of --help and no other, and values that it accepts.
# usage: test_completion.bash VDISK_IO COMPLETION
completion=$(realpath "$2")
. "$(dirname "$0")/lib.sh"
. "$completion"
compopt() { :; } # outside of a completion there is none

# completes WORD...: what the last of these words can become, in `out`, sorted.
completes() {
    COMP_WORDS=(vdisk-io "$@")
    COMP_CWORD=$#
    _vdisk_io
    printf '%s\n' "${COMPREPLY[@]}" | sort >out
}

run 0 --help
verbs=$(sed -n '/^Verbs:/,/^$/p' out | awk '/^  / { print $1 }')
completes ""
same "verbs" "$(grep -v '^-' out | tr '\n' ' ')" "$(printf '%s\n' $verbs | sort | tr '\n' ' ')"
for verb in $verbs "volume serve"; do
    # shellcheck disable=SC2086 # an action of a verb is two words
    run 0 $verb --help
    sed -n '/^Options:/,/^$/p' out | grep -E '^  (-|    --)' | cut -c1-27 | grep -oE -- '--[a-z0-9-]+|(^| )-[A-Za-z]\b' |
        tr -d ' ' | sort -u >in_help
    # shellcheck disable=SC2086
    completes $verb -
    same "options of $verb" "$(cat out)" "$(cat in_help)"
    # shellcheck disable=SC2086
    completes $verb x
    same "$verb: names of files are bash's" "$(cat out)" ""
    [[ $verb != @(job|domain|volume serve) ]] || continue # they open no image, or know its format
    completes "$verb" -f q
    same "formats of $verb" "$(cat out)" qcow2
done
completes info --output = j
same "--output=j" "$(cat out)" json
completes info --output =
same "--output=" "$(cat out)" "$(printf 'human\njson')"

# Each value that is offered is taken.
run 0 create -q -f qcow2 a 1M
run 0 create -q -f qcow2 -o preallocation=metadata b 1M
for form in human json; do
    for verb in info map check measure checksum; do run 0 $verb --output $form a; done
done
completes check -r ""
for what in $(cat out); do run 0 check -r "$what" a; done
completes check -T ""
for mode in $(cat out); do run 0 check -T "$mode" a; done
completes bench -i ""
for kind in $(cat out); do run 0 bench -c 1 -t none -i "$kind" a; done
completes resize --preallocation ""
for mode in $(cat out); do run 0 resize -q --preallocation "$mode" a +64K; done
completes convert -t ""
for mode in $(cat out); do run 0 convert -t "$mode" -T "$mode" a converted; done
completes commit -t ""
run 0 create -q -f qcow2 -b a -F qcow2 over
for mode in $(cat out); do run 0 commit -q -t "$mode" over; done
completes rebase -t ""
for mode in $(cat out); do run 0 rebase -t "$mode" -T "$mode" -b a -F qcow2 over; done
completes checksum -T ""
for mode in $(cat out); do run 0 checksum -T "$mode" a; done
completes compare -T ""
for mode in $(cat out); do run 0 compare -T "$mode" a converted; done
for option in --rw --queue-kind --cache --latency; do
    completes bench $option ""
    for word in $(cat out); do run 0 bench --count 1 $option "$word" --size 64K memory:1M; done
done
completes create -o ""
"$tool" create -f qcow2 -o help | sed -n 's/^  \([a-z0-9_]*\)=.*/\1=/p' >keys
same "keys of create -o" "$(grep -v '^help$' out)" "$(sort keys)"
finish
