#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# resize: sizes in all forms, preallocation, --shrink, refusals; against qemu-img where it has the same.
. "$(dirname "$0")/lib.sh"
need qemu-img

# The shell's limit of a file's size is named.
run 0 create -q -f raw limited.raw 1M
run 0 create -q -f qcow2 limited.qcow2 1M
for image in limited.raw limited.qcow2; do
    (ulimit -f 4096 && exec "$tool" resize -f ${image#*.} --preallocation=falloc $image 64M) >out 2>err
    says err "ulimit -f"
done

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
# The cluster that the old end lies in gets its space too; what it shows of the backing file stays.
qemu-img create -q -f raw base.raw 4M
qemu-io -f raw -c 'write -q -P 7 0 4M' base.raw
for preallocation in metadata falloc full; do
    rm -f over.qcow2
    qemu-img create -q -f qcow2 -b base.raw -F raw over.qcow2 1000K
    run 0 resize --preallocation $preallocation over.qcow2 3M
    run 0 check over.qcow2
    run 0 io -q -c 'read -P 7 0 1000K' -c 'read -P 0 1000K 2072K' over.qcow2
    run 0 map --output json over.qcow2
    same "depth of the last cluster of the old disk" "$(grep -c '"start": 983040.*"depth": 0' out)" 1
    cp over.qcow2 theirs.qcow2
    qemu-img resize -q --preallocation=$preallocation theirs.qcow2 4M
    run 0 resize --preallocation $preallocation over.qcow2 4M
    run 0 io -q -c 'read -P 0 1000K 3096K' over.qcow2
done
# Whole L2 tables, of many sizes, and the rest of one.
for cluster in 512 4096 65536; do
    for extended in off on; do
        [ $extended = off ] || cluster=16384
        for size in 5M 70M; do
            for preallocation in metadata falloc; do
                rm -f grown.qcow2
                run 0 create -q -f qcow2 -o cluster_size=$cluster,extended_l2=$extended grown.qcow2 1500000
                run 0 io -q -c 'write -P 5 0 1500160' grown.qcow2
                run 0 resize --preallocation $preallocation grown.qcow2 $size
                run 0 check grown.qcow2
                same "leaks in grown.qcow2" "$(grep -c 'No errors' out)" 1
                run 0 io -q -c 'read -P 5 0 1500160' -c 'read -P 0 1500160 3M' grown.qcow2
                checks=$((checks + 1))
                qemu-img map --output json grown.qcow2 | grep -q '"present": false' &&
                    fail "grown.qcow2 of $size, cluster $cluster, $preallocation: not all is preallocated"
            done
        done
    done
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

# ---- guest data without a refcount is not where the longer L1 table goes ------------------------------------
number() { # FILE OFFSET: eight bytes of it
    od -An -tu8 --endian=big -j "$2" -N 8 "$1" | tr -d ' '
}
run 0 create -q -f qcow2 -o cluster_size=4k lone.qcow2 1G
run 0 io -q -c 'write -P 0xaa 0 1M' lone.qcow2
block=$(number lone.qcow2 "$(number lone.qcow2 48)")
used=$(($(stat -c %s lone.qcow2) / 4096))
for back in 20 19 100 99; do
    printf '\0\0' | dd of=lone.qcow2 bs=1 seek=$((block + 2 * (used - back))) conv=notrunc status=none
done
run 0 resize -q lone.qcow2 +1M
run 0 io -q -r -c 'read -P 0xaa 0 1M' lone.qcow2

# ---- interrupted: the old size, and the space is given back ------------------------------------------------
for format in raw qcow2; do
    for signal in INT TERM HUP; do
        run 0 create -q -f $format stopped 10M
        before=$(stat -c %b stopped)
        env --default-signal=INT,HUP "$tool" resize -q -f $format --preallocation=full stopped +8G 2>err &
        pid=$!
        while [ "$(stat -c %b stopped)" -le $((before + 65536)) ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
        kill -$signal $pid
        wait $pid
        same "exit code of $format after $signal" $? 1
        says err "Operation canceled"
        run 0 info --output json stopped
        says out '"virtual-size": 10485760'
        same "space of $format is back after $signal" "$(($(stat -c %b stopped) <= before + 16384))" 1
    done
    rm stopped
done
run 0 resize --help
says out "NAME [+|-]SIZE"
finish
