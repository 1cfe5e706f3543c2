#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# convert beside qemu-img: contents, sizes, exit codes, what is refused and what a failure leaves. The formats and
# their options are test_convert_formats.py's.
. "$(dirname "$0")/lib.sh"
need qemu-img cmp stat timeout

# contents A B [FORMAT-A FORMAT-B]: qemu-img finds no difference.
contents() {
    checks=$((checks + 1))
    qemu-img compare ${3:+-f "$3"} ${4:+-F "$4"} -q "$1" "$2" >compare.out 2>&1 ||
        fail "$1 and $2 differ: $(cat compare.out)"
}

absent() {
    checks=$((checks + 1))
    [ ! -e "$1" ] || fail "$1 is there: $(ls -l "$1")"
}

size_of() { stat -c %s "$1"; }
blocks_of() { stat -c %b "$1"; }

head -c 3000000 /dev/urandom >data
truncate -s 9000000 data
head -c 65536 /dev/urandom | dd of=data bs=4096 seek=1500 conv=notrunc status=none
truncate -s 1000 odd && printf odd | dd of=odd conv=notrunc status=none
: >empty
truncate -s 3M zeros

# ---- sizes ----------------------------------------------------------------------------------------------
for name in data odd empty zeros; do
    for format in raw qcow2; do
        run 0 convert -f raw -O $format $name ours
        same "stdout of convert" "$(cat out err)" ""
        qemu-img convert -f raw -O $format $name theirs
        contents $name ours raw $format
        contents theirs ours $format $format
        [ $format = qcow2 ] || same "size of $name" "$(size_of ours)" "$(size_of theirs)"
        run 0 convert -f $format ours back
        contents $name back raw raw
    done
done
run 0 convert -f raw odd data odd ours
qemu-img convert -f raw odd data odd theirs
checks=$((checks + 1)); cmp ours theirs || fail "several sources"
run 0 convert -f raw -O qcow2 -o size=20M data ours
same "virtual size" "$(qemu-img info ours | grep -c 20971520)" 1
refused "output file is smaller than input file" convert -f raw -O qcow2 -o size=1M data new
absent new

# ---- space ----------------------------------------------------------------------------------------------
run 0 convert -f raw data ours
qemu-img convert -f raw data theirs
checks=$((checks + 1)); [ "$(blocks_of ours)" -le $(($(blocks_of theirs) + 16)) ] || fail "takes more than QEMU's"
head -c 4M /dev/zero >written
run 0 convert -f raw written ours
same "blocks of zeros" "$(blocks_of ours)" 0
run 0 convert -f raw -S 0 zeros ours
checks=$((checks + 1)); [ "$(blocks_of ours)" -ge 6144 ] || fail "-S 0 leaves holes"
run 0 convert -f raw -O qcow2 -o preallocation=full zeros ours
checks=$((checks + 1)); [ "$(blocks_of ours)" -ge 6144 ] || fail "preallocation is lost"
contents zeros ours raw qcow2

# ---- into one that is there -----------------------------------------------------------------------------
head -c 9000448 /dev/urandom >old
ln old link
run 0 convert -n -f raw -O raw data old
contents data old raw raw
run 0 convert -f raw data old
same "links" "$(stat -c %h old)" 2
contents data link raw raw
run 0 create -q -f qcow2 old.q 20M
"$tool" io -f qcow2 -c 'write -P 7 0 20M' old.q >/dev/null
run 0 convert -n -f raw -O qcow2 data old.q
run 0 convert -f qcow2 old.q old.raw
checks=$((checks + 1)); cmp -n 9000000 data old.raw || fail "-n"
same "what is behind stays" "$(tail -c 1 old.raw | od -An -tx1 | tr -d ' ')" 07
qemu-img create -q -f qcow2 -o preallocation=metadata pre 9000448
run 0 convert -n --target-is-zero -f raw -O qcow2 data pre
contents data pre raw qcow2
run 0 convert -n -f raw --target-image-opts data driver=qcow2,file.filename=old.q
run 0 convert --image-opts driver=raw,file.filename=data,size=1M part
same "a part" "$(size_of part)" 1048576

