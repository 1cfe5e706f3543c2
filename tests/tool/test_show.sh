#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# info, map and check against qemu-img, on images that qemu made and on damaged ones.
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io python3

# make NAME OPTIONS SIZE COMMAND...
make() {
    name=$1 options=$2 size=$3
    shift 3
    qemu-img create -q -f qcow2 -o "$options" "$name" "$size" || exit 1
    for command; do
        qemu-io -f qcow2 -c "$command" "$name" >/dev/null || exit 1
    done
    images="$images $name"
}

images=
make plain.qcow2 cluster_size=64k 64M 'write -P 1 0 64k' 'write -P 2 1M 1M' 'write -z 4M 1M' 'write -P 3 100k 1'
make empty.qcow2 cluster_size=64k 0
make odd.qcow2 cluster_size=4k 1000000 'write -P 1 0 1000000'
make v2.qcow2 compat=0.10 10M 'write 5M 1M'
make compressed.qcow2 compression_type=zlib 10M 'write -c -P 1 0 64k' 'write -c -P 2 64k 64k' 'write -P 3 1M 64k'
make lazy.qcow2 lazy_refcounts=on,refcount_bits=64 10M 'write 1M 64k'
make sub.qcow2 extended_l2=on 10M 'write -P 1 0 1M' 'write -z -u 2M 1M'
make full.qcow2 preallocation=full 3M
make falloc.qcow2 preallocation=falloc 3M 'write 100k 5k'
make zstd.qcow2 compression_type=zstd,cluster_size=128k 10M 'write -c -P 1 0 128k' 'write -c -P 2 1M 128k'
# Clusters that are mapped where the host has a hole: by preallocation, small and large; below an overlay; ours.
make meta.qcow2 preallocation=metadata 10M 'write 1M 4k' 'write -z 2M 1M' 'write 7M 9k'
make meta-large.qcow2 preallocation=metadata,cluster_size=4k 1G 'write 700M 1M'
make meta-sub.qcow2 preallocation=metadata,extended_l2=on 10M 'write 100k 4k'
make meta-data.qcow2 preallocation=metadata,data_file=meta-data.raw 10M 'write 1M 1M'
make over-meta.qcow2 backing_file=meta.qcow2,backing_fmt=qcow2 12M 'write 1100k 4k' 'write -z 8M 64k'
"$tool" create -q -f qcow2 own.qcow2 1G
"$tool" io -q -c 'write -P 1 0 512' -c 'write -P 2 1M 64k' -c 'write -P 3 500M 4k' own.qcow2
"$tool" create -q -f qcow2 -o preallocation=metadata own-meta.qcow2 1G
"$tool" io -q -c 'write -P 3 500M 4k' own-meta.qcow2
images="$images own.qcow2 own-meta.qcow2"
make data.qcow2 data_file=data.raw,data_file_raw=on 10M 'write 1M 1M'
make marks.qcow2 cluster_size=64k 10M 'write 1M 1M'
qemu-img snapshot -c first marks.qcow2
qemu-img snapshot -c 'a second one with a long name' marks.qcow2
qemu-img bitmap --add marks.qcow2 on
qemu-img bitmap --add --disable -g 4k marks.qcow2 off
qemu-io -c 'write -P 9 3M 64k' marks.qcow2 >/dev/null
mkdir dir
make dir/top.qcow2 backing_file=../plain.qcow2,backing_fmt=qcow2 64M 'write -P 7 1M 64k' 'write -z 0 64k'
make dir/top2.qcow2 backing_file=top.qcow2,backing_fmt=qcow2 64M 'write -P 8 20M 1M'
make small.qcow2 cluster_size=64k 1M 'write 0 1M'
make larger.qcow2 backing_file=small.qcow2,backing_fmt=qcow2 3M 'write 2M 64k'
make middle.qcow2 backing_file=larger.qcow2,backing_fmt=qcow2 2500k
make largest.qcow2 backing_file=middle.qcow2,backing_fmt=qcow2 5M 'write 4M 64k'
make noformat.qcow2 backing_file=plain.qcow2,backing_fmt=qcow2 64M
python3 - <<'END' # the name of the backing file stays, its format goes: an end-of-extensions mark first
with open("noformat.qcow2", "r+b") as f:
    head = f.read(112)
    f.seek(int.from_bytes(head[100:104], "big"))
    f.write(bytes(8))
END
truncate -s 1M holes.raw
printf x | dd of=holes.raw bs=1 seek=300000 conv=notrunc 2>/dev/null
truncate -s 1536 odd.raw
images="$images holes.raw odd.raw"

# Leaks, corruption, and both: refcounts changed by hand.
python3 - <<'END'
import shutil

def change(name, changes, size=None):
    shutil.copy("plain.qcow2", name)
    with open(name, "r+b") as f:
        head = f.read(104)
        f.seek(int.from_bytes(head[48:56], "big"))
        block = int.from_bytes(f.read(8), "big")
        for cluster, count in changes.items():
            f.seek(block + 2 * cluster)
            f.write(count.to_bytes(2, "big"))
        if size:
            f.truncate(size)

change("leak.qcow2", {40: 1, 41: 1, 42: 3}, 43 * 65536)
change("corrupt.qcow2", {5: 0, 6: 0})
change("both.qcow2", {5: 0, 40: 1}, 43 * 65536)
END
images="$images leak.qcow2 corrupt.qcow2 both.qcow2"

