#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs in the test machine: operations on a domain in a volume group, on /dev/disk0, that are killed at one of
# their steps or two, or with the argument "all" at each. What is left is named, and repaired; the image reads
# what it did before, or what it does after. tests/domain/test_domain_group.py kills at each, with an lvm of its
# own.
set -e
. ./guest.sh
all=$1

# There is no fault, and nothing is active, or noted as such; the same after a repair.
sound() {
    tool domain check "$domain" >again.out 2>&1 || { cat check.out again.out; fail "$step: faults are left"; }
    resting "$step"
}
repaired() {
    tool domain check --repair "$domain" >check.out 2>&1 || { cat check.out; fail "$step: repair"; }
    sound
}

# chosen STEP: it is to be killed there.
chosen() {
    case $all$1 in
    all*|'create: data is written'|'delete: volume is unpublished'|'merge: volume is marked'|\
        "merge: child's header names the base"|'image delete: image is renamed'|'delete: data is cleared'|\
        'copy: all volumes are written') ;;
    *) return 1 ;;
    esac
}

leaf_of() { tool volume info "$1" | sed -n 's|^path: .*/||p'; }

uuid=$(tool domain create --type block "$(readlink -f /dev/disk0)" 2>create.err) || {
    cat create.err; fail create; }
domain=/dev/$uuid
base=$(tool volume create -f qcow2 "$domain" 64M)
image=${base%/*}
io "$domain/$image" 'write -P 1 0 1M' flush

for step in 'create: image folder is made' 'create: metadata is noted' 'create: data file is made' \
    'create: data is written' 'create: parent is internal' 'create: volume is published'; do
    chosen "$step" || continue
    killed "$step" volume snapshot "$domain/$image"
    repaired
    look "$domain/$image" 'verify -P 1 0 1M'
    [ "$(leaf_of "$domain/$image")" = "${base#*/}" ] || told volume delete "$domain/$image"
done

for step in 'delete: volume is unpublished' 'delete: volume is removed' 'delete: parent is a leaf'; do
    chosen "$step" || continue
    told volume snapshot "$domain/$image"
    io "$domain/$image" 'write -P 2 0 64k' flush
    killed "$step" volume delete "$domain/$image"
    repaired
    look "$domain/$image" 'verify -P 1 0 1M'
    [ "$(leaf_of "$domain/$image")" = "${base#*/}" ] || fail "$step: the volume is still there"
done

for step in 'merge: volume is marked' 'merge: base has the data' 'merge: generation is counted' \
    "merge: child's header names the base" "merge: child's parent is the base" 'merge: volume is unpublished' \
    'merge: volume is removed' "merge: base's role is noted"; do
    chosen "$step" || continue
    middle=$(tool volume snapshot "$domain/$image")
    io "$domain/$image" 'write -P 3 64k 64k' flush
    told volume snapshot "$domain/$image"
    io "$domain/$image" 'write -P 4 128k 64k' flush
    killed "$step" volume merge "$domain/$middle"
    # A merge that is marked only goes on when it is asked for again.
    tool domain check --repair "$domain" >check.out 2>&1 || true
    look "$domain/$image" 'verify -P 1 0 64k' 'verify -P 3 64k 64k' 'verify -P 4 128k 64k' 'verify -P 1 192k 64k'
    if tool volume info "$domain/$middle" >/dev/null 2>&1; then told volume merge "$domain/$middle"; fi
    sound
    look "$domain/$image" 'verify -P 1 0 64k' 'verify -P 3 64k 64k' 'verify -P 4 128k 64k' 'verify -P 1 192k 64k'
    told volume delete "$domain/$image"
    io "$domain/$image" 'verify -P 3 64k 64k' 'write -P 1 0 1M' flush
done

