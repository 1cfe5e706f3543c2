#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# test_vm_lvm.sh VDISK_IO: lvm.sh in the test machine.
here=$(dirname "$(realpath "$0")")
dir=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-vm-lvm.XXXXXX")
trap 'rm -rf "$dir"' EXIT
for disk in 0 1; do
    # Old data, the same everywhere, and not zero.
    yes 'what was here before' | head -c 192M >"$dir/disk$disk"
done
"$here/run" --disk "$dir/disk0" --disk4k "$dir/disk1" --put "$1" --put "$here/guest.sh" \
    --put "$here/lvm.sh" sh lvm.sh
