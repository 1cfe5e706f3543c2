#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs in the test machine: storage domains on the kernel's NFS server, mounted over 4.2 and 3, with a server that
# goes away; and between two hosts, which are two sanlock daemons, on NFS and in a volume group on /dev/disk1.
set -e
. ./guest.sh
as_host() { export SANLOCK_RUN_DIR=/run/sanlock-$1; } # one of two, with a daemon of its own

# Each takes twenty seconds: all at once, beside what needs none of them.
joining=''
join_both() {
    for n in 1 2; do
        if [ $n = 1 ]; then as_host a; else as_host b; fi
        tool domain join --host-id $n "$1" >"join.$n.${1##*/}" 2>&1 &
        joining="$joining $!"
    done
    as_host a
}
wait_joined() {
    for join in $joining; do
        wait "$join" || { cat join.*; fail "joining"; }
    done
}

# ---- a server, and daemons
start_server() { rpc.nfsd -G 10 -L 10 2; }
{
    for module in nfsd nfs nfsv4 nfsv3; do modprobe $module; done
    ip link set lo up
    mkdir -p /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery /var/lib/nfs/sm /export /v3 /soft /run/rpcbind /etc
    mount -t nfsd nfsd /proc/fs/nfsd
    mount -t rpc_pipefs rpc /var/lib/nfs/rpc_pipefs
    mke2fs -q -t ext4 /dev/disk0
    mount /dev/disk0 /export
    mkdir -m 777 /export/four /export/three
    touch /etc/exports /var/lib/nfs/etab /var/lib/nfs/rmtab
    echo '_rpc:x:107:65534::/run:/bin/false' >>/etc/passwd
    echo 'nobody:x:65534:65534::/:/bin/false' >>/etc/passwd
    rpcbind -w
    exportfs -o rw,sync,root_squash,fsid=0,insecure 127.0.0.1:/export
    exportfs -o rw,sync,no_root_squash,insecure 127.0.0.1:/export/three
    rpc.mountd
    start_server
} >server.out 2>&1 9>&- || { cat server.out; fail "there is no server"; }
# Daemons without a watchdog, which a machine that is not to be reset has none of.
for name in b a; do
    mkdir /run/sanlock-$name
    as_host $name
    SANLOCK_PRIVILEGED=0 sanlock daemon -w 0 -h 0 -l 0 -e host-$name \
        >daemon.out 2>&1 9>&- || { cat daemon.out; fail "no sanlock"; }
done

# ---- 4.2, as its server calls it, and root is nobody there
options=vers=4.2,retry=0
export=127.0.0.1:/four
refused 'No such file' domain create --type nfs --mount-options $options 127.0.0.1:/nothing
refused 'is an export that is not mounted' domain info $export
refused 'no line of text' domain create --type nfs --mount-options $options --description "a
b" $export
if grep -q four /proc/mounts; then fail "it is still mounted"; fi
[ ! -e /rhev/data-center/mnt/127.0.0.1:_four ] || fail "its folder is left"
uuid=$(tool domain create --type nfs --mount-options $options --lockspace $export 2>create.out) || {
    cat create.out; fail "create"; }
grep -q '127.0.0.1:/four /rhev/data-center/mnt/127.0.0.1:_four nfs4 .*vers=4.2' /proc/mounts || fail "not mounted"
four=$export/$uuid
path=/rhev/data-center/mnt/127.0.0.1:_four/$uuid
says 'remote path: 127.0.0.1:/four' domain info $export
refused 'has not joined' volume create "$four" 1M
uuid=$(tool domain create --type block --lockspace "$(readlink -f /dev/disk1)" 2>create.out) || {
    cat create.out; fail "create in a group"; }
group=/dev/$uuid
refused 'has not joined' volume create -f qcow2 "$group" 1G
join_both "$four"
join_both "$group"

