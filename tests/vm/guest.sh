# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by the scripts that run in the test machine: how they look at things, and fail. Each command of the tool
# is told as it begins, with the machine's time, so that a machine that is too slow tells where; without a process,
# as emulated each one takes 30 ms, and one of lvm's ten times that.
self=${0##*/}
exec 9>&1
domain='' uuid='' step='' # what is tested; at which of its steps somebody was killed

note() { read -r now_ _ </proc/uptime; echo "$self: $now_: $*" >&9; }
fail() { note "FAIL: $*"; exit 1; }
tool() { note "$@"; ./vdisk-io "$@" 9>&-; }
told() { tool "$@" >told.out 2>&1 || { cat told.out; fail "$*"; }; }

# refused TEXT COMMAND...: fails, and says so.
refused() {
    text_=$1
    shift
    if tool "$@" >refused.out 2>&1; then fail "not refused: $*"; fi
    grep -q "$text_" refused.out || { cat refused.out; fail "'$text_' is not said by: $*"; }
}

# says TEXT COMMAND...
says() {
    text_=$1
    shift
    told "$@"
    grep -q "$text_" told.out || { cat told.out; fail "'$text_' is not said by: $*"; }
}

# killed STEP COMMAND...: it is, there.
killed() {
    step=$1
    shift
    status_=0
    note "killed at '$step': $*"
    VDISK_TEST_KILL=$step ./step_tool "$@" >killed.out 2>&1 9>&- || status_=$?
    [ $status_ = 137 ] || { cat killed.out; fail "not killed at '$step' ($status_): $*"; }
}

# io NAME COMMAND...: commands of `vdisk-io io` on a volume of a domain; look: without writing.
io() { name_=$1; shift; for c_; do set -- "$@" -c "$c_"; shift; done; tool io -q -n "$@" "volume:$name_"; }
look() { name_=$1; shift; for c_; do set -- "$@" -c "$c_"; shift; done; tool io -q -r "$@" "volume:$name_"; }

# lvm COMMAND...: one of lvm's own, which succeeds.
lvm() { command "$@" >lvm.out 2>&1 9>&- || { cat lvm.out; fail "$*"; }; }

# field COLUMN VOLUME: what lvm reports of it, without blanks. A size is MiB; nothing: there is none.
field() {
    # shellcheck disable=SC2046 # one word, or none
    set -- $(lvs --noheadings --nosuffix --units m -o "$1" "$2" 2>/dev/null 9>&-)
    echo "${1-}"
}
size_of() { size_=$(field lv_size "$uuid/${1#*/}"); echo "${size_%.*}"; }
is_size() { [ "$(size_of "$1")" = "$2" ] || fail "$1 has $(size_of "$1") MiB, not $2"; }

# are_sizes [IMAGE/VOLUME MIB]...: of volumes of the domain, by one report.
are_sizes() {
    lvs --noheadings --nosuffix --units m -o lv_name,lv_size "$uuid" >sizes 2>/dev/null 9>&-
    while [ $# -gt 0 ]; do
        grep -q "^ *${1#*/} *$2\.00 *\$" sizes || { cat sizes; fail "$1 has not $2 MiB"; }
        shift 2
    done
}

# resting PART: of the domain nothing is active but what has to be, nor noted as ours.
resting() {
    note "PART: $1"
    for left_ in "/dev/$uuid"/* "/run/vdisk-io/$uuid"/*; do
        case $left_ in
        */metadata|*/active|*/locks|*/\*) ;;
        *) fail "$1: active, or noted: $left_" ;;
        esac
    done
}

# What lvm says of the domain's group in the end, for the host.
report() {
    echo '@report'
    command lvm fullreport --reportformat json --units b --nosuffix \
        --configreport vg -o vg_name,vg_uuid,vg_extent_size,vg_tags \
        --configreport pv -o pv_name,pv_uuid,pv_pe_count,pe_start,pv_mda_used_count \
        --configreport lv -o lv_name,lv_size,lv_tags --configreport pvseg -o pvseg_start \
        --configreport seg -o lv_name,seg_start,seg_size,devices "$uuid" 2>/dev/null 9>&-
    echo '@end'
}
