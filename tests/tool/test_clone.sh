#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# convert and dd from raw to raw on file systems that can share blocks, which takes root and loop devices, and
# where they cannot: the same content, holes stay holes, and space is taken twice only where it has to be.
. "$(dirname "$0")/lib.sh"
need cmp truncate filefrag

mounted=
unmount_all() {
    for m in $mounted; do umount "$m"; done
    [ -n "${VDISK_TEST_KEEP:-}" ] || rm -rf "$dir"
}
trap unmount_all EXIT

# make_source FILE: data, a hole, data, a hole.
make_source() {
    head -c 24000000 /dev/urandom >"$1"
    truncate -s 100M "$1"
    head -c 3000000 /dev/urandom >>"$1"
    truncate -s 200M "$1"
    sync "$1"
}

blocks() { stat -c %b "$1"; }

# shares FILE: some of its extents are those of another file, too.
shares() { filefrag -v "$1" | grep -q shared; }

# copied WHAT FILE: as the source, and no longer on the host.
copied() {
    checks=$((checks + 1))
    cmp -s source "$2" || fail "$1: another content"
    checks=$((checks + 1))
    [ "$(blocks "$2")" -le $(($(blocks source) + 64)) ] || fail "$1: $(blocks "$2") blocks of $(blocks source)"
}

# in_file_system CAN: in the directory that we are in.
in_file_system() {
    make_source source
    run 0 convert -f raw -O raw source new
    copied "$1: convert" new
    same "$1: convert shares" "$(shares new && echo yes || echo no)" "$2"
    # What is written to one of both is not in the other.
    run 0 io -f raw -c 'write -P 7 4k 64k' new
    same "$1: written apart" "$(cmp source new >/dev/null && echo one || echo two)" two
    # Over what is there, which was longer, and had other data.
    head -c 9000000 /dev/urandom >new
    truncate -s 250M new
    run 0 convert -f raw -O raw source new
    copied "$1: convert over a file" new
    rm new
    run 0 dd -f raw -O raw if=source of=new bs=1M
    copied "$1: dd" new
    same "$1: dd shares" "$(shares new && echo yes || echo no)" "$2"
    # What asks for another layout gets it.
    truncate -s 0 small
    head -c 1000000 /dev/zero >small
    truncate -s 5M small
    sync small
    run 0 convert -f raw -O raw -S 4k small sparse
    same "$1: -S finds zeros" "$(shares sparse && echo yes || echo no)" no
    run 0 convert -f raw -O raw -o preallocation=full small full
    same "$1: preallocation stays" "$(shares full && echo yes || echo no)" no
    checks=$((checks + 1))
    [ "$(blocks full)" -ge 10240 ] || fail "$1: preallocation=full has $(blocks full) blocks"
    run 0 convert -f raw -O raw small a
    run 0 convert -n -f raw -O raw small full
    same "$1: -n keeps its space" "$(shares full && echo yes || echo no)" no
    checks=$((checks + 1)); cmp -s small full || fail "$1: -n: another content"
    # Of odd sizes and of parts: what is aligned can be had, the rest is copied.
    head -c 1234567 /dev/urandom >odd
    run 0 convert -f raw -O raw odd round
    truncate -s 1234944 odd
    checks=$((checks + 1)); cmp -s odd round || fail "$1: an odd size"
    run 0 dd -f raw -O raw if=source of=part bs=1M skip=3 count=20
    checks=$((checks + 1)); cmp -s -i 3145728:0 -n 17825792 source part || fail "$1: a part"
    same "$1: a part shares" "$(shares part && echo yes || echo no)" "$2"
    run 0 dd -f raw -O raw if=source of=part bs=512 skip=3 count=40000
    checks=$((checks + 1)); cmp -s -i 1536:0 -n 20478464 source part || fail "$1: a part that is not aligned"
    same "$1: a part that is not aligned does not" "$(shares part && echo yes || echo no)" no
    # Into what is longer, and behind another source; from what the page cache alone has, past which it is opened.
    dd if=/dev/urandom of=source bs=64k count=3 seek=100 conv=notrunc status=none
    run 0 convert -T none -f raw -O raw -o size=240M source longer
    checks=$((checks + 1)); cmp -s -n 209715200 source longer || fail "$1: a longer target"
    checks=$((checks + 1))
    [ "$(blocks longer)" -le $(($(blocks source) + 64)) ] || fail "$1: a longer target: $(blocks longer) blocks"
    same "$1: a longer target shares" "$(shares longer && echo yes || echo no)" "$2"
    run 0 convert -f raw -O raw small source both
    checks=$((checks + 1)); cmp -s -i 0:5242880 source both || fail "$1: the second of two sources"
    same "$1: one of two sources shares" "$(shares both && echo yes || echo no)" "$2"
    # -C: what is there already gives its space back.
    run 0 convert -n -C -f raw -O raw source longer
    checks=$((checks + 1)); cmp -s -n 209715200 source longer || fail "$1: -n -C: another content"
    truncate -s 5M full
    run 0 convert -n -C -f raw -O raw small full
    same "$1: -n -C shares" "$(shares full && echo yes || echo no)" "$2"
    rm -f source new small sparse full a odd round part longer both
}

# on TYPE CAN: on such a file system, made in a file.
on() {
    command -v "mkfs.$1" >/dev/null || { echo "skipped: $1: no mkfs.$1"; return; }
    truncate -s 500M "image.$1"
    "mkfs.$1" -q "image.$1" >mkfs.out 2>&1 || { echo "skipped: $1: mkfs fails"; return; }
    mkdir "mnt.$1"
    mount -o loop "image.$1" "mnt.$1" 2>mount.err || { echo "skipped: $1: $(head -1 mount.err)"; return; }
    mounted="$mounted $dir/mnt.$1"
    cd "mnt.$1" || exit 1
    in_file_system "$1" "$2"
    cd "$dir" || exit 1
}

on btrfs yes
on xfs yes
on ext4 no
[ "$checks" -gt 0 ] || exit 77
finish