# kinds DOMAIN TEXT: the four of them, a snapshot that is preallocated, data, a merge.
kinds() {
    for kind in 'raw sparse' 'raw preallocated' 'qcow2 sparse' 'qcow2 preallocated'; do
        # shellcheck disable=SC2086
        set -- "$1" "$2" $kind
        told volume create -f "$3" -a "$4" "$1" 16M
        if [ "$4" = preallocated ] && [ -n "$2" ]; then
            grep -q "$2" told.out || { cat told.out; fail "'$2' is not said of $3"; }
        fi
        if grep -q 'were to be preallocated' told.out; then cat told.out; fail "$3: it has not its space"; fi
    done
    tool volume list "$1" >list.out
    raw=$(sed -n 's/  raw sparse.*//p' list.out)
    full=$(sed -n 's/  raw preallocated.*//p' list.out)
    grep -q 'raw preallocated LEAF, 16 MiB, holds 16 MiB' list.out || { cat list.out; fail "raw has holes"; }
    leaf=$(tool volume snapshot -a preallocated "$1/${raw%/*}" 2>snapshot.out) || {
        cat snapshot.out; fail snapshot; }
    io "$1/${raw%/*}" 'write -P 1 0 16M' flush 'verify -P 1 0 16M'
    io "$1/$full" 'write -P 2 4k 4k' flush 'discard 1M 1M' 'verify -P 0 1M 1M' 'verify -P 2 4k 4k'
    told volume resize "$1/$full" 20M
    told volume merge "$1/$leaf"
    io "$1/${raw%/*}" 'verify -P 1 0 16M'
    says ' 4 volumes: 0 faults' domain check "$1"
}

# ---- 3, where no space can be reserved
mount -t nfs -o vers=3,nolock,retry=0 127.0.0.1:/export/three /v3
three=/v3/$(tool domain create --type nfs /v3 2>create.out) || { cat create.out; fail "create on 3"; }
kinds "$three" 'zeros are written'
refused 'reserves no space' volume extend "$three/$full"

wait_joined
kinds "$four" ''
told volume extend "$four/$full"
for file in "$path"/images/*/*; do
    case $file in *.meta) mode=644 ;; *) mode=660 ;; esac
    [ "$(stat -c %a "$file")" = $mode ] || fail "$file: $(stat -c %a "$file")"
done
raw4=$raw

# ---- two hosts
image=${raw4%/*}
./vdisk-io io -n -c 'write -P 3 0 4k' -c 'sleep 60000' "volume:$four/$image" >io.out 2>&1 9>&- &
writer=$! # itself: of a function in the background that would be a shell
while ! grep -q wr io.out; do sleep 0.2; done
as_host b
refused 'in use by host 1 (host-a)' volume snapshot "$four/$image"
told volume update --description beside "$four/$raw4"
kill -9 $writer
wait $writer 2>/dev/null || true
told volume snapshot --wait "$four/$image"
as_host a
io "$four/$image" 'verify -P 3 0 4k'
says ' 5 volumes: 0 faults' domain check "$four"

# ---- a server that goes away: a hard mount waits; a soft one tells, and the domain is whole
io "$four/$image" 'write -P 4 0 1M' flush 'sleep 2000' 'write -P 5 1M 4M' flush 'verify -P 5 1M 4M' \
    'verify -P 4 0 1M' &
writer=$!
sleep 1
rpc.nfsd 0
sleep 3
kill -0 $writer || fail "who writes has not waited"
start_server
wait $writer || fail "what was written while there was no server"
says ' 5 volumes: 0 faults' domain check "$four"

mount -t nfs -o vers=3,nolock,retry=0,soft,timeo=5,retrans=1,nosharecache 127.0.0.1:/export/three /soft
soft=/soft/${three#/v3/}
rpc.nfsd 0
if tool volume create "$soft" 1M >away.out 2>&1; then fail "made without a server"; fi
start_server
says ' 4 volumes: 0 faults' domain check "$soft"
told volume create "$soft" 1M
umount /soft
told domain leave "$four"

# ---- a volume group
thin=$(tool volume create -f qcow2 --initial-size 100M "$group" 1G)
tool io -n -c 'write -P 3 0 4k' -c 'sleep 3000' "volume:$group/$thin" >io.out 2>&1 &
writer=$!
while ! grep -q wr io.out; do sleep 0.2; done
as_host b
refused 'in use by' volume snapshot "$group/${thin%/*}"
wait $writer
told volume snapshot "$group/${thin%/*}"
as_host a
says ' 2 volumes: 0 faults' domain check "$group"
told volume merge "$group/$(tool volume list "$group/${thin%/*}" | sed -n 's/  .*LEAF.*//p')"
told image delete "$group/${thin%/*}"
sanlock direct dump "$group/leases:0:2M" 2>/dev/null | grep -q SDM ||
    fail "the domain has no lease of its own"
as_host b
told domain leave "$group"
as_host a
told domain leave "$group"
if [ -e "$group/ids" ] || [ -e "$group/leases" ]; then fail "what nobody needs is active"; fi
note done
