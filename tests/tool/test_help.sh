#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Help, version, usage errors; and that each option in help is in the man page, and the other way round.
. "$(dirname "$0")/lib.sh"
man=$source_root/docs/man/vdisk-io.1

# The options that --help of a verb lists.
help_options() {
    # shellcheck disable=SC2086 # an action of a verb is two words
    "$tool" $1 --help | sed -n '/^Options:/,/^$/p' | grep -E '^  (-|    --)' | sed 's/^\(.\{27\}\).*/\1/' |
        grep -oE -- '--[a-z0-9-]+|(^| )-[A-Za-z]\b' | tr -d ' ' | grep -vxE -- '--help|-h' | sort -u
}

# The options that the man page lists in the verb's section.
man_options() {
    section=$(echo "$1" | tr a-z A-Z)
    sed -n "/^\.SH $section\$/,/^\.SH /p" "$man" | grep -A1 '^\.TP' | grep -E '^\\fB\\-' |
        sed 's/\\-/-/g; s/\\f[BIR]/ /g' | grep -oE -- '--[a-z0-9-]+|(^| )-[A-Za-z]\b' | tr -d ' ' | sort -u
}

run 0 --help
verbs=$(sed -n '/^Verbs:/,/^$/p' out | awk '/^  / { print $1 }')
same "verbs in --help" "$(echo $verbs)" "create info map check resize convert compare dd measure commit \
rebase amend checksum snapshot bitmap job io bench domain image volume lv nbd"
run 0 --version
says out "vdisk-io version "
refused "no verb given"
refused "no verb 'frobnicate'" frobnicate

for verb in $verbs; do
    run 0 "$verb" --help
    says out "Usage: vdisk-io $verb "
    says out "--help"
    cp out long
    run 0 "$verb" -h
    same "$verb -h" "$(cat out)" "$(cat long)"
    help_options "$verb" >in_help
    man_options "$verb" >in_man
    same "number of options of $verb found" "$([ "$(wc -l <in_help)" -ge 3 ] && echo enough)" enough
    same "$verb: in --help but not in the man page" "$(comm -23 in_help in_man)" ""
    same "$verb: in the man page but not in --help" "$(comm -13 in_help in_man)" ""
    refusal=1
    [ "$verb" != checksum ] || refusal=2 # 1 is for what differs
    refused "see 'vdisk-io $verb --help'" "$verb" --no-such-option
    refused "see 'vdisk-io $verb --help'" "$verb"
    case $verb in
    job|domain) ;; # they have no -f
    *) refused "needs an argument" "$verb" -f ;;
    esac
done
refusal=1
refused "--output takes human or json" info --output=xml x
refused "must be specified; see" measure
refused "argument is allowed; see" measure a b
refused "with a filename; see" measure -s 1M a
refused "Invalid image size specified: 'x'; see" measure -s x
refused "takes the name of one image" info a b
refused "takes the name of the image and its size" create a 1 2

# Verbs that are not there yet are known by name.
refused "snapshot: internal snapshots cannot be" snapshot -l x
refused "bitmap: bitmaps cannot be" bitmap --add x b0 -g 64k

# An action that has options of its own.
run 0 volume serve --help
says out "Usage: vdisk-io volume serve "
cp out long
run 0 volume serve -h
same "volume serve -h" "$(cat out)" "$(cat long)"
help_options "volume serve" >in_help
man_options "volume serve" >in_man
same "options of volume serve found" "$([ "$(wc -l <in_help)" -ge 20 ] && echo enough)" enough
same "volume serve: help and man page" "$(cat in_man)" "$(cat in_help)"
refused "see 'vdisk-io volume serve --help'" volume serve --no-such-option
refused "takes the names of 1 to 256 volumes; see 'vdisk-io volume serve --help'" volume serve
refused "comes before its options" volume -q serve x

# The commands of io, and the options of create.
"$tool" io --help | sed -n '/^Commands/,$p' | awk '/^  [a-z]/ { sub(",", "", $1); print $1 }' >commands
same "io commands found" "$([ "$(wc -l <commands)" -ge 9 ] && echo enough)" enough
while read -r command; do
    checks=$((checks + 1))
    sed -n '/^\.SH IO$/,/^\.SH /p' "$man" | grep -qE "^\.(BR|B|BI) $command( |\$)" || fail "man page: io $command"
done <commands
"$tool" create -f qcow2 -o help | sed -n 's/^  \([a-z0-9_]*\)=.*/\1/p' >keys
same "create options found" "$(wc -l <keys)" 13
while read -r key; do
    checks=$((checks + 1))
    sed -n '/^\.SH CREATE$/,/^\.SH /p' "$man" | grep -q "$key=" || fail "man page: -o $key"
done <keys

# What cannot be written is not success.
if [ -w /dev/full ]; then
    "$tool" --help >/dev/full 2>err
    same "exit code with a full disk on stdout" $? 1
    says err "stdout: "
fi
# Too little memory, wherever that is noticed: with what to do.
head -c 3M /dev/urandom >some
for kib in 20000 25000 30000 40000 50000 60000; do
    for command in "checksum some" "convert -O qcow2 some made" "dd if=some of=made" "compare some some"; do
        (ulimit -v $kib && "$tool" $command >out 2>err </dev/null)
        checks=$((checks + 1))
        ! grep -q '^vdisk-io: .*\(out of memory\|Cannot allocate\)' err || grep -q '^vdisk-io: hint: ' err ||
            fail "ulimit -v $kib: $command: no hint"
    done
done
finish