for step in 'image delete: image is renamed' 'image delete: image is removed'; do
    chosen "$step" || continue
    gone=$(tool volume create -f qcow2 "$domain" 64M)
    told volume snapshot "$domain/${gone%/*}"
    killed "$step" image delete "$domain/${gone%/*}"
    if tool image info "$domain/${gone%/*}" >/dev/null 2>&1; then fail "$step: it is still there"; fi
    repaired
    [ -z "$(field lv_name "$uuid/${gone#*/}")" ] || fail "$step: its volume is there"
done

for step in 'delete: volume is unpublished' 'delete: data is cleared'; do
    chosen "$step" || continue
    told volume snapshot "$domain/$image"
    killed "$step" volume delete --wipe "$domain/$image"
    lvs --noheadings -o lv_tags "$uuid" 2>/dev/null | grep -q VDISK_WIPE || fail "$step: it is not to be wiped"
    repaired
    [ "$(leaf_of "$domain/$image")" = "${base#*/}" ] || fail "$step: the volume is still there"
done

for step in 'copy: all volumes are written' 'copy: a volume is published'; do
    chosen "$step" || continue
    twin=$(cat /proc/sys/kernel/random/uuid)
    told volume snapshot "$domain/$image"
    killed "$step" image copy --volumes --image "$twin" "$domain/$image" "$domain"
    repaired
    if tool image info "$domain/$twin" >/dev/null 2>&1; then
        [ "$step" = 'copy: a volume is published' ] || fail "$step: it is there"
        look "$domain/$twin" 'verify -P 1 0 1M'
        told image delete "$domain/$twin"
    else
        [ "$step" != 'copy: a volume is published' ] || fail "$step: it is not there"
    fi
    told volume delete "$domain/$image"
done
look "$domain/$image" 'verify -P 1 0 1M'

# What is to be wiped says so until it is.
middle=$(tool volume snapshot "$domain/$image")
io "$domain/$image" 'write -P 3 64k 64k' flush
told volume snapshot "$domain/$image"
killed "merge: child's parent is the base" volume merge --wipe "$domain/$middle"
lvs --noheadings -o lv_tags "$uuid" 2>/dev/null | grep -q VDISK_WIPE || fail "$step: it is not to be wiped"
repaired
if tool volume info "$domain/$middle" >/dev/null 2>&1; then fail "$step: the volume is still there"; fi
look "$domain/$image" 'verify -P 1 0 64k' 'verify -P 3 64k 64k'

# ---- a domain of version 3, as Vdsm made it: upgraded, and killed on the way
metadata=/dev/$uuid/metadata

# Slots of 512 bytes from the fourth on, keys of that version; no leases of others.
make_old() {
    lvs --noheadings -o lv_name,lv_tags "$uuid" 2>/dev/null | grep MD_ >volumes
    while read -r name tags; do
        slot=$(echo "$tags" | sed 's/.*MD_\([0-9]*\).*/\1/')
        dd if="$metadata" bs=512 skip=$((2048 + slot * 16)) count=1 iflag=direct 2>/dev/null | tr -d '\0' >new
        size=$(($(sed -n 's/^CAP=//p' new) / 512))
        { grep -v -e ^CAP= -e ^SEQ= -e ^EOF new; echo MTIME=0; echo SIZE=$size; echo EOF; } >old
        dd if=old of="$metadata" bs=512 seek=$((slot + 10)) conv=sync,fsync 2>/dev/null
        dd if=/dev/zero of="$metadata" bs=512 seek=$((2048 + slot * 16)) count=1 conv=fsync 2>/dev/null
        lvm lvchange --deltag "MD_$slot" --addtag "MD_$((slot + 10))" "$uuid/$name"
    done <volumes
    seal=$(vgs --noheadings -o vg_tags "$uuid" 2>/dev/null | tr ', ' '\n\n' | grep '^MDT__SHA')
    lvm vgchange --deltag MDT_VERSION=5 --addtag MDT_VERSION=3 --deltag MDT_ALIGNMENT=1048576 \
        --deltag MDT_BLOCK_SIZE=512 --deltag "$seal" "$uuid"
    lvm lvremove -y "$uuid/xleases"
}

is_of_version() {
    tool domain info "$domain" >told.out
    grep -q "version: $1" told.out || { cat told.out; fail "$step: it is not of version $1"; }
    look "$domain/$image" 'verify -P 1 0 64k' 'verify -P 3 64k 64k'
    told domain check "$domain"
}

make_old
step='as it was'
is_of_version 3
old=$(tool volume create -f qcow2 "$domain" 64M)
io "$domain/$old" 'write -P 5 0 64k' flush
killed 'upgrade: a volume is of version 5, too' domain upgrade "$domain"
is_of_version 3
killed "upgrade: the domain's files are there" domain upgrade "$domain"
is_of_version 3
killed 'upgrade: the domain is of version 5' domain upgrade "$domain"
is_of_version 5
told domain upgrade "$domain"
is_of_version 5
look "$domain/$old" 'verify -P 5 0 64k'
[ "$(dd if="$metadata" bs=1M count=1 iflag=direct 2>/dev/null | tr -d '\0' | wc -c)" = 0 ] ||
    fail "what was of version 3 is still there"
lvm lvchange -ay "$uuid/xleases"
dd if="/dev/$uuid/xleases" of=index bs=4k skip=256 count=1 iflag=direct 2>/dev/null
[ "$(head -c 4 index | tr -d '\0' | wc -c)" = 4 ] || fail "there is no index of leases"
lvm lvchange -an "$uuid/xleases"
new=$(tool volume create -f qcow2 "$domain" 64M)
told image delete "$domain/${new%/*}"
told domain check "$domain"
note done
