# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command lines of test_interop_verbs.py. An empty line is a call without arguments.

Files: see verb_images.py. held.raw and held.qcow2 are being written by a QEMU meanwhile. What differs on purpose
is in verb_differences.py.
"""

from verb_cases_bulk import BULK

CASES = {"check": """
    q.qcow2
    -f qcow2 q.qcow2
    --format qcow2 --output json q.qcow2
    q.qcow2 --output=json
    -q q.qcow2
    --quiet q.qcow2
    -U q.qcow2
    --force-share -T none q.qcow2
    --cache writeback q.qcow2
    -T sideways q.qcow2
    -p q.qcow2
    v2.qcow2
    ext.qcow2
    zstd.qcow2 --output json
    df.qcow2
    top.qcow2
    full.qcow2 --output json
    nothing.qcow2
    snap.qcow2 --output json
    bm.qcow2
    leak.qcow2
    leak.qcow2 --output json
    -r leaks leak.qcow2
    --repair leaks --output json leak.qcow2
    -r all leak.qcow2
    -q -r all leak.qcow2
    corrupt.qcow2
    corrupt.qcow2 --output json
    -r leaks corrupt.qcow2
    -r all corrupt.qcow2
    -r all q.qcow2
    -r some q.qcow2
    -r all -U q.qcow2
    -r all ro.qcow2
    ro.qcow2
    a.raw
    -f raw a.raw
    -f raw q.qcow2
    -f qcow2 a.raw
    -f sideways a.raw
    a.raw --output json
    empty
    -f qcow2 empty
    tiny
    dir
    gone
    orphan.qcow2
    -f qcow2 gone
    held.qcow2
    -U held.qcow2
    -r all held.qcow2
    --image-opts driver=qcow2,file.filename=q.qcow2
    --image-opts driver=qcow2,file.driver=file,file.filename=q.qcow2 --output json
    --image-opts file.filename=q.qcow2
    --image-opts -f qcow2 driver=qcow2,file.filename=q.qcow2
    --image-opts q.qcow2
    --image-opts driver=qcow2,file.filename=gone
    json:{"driver":"qcow2","file":{"driver":"file","filename":"q.qcow2"}}
    json:{"driver":"qcow2","file.filename":"q.qcow2"} --output json
    json:{"driver":"qcow2"
    json:{"driver":"sideways"}

    --no-such-option q.qcow2
    --output xml q.qcow2
    --output
    q.qcow2 a.raw
    --object secret,id=s0,data=letmein q.qcow2
    --object secret q.qcow2
    """, "info": """
    q.qcow2
    a.raw
    --output json q.qcow2
    --output=json a.raw
    -f raw --output json q.qcow2
    --format qcow2 a.raw
    -f sideways a.raw
    v2.qcow2 --output json
    ext.qcow2 --output json
    zstd.qcow2 --output json
    df.qcow2 --output json
    df.qcow2
    snap.qcow2 --output json
    snap.qcow2
    bm.qcow2 --output json
    bm.qcow2
    luks.qcow2 --output json
    luks.qcow2
    corrupt.qcow2 --output json
    top.qcow2
    top.qcow2 --output json
    --backing-chain top.qcow2
    --backing-chain --output json top.qcow2
    -b --output json top.qcow2
    --backing-chain --output json orphan.qcow2
    orphan.qcow2
    rawtop.qcow2 --backing-chain --output json
    odd.raw
    odd.raw --output json
    empty --output json
    tiny --output json
    -f qcow2 empty
    dir
    gone
    ./gone
    file:gone
    file:q.qcow2
    sideways:gone
    held.qcow2
    -U held.qcow2
    --force-share --output json held.qcow2
    held.raw
    -U held.raw
    ro.qcow2
    --image-opts driver=qcow2,file.filename=q.qcow2 --output json
    --image-opts driver=raw,file.filename=q.qcow2 --output json
    --image-opts driver=file,filename=a.raw --output json
    --image-opts file.filename=q.qcow2 --output json
    --image-opts driver=qcow2,file.filename=q.qcow2,sideways=1
    --image-opts -f qcow2 driver=qcow2,file.filename=q.qcow2
    --image-opts driver=qcow2
    json:{"driver":"qcow2","file":{"driver":"file","filename":"q.qcow2"}} --output json
    json:{'driver':'qcow2','file':{'driver':'file','filename':'q.qcow2'}}
    json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"top.qcow2"}} --output json
    json:{"file.filename":"q.qcow2"} --output json
    json:{
    json:[]

    --output xml q.qcow2
    --no-such-option q.qcow2
    q.qcow2 a.raw
    -f
    """, "map": """
    q.qcow2
    --output json q.qcow2
    --output=json a.raw
    a.raw
    top.qcow2
    --output json top.qcow2
    --output json ext.qcow2
    --output json zstd.qcow2
    zstd.qcow2
    --output json df.qcow2
    --output json odd.raw
    --output json empty
    --output json tiny
    --output json nothing.qcow2
    nothing.qcow2
    --output json --start-offset 64k q.qcow2
    --output json --start-offset=100k --max-length=100k q.qcow2
    --output json -s 100k -l 100k q.qcow2
    --output json --start-offset 2M q.qcow2
    --output json --max-length 0 q.qcow2
    --start-offset x q.qcow2
    --max-length -1 q.qcow2
    -f qcow2 --output json q.qcow2
    -f raw --output json q.qcow2
    -f qcow2 a.raw
    -f sideways a.raw
    orphan.qcow2
    gone
    dir
    held.qcow2
    -U held.qcow2
    --force-share --output json held.raw
    --image-opts driver=qcow2,file.filename=top.qcow2 --output json
    --image-opts driver=raw,offset=64k,size=128k,file.filename=a.raw --output json
    --image-opts -f qcow2 driver=qcow2,file.filename=top.qcow2
    json:{"driver":"qcow2","backing":null,"file.filename":"top.qcow2"} --output json

    q.qcow2 a.raw
    --output xml q.qcow2
    --no-such-option q.qcow2
    """, "compare": """
    a.raw same.raw
    a.raw q.qcow2
    -f raw -F qcow2 a.raw q.qcow2
    --a-format raw --b-format qcow2 a.raw q.qcow2
    -f qcow2 a.raw q.qcow2
    -F sideways a.raw q.qcow2
    a.raw other.raw
    other.raw q.qcow2
    a.raw long.raw
    long.raw a.raw
    -s a.raw long.raw
    --strict a.raw same.raw
    a.raw more.raw
    more.raw q.qcow2
    -q a.raw other.raw
    --quiet a.raw same.raw
    -p a.raw same.raw
    -p a.raw other.raw
    top.qcow2 mid.qcow2
    top.qcow2 top.qcow2
    nothing.qcow2 hole.raw
    nothing.qcow2 small.qcow2
    -s nothing.qcow2 small.qcow2
    ext.qcow2 zstd.qcow2
    v2.qcow2 df.qcow2
    odd.raw a.raw
    empty tiny
    empty empty
    -T none a.raw q.qcow2
    --cache unsafe a.raw q.qcow2
    -T sideways a.raw q.qcow2
    -U held.raw q.qcow2
    held.raw q.qcow2
    a.raw held.qcow2
    --force-share a.raw held.qcow2
    a.raw gone
    gone a.raw
    a.raw dir
    a.raw orphan.qcow2
    --image-opts driver=raw,file.filename=a.raw driver=qcow2,file.filename=q.qcow2
    --image-opts -f raw driver=raw,file.filename=a.raw driver=qcow2,file.filename=q.qcow2
    --image-opts a.raw q.qcow2
    json:{"driver":"raw","file.filename":"a.raw"} q.qcow2
    json:{"driver":"qcow2","backing":null,"file.filename":"top.qcow2"} top.qcow2

    a.raw
    a.raw same.raw other.raw
    --no-such-option a.raw same.raw
    -f
    """, "create": """
    new 1M
    -f raw new 1M
    -f qcow2 new 1M
    --format qcow2 new 1M
    -q -f qcow2 new 1M
    new 1M -f qcow2
    new -f qcow2 -q 1M
    new 1000
    new 0
    -f qcow2 new 0
    new 512b
    new 1k
    new 1K
    new 1.5M
    new 1m
    new 0x10000
    new 1T -f qcow2
    new 1P
    new 7E
    new 8E
    new 1Z
    new x
    new -1
    new -- -1
    new ""
    new
    -f qcow2 new 1M -o size=2M
    -f qcow2 new -o size=2M
    -f raw new -o size=100k
    -f qcow2 -o cluster_size=4k,extended_l2=off new 1M
    -f qcow2 -o cluster_size=4k -o compat=0.10 new 1M
    -f qcow2 -ocluster_size=2M,lazy_refcounts=on new 4M
    --options cluster_size=0x1000 -f qcow2 new 1M
    -f qcow2 -o cluster_size=1000 new 1M
    -f qcow2 -o cluster_size=256 new 1M
    -f qcow2 -o cluster_size=4M new 1M
    -f qcow2 -o compat=v2 new 1M
    -f qcow2 -o compat=v3 new 1M
    -f qcow2 -o compat=1.1,compat=0.10 new 1M
    -f qcow2 -o compat=2.0 new 1M
    -f qcow2 -o refcount_bits=1 new 1M
    -f qcow2 -o refcount_bits=64 new 1M
    -f qcow2 -o refcount_bits=3 new 1M
    -f qcow2 -o refcount_bits=8,compat=0.10 new 1M
    -f qcow2 -o lazy_refcounts=on,compat=0.10 new 1M
    -f qcow2 -o lazy_refcounts=maybe new 1M
    -f qcow2 -o lazy_refcounts new 1M
    -f qcow2 -o extended_l2=on new 1M
    -f qcow2 -o extended_l2=on,cluster_size=4k new 1M
    -f qcow2 -o extended_l2=on,compat=0.10 new 1M
    -f qcow2 -o compression_type=zstd new 1M
    -f qcow2 -o compression_type=lzma new 1M
    -f qcow2 -o compression_type=zstd,compat=0.10 new 1M
    -f qcow2 -o preallocation=off new 1M
    -f qcow2 -o preallocation=metadata new 1M
    -f qcow2 -o preallocation=falloc new 1M
    -f qcow2 -o preallocation=full new 1M
    -f qcow2 -o preallocation=sideways new 1M
    -f raw -o preallocation=falloc new 1M
    -f raw -o preallocation=full new 1M
    -f raw -o preallocation=metadata new 1M
    -f raw -o extent_size_hint=1M new 1M
    -f qcow2 -o extent_size_hint=1M new 1M
    -f raw -o extent_size_hint=x new 1M
    -f raw -o nocow=on new 1M
    -f qcow2 -o nocow=on new 1M
    -f qcow2 -o data_file=new.data new 1M
    -f qcow2 -o data_file=new.data,data_file_raw=on new 1M
    -f qcow2 -o data_file_raw=on new 1M
    -f qcow2 -o data_file=new.data,compat=0.10 new 1M
    -f qcow2 -o sideways=1 new 1M
    -f raw -o cluster_size=4k new 1M
    -f qcow2 -o =1 new 1M
    -f qcow2 -o , new 1M
    -f qcow2 -o "" new 1M
    -f qcow2 -o encryption=on new 1M
    -f qcow2 -o encrypt.format=luks new 1M
    -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s new 1M
    -f qcow2 -b base.qcow2 -F qcow2 new
    -f qcow2 -b base.qcow2 -F qcow2 new 2M
    -f qcow2 --backing base.qcow2 --backing-format qcow2 new
    -f qcow2 -b a.raw -F raw new
    -f qcow2 -b base.qcow2 new
    -f qcow2 -b a.raw -F qcow2 new
    -f qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 new
    -f qcow2 -o backing_file=base.qcow2 new
    -f qcow2 -b base.qcow2 -o backing_file=mid.qcow2 -F qcow2 new
    -f qcow2 -b gone -F qcow2 new
    -f qcow2 -b gone -F qcow2 new 1M
    -f qcow2 -b gone -F qcow2 -u new 1M
    -f qcow2 -b gone -F qcow2 --backing-unsafe new
    -f qcow2 -b base.qcow2 -F sideways new
    -f qcow2 -F qcow2 new 1M
    -f qcow2 -b base.qcow2 -F qcow2 dir/new
    -f qcow2 -b ../base.qcow2 -F qcow2 dir/new
    -f qcow2 -b "" new 1M
    -f raw -b a.raw -F raw new
    -f qcow2 -b held.qcow2 -F qcow2 new
    -f qcow2 -b base.qcow2 -F qcow2 -o preallocation=metadata new
    -f qcow2 -b base.qcow2 -F qcow2 -o data_file=new.data,data_file_raw=on new
    -f qcow2 -b base.qcow2 -F qcow2 base.qcow2
    -f qcow2 nothing.qcow2 2M
    -f raw q.qcow2 1M
    -f qcow2 held.qcow2 1M
    -f raw held.raw 1M
    -f qcow2 ro.qcow2 1M
    -f qcow2 rodir/new 1M
    -f qcow2 dir 1M
    -f raw dir 1M
    -f qcow2 gone/new 1M
    -f sideways new 1M
    -f qcow2 sideways:new 1M
    -f qcow2 ./sideways:new 1M
    -f qcow2 file:new 1M
    -f qcow2 json:{"driver":"qcow2","file.filename":"q.qcow2"} 1M
    -f raw json:{"driver":"file","filename":"new"} 1M

    new 1M 2M
    -f
    --no-such-option new 1M
    --object secret,id=s,data=letmein -f qcow2 new 1M
    """, "resize": """
    q.qcow2 2M
    q.qcow2 +1M
    q.qcow2 +512
    q.qcow2 2000000
    -q q.qcow2 2M
    --quiet q.qcow2 2M
    -f qcow2 q.qcow2 1M
    q.qcow2 512k
    --shrink q.qcow2 512k
    --shrink q.qcow2 -512k
    q.qcow2 -512k
    q.qcow2 -512k --shrink
    --shrink q.qcow2 0
    --shrink q.qcow2 -2M
    --shrink q.qcow2 2M
    q.qcow2 x
    q.qcow2 +
    q.qcow2 +-1
    q.qcow2 ""
    q.qcow2 1.5M
    q.qcow2 0x200000
    q.qcow2 8E
    q.qcow2 7E
    -f raw a.raw 2M
    a.raw 2M
    -f raw a.raw +1000
    -f raw --shrink a.raw 1000
    -f raw --shrink a.raw 1024
    -f raw odd.raw +512
    -f raw a.raw 512k
    --preallocation off q.qcow2 2M
    --preallocation metadata q.qcow2 2M
    --preallocation=falloc q.qcow2 2M
    --preallocation=full q.qcow2 2M
    --preallocation sideways q.qcow2 2M
    --preallocation metadata -f raw a.raw 2M
    --preallocation full -f raw a.raw 2M
    --preallocation falloc -f raw a.raw 2M
    --preallocation full --shrink q.qcow2 512k
    v2.qcow2 2M
    ext.qcow2 2M
    df.qcow2 2M
    snap.qcow2 2M
    v2.qcow2 --shrink 512k
    snap.qcow2 --shrink 512k
    bm.qcow2 2M
    top.qcow2 2M
    top.qcow2 --shrink 512k
    zstd.qcow2 2M
    corrupt.qcow2 2M
    ro.qcow2 2M
    -f raw ro.raw 2M
    gone 2M
    dir 2M
    -f qcow2 a.raw 2M
    -f sideways a.raw 2M
    -f raw empty 1M
    orphan.qcow2 2M
    held.qcow2 2M
    -f raw held.raw 2M
    --image-opts driver=qcow2,file.filename=q.qcow2 2M
    --image-opts -f qcow2 driver=qcow2,file.filename=q.qcow2 2M
    json:{"driver":"qcow2","file.filename":"q.qcow2"} 2M
    json:{"driver":"qcow2","read-only":true,"file.filename":"q.qcow2"} 2M
    -- q.qcow2 -512k

    q.qcow2
    2M
    q.qcow2 2M 3M
    --no-such-option q.qcow2 2M
    """}

CASES |= BULK
