#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs in the test machine: block devices of the kernel's NBD client on exports of `vdisk-io nbd`, of images on
# /dev/disk0, and, with sectors of 4096 bytes, /dev/disk1. Servers are killed, and the power is cut: of /dev/disk1
# here, by a device that drops what is written; of /dev/disk2 by the host, from its log on /dev/disk3.
set -e
. ./guest.sh
guest() { note "$@"; ./nbd_guest "$@" >guest.out 2>&1 9>&- || { cat guest.out; fail "$*"; }; }

# serve OPTION... IMAGE: by a new process, at $place, a socket or a port; when it returns clients can connect.
# stop: as it should end; slay: as it should not.
serve() {
    case $place in
    */*) set -- -k "$place" "$@" ;;
    *) set -- -b 127.0.0.1 -p "$place" "$@" ;;
    esac
    note "serve $*"
    rm -f server.pid
    ./vdisk-io nbd -t -e 0 --pid-file server.pid -f qcow2 "$@" >server.out 2>&1 9>&- &
    server=$!
    while [ ! -s server.pid ]; do
        kill -0 $server 2>/dev/null || { cat server.out; fail "no server"; }
        sleep 0.1
    done
}
stop() { kill $server; wait $server || { cat server.out; fail "the server's end"; }; }
slay() { kill -9 $server; wait $server 2>/dev/null || true; }

# client WORD...: Debian's nbd-client.
client() { note nbd-client "$@"; nbd-client "$@" >client.out 2>&1 9>&- || { cat client.out; fail "nbd-client"; }; }
# is NAME VALUE: of the device, in sysfs; some NAME: it is not 0.
is() { read -r is_ <"/sys/block/nbd0/$1"; [ "$is_" = "$2" ] || fail "$1 of the device is '$is_', not '$2'"; }
some() { read -r is_ <"/sys/block/nbd0/$1"; [ "$is_" != 0 ] || fail "$1 of the device is 0"; }
clean() { note "$@"; "$@" >clean.out 2>&1 9>&- || { cat clean.out; fail "not clean: $*"; }; }

# begin FROM TO: files of these numbers are being written to /mnt. acked N: wait until that one is durable.
begin() {
    note "write $1 $2"
    rm -f acked
    ./nbd_guest write /mnt "$1" "$2" acked 2>write.out 9>&- &
    writer=$!
}
last_acked() { last=$(tail -n 1 acked 2>/dev/null); }
acked() {
    while last_acked; [ "${last:-0}" -lt "$1" ]; do
        kill -0 $writer 2>/dev/null || { cat write.out keep.out; fail "who writes has ended at $last"; }
        sleep 0.1
    done
}

# keep CONNECTIONS BLOCK: attached, and each connection that breaks is made again. let_go N: N were, at least.
keep() {
    note "keep $*"
    ./nbd_guest keep 0 "$place" "$@" >keep.out 2>&1 9>&- &
    keeper=$!
    while [ "$(cat /sys/block/nbd0/size)" = 0 ]; do
        kill -0 $keeper 2>/dev/null || { cat keep.out; fail "not attached"; }
        sleep 0.1
    done
}
let_go() {
    times=$(grep -c 'connected again' keep.out) || true
    [ "$times" -ge "$1" ] || { cat keep.out; fail "connected again $times times, not $1"; }
    kill $keeper
    wait $keeper 2>/dev/null || true
    guest detach 0
}

modprobe nbd nbds_max=1
ip link set lo up

# ---- one connection, by a socket: what the kernel takes the device for, and its commands
note PART: device
place=/run/nbd
told create -q -f qcow2 /dev/disk0 64M
serve /dev/disk0
client -unix $place /dev/nbd0 -N ''
is size 131072
is ro 0
is queue/logical_block_size 512
is queue/rotational 0
is queue/write_cache 'write back'
is queue/fua 1
some queue/discard_max_bytes
some queue/write_zeroes_max_bytes
guest commands /dev/nbd0 512
clean blkdiscard -z -o 1M -l 1M /dev/nbd0
clean blkdiscard /dev/nbd0
clean mke2fs -q -t ext4 /dev/nbd0
mount -t ext4 -o discard /dev/nbd0 /mnt
guest write /mnt 0 12 first
umount /mnt
client -d /dev/nbd0
stop

# ---- four, by TCP
note PART: tcp
place=10810
serve /dev/disk0
client 127.0.0.1 $place /dev/nbd0 -N '' -C 4
mount -t ext4 /dev/nbd0 /mnt
guest verify /mnt 11 11
guest write /mnt 12 20 second
clean fstrim /mnt
umount /mnt
clean e2fsck -fn /dev/nbd0
client -d /dev/nbd0
stop

# ---- read-only: the kernel knows it; and the server itself refuses
note PART: read-only
serve -r /dev/disk0
guest attach 0 $place 1 512
is ro 1
guest refuses /dev/nbd0
mount -t ext4 -o ro /dev/nbd0 /mnt
guest verify /mnt 19 19
umount /mnt
guest detach 0
guest attach-writable 0 $place
is ro 0
guest refuses /dev/nbd0
guest detach 0
stop

# ---- the server is killed while files are written, and comes back: they go on. The kernel does not know that it
# is another one, and holds for written what the first has answered, flushed or not: so that has to be durable.
note PART: 'killed, and back'
place=/run/nbd
serve --cache=writethrough /dev/disk0
keep 1 512
mount -t ext4 /dev/nbd0 /mnt
begin 20 60
acked 28
slay
serve --cache=writethrough /dev/disk0
acked 44
slay
serve --cache=writethrough /dev/disk0
wait $writer || { cat write.out; fail "a file was not written"; }
guest verify /mnt 59 59
umount /mnt
clean e2fsck -fn /dev/nbd0
let_go 2
stop

# ---- it is killed, and nobody connects again: what was durable is there when it is mounted once more
note PART: 'killed, and mounted again'
place=10811
serve /dev/disk0
guest attach 0 $place 4 512
mount -t ext4 /dev/nbd0 /mnt
begin 60 100000
acked 70
slay
if wait $writer; then fail "who writes has not noticed"; fi
last_acked
umount /mnt
guest detach 0
serve /dev/disk0
guest attach 0 $place 1 512
mount -t ext4 /dev/nbd0 /mnt
guest verify /mnt "$last" $((last + 1))
umount /mnt
clean e2fsck -fn /dev/nbd0
guest detach 0
stop

# ---- sectors of 4096 bytes, XFS, four connections that break
note PART: xfs
place=/run/nbd
dmsetup create cut --table "0 $(blockdev --getsz /dev/disk1) linear /dev/disk1 0"
told create -q -f qcow2 /dev/mapper/cut 320M
serve --cache=writethrough /dev/mapper/cut
keep 4 4096
is size 655360
is queue/logical_block_size 4096
is queue/physical_block_size 4096
guest commands /dev/nbd0 4096
clean mkfs.xfs -q -f /dev/nbd0
mount -t xfs -o discard /dev/nbd0 /mnt
begin 0 24
acked 12
slay
serve --cache=writethrough /dev/mapper/cut
wait $writer || { cat write.out; fail "a file was not written"; }
umount /mnt
clean xfs_repair -n /dev/nbd0
let_go 4
stop
serve /dev/mapper/cut
guest attach 0 $place 4 4096
mount -t xfs /dev/nbd0 /mnt
guest verify /mnt 23 23

# ---- the power fails under the image: of what is written from now on nothing lasts
note PART: 'xfs, power cut'
begin 24 100000
acked 40
low=$last
dmsetup suspend cut
dmsetup load cut --table "0 $(blockdev --getsz /dev/disk1) flakey /dev/disk1 0 0 3600 1 drop_writes"
dmsetup resume cut
acked $((low + 8))
slay
if wait $writer; then fail "who writes has not noticed"; fi
last_acked
umount /mnt
guest detach 0
dmsetup load cut --table "0 $(blockdev --getsz /dev/disk1) linear /dev/disk1 0"
dmsetup resume cut
serve /dev/mapper/cut
guest attach 0 $place 1 4096
mount -t xfs /dev/nbd0 /mnt
guest verify /mnt "$low" "$last"
umount /mnt
clean xfs_repair -n /dev/nbd0
guest detach 0
stop
dmsetup remove cut

# ---- all that reaches the image is logged: the host cuts the power, anywhere
note PART: logged
modprobe dm-log-writes
dmsetup create cut --table "0 $(blockdev --getsz /dev/disk2) log-writes /dev/disk2 /dev/disk3"
told create -q -f qcow2 -o cluster_size=16k /dev/mapper/cut 64M
serve /dev/mapper/cut
guest attach 0 $place 4 512
clean mke2fs -q -t ext4 /dev/nbd0
mount -t ext4 -o discard /dev/nbd0 /mnt
guest write /mnt 0 60 last cut
umount /mnt
guest detach 0
stop
dmsetup remove cut
note done
