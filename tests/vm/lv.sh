#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs in the test machine: `vdisk-io lv` on groups on /dev/disk0, with sectors of 512 bytes, and /dev/disk1, of
# 4096; both are full of old data. Prints, between lines with @, where the images are in the end: the host has
# qemu-img look at them.
set -e
. ./guest.sh

# As everywhere, but in one line, and nothing is changed. That does not depend on the disk.
refused() {
    [ -n "$refusals" ] || return 0
    text=$1
    shift
    if tool "$@" >refused.out 2>&1; then fail "not refused: $*"; fi
    grep -q "^vdisk-io: .*$text" refused.out || { cat refused.out; fail "'$text' is not said by: $*"; }
}

# Of images on volumes of no domain.
io() { name=$1; shift; for c; do set -- "$@" -c "$c"; shift; done; tool io -q -n -f qcow2 "$@" "$name"; }
look() { name=$1; shift; for c; do set -- "$@" -c "$c"; shift; done; tool io -q -r -f qcow2 "$@" "$name"; }
size_of() { size=$(field lv_size "$1"); echo "${size%.*}"; }
checked() { told check -q -f qcow2 "$1"; }
# value NAME: of the JSON in told.out, a number or a text.
value() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" told.out; }
is_value() { [ "$(value "$1")" = "$2" ] || { cat told.out; fail "$1 is '$(value "$1")', not '$2'"; }; }
is_whole() { case $(field lv_tags "$1") in *VDISK*) fail "$1 is half-made" ;; esac; }

# Each verb on one group, with extents of 4 MiB.
on_group() {
    vg=$1
    note PART: "$vg: create"
    # What has a size of its own is measured: 16 MiB of data and 5 clusters.
    told lv create --output json -a preallocated "$vg/full" 16M
    is_value size 20971520
    is_value extents 5
    is_value virtual-size 16777216
    is_size "$vg/full" 20
    io "/dev/$vg/full" 'verify -P 0 0 16M' 'write -P 1 0 16M' flush
    told lv create -q --initial-size 6M "$vg/thin" 1G
    is_size "$vg/thin" 8
    told lv create -q -f raw "$vg/raw" 5M
    is_size "$vg/raw" 8
    refused 'has a logical volume thin' lv create "$vg/thin" 1G
    refused 'bytes free' lv create -a preallocated "$vg/large" 100G
    refused 'no holes' lv create -f raw -a thin "$vg/other" 1G
    refused 'more than the image ever takes' lv create --initial-size 2G "$vg/other" 1G
    refused 'is no name' lv create "$vg/../x" 1G
    refused 'option backing_file' lv create -o backing_file=x "$vg/other" 1G
    refused 'no logical volume other' lv info "$vg/other"
    says 'would have' lv create --dry-run --initial-size 4M "$vg/other" 1G
    refused 'no logical volume other' lv info "$vg/other"

    note PART: "$vg: extend"
    # Full: said; larger, and it goes on. By so much, to so much, to what it takes.
    io "/dev/$vg/thin" 'write -P 2 0 4M' flush
    refused 'No space left' io -q -n -f qcow2 -c 'write -P 3 4M 16M' "/dev/$vg/thin"
    told lv extend --output json "/dev/$vg/thin" +10M
    is_value before 8388608
    is_value size 20971520
    says '20 MiB, and would have 24 MiB' lv extend --dry-run "$vg/thin" 21M
    told lv extend -q "$vg/thin" 40M
    is_size "$vg/thin" 40
    refused 'not extended to 1048576' lv extend "$vg/thin" 1M
    refused 'once all of it is written' lv extend "$vg/thin" 2G
    refused 'has space for all of it' lv extend "$vg/raw"
    io "/dev/$vg/thin" 'write -P 3 4M 16M' flush 'verify -P 2 0 4M' 'verify -P 3 4M 16M'

    note PART: "$vg: info and reduce"
    # Where it is in use: written here, read there. A discard leaves a hole, a trim nothing behind the end.
    told lv info --output json "$vg/thin"
    is_value virtual-size 1073741824
    is_value used-extents 6
    is_value bitmap 3f00
    says 'extents in use: 6: 0-5$' lv info "$vg/thin"
    io "/dev/$vg/thin" 'discard 5M 14M' flush
    told lv info --output json "$vg/thin"
    [ "$(value used-extents)" -lt 6 ] || fail "what was discarded is in use"
    is_value corruptions 0
    says 'in use: 2: 0-1$' lv info -f raw "$vg/raw"
    told lv reduce --dry-run --output json "$vg/thin"
    end=$(value size)
    is_size "$vg/thin" 40
    refused 'is raw' lv reduce "$vg/raw"
    told lv reduce -q "$vg/thin"
    is_size "$vg/thin" $((end >> 20))
    look "/dev/$vg/thin" 'verify -P 2 0 4M' 'verify -P 3 4M 1M' 'verify -P 3 19M 1M' 'verify -P 0 20M 40M'
    checked "/dev/$vg/thin"
    told lv extend -q "$vg/full"
    is_size "$vg/full" 20

    note PART: "$vg: snapshot"
    # On another one: by its path, or as it is to be called; raw and qcow2.
    told lv snapshot -q --initial-size 4M "$vg/thin" top
    told lv info --output json "$vg/top"
    is_value backing-filename "/dev/$vg/thin"
    is_value virtual-size 1073741824
    io "/dev/$vg/top" 'verify -P 2 0 4M' 'write -P 4 64k 64k' flush 'verify -P 2 0 64k' 'verify -P 4 64k 64k'
    told lv snapshot -q -F raw -b "../$vg/raw" --initial-size 4M "/dev/$vg/raw" "$vg/over" 16M
    told lv info --output json "$vg/over"
    is_value backing-filename "../$vg/raw"
    io "/dev/$vg/over" 'verify -P 0 8M 8M' 'write -P 5 7M 64k' flush
    refused 'smaller than' lv snapshot "$vg/thin" other 1M
    refused 'not a valid\|no qcow2\|not qcow2\|qcow2' lv snapshot "$vg/raw" other
    refused 'another volume group' lv snapshot "$vg/thin" none/other
    refused 'lie on itself' lv snapshot "$vg/thin" thin

    note PART: "$vg: in use"
    # In use: it is extended, looked at, and lain upon; and not reduced.
    ./vdisk-io io -q -n -f qcow2 -c 'write -P 4 64k 64k' -c flush -c 'sleep 60000' "/dev/$vg/top" &
    user=$!
    sleep 2
    told lv extend -q "$vg/top" 12M
    told lv info -q "$vg/top"
    told lv snapshot -q --dry-run --initial-size 4M "$vg/top" other
    refused 'has it open' lv reduce "$vg/top"
    kill -9 $user
    wait $user 2>/dev/null || true

    # What is not active is activated for as long as it is looked at.
    lvm lvchange -an "$vg/full"
    says 'not active' lv info "$vg/full"
    told lv extend --dry-run "$vg/full"
    [ ! -e "/dev/$vg/full" ] || fail "it is still active"
    lvm lvchange -ay "$vg/full"
}

