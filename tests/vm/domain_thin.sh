#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs in the test machine: thin volumes of a domain in a volume group on /dev/disk0, written to faster than they
# were given space. /dev/disk1 joins the group when that is full. Prints, between lines with @, what lvm reports in
# the end, and which volumes hold what: the host judges that on the disks.
set -e
. ./guest.sh

# load FIRST END: commands that write MiB by MiB, 16 at a time; MiB n holds n % 251 + 1.
load() {
    n=$1
    while [ "$n" -lt "$2" ]; do
        echo "write -a -P $((n % 251 + 1)) ${n}M 1M"
        n=$((n + 1))
        [ $((n % 16)) != 0 ] || echo wait
    done
    echo wait
    echo flush
}
holds() {
    n=$1
    while [ "$n" -lt "$2" ]; do
        echo "verify -P $((n % 251 + 1)) ${n}M 1M"
        n=$((n + $3))
    done
}
thin() { tool volume create -f qcow2 --initial-size 100M "$domain" "$1"; }
grows=chunk=128M,free=32M,ahead=1

uuid=$(tool domain create --type block "$(readlink -f /dev/disk0)" 2>create.err) || {
    cat create.err; fail create; }
domain=/dev/$uuid
note PART: domain

# lvm's commands are noted, and may be hit by what a test wants to happen.
mkdir bin
cat >bin/lvm <<'END'
#!/bin/sh
[ "$1" != lvextend ] || echo "$*" >>/host/extends
if [ "$1" = lvextend ] && [ -e /host/hit ]; then
    how=$(cat /host/hit)
    user=$(cut -d " " -f 4 "/proc/$PPID/stat") # between them is the shell that waits for lvm
    rm /host/hit
    case $how in
    before) kill -9 "$user"; exit 1 ;;
    amid) /usr/sbin/lvm "$@" & sleep 0.2; kill -9 "$user"; wait; exit ;;
    noted) /usr/sbin/lvm "$@" --driverloaded n; kill -9 "$user"; exit 1 ;;
    suspended)
        /usr/sbin/lvm "$@" --driverloaded n
        kill -9 "$user"
        while kill -0 "$user"; do sleep 0.1; done 2>/dev/null
        dmsetup suspend "$(cat /host/device)"
        exit 1 ;;
    broken) # and so once more, when it is tried by what there is
        echo burnt >/host/hit
        echo '  the array is on fire' >&2
        exit 5 ;;
    burnt) echo '  the array is on fire' >&2; exit 5 ;;
    esac
fi
exec /usr/sbin/lvm "$@"
END
chmod +x bin/lvm
PATH=$PWD/bin:$PATH

# ---- it grows many times while it is written to, and no write fails
one=$(thin 3G)
is_size "$one" 128
load 0 400 | tool io -q -n "volume:$domain/$one,$grows" || fail "a write failed"
times=$(grep -c . extends)
[ "$times" -ge 2 ] || fail "it was extended $times times"
[ "$(size_of "$one")" -ge 512 ] || fail "it has $(size_of "$one") MiB"
note PART: "written; it was extended $times times"
told bench --rw write --bs 64k --depth 8 --offset 1G --size 96M --count 1536 "volume:$domain/$one,$grows"
grep -i -e latency -e max told.out || true
note PART: "bench; it was extended $(($(grep -c . extends) - times)) times"

# ---- two at once, in two processes
two=$(thin 1G)
three=$(thin 1G)
load 0 140 | tool io -q -n "volume:$domain/$two,$grows" &
pid=$!
load 0 140 | tool io -q -n "volume:$domain/$three,$grows" || fail "three: a write failed"
wait $pid || fail "two: a write failed"
note PART: 'two at once'

# ---- served to a client, which fills it past its first size
served=$(thin 1G)
# serve: until unserve.
serve() {
    tool volume serve -t -e 0 -k served.sock --pid-file served.pid "$domain/$served,$grows" >served.out 2>&1 &
    pid=$!
    i=0
    while [ ! -e served.pid ]; do
        i=$((i + 1))
        [ $i -lt 240 ] || { cat served.out; fail "it is not served"; }
        sleep 0.5
    done
}
unserve() {
    kill "$(cat served.pid)"
    wait $pid || { cat served.out; fail "serving it has failed"; }
    rm served.pid
}
serve
grep -q -x 'nbd+unix:///?socket=served.sock' served.out || { cat served.out; fail "its address is not told"; }
refused 'is in use by process' volume serve -k other.sock "$domain/$served"
is_size "$served" 128
load 0 180 | tool io -q -f raw 'nbd+unix:///?socket=served.sock' || fail "served: a write failed"
[ "$(size_of "$served")" -ge 256 ] || fail "served: it has $(size_of "$served") MiB"
unserve
holds 0 180 7 | tool io -q -r "volume:$domain/$served" || fail "served: it does not hold what was written"
note PART: 'served'