# ---- backing files --------------------------------------------------------------------------------------
qemu-img create -q -f qcow2 base 8M && qemu-io -f qcow2 -c 'write -P 1 0 8M' base >/dev/null 2>&1 || {
    "$tool" io -f qcow2 -c 'write -P 1 0 8M' base >/dev/null; }
qemu-img create -q -f qcow2 -b base -F qcow2 middle
"$tool" io -f qcow2 -c 'write -P 2 1M 1M' -c 'write -z 2M 1M' middle >/dev/null
qemu-img create -q -f qcow2 -b middle -F qcow2 top 9M
"$tool" io -f qcow2 -c 'write -P 3 3M 1M' -c 'write -z 4M 64k' -c 'write -P 4 8M 64k' top >/dev/null
run 0 convert -f qcow2 -O qcow2 top flat
contents top flat qcow2 qcow2
run 0 convert -f qcow2 -O qcow2 -B middle -F qcow2 top over
contents top over qcow2 qcow2
same "backing file" "$(qemu-img info over | sed -n 's/^backing file: \([^ ]*\).*/\1/p')" middle
checks=$((checks + 1)); [ "$(blocks_of over)" -lt 4096 ] || fail "-B copies what is below"
refused "explicit backing format" convert -f qcow2 -O qcow2 -B middle top new
refused "cannot be used without backing file" convert -f qcow2 -O qcow2 -F qcow2 top new
refused "no backing file" convert -f qcow2 -O raw -B middle -F qcow2 top new
refused "makes no sense" convert -f qcow2 -O qcow2 -B middle -F qcow2 top top new
absent new

# ---- what is refused ------------------------------------------------------------------------------------
cp data before
ln -s data soft
for name in data ./data soft; do
    refused "same file" convert -f raw data $name
    refused "same file" convert -U -f raw data $name
    refused "same file" convert -f raw -n odd data $name
done
checks=$((checks + 1)); cmp data before || fail "a refused convert changed its source"

# What the source reads is not the target, under whatever name, with no lock to tell.
qemu-img create -q -f qcow2 -o data_file=ext.data ext 1M
"$tool" io -q -f qcow2 -c 'write -P 5 0 1M' ext
qemu-img create -q -f qcow2 -b ext -F qcow2 above
qemu-img create -q -f qcow2 -b above -F qcow2 upper
ln above above.link
ln -s ext.data soft.data
sum_all() { sha256sum data ext ext.data above upper base middle top; }
sum_all >before.sums
json="json:{'driver':'qcow2','file':{'driver':'file','filename':'upper'}}"
for source in upper "$json"; do
    for share in -U ""; do
        for name in above above.link ext ./ext.data soft.data file:ext; do
            refused "${name#file:}: it would be overwritten, and the source" convert $share "$source" $name
            refused "would be overwritten" convert $share -O qcow2 -o data_file=$name "$source" new
            refused "would be overwritten" dd $share "if=$source" of=$name
        done
        refused "would be overwritten" convert $share data "$source" -O qcow2 above
        refused "would be overwritten" convert $share -n -O qcow2 "$source" above
        refused "would be overwritten" convert $share -n -O qcow2 "$source" ext
        refused "would be overwritten" convert $share -n -O raw "$source" ext.data
        refused "upper: source and target are the same file" convert $share "$source" upper
        refused "upper: source and target are the same file" dd $share "if=$source" of=upper
        refused "upper: source and target are the same file" convert $share -n --target-image-opts "$source" \
            driver=qcow2,file.filename=upper
    done
done
refused "would be overwritten" convert -U -n -O qcow2 middle base
refused "ext.data: source and target are the same file" convert -U -n -O qcow2 --image-opts \
    driver=raw,file.filename=ext.data,offset=512 ext
absent new
sum_all >after.sums
same "what was refused changed nothing" "$(cat after.sums)" "$(cat before.sums)"
run 0 convert -n -U -O qcow2 base middle # what the target reads may be the source