checks=$((checks + 1))
qemu=$("$source_root/bench/peer")
images="$images file:plain.qcow2 ./plain.qcow2"
python3 "$source_root/tests/tool/compare.py" "$tool" "$qemu" $images || fail "differences to qemu-img"

run 3 check leak.qcow2
says err "Leaked cluster 40 refcount=1 reference=0"
run 2 check corrupt.qcow2
says err "ERROR cluster 5 refcount=0 reference=1"
run 3 check -q leak.qcow2
same "output of check -q" "$(cat out)" ""
run 63 check holes.raw
same "check of raw" "$(cat err)" "vdisk-io: This image format does not support checks"
run 63 check -f raw plain.qcow2
refused "-r takes leaks or all" check -r some leak.qcow2
refused "not with -U" check -r all -U leak.qcow2
# With "leaks" it gives up on the other two. With "all" it rebuilds the refcounts, at the end of the file.
for case in leak:leaks leak:all corrupt:all both:all; do
    image=${case%:*} what=${case#*:}
    cp $image.qcow2 ours.qcow2
    cp $image.qcow2 theirs.qcow2
    qemu-img check -r $what theirs.qcow2 >expected 2>/dev/null
    run $? check -r $what ours.qcow2
    [ $image = leak ] && same "output of check -r $what $image" "$(cat out)" "$(cat expected)"
    cp $image.qcow2 ours.qcow2
    cp $image.qcow2 theirs.qcow2
    qemu-img check -r $what --output json theirs.qcow2 >expected 2>/dev/null
    run $? check -r $what --output json ours.qcow2
    for key in leaks-fixed corruptions-fixed corruptions leaks check-errors total-clusters allocated-clusters; do
        same "$key of check -r $what $image" "$(grep "\"$key\"" out)" "$(grep "\"$key\"" expected)"
    done
done
run 2 check -r leaks both.qcow2
says err "Repairing cluster 40 refcount=1 reference=0"
says err "ERROR cluster 5 refcount=0 reference=1"
cp leak.qcow2 ours.qcow2
run 0 check -r leaks ours.qcow2
says err "Repairing cluster 40 refcount=1 reference=0"
says out "3 leaked clusters"
run 0 check ours.qcow2
for verb in info map check; do
    refused "missing.qcow2" $verb missing.qcow2
    refused "holes.raw" $verb -f qcow2 holes.raw
done
refused "'x'" map --start-offset x plain.qcow2
head -c 100000 /dev/zero | tr '\0' 'Q' >noise.raw
run 0 info noise.raw
says out "file format: raw"

# Limits are told when they are asked for, of the image and of its file.
run 0 info --limits plain.qcow2
says out "Block limits:"
says out "    write zeroes alignment: 65536"
says out "        min mem alignment: "
run 0 info plain.qcow2
if grep -q "Block limits" out; then fail "limits are told unasked"; fi
run 0 info --limits --output json --backing-chain plain.qcow2
checks=$((checks + 1))
[ "$(grep -c '"request-alignment": ' out)" = 2 ] || fail "not two nodes have limits: $(cat out)"
run 0 info --limits --image-opts driver=raw,file.filename=noise.raw,size=4k
says out "    max iov: "
refused "nope.qcow2" info --limits nope.qcow2

# A chain that bites its tail ends.
qemu-img create -q -f qcow2 -u -b loop2.qcow2 -F qcow2 loop1.qcow2 1M
qemu-img create -q -f qcow2 -u -b loop1.qcow2 -F qcow2 loop2.qcow2 1M
refused "creates an infinite loop" info --backing-chain loop1.qcow2
run 0 info loop1.qcow2
qemu-img create -q -f qcow2 -u -b gone.qcow2 -F qcow2 orphan.qcow2 1M
run 0 info orphan.qcow2
says out "backing file: gone.qcow2"
refused "gone.qcow2" info --backing-chain orphan.qcow2
refused "gone.qcow2" map orphan.qcow2

# Names that would play tricks with a terminal or JSON.
esc=$(printf '\033')
qemu-img create -q -f qcow2 -u -b "x${esc}[2Jy" -F qcow2 tricky.qcow2 1M
run 0 info tricky.qcow2
says out "backing file: x?[2Jy"
qemu-img create -q -f qcow2 -u -b "$(printf 'x\377y')" -F qcow2 latin.qcow2 1M
run 0 info --output json latin.qcow2
says out '"backing-filename": "x\uFFFDy"'
# No name in the image is followed: what it leads to may be missing, in use, or whatever its maker wanted.
qemu-img create -q -f qcow2 -o data_file=named.raw,data_file_raw=on names.qcow2 1M
rm named.raw
mkfifo named.raw
run 0 info names.qcow2
says out "data file: named.raw"
rm named.raw
run 0 info --output json --backing-chain names.qcow2
says out '"data-file": "named.raw"'
mkfifo named.raw
qemu-img create -q -f qcow2 -u -F qcow2 -b "json:{'driver':'qcow2','file':{'driver':'file',
'filename':'names.qcow2'},'data-file':{'driver':'file','filename':'named.raw'}}" over.qcow2 1M
run 0 info --backing-chain over.qcow2
says out "data file: named.raw"
finish