# ---- no larger than it can become
small=$(thin 140M)
load 0 140 | tool io -q -n "volume:$domain/$small" || fail "small: a write failed"
is_size "$small" 256

# ---- it cannot be extended now: what needs space waits, and that is told
four=$(thin 1G)
echo broken >hit
load 0 150 | tool io -q -n "volume:$domain/$four,$grows" 2>io.err || { cat io.err; fail "four: a write failed"; }
grep -q 'the array is on fire' io.err || { cat io.err; fail "it is not told why it waits"; }
note PART: 'cannot be extended'

# ---- killed at each point of an extension
at=150
for point in before amid noted suspended; do
    told volume reduce "$domain/$four" # so that it has to grow
    size=$(size_of "$four")
    [ $point != suspended ] || {
        # What has no table yet is not there: it is active while it is prepared.
        told volume prepare "$domain/$four"
        dmsetup info -c --noheadings -o name | grep "$(echo "${four#*/}" | sed 's/-/--/g')" >device
    }
    echo $point >hit
    if load $at $((at + 140)) | tool io -q -n "volume:$domain/$four,$grows" 2>io.err; then
        fail "$point: not killed"
    fi
    [ ! -e hit ] || { cat io.err; fail "$point: it was not extended"; }
    load $at $((at + 100)) | tool io -q -n "volume:$domain/$four,$grows" || fail "$point: a write failed"
    at=$((at + 100))
    holds 0 $at 7 | tool io -q -r "volume:$domain/$four" || fail "$point: it does not hold what was written"
    [ $point != suspended ] || told volume teardown "$domain/$four"
    note PART: "killed $point: $size MiB before, $(size_of "$four") after"
done

# ---- a merge makes the parent larger first; what it does not need is given back
leaf=$(tool volume snapshot "$domain/${three%/*}")
load 140 300 | tool io -q -n "volume:$domain/${three%/*},$grows" || fail "leaf: a write failed"
told volume merge "$domain/$leaf"
before=$(size_of "$three")
told volume reduce "$domain/$three"
is_size "$three" 384
[ "$before" -gt 384 ] || fail "the merge left nothing to give back: $before MiB"
note PART: "merged: $before MiB, then 384"

# ---- the group is full: that fails what needs space, and nothing else
free=$(vgs --noheadings --nosuffix --units m -o vg_free "$uuid" 2>/dev/null | sed 's/ *//; s/\..*//')
told volume create -f raw -a preallocated "$domain" $((free - 128))M
mkfifo to
tool io -e -n "volume:$domain/$three,$grows" <to >io.out 2>io.err &
pid=$!
exec 3>to
# say TEXT COMMAND: what it prints when it is done begins so.
say() {
    text=$1
    shift
    echo "$*" >&3
    i=0
    while ! grep -q -F -e "$text: $*" io.out; do
        i=$((i + 1))
        [ $i -lt 240 ] || { cat io.out io.err; fail "'$text' is not said of: $*"; }
        sleep 0.5
    done
}
say done 'write -P 7 400M 60M'
say done flush
say failed 'write -P 8 500M 200M'
grep -q 'No space left' io.err || { cat io.err; fail "the write did not fail for want of space"; }
say done 'verify -P 7 400M 60M'
say done 'write -P 9 400M 10M'
say done 'verify -P 9 400M 10M'
is_size "$three" 512
three_pid=$pid
serve
refused 'No space left' io -q -f raw -c 'write -P 8 600M 256M' 'nbd+unix:///?socket=served.sock'
holds 0 180 13 | tool io -q -f raw 'nbd+unix:///?socket=served.sock' || fail "served: it does not read as before"
tool io -q -f raw -c 'write -P 1 0 1M' -c flush 'nbd+unix:///?socket=served.sock' || fail "served: a write failed"
unserve
pid=$three_pid
note PART: 'served, and full'
more=$(readlink -f /dev/disk1)
lvm pvcreate -q -y --metadatasize 128m --metadatacopies 2 --metadataignore y "$more"
lvm vgextend -q "$uuid" "$more"
say done 'sleep 2500'
say done 'write -P 8 501M 200M'
say done 'flush'
say done 'verify -P 8 501M 200M'
exec 3>&-
wait $pid || true
[ "$(size_of "$three")" -gt 512 ] || fail "it has not become larger"
look "$domain/$three" 'verify -P 9 400M 10M' 'verify -P 7 410M 50M' 'verify -P 8 501M 200M'
told check -q "volume:$domain/$three"
note PART: 'full, and no longer'

told domain check --repair "$domain" # clusters that are nobody's, where one was killed
resting end
report
echo "@holds ${one#*/} 0 400"
echo "@holds ${two#*/} 0 140"
echo "@holds ${small#*/} 0 140"
echo "@holds ${served#*/} 0 180"
echo "@holds ${four#*/} 0 $at"
echo "@holds ${three#*/} 0 300"
note done