refused "nothing-there" convert nothing-there new
refused "Must specify image file name" convert data
refused "Unknown file format 'vmdk'" convert -O vmdk data new
refused "Compression not supported for this file format" convert -c -O raw data new
refused "Compression not supported for this file format" convert -c data new
refused "Compression and preallocation not supported" convert -c -O qcow2 -o preallocation=metadata data new
refused "external data file" convert -c -O qcow2 -o data_file=new data new.qcow2
refused "-l x: internal snapshots cannot be read yet" convert -l x data new
refused "--bitmaps: bitmaps cannot be copied yet" convert --bitmaps -O qcow2 data new
refused "--skip-broken-bitmaps: bitmaps cannot be copied yet" convert --skip-broken-bitmaps -O qcow2 data new
refused "Cannot enable copy offloading when -c is used" convert -C -c -O qcow2 data new
for size in 0 4k; do
    refused "Cannot enable copy offloading when -S is used" convert -S $size -C data new
done
refused "Cannot use copy offloading in salvaging mode" convert -C --salvage data new
refused "requires use of -n flag" convert --target-is-zero data new
refused "-o has no effect" convert -n -o size=1 data old
refused "Invalid cache option: x" convert -t x data new
refused "Invalid source cache option: x" convert -T x data new
refused "between 1 and 16; see" convert -m 17 data new
refused "between 1 and 16" convert -m 0 data new
refused "Invalid buffer size" convert -S 1000 data new
refused "Invalid rate limit specified: 'x'" convert -r x data new
refused "no option 'nothing'; '-O qcow2 -o help' lists them" convert -O qcow2 -o nothing=1 data new
refused "no option 'nothing'; '-O raw -o help' lists them" measure -o nothing=1 data
refused "no option 'nothing'; '-f raw -o help' lists them" create -o nothing=1 new 1M
refused "output file is smaller than input file" convert -n -O raw -f raw data odd
refused "nodir/new" convert -f raw data nodir/new
refused "new" convert -n -f raw -O raw data new
absent new
for mode in none writeback writethrough directsync unsafe; do
    run 0 convert -f raw -O qcow2 -t $mode -T $mode -m 3 -W data ours
    contents data ours raw qcow2
done

run 0 convert -f raw -C data ours
contents data ours raw raw

# ---- progress -------------------------------------------------------------------------------------------
run 0 convert -p -f raw -O qcow2 data ours
same "progress" "$(tr '\r' '\n' <out | grep -vxE '    \([0-9]+\.[0-9]{2}/100%\)' | tr -d '\n')" ""
same "its end" "$(tail -c 19 out | tr '\r' ' ')" "    (100.00/100%) "
run 0 convert -p -q -f raw -O qcow2 data ours
same "quiet progress" "$(wc -c <out)" 0

# ---- interrupted, failed: what was made is gone, what was there is empty --------------------------------
head -c 8M /dev/urandom >slow
cp slow there
blocks_of() { stat -c %b "$1" 2>/dev/null || echo none; }
for signal in INT TERM HUP; do
    for target in new there; do
        were=$(blocks_of $target)
        env --default-signal=INT,HUP "$tool" convert -r 1M -f raw slow $target >out 2>err &
        pid=$!
        while [ "$(blocks_of $target)" = "$were" ] && kill -0 $pid 2>/dev/null; do sleep 0.05; done
        kill -$signal $pid
        wait $pid
        same "exit code after $signal" $? 1
        says err "cancelled"
    done
    absent new
    same "what is left of it" "$(size_of there)" 0
    says err "there is left empty"
    cp slow there
done
timeout --foreground -s INT 1 "$tool" convert -r 1M -f raw -O qcow2 -o data_file=new.data slow new >out 2>err
absent new
absent new.data
# Killed: the image is unfinished, and no qcow2 image to whoever is told the format.
timeout --foreground -s KILL 1 "$tool" convert -r 1M -f raw -O qcow2 slow new >out 2>err
for way in "" "-f qcow2"; do
    refused "new: is an unfinished image" info $way new
    refused "new: is an unfinished image" convert $way new other
done
qemu-img info -f qcow2 new >out 2>err
same "exit code of qemu-img on an unfinished image" $? 1
says err "not in qcow2 format"
rm new
(ulimit -f 4096; trap '' XFSZ; "$tool" convert -f raw slow new >out 2>err)
same "exit code at a limit" $? 1
absent new
finish
