#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# io: each command, its options, what fails and how; bytes are compared with what qemu-io reads.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io

truncate -s 2M disk.raw
run 0 create -q -f qcow2 disk.qcow2 2M
for image in disk.raw disk.qcow2; do
    format=${image#disk.}
    for mode in '' -n; do
        run 0 io $mode -f $format -c 'write -P 0xab 64k 4k' -c 'read -P 0xab 64k 4k' -c flush $image
        says out "wrote 4096/4096 bytes at offset 65536"
        says out "read 4096/4096 bytes at offset 65536"
        # Unaligned, and across clusters.
        run 0 io $mode -q -f $format -c 'write -P 7 131071 3' -c 'verify -P 7 131071 3' \
            -c 'verify -P 0 131074 100' \
            -c 'write 1M 100k' -c 'verify 1M 100k' $image
        same "output of -q" "$(cat out)" ""
        run 0 io $mode -q -f $format -c 'zero 1030k 1k' -c 'zero -u 1M 64k' -c 'verify -P 0 1M 64k' \
            -c 'verify 1088k 36k' -c 'write -z 1088k 1k' -c 'read -P 0 1088k 1k' -c 'write -f -P 9 0 512' \
            -c 'zero -f 512 512' -c 'discard 0 64k' -c flush $image
    done
    qemu-io -r -f $format -c 'read -P 0xab 64k 4k' -c 'read -P 7 131071 3' -c 'read -P 0xcd 1089k 1k' \
        $image >theirs || fail "qemu-io reads something else: $(cat theirs)"
    checks=$((checks + 1))
done
checks=$((checks + 1))
qemu-img check -q disk.qcow2 || fail "check after io"

# Requests in flight at once.
run 0 io -q -f qcow2 -c 'write -a -P 1 0 64k' -c 'write -a -P 2 64k 64k' -c 'write -a -P 3 128k 1' \
    -c 'write -a -P 4 200k 300k' -c wait -c 'verify -a -P 1 0 64k' -c 'verify -a -P 2 64k 64k' \
    -c 'verify -a -P 4 200k 300k' disk.qcow2
# What was started is waited for at the end, and its failure counts.
run 1 io -q -f qcow2 -c 'verify -a -P 2 0 64k' disk.qcow2
says err "byte at offset 0 is 0x01, expected 0x02"

# A wrong byte: the first one is named.
run 0 io -q -f qcow2 -c 'write -P 5 0 64k' -c 'write -P 6 5000 1' disk.qcow2
run 1 io -f qcow2 -c 'read -P 5 0 64k' disk.qcow2
says out "Pattern verification failed at offset 0, 65536 bytes"
says err "byte at offset 5000 is 0x06, expected 0x05"
run 0 io -q -f qcow2 -c 'read -P 5 -s 5001 0 64k' -c 'read -P 5 -l 5000 0 64k' -c 'read -P 6 -s 5000 -l 1 0 64k' \
    disk.qcow2
run 0 io -q -f qcow2 -c 'read -v 4998 20' disk.qcow2
says out "00001386:  05 05 06 05"

# What fails does not stop what comes after, but is not forgotten.
run 1 io -f qcow2 -c 'write 3M 4k' -c 'length' disk.qcow2
says err "write failed at offset 3145728, 4096 bytes: past the end, which is at 2097152"
says out 2097152
# Standard output and exit code are qemu-io's, but for how long it took.
told() { sed -E 's/[0-9.]+ sec \(.*//'; }
cp disk.qcow2 kept.qcow2
truncate -s 1999990 odd.raw
for image in disk.raw disk.qcow2 odd.raw; do
    cp $image theirs
    for command in 'read 2M 512' 'read 2097151 2' 'read 2097151 1' 'write 2M 1' 'write 1M 2M' 'write -z 2M 64k' \
        'discard 2M 64k' 'discard 1M 2M' 'read 7E 1' 'read 0 4k' 'read -P 3 0 4k' 'read -P 3 -s 1 -l 5 0 4k' \
        'read -v 0 40' 'read 0 0' 'write 0 0' 'write -f -P 3 0 4k' 'write -z -u 64k 64k' 'write -q 0 4k' \
        'discard 0 64k' 'flush' 'read 1999900 90' 'read -v 1999872 512' 'write 1999990 10' 'quit'; do
        qemu-io -f ${image#disk.} -c "$command" theirs </dev/null 2>/dev/null | told >expected
        qemu-io -f ${image#disk.} -c "$command" theirs </dev/null >/dev/null 2>&1
        run $? io -f ${image#disk.} -c "$command" $image
        same "what $command on $image says" "$(told <out)" "$(cat expected)"
    done
done
cp kept.qcow2 disk.qcow2
run 1 io -r -f qcow2 -c 'write 0 4k' -c 'read -P 5 0 4k' disk.qcow2
says err "write failed"
says out "read 4096/4096"
run 0 io -r -q -f qcow2 -c 'verify -P 5 0 4k' disk.qcow2
for command in 'frobnicate' 'write 1' 'write' 'write 0 1 2' 'write -P 256 0 1' 'write -P x 0 1' 'read -z 0 1' \
    'read -P' 'write 0 3G' 'write 0 2147483137' 'write -u 0 1' \
    'write -z -P 1 0 1' 'read 0 1x' 'read -s 2 0 1' 'read -l 2 0 1' 'sleep x'; do
    run 1 io -f qcow2 -c "$command" disk.qcow2
    same "stderr of $command" "$(wc -l <err)" 1
    same "stdout of $command" "$(cat out)" ""
done
refused "-U needs -r" io -U disk.qcow2

# Commands from standard input.
printf '# a comment\n\nw -P 8 0 4k\n r -P 8 0 4k\nf\nquit\nread -P 9 0 4k\n' |
    "$tool" io -q -f qcow2 disk.qcow2 >out 2>err
same "exit code of a script" $? 0
printf 'length\nread -P 9 0 4k' | "$tool" io -q -f qcow2 disk.qcow2 >out 2>err
same "exit code of a failing script" $? 1
says out 2097152

# A journal of what has been done.
run 1 io -q -e -f qcow2 -c 'write 0 4k' -c 'write -a 64k 4k' -c 'write 3M 4k' -c flush disk.qcow2
printf 'done: write 0 4k\ndone: write -a 64k 4k\nfailed: write 3M 4k\ndone: flush\n' >want
checks=$((checks + 1))
cmp -s out want || fail "the journal is: $(cat out)"

# What contradicts itself is marked, though only a read has found it.
run 0 create -q -f qcow2 torn.qcow2 1M
run 0 io -q -f qcow2 -c 'write -P 1 0 64k' torn.qcow2
l1=$(od -An -tu8 --endian=big -j 40 -N 8 torn.qcow2 | tr -d ' ')
l2=$(od -An -tu4 --endian=big -j $((l1 + 4)) -N 4 torn.qcow2 | tr -d ' ')
printf '\002' | dd of=torn.qcow2 bs=1 seek=$((l2 + 6)) conv=notrunc status=none
run 1 io -q -r -f qcow2 -c 'read 0 4k' torn.qcow2
run 0 info --output json torn.qcow2
says out '"corrupt": false'
run 1 io -q -f qcow2 -c 'read 0 4k' torn.qcow2
run 0 info --output json torn.qcow2
says out '"corrupt": true'
refused "corrupt" io -q -f qcow2 -c 'write 512k 4k' torn.qcow2

# Held by another process: refused, but for -r -U.
mkfifo hold
"$tool" io -f qcow2 disk.qcow2 <hold >held 2>&1 &
exec 3>hold
echo length >&3
tries=0
until [ -s held ] || [ $tries = 100 ]; do tries=$((tries + 1)); sleep 0.1; done
refused "disk.qcow2" io -f qcow2 -c length disk.qcow2
refused "disk.qcow2" info -f qcow2 disk.qcow2
run 0 io -r -U -f qcow2 -c length disk.qcow2
for verb in info map check; do run 0 $verb -U disk.qcow2; done
exec 3>&-
wait
run 0 io -f qcow2 -c length disk.qcow2
finish
