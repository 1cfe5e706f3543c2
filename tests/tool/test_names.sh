#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# --image-opts in every verb that opens an image, what lists the options, and that no secret comes out.
. "$(dirname "$0")/lib.sh"
secret=sEcReT.42

run 0 create -q -f qcow2 a.qcow2 1M
head -c 3M /dev/zero | tr '\0' x >box
name=driver=qcow2,file.driver=file,file.filename=a.qcow2
run 0 io --image-opts -q -c "write -P 7 64k 64k" $name
run 0 io --image-opts -r -q -c "read -P 7 64k 64k" $name
run 0 info --image-opts $name
says out "image: a.qcow2"
run 0 map --image-opts $name
says out "a.qcow2"
run 0 check --image-opts $name
says out "No errors were found"
run 0 resize --image-opts $name +1M
run 0 info --image-opts $name
says out "virtual size: 2 MiB"
run 0 bench --image-opts --count 10 $name
part=driver=raw,offset=512,size=64k,file.filename=box
run 0 info --image-opts $part
says out 'image: json:{"driver": "raw", "offset": "512", "size": "64k", "file": {"driver": "file"'
says out "virtual size: 64 KiB"
run 0 map --image-opts --output json $part
says out '"offset": 512}'
refused "its size is fixed" resize --image-opts $part 128k
run 63 check --image-opts $part
refused "mutually exclusive" info --image-opts -f qcow2 $name
refused "driver 'file' has no option 'x'; it has: filename, locking" info --image-opts $name,file.x=1
refused "is to be written, and says read-only=on" io --image-opts -c "write 0 512" $name,read-only=on
refused "cannot be created" create -q -f raw "json:{'driver':'file','filename':'new'}" 1M
refused "cannot stand in an image" create -q -f qcow2 -F qcow2 -b image-opts:file.filename=a.qcow2 new
refused "cannot be created" create -q -f raw image-opts:driver=file,filename=new 1M

# What can be said: all drivers, and each option that one has, with its type.
run 0 info --image-opts help
for driver in qcow2 raw file host_device null-co memory user rbd; do
    says out "  $driver"
done
run 0 info --image-opts driver=raw,help
says out "  offset=<size> - "
says out "  discard=<unmap|on|ignore|off> - "
run 0 io --image-opts driver=qcow2,help
says out "  backing=<node or null> - "

# What an image names is looked for beside its file, whatever its name looks like.
mkdir sub
run 0 create -q -f qcow2 sub/base 1M
run 0 create -q -f qcow2 -b base -F qcow2 sub/top
for top in "json:{'file.filename':'sub/top'}" "json:{'file':{'driver':'file','filename':'$dir/sub/top'}}"; do
    run 0 info --backing-chain "$top"
    says out "sub/base)"
done
run 0 info --backing-chain --image-opts "driver=qcow2,file.filename=sub/top"
says out "backing file: base (actual path: sub/base)"

# Secrets: known by their id, and nowhere else.
printf %s "$secret" >pass
keyed=$name,encrypt.key-secret=sec0
refused "there is no secret 'sec0'" info --image-opts $keyed
run 0 info --object secret,id=sec0,data=$secret --image-opts $keyed
cat out err >all
run 0 info --output json --object secret,id=sec0,file=pass --image-opts $keyed
cat out err >>all
run 1 info --object secret,id=sec0,file=pass --object secret,id=sec0,data=$secret --image-opts $keyed
says err "there is one of that id"
cat out err >>all
for wrong in secret,data=$secret secret,id=a,data=x,$secret secret,id=a,data=$secret,format=hex $secret \
    secret,id=a,data=$secret,format=base64 "{\"qom-type\":\"secret\",\"id\":\"a\",\"$secret\":1}"; do
    run 1 info --object "$wrong" --image-opts $name
    cat out err >>all
done
same "secrets in what was printed" "$(grep -c "$secret" all)" 0
"$tool" io -r --object secret,id=s,data=$secret -c "sleep 3000" a.qcow2 >out 2>err </dev/null &
pid=$!
shown=$secret
for _ in 1 2 3 4 5 6 7 8 9 10; do
    case $shown in *$secret*) sleep 0.2 ;; esac
    shown=$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>&1)
done
same "the secret in the command line" "$(echo "$shown" | grep -c "$secret")" 0
says /proc/$pid/cmdline "--object"
kill $pid
wait $pid 2>err
: >err
finish
