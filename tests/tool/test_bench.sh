#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# bench: does it do what its options say, and does its report add up. Not how fast.
. "$(dirname "$0")/lib.sh"
need python3

# expect EXPRESSION: of the JSON report in `out`, as r.
expect() {
    checks=$((checks + 1))
    python3 -c "
import json, sys
r = json.load(open('out'))
sys.exit(not ($1))" || fail "not so: $1 in $(cat out)"
}

truncate -s 8M disk.raw
run 0 create -q -f qcow2 disk.qcow2 8M
for kind in read randread write randwrite rw randrw zero randzero discard randdiscard; do
    for image in disk.raw disk.qcow2; do
        run 0 bench -f ${image#disk.} --rw $kind --count 301 --depth 7 --bs 4k --output json $image
        expect "r['requests'] == 301 and r['rw'] == '$kind' and r['bs'] == 4096 and r['depth'] == 7"
        expect "sum(r[k]['bytes'] for k in ('read', 'write', 'zero', 'discard') if k in r) == 301 * 4096"
    done
    case $kind in
    rw | randrw) expect "r['read']['requests'] + r['write']['requests'] == 301" ;;
    *) expect "r['${kind#rand}']['requests'] == 301" ;;
    esac
done
expect "r['iops'] > 0 and r['elapsed-s'] > 0 and r['cpu']['user-s'] >= 0 and 'io_uring' in r['queue-kind'] or True"

# Percentiles are in order, between the extremes.
run 0 bench -f raw --count 2000 --output json disk.raw
expect "(lambda l: l['min'] <= l['p50'] <= l['p90'] <= l['p99'] <= l['p99.9'] <= l['max'] and
    l['min'] <= l['mean'] <= l['max'])(r['read']['latency-ns'])"
run 0 bench -f raw --count 2000 --latency off --output json disk.raw
expect "'latency-ns' not in r['read']"

# Sequential: each block once, also with several queues. Seen by what is written.
truncate -s 0 disk.raw
truncate -s 8M disk.raw
run 0 bench -f raw --rw write --bs 64k --count 128 --queues 4 --depth 2 --output json disk.raw
expect "r['queues'] == 4 and r['requests'] == 128"
checks=$((checks + 1))
python3 - <<'END' || fail "sequential writes left blocks out"
data = open("disk.raw", "rb").read()
raise SystemExit(any(not data[i:i + 65536].strip(b"\0") for i in range(0, len(data), 65536)))
END

# --offset and --size are kept to; steps go where they should.
truncate -s 0 disk.raw
truncate -s 8M disk.raw
run 0 bench -f raw --rw randwrite --bs 4k --offset 1M --size 1M --count 500 --queues 2 disk.raw
says out "requests"
run 0 bench -f raw --rw write --pattern step:1M --bs 4k --offset 4M --count 4 --depth 1 disk.raw
checks=$((checks + 1))
python3 - <<'END' || fail "written outside the range"
data = open("disk.raw", "rb").read()
M = 1 << 20
written = {i // 4096 for i in range(0, 8 * M, 4096) if data[i:i + 4096].strip(b"\0")}
steps = {(4 + i) * M // 4096 for i in range(4)}
ok = steps <= written and all(256 <= block < 512 for block in written - steps) and len(written) > 10
raise SystemExit(not ok)
END

run 0 bench -f raw --rw randrw --mix 90 --count 5000 --depth 4 --output json memory:1M
expect "r['read-percent'] == 90 and 4200 < r['read']['requests'] < 4800"
run 0 bench -f raw --rw write --flush-every 10 --count 100 --output json memory:1M
expect "r['requests'] == 100 and 9 <= r['flush']['requests'] <= 10"
run 0 bench -f raw --rw randwrite --fua --count 20 --output json disk.raw
expect "r['fua'] is True"
run 0 bench -f raw --runtime 0.2 --ramp 0.1 --output json null:1G
expect "0.15 < r['elapsed-s'] < 30 and r['requests'] > 100"
run 0 bench -f raw --count 100 -t buffered --output json disk.raw
expect "r['direct'] is False"
for kind in auto uring-defer uring threads; do
    run 0 bench -f raw --queue-kind $kind --rw randrw --count 500 --output json disk.raw
    expect "r['requests'] == 500"
done
run 0 bench -f raw --register --count 500 disk.raw
run 0 bench -p -f raw --runtime 0.3 memory:1M
says out "(100.00/100%)"
run 0 bench --scenario first-touch --size 16M --rw write --queues 2 --output json
expect "r['requests'] == 4096 and r['format'] == 'qcow2'"
run 0 bench --scenario lookup --size 1G --rw randread --count 100000 --output json
expect "r['requests'] == 100000 and r['format'] == 'qcow2' and r['size'] == 1 << 30"
run 0 bench -f raw --rw randread --count 100 --bs 3000 disk.raw

# The same seed does the same.
for turn in 1 2; do
    truncate -s 0 seed$turn.raw
    truncate -s 1M seed$turn.raw
    run 0 bench -f raw --rw randwrite --bs 4k --depth 1 --count 50 --seed 77 seed$turn.raw
done
checks=$((checks + 1))
cmp seed1.raw seed2.raw || fail "two runs with one seed differ"

# As qemu-img bench, by its options or by its name; what it writes is looked at in interop_verbs.
ln -s "$tool" qemu-img
run 0 bench -f raw -w -c 4 -d 2 --pattern 0x41 -S 1M -o 4k disk.raw
same "what is sent" "$(head -1 out)" \
    "Sending 4 write requests, 4096 bytes each, 2 in parallel (starting at offset 4096, step size 1048576)"
says out "Run completed in "
./qemu-img bench --count 3 -f raw disk.raw >out 2>err
same "called as qemu-img" $? 0
says out "Sending 3 read requests, 4096 bytes each, 64 in parallel (starting at offset 0, step size 4096)"
./qemu-img bench --count 3 --rw randread --output json -f raw disk.raw >out 2>err
expect "r['requests'] == 3 and r['rw'] == 'randread'"
./qemu-img --version >out
says out "qemu-img version 10."
./qemu-img bench -c 0 disk.raw 2>err
says err "qemu-img: bench: Invalid request count specified. Must be between 1 and 2147483647"
refused "-w is an option of qemu-img bench, which has no rw" bench -w --rw randwrite disk.raw
refused "Flush interval can't be smaller than depth" bench -w --flush-interval 2 -d 3 disk.raw
refused "--flush-interval is only available in write tests" bench --flush-interval 2 disk.raw
refused "native needs direct I/O" bench -n disk.raw
run 1 bench -c 1 -o 8M disk.raw
says err "Failed request: Input/output error"

refused "--bs takes" bench --bs 0 disk.raw
refused "--depth takes" bench --depth 0 disk.raw
refused "--depth takes" bench --depth 5000 disk.raw
refused "--rw takes" bench --rw trim disk.raw
refused "--pattern takes" bench --pattern zigzag disk.raw
refused "--pattern takes" bench --pattern step:0 disk.raw
refused "--mix goes with" bench --mix 50 disk.raw
refused "--unmap goes with" bench --unmap disk.raw
refused "--cache takes" bench -t sideways disk.raw
refused "--runtime takes" bench --runtime soon disk.raw
refused "--scenario takes" bench --scenario other
refused "takes no image with --scenario" bench --scenario lookup disk.raw
refused "reach past the end" bench -f raw --offset 9M disk.raw
refused "are too few" bench -f raw --bs 1M --queues 9 disk.raw
refused "missing.raw" bench missing.raw
finish
