#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# compare beside qemu-img: the same words and exit codes. Not the same on purpose: in strict mode the end of an
# image is no status of its own.
. "$(dirname "$0")/lib.sh"
need qemu-img

# like_qemu ARGUMENT...: the same on stdout, the same exit code.
like_qemu() {
    qemu-img compare "$@" >theirs 2>/dev/null
    run $? compare "$@"
    same "compare $*" "$(cat out)" "$(cat theirs)"
}

head -c 300000 /dev/urandom >a
truncate -s 5M a
cp a b
cp a longer && truncate -s 6M longer
cp a more && head -c 70000 /dev/zero | tr '\0' x >>more
printf abc >tiny
qemu-img convert -f raw -O qcow2 a q
qemu-img create -q -f qcow2 -b q -F qcow2 top
"$tool" io -f qcow2 -c 'write -P 7 2000000 100' top >/dev/null
qemu-img create -q -f qcow2 null 5M
like_qemu a b
like_qemu a q
like_qemu -f raw -F qcow2 a q
like_qemu q top
like_qemu top a
like_qemu null a
like_qemu null longer
like_qemu a longer
like_qemu -s a longer
like_qemu a more
like_qemu more a
like_qemu -s q q
like_qemu a tiny
like_qemu -q a tiny
like_qemu -q a b
like_qemu -U -T none a b
like_qemu --image-opts driver=raw,file.filename=a driver=qcow2,file.filename=q
like_qemu a missing
like_qemu -f qcow2 a b
like_qemu -T x a b
qemu-img create -q -f qcow2 zeroed 5M
"$tool" io -f qcow2 -c 'write -P 0 1M 64k' zeroed >/dev/null
like_qemu null zeroed
run 1 compare -s null zeroed
says out "Strict mode: Offset 1048576 block status mismatch!"
# Tables that say nothing of use, and data that cannot be read: two exit codes.
qemu-img create -q -f qcow2 -o cluster_size=64k broken 5M
"$tool" io -c 'write -P 1 0 64k' broken >/dev/null
at=$(qemu-img map --output json broken | sed -n 's/.*"offset": \([0-9]*\)}.*/\1/p' | head -n 1)
printf '\200\0\0\0\0\005\002\0' | dd of=broken bs=1 seek=$((at - 65536)) conv=notrunc status=none
run 3 compare broken a
like_qemu broken a
yes | head -c 5M >text
qemu-img convert -c -f raw -O qcow2 text packed
head -c 4096 /dev/zero | tr '\0' '\377' | dd of=packed bs=64k seek=5 conv=notrunc status=none
like_qemu packed text
same "exit code where data cannot be read" "$got" 4
for where in 0 511 512 299999 5242879; do
    cp a b
    printf '\377\376' | dd of=b bs=1 count=1 seek=$where conv=notrunc status=none
    cmp -s a b && printf '\376' | dd of=b bs=1 seek=$where conv=notrunc status=none
    like_qemu a b
    like_qemu q b
done
run 1 compare -p a b
says out "Content mismatch"
refused "Expecting two image file names" compare a
refused "Expecting two image file names" compare a b c
finish
