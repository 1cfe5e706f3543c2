#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs in the test machine: operations on a domain in a volume group, on /dev/disk0, that are killed at each of
# their steps. What is left is named, and repaired; the image reads what it did before, or what it does after.
set -e
tool() { ./vdisk-io "$@"; }
fail() { echo "domain_kill.sh: $*"; exit 1; }
told() { tool "$@" >told.out 2>&1 || { cat told.out; fail "$*"; }; }
io() { name=$1; shift; for c; do set -- "$@" -c "$c"; shift; done; tool io -q -n "$@" "volume:$name"; }
look() { name=$1; shift; for c; do set -- "$@" -c "$c"; shift; done; tool io -q -r "$@" "volume:$name"; }

# killed STEP COMMAND...: it is, there.
killed() {
    step=$1
    shift
    status=0
    VDISK_TEST_KILL=$step ./step_tool "$@" >killed.out 2>&1 || status=$?
    [ $status = 137 ] || { cat killed.out; fail "not killed at '$step' ($status): $*"; }
}

# After it has been repaired there is no fault, and nothing is active, or noted as such.
repaired() {
    tool domain check --repair "$domain" >check.out 2>&1 || { cat check.out; fail "$step: repair"; }
    tool domain check "$domain" >again.out 2>&1 || { cat check.out again.out; fail "$step: faults are left"; }
    left=$(ls "/dev/$uuid" | grep -v '^metadata$' || true)
    [ -z "$left" ] || fail "$step: active: $left"
    left=$(ls "/run/vdisk-io/$uuid" | grep -v -e '^active$' -e '^locks$' || true)
    [ -z "$left" ] || fail "$step: noted: $left"
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
    killed "$step" volume snapshot "$domain/$image"
    repaired
    look "$domain/$image" 'verify -P 1 0 1M'
    [ "$(leaf_of "$domain/$image")" = "${base#*/}" ] || told volume delete "$domain/$image"
done

for step in 'delete: volume is unpublished' 'delete: volume is removed' 'delete: parent is a leaf'; do
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
    middle=$(tool volume snapshot "$domain/$image")
    io "$domain/$image" 'write -P 3 64k 64k' flush
    told volume snapshot "$domain/$image"
    io "$domain/$image" 'write -P 4 128k 64k' flush
    killed "$step" volume merge "$domain/$middle"
    # A merge that is marked only goes on when it is asked for again.
    tool domain check --repair "$domain" >check.out 2>&1 || true
    look "$domain/$image" 'verify -P 1 0 64k' 'verify -P 3 64k 64k' 'verify -P 4 128k 64k' 'verify -P 1 192k 64k'
    if tool volume info "$domain/$middle" >/dev/null 2>&1; then told volume merge "$domain/$middle"; fi
    repaired
    look "$domain/$image" 'verify -P 1 0 64k' 'verify -P 3 64k 64k' 'verify -P 4 128k 64k' 'verify -P 1 192k 64k'
    told volume delete "$domain/$image"
    io "$domain/$image" 'verify -P 3 64k 64k' 'write -P 1 0 1M' flush
done

for step in 'image delete: image is renamed' 'image delete: image is removed'; do
    gone=$(tool volume create -f qcow2 "$domain" 64M)
    told volume snapshot "$domain/${gone%/*}"
    killed "$step" image delete "$domain/${gone%/*}"
    if tool image info "$domain/${gone%/*}" >/dev/null 2>&1; then fail "$step: it is still there"; fi
    repaired
    [ -z "$(lvs --noheadings -o lv_name "$uuid/${gone#*/}" 2>/dev/null)" ] || fail "$step: its volume is there"
done

for step in 'delete: volume is unpublished' 'delete: data is cleared'; do
    told volume snapshot "$domain/$image"
    killed "$step" volume delete --wipe "$domain/$image"
    lvs --noheadings -o lv_tags "$uuid" 2>/dev/null | grep -q VDISK_WIPE || fail "$step: it is not to be wiped"
    repaired
    [ "$(leaf_of "$domain/$image")" = "${base#*/}" ] || fail "$step: the volume is still there"
done

for step in 'copy: all volumes are written' 'copy: a volume is published'; do
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
echo "domain_kill.sh: done"
