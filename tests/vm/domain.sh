#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs in the test machine: a storage domain in a volume group on /dev/disk0, which is full of old data where it is
# read. Prints, between lines with @, what lvm reports of it in the end: the host judges that, and the disk.
set -e
. ./guest.sh

device=$(readlink -f /dev/disk0)
small=$(readlink -f /dev/disk1)

# ---- the domain
refused 'at least 10737418240' domain create --type block "$small"
refused 'sectors of 4096' domain create --type block "$(readlink -f /dev/disk2)"
refused 'no block device' domain create --type block ./domain.sh
uuid=$(tool domain create --type block --description 'one, two' "$device" 2>create.err) || {
    cat create.err; fail create; }
grep -q lockspace create.err || fail "nothing is said of sanlock"
domain=/dev/$uuid
refused '' domain create --type block "$device"
says 'description: one, two' domain info "$domain"
says "domain: $uuid" domain info "$uuid"
says "$uuid  FCP version 5" domain list /dev
says ' 0 faults' domain check "$domain"
refused 'no storage domain' domain info 11111111-2222-4333-8444-555555555555
resting create

# ---- the kinds of volumes
raw=$(tool volume create -f raw -a preallocated "$domain" 200M)
thin=$(tool volume create -f qcow2 "$domain" 20G)
first=$(tool volume create -f qcow2 --initial-size 300M "$domain" 20G)
full=$(tool volume create -f qcow2 -a preallocated "$domain" 64M)
refused 'initial size' volume create -f raw -a preallocated --initial-size 1M "$domain" 200M
refused 'initial size' volume create -f qcow2 --initial-size 40G "$domain" 20G
refused 'insufficient free space' volume create -f raw -a preallocated "$domain" 200G
are_sizes "$raw" 256 "$thin" 2560 "$first" 384 "$full" 128
says 'raw preallocated LEAF' volume list "$domain"
resting kinds
says ' 4 volumes: 0 faults' domain check "$domain"
resting check

