#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Encrypted images: info tells what qemu-img info does, and everything else is refused.
. "$(dirname "$0")/lib.sh"
need qemu-img

members() {
    # Not all versions of QEMU have the second, third and fourth: the file below, and what it would say of LUKS.
    sed -e '/^Child node/,$d' -e '/detached header/d' -e '/^disk size/d' "$1"
}

refuses_io() {
    cp "$1" before
    for verb in check map 'io -r -c length' 'io -c length'; do
        refused "is encrypted ($2)" $verb "$1"
    done
    refused "is encrypted ($2)" check -r all "$1"
    refused "is encrypted ($2)" resize "$1" 2M
    checks=$((checks + 1))
    cmp -s before "$1" || fail "$1 has changed"
}

like_qemu() {
    run 0 info "$1"
    members out >ours
    qemu-img info "$1" >theirs.all 2>err || fail "qemu-img info $1"
    members theirs.all >theirs
    checks=$((checks + 1))
    cmp -s ours theirs || fail "info $1: $(diff ours theirs)"
    run 0 info --output json "$1"
    says out '"encrypted": true'
    run 0 info -f qcow2 "$1"
    run 0 info -f raw "$1"
    says out 'file format: raw'
}

qemu-img create -q -f qcow2 aes 1M
printf '\0\0\0\1' | dd of=aes bs=1 seek=32 conv=notrunc status=none
like_qemu aes
refuses_io aes AES
qemu-img create -q -f qcow2 -o compat=0.10 old 1M
printf '\0\0\0\1' | dd of=old bs=1 seek=32 conv=notrunc status=none
like_qemu old
if qemu-img create -q -f qcow2 --object secret,id=s,data=abc \
    -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 luks 1M 2>err; then
    like_qemu luks
    refuses_io luks LUKS
    # The header of LUKS is not there, or none.
    dd if=/dev/zero of=luks bs=1 seek=262144 count=16 conv=notrunc status=none
    run 0 info luks
    says out 'format: luks'
    truncate -s 262144 luks
    run 0 info luks
else
    echo "qemu-img makes no LUKS image: $(head -1 err)"
fi
printf '\0\0\0\3' | dd of=aes bs=1 seek=32 conv=notrunc status=none
refused "unknown encryption method 3" info aes
finish
