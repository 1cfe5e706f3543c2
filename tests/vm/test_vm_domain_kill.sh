#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# test_vm_domain_kill.sh VDISK_IO STEP_TOOL: domain_kill.sh in the test machine.
here=$(dirname "$(realpath "$0")")
dir=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-vm-domain-kill.XXXXXX")
trap 'rm -rf "$dir"' EXIT
truncate -s 16G "$dir/disk0"
"$here/run" --timeout 2400 --disk "$dir/disk0" --put "$1" --put "$2" --put "$here/guest.sh" \
    --put "$here/domain_kill.sh" sh domain_kill.sh ${VDISK_TEST_LONG:+all}
