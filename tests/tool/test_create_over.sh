#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# create where something is already there: what is refused has changed nothing; what fails later says what is left,
# and removes nothing that it did not make; what succeeds keeps the file and its links.
. "$(dirname "$0")/lib.sh"
need qemu-img stat sha256sum

# Everything about the files here but times.
shot() {
    find . -name err -o -name out -o -name shot.\* -o -name small -prune -o -print | sort | while read -r f; do
        stat -c '%n %F %i %a %u %g %h %s' "$f" | sed "s/ directory .*/ directory/"
        [ ! -f "$f" ] || sha256sum <"$f"
        [ ! -L "$f" ] || readlink "$f"
    done
}

# unchanged TEXT ARGUMENT...: refused in one line that has the text, and all is as before.
unchanged() {
    shot >shot.before
    refused "$@"
    shot >shot.after
    checks=$((checks + 1))
    cmp -s shot.before shot.after || fail "changed by: $*: $(diff shot.before shot.after | head -20)"
}

image() {
    rm -f "$1"
    qemu-img create -q -f qcow2 "$@"
    chmod 640 "$1"
}

# ---- refused: chains ------------------------------------------------------------------------------------
image A 1M
image B -b A -F qcow2
image C -b B -F qcow2
ln A hard
ln -s A soft
for name in A hard soft ./A; do
    unchanged "in use below it" create -f qcow2 -q -b B -F qcow2 "$name"
    unchanged "in use below it" create -f qcow2 -q -b C -F qcow2 "$name" 1M
    unchanged "in use below it" create -f qcow2 -q -b C -F qcow2 -o data_file="$name" new
    unchanged "cannot be its own backing file" create -f qcow2 -q -b A -F qcow2 "$name"
done
qemu-img create -q -f qcow2 -o data_file=A.data A.ext 1M
unchanged "in use below it" create -f qcow2 -q -b A.ext -F qcow2 A.data
unchanged "in use below it" create -f qcow2 -q -b A.ext -F qcow2 -o data_file=A.data new 1M
unchanged "cannot be its own data file" create -f qcow2 -q -o data_file=A soft 1M
ln -s nothing void
unchanged "void" create -f qcow2 -q -o data_file=nothing void 1M
unchanged "missing" create -f qcow2 -q -b missing -F qcow2 A

# ---- refused: data files, names, options ----------------------------------------------------------------
unchanged "nodir/D" create -f qcow2 -q -o data_file=nodir/D A 1M
unchanged "nodir/D" create -f qcow2 -q -o data_file=nodir/D soft 1M
unchanged "nodir/D" create -f qcow2 -q -o data_file=nodir/D new 1M
unchanged "nodir/D" create -f qcow2 -q -o data_file=nodir/D void 1M
unchanged "a directory" create -f qcow2 -q -o data_file=. A 1M
unchanged "1023 bytes" create -f qcow2 -q -u -b "$(printf %01100d 0)" -F qcow2 A 1M
unchanged "size" create -f qcow2 -q A 8E
mkfifo pipe
for kind in raw qcow2; do
    unchanged "a pipe" create -f $kind -q pipe 1M
    unchanged "a pipe" create -f qcow2 -q -o data_file=pipe A 1M
    # A size that the file system has no file for.
    unchanged "" create -f $kind -q -o preallocation=full A 4E
done
unchanged "File too large" create -f raw -q A 7E

# ---- refused: in use ------------------------------------------------------------------------------------
if command -v qemu-io >/dev/null; then
    image D 1M
    mkfifo commands
    qemu-io -f raw D <commands >/dev/null 2>&1 &
    exec 9>commands
    echo 'write 0 64k' >&9
    while "$tool" info -f raw D >out 2>&1; do sleep 0.05; done
    unchanged "locked" create -f raw -q D 1M
    unchanged "locked" create -f qcow2 -q -o data_file=D A 1M
    unchanged "locked" create -f qcow2 -q -o data_file=D new 1M
    exec 9>&-
    wait
    rm commands
fi

# ---- refused: descriptors --------------------------------------------------------------------------------
# Whatever number there is: it works, or says so; what was there is whole.
few() {
    for n in 4 5 6 7 8 9 10 12; do
        rm -f new new.data
        shot >shot.before
        (ulimit -n $n && exec "$tool" create "$@") >out 2>err
        got=$?
        checks=$((checks + 1))
        case $got in
        0) return ;;
        1)
            says err "Too many open files"
            says err "ulimit -n"
            ;;
        *) fail "create $* with $n descriptors: exit code $got" ;;
        esac
        shot >shot.after
        cmp -s shot.before shot.after || fail "changed with $n descriptors: create $*"
    done
    fail "create $*: never enough descriptors"
}
few -f qcow2 -q A 1M
image A 1M
few -f raw -q A 1M
image A 1M
few -f qcow2 -q -o data_file=D A 1M
image A 1M
image B 1M
few -f qcow2 -q -b B -F qcow2 A
few -f qcow2 -q -b B -F qcow2 new
few -f qcow2 -q -o data_file=new.data new 1M
rm -f new new.data

# ---- replaced: it is the same file ------------------------------------------------------------------------
rm -f hard soft
image A 1M
ln A hard
ln -s A soft
before=$(stat -c '%i %a %u %g %h' A)
for arguments in "-f qcow2 A" "-f raw soft" "-f qcow2 hard" "-f qcow2 -o data_file=x.raw soft"; do
    run 0 create -q $arguments 2M
    same "file after create $arguments" "$(stat -c '%i %a %u %g %h' A)" "$before"
    same "link after create $arguments" "$(readlink soft)" A
done
image D 3M
before=$(stat -c '%i %a %u %g %h' D)
run 0 create -q -f qcow2 -o data_file=D A 1M
same "data file" "$(stat -c '%i %a %u %g %h %s' D)" "$before 1048576"
same "content of a new data file" "$(tr -d '\0' <D | wc -c)" 0
run 0 create -q -f qcow2 void 1M
same "link to nothing" "$(readlink void)" nothing
says nothing QFI

# ---- a file system that is full -----------------------------------------------------------------------------
mkdir small
if mount -t tmpfs -o size=4M none small 2>/dev/null; then
    trap 'umount -l small; rm -rf "$dir"' EXIT
    image small/old 1M
    ln -s old small/link
    (cd small && shot) >shot.small
    for arguments in "-f raw -o preallocation=full small/old" "-f qcow2 -o preallocation=full small/link" \
        "-f qcow2 -o preallocation=falloc small/old" "-f raw -o preallocation=falloc small/link" \
        "-f qcow2 -o preallocation=full small/new" "-f qcow2 -o preallocation=full,data_file=small/new A" \
        "-f qcow2 -o preallocation=full,data_file=old small/new"; do
        refused "its file system has" create -q $arguments 64M
        (cd small && shot) >shot.after
        cmp -s shot.small shot.after || fail "changed by create $arguments: $(diff shot.small shot.after)"
    done
    # What the old file gives back counts.
    run 0 create -q -f raw -o preallocation=full small/old 3M
    run 0 create -q -f qcow2 -o preallocation=full small/old 3M
else
    echo "not tried: a full file system (mount is refused here)"
fi
finish
