#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# resize: sizes in all forms, preallocation, --shrink, refusals; against qemu-img where it has the same.
. "$(dirname "$0")/lib.sh"
need qemu-img

# size_is IMAGE BYTES
size_is() {
    got=$(qemu-img info --output json "$1" | sed -n 's/.*"virtual-size": \([0-9]*\).*/\1/p' | head -1)
    same "size of $1" "$got" "$2"
}

for fmt in qcow2 raw; do
    image=image.$fmt
    run 0 create -q -f $fmt $image 10M
    run 0 resize -f $fmt $image 20M
    same "output of resize" "$(cat out)" "Image resized."
    size_is $image 20971520
    run 0 resize -q $image +1M
    same "output of resize -q" "$(cat out)" ""
    size_is $image 22020096
    run 0 resize --shrink $image -2M
    size_is $image 19922944
    run 0 resize --shrink -f $fmt $image 1048576
    size_is $image 1048576
    cp $image before
    refused "Use the --shrink option" resize $image 512K
    refused "Use the --shrink option" resize $image -512K
    refused "must be positive" resize --shrink $image -1M
    refused "must be positive" resize --shrink $image 0
    refused "no size" resize $image abc
    refused "no size" resize $image ++1M
    refused "preallocation is for growing" resize --shrink --preallocation=full $image 512K
    refused "--preallocation takes" resize --preallocation=some $image 2M
    checks=$((checks + 1))
    cmp -s before $image || fail "a resize that was refused has changed $image"
    run 0 resize --preallocation=falloc $image 4M
    run 0 resize -p --preallocation full $image 8M
    says out "(100.00/100%)"
    size_is $image 8388608
    checks=$((checks + 1))
    [ "$(stat -c %b $image)" -ge 14336 ] || fail "$image is not preallocated: $(stat -c %b $image) blocks"
done
# A disk of no bytes has an L1 table of no entries, by whoever made it.
for preallocation in off metadata falloc full; do
    for size in 1 1M 1G; do
        [ $size.$preallocation != 1G.full ] || continue
        rm -f empty.qcow2
        qemu-img create -q -f qcow2 empty.qcow2 0
        run 0 resize --preallocation $preallocation empty.qcow2 $size
        run 0 check empty.qcow2
        run 0 io -q -c 'write -P 1 0 512' -c 'read -P 1 0 512' empty.qcow2
        run 0 create -q -f qcow2 empty.qcow2 0
        run 0 resize --preallocation $preallocation empty.qcow2 $size
        run 0 check empty.qcow2
        run 0 resize --shrink empty.qcow2 512
        run 0 check empty.qcow2
    done
done
refused "raw volume has no metadata" resize -f raw --preallocation=metadata image.raw 9M
run 0 resize --preallocation=metadata image.qcow2 16M
run 0 check image.qcow2
run 0 map --output json image.qcow2
same "bytes present after preallocation" "$(sed -n 's/.*"length": \([0-9]*\), .*"present": true.*/\1/p' out |
    awk '{ n += $1 } END { print n }')" 15728640
run 0 resize -f qcow2 image.qcow2 16M
refused "takes the name of one image" resize image.qcow2
refused "takes the name of one image" resize
refused "takes the name of one image" resize image.qcow2 image.raw 1M
refused "missing" resize missing.qcow2 1M
run 0 resize --help
says out "NAME [+|-]SIZE"
finish
