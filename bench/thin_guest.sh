#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# thin_guest.sh ROUNDS SIZE BLOCK DEPTH HOW: runs in the test machine. A domain in a volume group on /dev/disk0; in
# each round a thin volume is filled, read back and deleted; then a raw one with all its space, by the same load.
# Prints three lines of JSON for each.
set -e
rounds=$1 size=$2 block=$3 depth=$4 how=$5
uuid=$(./vdisk-io domain create --type block "$(readlink -f /dev/disk0)" 2>create.err) || {
    cat create.err; exit 1; }
bare() {
    name=$(./vdisk-io volume create -f raw -a preallocated "/dev/$uuid" "$size")
    # Both find a disk that has nothing there: the host makes room for what is written for the first time.
    ./vdisk-io io -q -n -c "discard 0 $size" "volume:/dev/$uuid/$name"
    ./thin-load fill "volume:/dev/$uuid/$name" "$size" "$block" "$depth" | sed 's/^/@bare /'
    ./vdisk-io image delete "/dev/$uuid/${name%/*}"
}
while [ "$rounds" -gt 0 ]; do
    name=$(./vdisk-io volume create -f qcow2 --initial-size 1M "/dev/$uuid" "$size")
    ./thin-load write "volume:/dev/$uuid/$name,$how" "$size" "$block" "$depth" | sed 's/^/@thin /'
    ./thin-load verify "volume:/dev/$uuid/$name" "$size" "$block" "$depth" | sed 's/^/@read /'
    ./vdisk-io check -q "volume:/dev/$uuid/$name"
    ./vdisk-io image delete "/dev/$uuid/${name%/*}"
    bare
    rounds=$((rounds - 1))
done
