#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs in the test machine: vdisk-io on logical volumes. /dev/disk0 has sectors of 512 bytes, /dev/disk1 of 4096;
# both are full of old data, so that what is read from where nothing was written shows.
set -e
. ./guest.sh

# The image has no corruption; leaks only where they may be.
checked() {
    status=0
    tool check -q -f qcow2 "$1" >check.out 2>&1 || status=$?
    [ $status = 0 ] || { cat check.out; fail "check of $1 exits with $status"; }
}

# First touches of parts of clusters: what is around them reads as zeros, not as what the device held.
first_touches() {
    tool io -q -n -f qcow2 -c 'write -P 1 70000 3000' -c 'verify -P 0 65536 4464' -c 'verify -P 1 70000 3000' \
        -c 'verify -P 0 73000 58072' -c 'write -a -P 2 1M 512' -c 'write -a -P 3 1100k 512' -c wait -c flush \
        -c 'write -f -P 4 2049k 100k' "$1"
    tool io -q -r -f qcow2 -c 'verify -P 0 0 70000' -c 'verify -P 1 70000 3000' -c 'verify -P 0 73000 975576' \
        -c 'verify -P 2 1M 512' -c 'verify -P 0 1049088 77312' -c 'verify -P 3 1100k 512' \
        -c 'verify -P 0 1126912 971264' -c 'verify -P 4 2049k 100k' -c 'verify -P 0 2149k 100k' "$1"
    checked "$1"
}

on_volume() {
    lv=$1 options=$2
    tool create -q -f qcow2 -o "$options" "$lv" 24M
    tool io -q -r -f qcow2 -c 'verify -P 0 0 24M' "$lv"
    first_touches "$lv"
    # Discard, and use again.
    tool io -q -n -f qcow2 -c 'discard 1M 1M' -c flush -c 'zero -u 2M 1M' -c flush -c 'write -P 5 3000k 700' \
        -c flush -c 'write -P 6 1200k 1500' -c flush "$lv"
    tool io -q -r -f qcow2 -c 'verify -P 1 70000 3000' -c 'verify -P 0 2M 919552' -c 'verify -P 5 3000k 700' \
        -c 'verify -P 6 1200k 1500' "$lv"
    checked "$lv"
    tool bench -f qcow2 --rw randwrite --bs 4k --depth 8 --count 1500 --offset 8M --flush-every 50 "$lv" >bench.out
    tool io -q -r -f qcow2 -c 'verify -P 1 70000 3000' -c 'verify -P 6 1200k 1500' "$lv"
    checked "$lv"
}

# Full: said so, nothing lost; more space, and it goes on.
runs_full() {
    lv=$1
    tool create -q -f qcow2 "$lv" 64M
    refused 'No space left' io -q -n -f qcow2 -c 'write -P 7 0 8M' -c flush -c 'write -P 8 8M 40M' "$lv"
    tool io -q -r -f qcow2 -c 'verify -P 7 0 8M' "$lv"
    checked "$lv"
    lvm lvextend -L 96M "$lv"
    tool io -q -n -f qcow2 -c 'write -P 8 8M 40M' -c flush -c 'verify -P 8 8M 40M' "$lv"
    tool resize -q -f qcow2 "$lv" +1M
    tool io -q -r -f qcow2 -c 'verify -P 7 0 8M' -c 'verify -P 8 8M 40M' -c 'verify -P 0 48M 17M' "$lv"
    checked "$lv"
}

number=0
for disk in /dev/disk0 /dev/disk1; do
    vg=vg$number
    lvm pvcreate -ff -y $disk
    lvm vgcreate $vg $disk
    lvm lvcreate -y -an -Zn -Wn -n one -L 48M $vg
    lvm lvcreate -y -an -Zn -Wn -n two -L 24M $vg
    lvm lvchange -ay $vg
    [ $number != 0 ] || on_volume /dev/$vg/one cluster_size=8k,lazy_refcounts=on
    [ $number != 1 ] || on_volume /dev/$vg/one cluster_size=64k
    on_volume /dev/$vg/one extended_l2=on,cluster_size=128k
    # Two segments, the second behind the other volume, once it is extended.
    runs_full /dev/$vg/two
    # Refused before anything is written: the image that is there stays.
    refused 'are needed' create -q -f qcow2 -o preallocation=full /dev/$vg/one 64M
    tool io -q -r -f qcow2 -c 'verify -P 1 70000 3000' /dev/$vg/one
    number=$((number + 1))
done
note done
