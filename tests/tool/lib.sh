# SPDX-License-Identifier: LGPL-2.1-or-later
# For the shell tests of the tool: sourced, with the tool as $1. Works in a directory of its own, removed at the
# end. A test counts its checks; the exit code says whether any failed. VDISK_TEST_KEEP keeps the directory.
set -u
tool=$(realpath "$1")
source_root=$(cd "$(dirname "$0")/../.." && pwd)
export LC_ALL=C
checks=0 failures=0
dir=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-tool.XXXXXX")
cd "$dir" || exit 1
trap '[ -n "${VDISK_TEST_KEEP:-}" ] || rm -rf "$dir"' EXIT

need() {
    for program; do
        command -v "$program" >/dev/null || { echo "skipped: no $program"; exit 77; }
    done
}

fail() {
    failures=$((failures + 1))
    printf 'FAIL %s\n' "$*"
    [ ! -s err ] || sed 's/^/    stderr: /' err
}

# run EXIT-CODE ARGUMENT...: the tool; stdout is left in `out`, stderr in `err`.
run() {
    want=$1
    shift
    "$tool" "$@" >out 2>err </dev/null
    got=$?
    checks=$((checks + 1))
    [ "$got" = "$want" ] || fail "vdisk-io $*: exit code $got, not $want"
}

# says FILE TEXT: a line of the file contains the text.
says() {
    checks=$((checks + 1))
    grep -qF -- "$2" "$1" || fail "'$2' is not in $1: $(head -c 400 "$1")"
}

# same WHAT GOT WANT
same() {
    checks=$((checks + 1))
    [ "$2" = "$3" ] || fail "$1: '$2', not '$3'"
}

# refused TEXT ARGUMENT...: exit code 1 (or $refusal), one line on stderr that has the text, nothing on stdout.
refused() {
    text=$1
    shift
    run "${refusal:-1}" "$@"
    says err "$text"
    same "lines on stderr of: $*" "$(grep -vc '^vdisk-io: hint: ' err)" 1
    same "stdout of: $*" "$(wc -c <out)" 0
    same "full stops before '; see' of: $*" "$(grep -c '\.; see' err)" 0
}

finish() {
    echo "$checks checks, $failures failures"
    [ "$failures" = 0 ] && [ "$checks" -gt 0 ]
    exit
}
