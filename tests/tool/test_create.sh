#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# create: what it prints, what it makes, what it refuses. qemu-img is the reference.
. "$(dirname "$0")/lib.sh"
need qemu-img

# The same arguments to both: the same summary, the same size and options in the image, a clean check.
both() {
    rm -f ours.* theirs.*
    run 0 create "$@"
    mv out summary
    name=$(sed -n "s/^Formatting '\([^']*\)'.*/\1/p" summary)
    mv "$name" ours.img || fail "create $*: no image"
    rm -f data.raw
    qemu-img create "$@" >reference 2>err || fail "qemu-img create $*"
    same "summary of create $*" "$(cat summary)" "$(cat reference)"
    mv "$name" theirs.img
    for image in ours theirs; do
        qemu-img info --output json $image.img 2>err |
            sed '/"actual-size"/d; /"filename"/d' >$image.info
    done
    same "info after create $*" "$(cat ours.info)" "$(cat theirs.info)"
    case $* in *-u*) ;; *qcow2*) # qemu-img opens the backing file to check
        checks=$((checks + 1))
        qemu-img check ours.img >check 2>err || fail "check after create $*: $(cat check)"
    esac
    rm -f data.raw
}

qemu-img create -q -f qcow2 base.qcow2 3M
qemu-img create -q -f raw base.raw 5M
both -f raw image 1M
both image 1.5G
both -f raw -o preallocation=falloc image 1M
both -f raw -o preallocation=full,size=2M image
both -f qcow2 image 1G
both -f qcow2 image 0
both -f qcow2 image 1000
both -f qcow2 image 0x100000
both -f qcow2 -o size=64k image
for size in 1b 3K 3k 7m 2G 1T 0.5G 1.0001k; do both -f qcow2 image $size; done
both -f qcow2 -o cluster_size=512 image 1M
both -f qcow2 -o cluster_size=2M image 1G
both -f qcow2 -o compat=0.10 image 1G
both -f qcow2 -o compat=v2,refcount_bits=16 image 1G
both -f qcow2 -o compat=v3 -o lazy_refcounts=on image 1G
both -f qcow2 -o lazy_refcounts image 1G
for bits in 1 2 4 8 16 32 64; do both -f qcow2 -o refcount_bits=$bits image 1G; done
both -f qcow2 -o extended_l2=on,cluster_size=128k image 1G
both -f qcow2 -o compression_type=zstd image 1G
for mode in off metadata falloc full; do
    both -f qcow2 -o preallocation=$mode image 4M
    both -f qcow2 -o preallocation=$mode,extended_l2=on image 4M
done
both -f qcow2 -o data_file=data.raw image 4M
both -f qcow2 -o data_file=data.raw,data_file_raw=on image 4M
both -f qcow2 -b base.qcow2 -F qcow2 image
both -f qcow2 -b base.qcow2 -F qcow2 image 8M
both -f qcow2 -o backing_file=base.raw,backing_fmt=raw image
both -f qcow2 -u -b missing -F qcow2 image 8M
cp base.raw 'a,b'
both -f qcow2 -o backing_file=a,,b,backing_fmt=raw image
both image -f qcow2 1M

# A relative backing file belongs to the new image's directory.
mkdir sub
run 0 create -f qcow2 -b ../base.qcow2 -F qcow2 sub/top.qcow2
run 0 info --backing-chain sub/top.qcow2
says out "backing file: ../base.qcow2 (actual path: sub/../base.qcow2)"
run 0 create -q -f qcow2 quiet.qcow2 1M
same "output of create -q" "$(cat out)" ""
run 0 create -p -f qcow2 -o preallocation=full progress.qcow2 1M
says out "(100.00/100%)"

# Refused, in one line, before anything is made.
not_made() {
    text=$1
    shift
    rm -f bad
    refused "$text" create "$@"
    same "bad exists after create $*" "$([ -e bad ] && echo yes)" ""
}
not_made "no format 'vmdk'" -f vmdk bad 1M
not_made "the size of the image is needed" -f qcow2 bad
not_made "the size is given twice" -f qcow2 -o size=1M bad 2M
for size in 1.5 1x 1e1 1KiB 16E 18446744073709551616 ''; do
    not_made "Invalid image size specified" -f qcow2 bad "$size"
done
not_made "cluster_size takes" -f qcow2 -o cluster_size=1000 bad 1M
not_made "cluster_size takes" -f qcow2 -o cluster_size=4M bad 1M
not_made "refcount_bits takes" -f qcow2 -o refcount_bits=3 bad 1M
not_made "compat takes" -f qcow2 -o compat=0.9 bad 1M
not_made "preallocation takes" -f qcow2 -o preallocation=some bad 1M
not_made "preallocation takes" -f raw -o preallocation=metadata bad 1M
not_made "compression_type takes" -f qcow2 -o compression_type=lz4 bad 1M
not_made "lazy_refcounts takes" -f qcow2 -o lazy_refcounts=maybe bad 1M
for key in encryption encrypt.format encrypt.key-secret encrypt.iter-time; do
    not_made "option $key: images cannot be encrypted yet" -f qcow2 -o $key=on bad 1M
done
not_made "has no option 'colour'" -f qcow2 -o colour=red bad 1M
not_made "has no option 'cluster_size'" -f raw -o cluster_size=4k bad 1M
not_made "needs a value" -f qcow2 -o cluster_size bad 1M
not_made "-o takes KEY=VALUE" -f qcow2 -o =x bad 1M
not_made "without backing format" -f qcow2 -b base.qcow2 bad
not_made "but no backing file" -f qcow2 -F qcow2 bad 1M
not_made "a raw image has no backing file" -f raw -b base.qcow2 -F qcow2 bad 1M
not_made "no backing format 'vmdk'" -f qcow2 -b base.qcow2 -F vmdk bad 1M
not_made "missing" -f qcow2 -b missing -F qcow2 bad 1M
not_made "the size of the image is needed" -f qcow2 -u -b missing -F qcow2 bad

# A protocol that is not there makes no file of its name; a path does, and a file that is there is meant.
printf content >source
for name in ssh:localhost:22 a:b ssh://host/image; do
    for way in "create -q -f raw $name 1M" "create -q -f qcow2 $name 1M" "convert -f raw source $name" \
        "convert -f raw -O qcow2 source $name" "dd -f raw if=source of=$name" \
        "create -q -f qcow2 -o data_file=$name bad 1M" "convert -f raw -O qcow2 -o data_file=$name source bad"; do
        refused "$name: the protocol '${name%%:*}' is not supported" $way
        says err "hint: a file of that name: write ./NAME or file:NAME"
        same "files after $way" "$(ls -d bad *:* 2>/dev/null)" ""
    done
done
refused "protocol 'ov' is not supported" create ov:1.q 1M
refused "protocol 'ov' is not supported" create -f qcow2 -b source -F raw ov:1.q
run 0 create -q -f qcow2 ./a:b 1M
run 0 create -q -f qcow2 file:c:d 1M
same "files with a colon" "$(ls -d *:* | tr '\n' ' ')" "a:b c:d "
run 0 create -q -f raw a:b 1M
same "one that was there" "$(stat -c %s a:b)" 1048576

run 1 create -f qcow2 missing-dir/x 1M
says err "missing-dir/x"
finish
