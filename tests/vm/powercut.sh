#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs in the test machine: powercut.sh SEED STEPS KIND...: for each KIND (device or ext4) two disks are taken, the
# second for the log of what is done to the first, and powercut_guest does it.
set -e
seed=$1 steps=$2
shift 2
modprobe dm-log-writes
number=0
for kind; do
    data=/dev/disk$((2 * number)) log=/dev/disk$((2 * number + 1)) name=cut$number
    dmsetup create $name --table "0 $(blockdev --getsz $data) log-writes $data $log"
    case $kind in
    device)
        ln -s /dev/mapper/$name image$number
        ./powercut_guest image$number $((seed + number)) "$steps" $name ;;
    ext4)
        mount -t ext4 /dev/mapper/$name /mnt
        (cd /mnt && /host/powercut_guest image $((seed + number)) "$steps" $name)
        umount /mnt ;;
    esac
    dmsetup remove $name
    number=$((number + 1))
done
