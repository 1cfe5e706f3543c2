#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# dd beside qemu-img: the same parts, sizes and exit codes.
. "$(dirname "$0")/lib.sh"
need qemu-img cmp

# like_qemu ARGUMENT...: the same file "of", up to the size that it has.
like_qemu() {
    rm -f theirs ours
    qemu-img dd "$@" of=theirs >theirs.out 2>&1
    run $? dd "$@" of=ours
    checks=$((checks + 1))
    cmp -s theirs ours || fail "dd $*: another output: $(ls -l theirs ours)"
}

head -c 3000000 /dev/urandom >a
truncate -s 5000000 a
qemu-img convert -f raw -O qcow2 a q
for input in a q; do
    like_qemu if=$input
    like_qemu if=$input bs=1M
    like_qemu if=$input bs=1M count=2
    like_qemu if=$input bs=1M count=9
    like_qemu if=$input bs=1M count=3 skip=1
    like_qemu if=$input bs=4096 skip=3
    like_qemu if=$input bs=512 count=1 skip=1
    like_qemu if=$input bs=1M count=0
    like_qemu -f raw -O raw if=$input bs=1k count=77
done
like_qemu --image-opts if=driver=qcow2,file.filename=q bs=64k count=5
run 0 dd if=a of=ours bs=1M skip=9
says err "cannot skip to specified offset"
same "size" "$(stat -c %s ours)" 0
run 0 dd -O qcow2 if=a of=ours bs=1000 count=3000 skip=700
qemu-img dd if=a of=theirs bs=1000 count=3000 skip=700
checks=$((checks + 1)); qemu-img compare -q -f qcow2 -F raw ours theirs || fail "an odd part"
rm -f new
refused "Must specify both" dd if=a
refused "Must specify both" dd of=new
refused "unrecognized operand osize=1" dd osize=1 if=a of=new
refused "unrecognized operand x" dd x if=a of=new
refused "no option '-n'" dd -n if=a of=new
refused "Invalid bs specified. Must be between 1 and 2147483647; see" dd bs=0 if=a of=new
refused "Invalid bs specified. Must be between 1 and 2147483647; see" dd bs=3G if=a of=new
refused "Invalid bs specified: 'x'; see" dd bs=x if=a of=new
refused "Invalid count specified: '-1'; see" dd count=-1 if=a of=new
refused "Unknown file format 'vmdk'" dd -O vmdk if=a of=new
refused "same file" dd if=a of=./a
refused "missing" dd if=missing of=new
checks=$((checks + 1)); [ ! -e new ] || fail "a refused dd made a file"
finish