# ---- data, and a snapshot
io "$domain/$raw" 'write -P 1 0 1M' 'zero 1M 7M' flush
io "$domain/$thin" 'write -P 3 0 1M' flush 'write -P 4 10G 1M' flush
io "$domain/$full" 'write -P 5 0 64M' flush
image=${raw%/*}
leaf=$(tool volume snapshot "$domain/$image")
is_size "$leaf" 384
io "$domain/$image" 'write -P 2 64k 64k' flush 'verify -P 1 0 64k' 'verify -P 2 64k 64k' 'verify -P 0 2M 1M'
look "$domain/$raw" 'verify -P 1 0 1M'
look "$domain/$thin" 'verify -P 3 0 1M' 'verify -P 0 1M 1M' 'verify -P 4 10G 1M'
look "$domain/$full" 'verify -P 5 0 64M'
refused '' io -q -n -c 'write 0 4k' "volume:$domain/$raw"
refused 'has a child' volume delete "$domain/$raw"
says "$leaf" volume list "$domain/$image"
told image tree "$domain"
told image info "$domain/$image"
resting data

# ---- prepare, teardown
told volume prepare "$domain/$image"
[ -b "$domain/${leaf#*/}" ] && [ -b "$domain/${raw#*/}" ] || fail "not active after prepare"
io "$domain/$image" 'verify -P 2 64k 64k'
[ -b "$domain/${leaf#*/}" ] || fail "not active after a use beside prepare"
told volume teardown "$domain/$image"
resting teardown

# ---- killed: what was active is put to rest by the next one
./vdisk-io io -q -n -c 'write -P 2 64k 64k' -c flush -c 'sleep 60000' "volume:$domain/$image" &
echo $! >pid
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    [ -b "$domain/${leaf#*/}" ] && break
    sleep 1
done
refused 'in use' volume delete "$domain/$leaf"
kill -9 "$(cat pid)"
sleep 1
look "$domain/$image" 'verify -P 2 64k 64k'
resting killed

# ---- a merge, with another snapshot above it
top=$(tool volume snapshot "$domain/$image")
io "$domain/$image" 'write -P 6 1M 64k' flush
told volume merge "$domain/$leaf"
look "$domain/$image" 'verify -P 1 0 64k' 'verify -P 2 64k 64k' 'verify -P 6 1M 64k'
told volume delete "$domain/$top"
look "$domain/$image" 'verify -P 2 64k 64k' 'verify -P 0 2M 1M'
says ' 0 faults' domain check "$domain"
resting merge

# ---- another size
told volume resize "$domain/$raw" 300M
told volume resize "$domain/$thin" 24G
told volume resize "$domain/$full" 160M
are_sizes "$raw" 384 "$thin" 2560 "$full" 256

# ---- a template, and what lies on it
told volume update --shared "$domain/$full"
clone=$(tool volume create -f qcow2 --parent "$full" "$domain")
io "$domain/$clone" 'verify -P 5 0 1M' 'write -P 7 0 64k' flush 'verify -P 5 64k 1M'
look "$domain/$full" 'verify -P 5 0 64M'
refused 'template' volume delete "$domain/$full"
refused 'template' image delete "$domain/${full%/*}"
says ' 0 faults' domain check "$domain"
resting template

# ---- a copy, to a device that is not zero
copy=$(tool image copy -f raw -a preallocated "$domain/${clone%/*}" "$domain")
look "$domain/${copy%/*}" 'verify -P 7 0 64k' 'verify -P 5 64k 65472k' 'verify -P 0 64M 192M'
told image delete "$domain/${copy%/*}"

# ---- an image that goes
told image delete "$domain/${first%/*}"
refused 'no image' image info "$domain/${first%/*}"
resting delete

# ---- wiped: what lay there is zeros; read past the cache, which knows nothing of writes to a volume
start=$(pvs --noheadings --nosuffix --units b -o pe_start "$device" 2>/dev/null | tr -d ' ')
holds() { told io -q -r -n -f raw -c "verify -P $1 $place 128M" "$device"; }

# locate VOLUME: where its only extent lies on the disk.
locate() {
    extent=$(field seg_pe_ranges "$uuid/${1#*/}")
    extent=${extent##*:}
    place=$((start + ${extent%-*} * 134217728))
}

# fill BYTE: a volume of one extent, full of data.
fill() {
    wiped=$(tool volume create -f raw -a preallocated "$domain" 128M)
    io "$domain/$wiped" "write -P $1 0 128M" flush
    locate "$wiped"
    holds "$1"
}

fill 11
told volume delete --wipe "$domain/$wiped"
holds 0
fill 12
told image delete --wipe "$domain/${wiped%/*}"
holds 0
resting wipe

# ---- what somebody who was killed has left: deleted, the same with what is to be wiped, and half-made
fill 13
half=$(tool volume create -f qcow2 "$domain" 1G)
lvm lvchange --addtag VDISK_REMOVE --addtag "IU__remove_me_${thin%/*}" --deltag "IU_${thin%/*}" "$uuid/${thin#*/}"
lvm lvchange --addtag VDISK_REMOVE --addtag "IU__remove_me_ZERO_${wiped%/*}" --deltag "IU_${wiped%/*}" \
    "$uuid/${wiped#*/}"
lvm lvchange --addtag OVIRT_VOL_INITIALIZING "$uuid/${half#*/}"
refused 'no image' volume info "$domain/$thin"
if tool domain check "$domain" >check.out; then cat check.out; fail "what was left is not found"; fi
for left in "$thin" "$wiped" "$half"; do
    grep -q "${left%/*}" check.out || { cat check.out; fail "$left is not found"; }
done
told domain check --repair "$domain"
holds 0
says ' 0 faults' domain check "$domain"
lvs --noheadings -o lv_name "$uuid" 2>/dev/null >names
for left in "$thin" "$wiped" "$half"; do
    if grep -q "${left#*/}" names; then fail "$left is still there"; fi
done
resting repair

# ---- space
thin=$(tool volume create -f qcow2 --initial-size 300M "$domain" 1G)
told volume extend "$domain/$thin" 512M
is_size "$thin" 512
refused 'once all of it is written' volume extend "$domain/$thin" 10G
io "$domain/$thin" 'write -P 8 0 60M' 'write -P 9 800M 64k' flush
told volume reduce "$domain/$thin"
is_size "$thin" 128
look "$domain/$thin" 'verify -P 8 0 60M' 'verify -P 0 60M 64M' 'verify -P 9 800M 64k'
told volume extend "$domain/$thin"
[ "$(size_of "$thin")" -gt 1024 ] || fail "it is not extended to what it takes"
refused 'raw' volume reduce "$domain/$raw"
says 'required size' volume measure -f raw "$domain/$thin"
resting space

# ---- a copy of all volumes
told volume reduce "$domain/$thin"
told volume snapshot "$domain/${thin%/*}"
io "$domain/${thin%/*}" 'write -P 10 64k 64k' flush
twin=11111111-2222-4333-8444-555555555555
told image copy --volumes --image $twin "$domain/${thin%/*}" "$domain"
look "$domain/$twin" 'verify -P 8 0 64k' 'verify -P 10 64k 64k' 'verify -P 8 128k 64k' 'verify -P 9 800M 64k'
[ "$(tool volume list "$domain/$twin" | grep -c ' sparse ')" = 2 ] || fail "the copy has other volumes"
says ' 0 faults' domain check "$domain"
told image delete "$domain/$twin"
told image delete "$domain/${thin%/*}"
resting copies

# ---- a merged volume: what it held is in its parent, and no longer where it was
under=$(tool volume create -f raw -a preallocated "$domain" 128M)
wiped=$(tool volume snapshot "$domain/${under%/*}")
wiped=${under%/*}/${wiped#*/}
io "$domain/$wiped" 'write -P 14 0 16M' flush
locate "$wiped"
if tool io -q -r -n -f raw -c "verify -P 0 $place 128M" "$device" >held.out 2>&1; then
    fail "its data is not at $place"
fi
told volume merge --wipe "$domain/$wiped"
holds 0
look "$domain/$under" 'verify -P 14 0 16M'
told image delete "$domain/${under%/*}"
resting merge-wipe

# ---- a group that is there, and what comes into it
third=$(readlink -f /dev/disk3)
lvm vgcreate -s 4m given "$third"
refused 'has extents of 4194304' domain create --vg given
lvm vgremove given
lvm vgcreate -s 128m given "$third"
lvm lvcreate -y -an -Zn -Wn -n other -L 128m given
refused 'has 1 volume:' domain create --vg given
lvm lvremove -y given/other
refused 'devices, or --vg' domain create --type block --vg given "$third"
uuid=$(tool domain create --vg given --description taken 2>create.err) || { cat create.err; fail 'create --vg'; }
second=/dev/$uuid
if vgs given >/dev/null 2>&1; then fail "it has its old name, too"; fi
says 'description: taken' domain info "$second"
resting given
refused 'is a storage domain' domain create --vg "$uuid"

# What is copied from files has the room that it needs, what is written to a chunk more.
mkdir files
files=files/$(tool domain create files)
from=$(tool volume create -f qcow2 "$files" 20G)
io "$files/$from" 'write -P 1 0 2M' 'write -P 2 10G 64k' flush
leaf=$(tool volume snapshot "$files/${from%/*}")
io "$files/${from%/*}" 'write -P 3 64k 64k' flush
copy=$(tool image copy "$files/${from%/*}" "$second")
is_size "$copy" 2688
look "$second/$copy" 'verify -P 1 0 64k' 'verify -P 3 64k 64k' 'verify -P 2 10G 64k' 'verify -P 0 4G 1M'
told image delete "$second/${copy%/*}"
told image copy --volumes "$files/${from%/*}" "$second"
are_sizes "$from" 128 "$leaf" 2688
look "$second/${from%/*}" 'verify -P 1 0 64k' 'verify -P 3 64k 64k' 'verify -P 2 10G 64k' 'verify -P 0 4G 1M'
raw=$(tool volume create -f raw "$files" 128M)
io "$files/$raw" 'write -P 4 0 1M' flush
refused 'not sparse' image copy -a sparse "$files/${raw%/*}" "$second"
says 'its copy is preallocated' image copy --image "${raw%/*}" "$files/${raw%/*}" "$second"
look "$second/${raw%/*}" 'verify -P 4 0 1M' 'verify -P 0 1M 127M'
says 'raw preallocated' volume list "$second/${raw%/*}"
resting 'from files'

# ---- streams: what comes is what goes, and nothing of what the device held
told create -q -f qcow2 up.qcow2 20G
told io -q -n -f qcow2 -c 'write -P 5 0 3M' -c 'write -P 6 5G 1000' -c flush up.qcow2
sum_of() { sha256sum | sed 's/ .*//'; }
sum=$(sum_of <up.qcow2)
head -c 1000000 up.qcow2 >part
if tool volume upload -f qcow2 "$second" 20G <part >upload.out 2>&1; then fail "a part of an image is taken"; fi
grep -q 'damaged\|not whole' upload.out || { cat upload.out; fail "a part of an image"; }
up=$(tool volume upload -f qcow2 --digest "$sum" "$second" 20G <up.qcow2)
is_size "$up" 2560
look "$second/$up" 'verify -P 5 0 3M' 'verify -P 6 5G 1000' 'verify -P 0 4G 1M'
tool volume download -q "$second/$up" >down.qcow2
[ "$(sum_of <down.qcow2)" = "$sum" ] || fail "another image comes back"
head -c 3000000 /dev/urandom >up.raw
tool volume upload -f raw "$second" 128M <up.raw >upload.out 2>&1 && fail "a part of a raw image is taken"
grep -q 'its size is 3000000' upload.out || { cat upload.out; fail "a part of a raw image"; }
up=$({ cat up.raw; head -c 131217728 /dev/zero; } | tool volume upload -f raw "$second" 128M)
down() { tool volume download -q "$second/$up"; } # more than there is room for here
[ "$(down | wc -c)" = 134217728 ] || fail "the raw volume has another size"
[ "$(down | tail -c +3000001 | tr -d '\0' | wc -c)" = 0 ] || fail "what the device held comes with it"
down | dd bs=1000 count=3000 iflag=fullblock of=down.raw 2>/dev/null || true
[ "$(sum_of <down.raw)" = "$(sum_of <up.raw)" ] || fail "other bytes come back"
says ' 0 faults' domain check "$second"
resting streams
uuid=${domain#/dev/}

# ---- what is left is judged
another=$(tool volume create -f qcow2 --description 'last' "$domain" 1G)
told volume snapshot "$domain/${another%/*}"
told volume list "$domain"
resting end
report
note done
