#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Raw images opened without a format: what QEMU would take for another format cannot be written, all else can.
. "$(dirname "$0")/lib.sh"
need qemu-img

# sample OFFSET PRINTF-TEXT: what QEMU says of a file with that; a write of it must be refused for just the same.
sample() {
    rm -f theirs ours
    truncate -s 1M theirs ours
    printf "$2" | dd of=theirs bs=1 seek="$1" conv=notrunc 2>err
    format=$(qemu-img info --output json theirs 2>err | sed -n 's/.*"format": "\(.*\)".*/\1/p')
    printf "$2" >text
    length=$(wc -c <text)
    # One byte at a time, from the last to the first.
    i=$length
    while [ "$i" -gt 0 ]; do
        i=$((i - 1))
        echo "write -q -P 0x$(dd if=text bs=1 skip=$i count=1 2>err | od -An -tx1 | tr -d ' ') $(($1 + i)) 1"
    done >commands
    "$tool" io ours <commands >out 2>err
    got=$?
    checks=$((checks + 1))
    # Nothing or a format that QEMU cannot open: it took it for one.
    case $format in
    raw) [ $got = 0 ] || fail "'$2' is raw, but is refused" ;;
    *) [ $got = 1 ] || fail "'$2' is '$format', but is not refused" ;;
    esac
    [ $got = 0 ] || says err "Operation not permitted"
    same "format after '$2'" "$(qemu-img info --output json ours 2>err |
        sed -n 's/.*"format": "\(.*\)".*/\1/p' | head -1)" raw
    run 0 info ours
    says out "file format: raw"
    "$tool" io -f raw ours <commands >out 2>err || fail "'$2' cannot be written with -f raw"
}

sample 0 'QFI\373\0\0\0\3'
sample 0 'QFI\373\0\0\0\2'
sample 0 'QED\0'
sample 0 'KDMV'
sample 0 'COWD'
sample 0 '# Disk DescriptorFile\nversion=1\n'
sample 0 '# x\n#y\n  \nversion=3\r\n'
sample 0 '# x\n\nversion=1\n'
sample 0 '#!/bin/sh\nversion=4\n'
sample 64 '\177\020\332\276'
sample 0 'vhdxfile'
sample 0 'conectix'
sample 0 'WithoutFreeSpace\2\0\0\0'
sample 0 'WithouFreSpacExt\2\0\0\0'
sample 0 'LUKS\272\276\0\1'
sample 0 'LUKS\272\276\0\2'
sample 510 '\125\252'
sample 0 '\353\143\220'

# What makes no header is not minded.
truncate -s 1M disk
run 0 io -c 'write -z 0 64k' -c 'write -z -u 0 100' -c 'discard 0 64k' -c 'write 0 64k' -c 'write 512 64k' disk
finish
