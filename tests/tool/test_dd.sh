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

# What is there already, and other sizes.
run 0 dd if=a of=ours isize=1M bs=1000 skip=1
head -c 1048576 a | tail -c +1001 >theirs
truncate -s 1047576 theirs
checks=$((checks + 1)); cmp -s -n 1047576 ours theirs || fail "isize"
run 0 dd -O qcow2 if=a of=ours osize=8M
same "osize" "$(qemu-img info --output json ours | grep -c '"virtual-size": 8388608')" 1
checks=$((checks + 1)); qemu-img compare -q -f qcow2 -F raw ours a || fail "osize"
run 0 io -c "write -P 5 0 8M" ours
run 0 dd -n -O qcow2 if=a of=ours count=4000
run 0 convert -f qcow2 ours theirs
checks=$((checks + 1)); cmp -s -n 2048000 a theirs || fail "-n"
same "what -n leaves" "$(tail -c +2048001 theirs | tr -d '\005' | wc -c)" 0

# Through pipes.
for input in a q; do
    for part in "" "bs=1M count=2" "bs=1000 skip=700 count=3000" "count=0" "bs=4096 skip=3"; do
        rm -f theirs
        qemu-img dd if=$input of=theirs $part
        checks=$((checks + 2))
        "$tool" dd if=$input of=- $part | cmp -s - theirs || fail "$part of $input to standard output"
        "$tool" dd -O qcow2 if=$input of=- $part >ours
        qemu-img compare -q -f qcow2 -F raw ours theirs || fail "$part of $input to standard output, qcow2"
    done
done
for part in "" "bs=1M count=2" "bs=1000 skip=700 count=3000" "count=0" "bs=4096 skip=3" "skip=99999999"; do
    qemu-img dd -f raw if=a of=theirs $part 2>theirs.out
    checks=$((checks + 2))
    cat a | "$tool" dd if=- of=ours $part 2>err && cmp -s ours theirs || fail "$part of standard input"
    rm -f ours
    "$tool" dd -O qcow2 -f raw if=- of=ours $part <a 2>err && qemu-img compare -q -f qcow2 -F raw ours theirs ||
        fail "$part of standard input, qcow2"
    rm -f ours theirs
done
# What is behind the part stays to the byte, as from a file.
for part in "bs=1 count=1000" "bs=700 skip=1 count=7" "bs=512 count=2" "count=0"; do
    head -c 9000 /dev/zero | tr '\0' A >ours
    cp ours theirs
    "$tool" dd -n if=- of=ours $part <a && "$tool" dd -n if=a of=theirs $part
    checks=$((checks + 1)); cmp -s ours theirs || fail "$part of standard input over what is there"
    "$tool" create -q -f qcow2 ours.q 1M && "$tool" io -c "write -P 9 0 1M" ours.q >out && cp ours.q theirs.q
    "$tool" dd -n -O qcow2 if=- of=ours.q $part <a && "$tool" dd -n -O qcow2 if=a of=theirs.q $part
    checks=$((checks + 1)); "$tool" compare -q ours.q theirs.q || fail "$part over what is there, qcow2"
done
for part in "skip=99999999" "bs=1M skip=9" "isize=512 skip=2"; do
    rm -f ours
    "$tool" dd if=- of=ours $part <a 2>err || fail "$part of standard input: exit code"
    same "what is said of $part" "$(cat err)" \
        "vdisk-io: warning: standard input: cannot skip to specified offset"
    same "size" "$(stat -c %s ours)" 0
done
head -c 1024 a >b
"$tool" dd if=- of=ours skip=2 <b 2>err
same "what is said of just as much" "$(cat err)" ""
rm -f ours theirs
refused "nothing is converted" dd if=- of=-
refused "reading qcow2 needs seeking" dd -f qcow2 if=- of=new
refused "standard output is no output that is there" dd -n if=a of=-
refused "osize: what goes to standard output" dd osize=8M if=a of=-
rm -f new
refused "Must specify both" dd if=a
refused "Must specify both" dd of=new
refused "unrecognized operand seek=1" dd seek=1 if=a of=new
refused "osize is less than the 5000192 bytes" dd osize=4M if=a of=new
refused "osize: an output that is there" dd -n osize=4M if=a of=new
refused "unrecognized operand x" dd x if=a of=new
refused "No such file" dd -n if=a of=new
refused "Invalid isize specified: 'x'; see" dd isize=x if=a of=new
refused "Invalid bs specified. Must be between 1 and 2147483647; see" dd bs=0 if=a of=new
refused "Invalid bs specified. Must be between 1 and 2147483647; see" dd bs=3G if=a of=new
refused "Invalid bs specified: 'x'; see" dd bs=x if=a of=new
refused "Invalid count specified. Must be between 0 and" dd count=-1 if=a of=new
refused "Unknown file format 'vmdk'" dd -O vmdk if=a of=new
refused "same file" dd if=a of=./a
refused "missing" dd if=missing of=new
checks=$((checks + 1)); [ ! -e new ] || fail "a refused dd made a file"
finish