# Half-made: it has the tag, is told of, used for nothing, and made anew.
half_made() {
    step=$1
    shift
    name=$1
    shift
    killed "$step" "$@"
    lvs --noheadings -o lv_tags "$name" 2>/dev/null | grep -q VDISK_UNFINISHED || fail "$step: it is not marked"
    says "$name is half-made" lv info --output json "$name"
    is_value unfinished true
    refused "$name is half-made" lv extend "$name" 12M
    told "$@"
    is_whole "$name"
    checked "/dev/$name"
}

killed_at_steps() {
    vg=$1
    note PART: "$vg: killed"
    half_made 'lv: image is made' "$vg/below" lv create --initial-size 4M "$vg/below" 64M
    half_made 'lv: volume is made' "$vg/above" lv snapshot --initial-size 4M "$vg/thin" above
    killed 'lv: volume is made' lv create --initial-size 4M "$vg/half" 64M
    refused 'half is half-made' lv snapshot "$vg/half" other
    killed 'lv: half-made volume is removed' lv create --initial-size 4M "$vg/half" 64M
    refused 'no logical volume half' lv info "$vg/half"
    killed 'lv: volume is whole' lv create --initial-size 4M "$vg/half" 64M
    is_whole "$vg/half"
    io "/dev/$vg/half" 'write -P 6 0 1M' flush 'verify -P 6 0 1M'
    killed 'lv: volume is larger' lv extend "$vg/half" 12M
    is_size "$vg/half" 12
    killed 'lv: volume is smaller' lv reduce "$vg/half"
    is_size "$vg/half" 4
    look "/dev/$vg/half" 'verify -P 6 0 1M' 'verify -P 0 1M 63M'
    checked "/dev/$vg/half"
}

# Several at a time: each has what it was to have.
at_once() {
    vg=$1
    note PART: "$vg: at once"
    for i in 1 2 3; do
        tool lv create -q --initial-size 4M "$vg/once$i" 64M >once$i.out 2>&1 &
        pids="$pids $!"
    done
    tool lv extend -q "$vg/thin" +8M >once4.out 2>&1 &
    pids="$pids $!"
    before=$(size_of "$vg/thin")
    for pid in $pids; do wait "$pid" || { cat once*.out; fail "one of several at once"; }; done
    for i in 1 2 3; do
        is_size "$vg/once$i" 4
        is_whole "$vg/once$i"
        checked "/dev/$vg/once$i"
    done
    # Of one name, one.
    tool lv create -q --initial-size 4M "$vg/same" 64M >same1.out 2>&1 & one=$!
    tool lv create -q --initial-size 4M "$vg/same" 64M >same2.out 2>&1 & two=$!
    won=0
    wait $one && won=$((won + 1)) || true
    wait $two && won=$((won + 1)) || true
    [ $won = 1 ] || { cat same1.out same2.out; fail "$won of two have made a volume of one name"; }
    checked "/dev/$vg/same"
}

number=0
for disk in /dev/disk0 /dev/disk1; do
    lvm pvcreate -ff -y $disk
    lvm vgcreate vg$number $disk
    number=$((number + 1))
done
refusals=yes
on_group vg0
killed_at_steps vg0
at_once vg0
refusals=
on_group vg1
refusals=yes
lvm vgchange --addtag RHAT_storage_domain vg1
refused 'is a storage domain' lv create vg1/other 64M
refused 'is a storage domain' lv reduce vg1/thin
told lv info vg1/thin
echo '@images'
for vg in vg0 vg1; do
    start=$(pvs --noheadings --nosuffix --units b -o pe_start "/dev/disk${vg#vg}" 2>/dev/null | tr -d ' ')
    for name in full thin top over; do
        echo "$vg $name $start" $(lvs --noheadings -o seg_pe_ranges "$vg/$name" 2>/dev/null)
    done
done
echo '@end'
note done
