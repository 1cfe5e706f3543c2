#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Storage domains on NFS, and between hosts: nfs.sh in the test machine. usage: test_vm_domain_nfs.sh VDISK_IO
set -euo pipefail
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-vm-nfs.XXXXXX")
trap 'rm -rf "$work"' EXIT
truncate -s 1G "$work/export"
truncate -s 12G "$work/group"
"$here/run" --timeout 2000 --disk "$work/export" --disk "$work/group" --put "$1" --put "$here/guest.sh" \
    --put "$here/nfs.sh" sh nfs.sh | tee "$work/out" || { [ "${PIPESTATUS[0]}" != 77 ] || exit 77; exit 1; }
grep -q '^nfs.sh: [0-9.]*: done' "$work/out"
