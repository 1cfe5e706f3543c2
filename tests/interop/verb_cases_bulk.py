# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command lines of test_interop_verbs.py for the verbs that do bulk work: see verb_cases.py."""

BULK = {"measure": """
    a.raw
    -O qcow2 a.raw
    -O raw q.qcow2
    --target-format qcow2 --output json q.qcow2
    -O qcow2 --output=json a.raw
    -O qcow2 -o cluster_size=4k --output json a.raw
    -O qcow2 --target-options extended_l2=on --output json a.raw
    -O qcow2 -o cluster_size=4k,refcount_bits=64 -o preallocation=full --output json a.raw
    -O qcow2 --size 1G --output json
    -O qcow2 --size 1G
    -O raw -s 1G
    --size 1T -O qcow2 -o cluster_size=2M
    --size 0 -O qcow2
    --size 1000 -O raw --output json
    --size 1000 -O qcow2 --output json
    --size x
    --size -1
    --size 8E -O qcow2
    --size 1M a.raw
    -f raw --size 1M
    -f raw -O qcow2 a.raw
    -f qcow2 a.raw
    -f sideways a.raw
    -O sideways a.raw
    -O qcow2 -o sideways=1 a.raw
    -O qcow2 -o cluster_size=1000 a.raw
    -O qcow2 -o preallocation=metadata --output json q.qcow2
    -O qcow2 --output json top.qcow2
    -O qcow2 --output json bm.qcow2
    -O qcow2 --output json snap.qcow2
    -O qcow2 --output json zstd.qcow2
    -O qcow2 --output json v2.qcow2
    -O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 --output json top.qcow2
    -O qcow2 --output json odd.raw
    -O qcow2 --output json empty
    -O qcow2 --output json hole.raw
    -O qcow2 gone
    -O qcow2 dir
    -O qcow2 orphan.qcow2
    -O qcow2 held.qcow2
    -O qcow2 -U held.qcow2
    -O qcow2 --force-share --output json held.qcow2
    -O qcow2 --image-opts driver=qcow2,file.filename=q.qcow2 --output json
    -O qcow2 --image-opts -f qcow2 driver=qcow2,file.filename=q.qcow2
    -O qcow2 --image-opts --size 1M
    -O qcow2 --output json json:{"file":{"driver":"file","filename":"top.qcow2"},"driver":"qcow2","backing":null}
    -O raw --output json --force-share json:{"file":{"driver":"file","filename":"a.raw"},"driver":"raw"}
    -l first snap.qcow2 -O qcow2
    -o help -O qcow2

    a.raw q.qcow2
    --output xml a.raw
    --no-such-option a.raw
    """, "convert": """
    a.raw new
    -f raw -O qcow2 a.raw new
    --source-format raw --target-format qcow2 a.raw new
    -O qcow2 q.qcow2 new
    -O raw q.qcow2 new
    -p -O qcow2 a.raw new
    --progress -q a.raw new
    -O qcow2 top.qcow2 new
    -O qcow2 -o cluster_size=4k top.qcow2 new
    -O qcow2 -o cluster_size=4k -o compat=0.10 a.raw new
    -O qcow2 -o preallocation=metadata a.raw new
    -O qcow2 -o preallocation=full a.raw new
    -O raw -o preallocation=falloc a.raw new
    -O qcow2 -o sideways=1 a.raw new
    -O qcow2 -o size=4M a.raw new
    -O qcow2 -o data_file=new.data a.raw new
    -O qcow2 -o encrypt.format=luks a.raw new
    -O sideways a.raw new
    -f sideways a.raw new
    -f qcow2 a.raw new
    -t none -T none -O qcow2 a.raw new
    --target-cache none --source-cache none -O qcow2 a.raw new
    -t sideways a.raw new
    -T sideways a.raw new
    -c -O qcow2 a.raw new
    --compress -O qcow2 -o compression_type=zstd a.raw new
    -c -O raw a.raw new
    -c a.raw new
    -c -O qcow2 -o preallocation=metadata a.raw new
    -c -O qcow2 -o data_file=new.data a.raw new
    -S 0 -O qcow2 a.raw new
    -S 64k -O raw a.raw new
    --sparse-size 512 a.raw new
    -S 100 a.raw new
    -S x a.raw new
    -S 1Z a.raw new
    -m 1 a.raw new
    --parallel 16 -W -O qcow2 a.raw new
    --oob-writes a.raw new
    -m 0 a.raw new
    -m 17 a.raw new
    -m x a.raw new
    -r 1G a.raw new
    --rate 1G a.raw new
    -r x a.raw new
    -C a.raw new
    -C -S 4k a.raw new
    -C -c -O qcow2 a.raw new
    --salvage a.raw new
    --salvage -C a.raw new
    -n a.raw other.raw
    --no-create a.raw long.raw
    -n a.raw small.qcow2
    -n -O qcow2 a.raw small.qcow2
    -n -O qcow2 a.raw nothing.qcow2
    -n -O qcow2 --target-is-zero a.raw nothing.qcow2
    --target-is-zero a.raw new
    -n a.raw gone
    -n -O qcow2 a.raw gone
    -n -O qcow2 -o cluster_size=4k a.raw nothing.qcow2
    -n -B base.qcow2 -O qcow2 a.raw nothing.qcow2
    -n -c -O qcow2 a.raw nothing.qcow2
    -B base.qcow2 -F qcow2 -O qcow2 top.qcow2 new
    --backing base.qcow2 --backing-format qcow2 -O qcow2 mid.qcow2 new
    -B base.qcow2 -O qcow2 top.qcow2 new
    -F qcow2 -O qcow2 top.qcow2 new
    -O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 top.qcow2 new
    -B gone -F qcow2 -O qcow2 top.qcow2 new
    -B base.qcow2 -F qcow2 -O raw top.qcow2 new
    -B base.qcow2 -F qcow2 -O qcow2 a.raw q.qcow2 new
    a.raw q.qcow2 new
    -O qcow2 odd.raw tiny new
    -f raw -O qcow2 a.raw odd.raw other.raw new
    a.raw gone new
    odd.raw new
    -O qcow2 odd.raw new
    empty new
    -O qcow2 empty new
    tiny new
    -O qcow2 nothing.qcow2 new
    zstd.qcow2 new
    ext.qcow2 new
    df.qcow2 new
    v2.qcow2 new
    snap.qcow2 new
    luks.qcow2 new
    a.raw other.raw
    -O qcow2 a.raw q.qcow2
    gone new
    dir new
    orphan.qcow2 new
    a.raw dir
    a.raw ro.raw
    -O qcow2 a.raw ro.qcow2
    -n -O qcow2 a.raw ro.qcow2
    a.raw rodir/new
    a.raw gone/new
    ro.raw new
    a.raw a.raw
    -n a.raw a.raw
    held.raw new
    -U held.raw new
    --force-share -O qcow2 held.qcow2 new
    a.raw held.raw
    -n a.raw held.raw
    -O qcow2 a.raw held.qcow2
    -l first snap.qcow2 new
    -l snapshot.name=first snap.qcow2 new
    --bitmaps -O qcow2 bm.qcow2 new
    --bitmaps --skip-broken-bitmaps -O qcow2 bm.qcow2 new
    --skip-broken-bitmaps a.raw new
    --bitmaps a.raw new
    --image-opts driver=qcow2,file.filename=q.qcow2 new
    --source-image-opts driver=qcow2,file.filename=q.qcow2 new
    --image-opts -f qcow2 driver=qcow2,file.filename=q.qcow2 new
    --image-opts q.qcow2 new
    --target-image-opts -n a.raw driver=qcow2,file.filename=nothing.qcow2
    --target-image-opts a.raw driver=qcow2,file.filename=new
    --target-image-opts -n -O qcow2 a.raw driver=qcow2,file.filename=nothing.qcow2
    --target-image-opts -n a.raw driver=qcow2,read-only=on,file.filename=nothing.qcow2
    json:{"driver":"raw","file.filename":"a.raw"} new
    json:{"driver":"qcow2","backing":null,"file.filename":"top.qcow2"} new
    a.raw json:{"driver":"raw","file.filename":"new"}
    -n a.raw json:{"driver":"qcow2","file.filename":"nothing.qcow2"}
    -o help -O qcow2 a.raw new
    a.raw -O qcow2 new -o cluster_size=4k

    a.raw
    --no-such-option a.raw new
    -O
    """, "dd": """
    if=a.raw of=new
    of=new if=a.raw
    -O qcow2 if=a.raw of=new
    -f raw -O qcow2 if=a.raw of=new bs=64k
    --format raw --output-format qcow2 if=a.raw of=new
    if=q.qcow2 of=new bs=4k count=10
    if=q.qcow2 of=new bs=4k count=10 skip=5
    if=a.raw of=new bs=1M skip=1
    if=a.raw of=new bs=1M skip=2
    if=a.raw of=new bs=3000 count=7 skip=2
    if=a.raw of=new bs=1 count=100
    if=a.raw of=new count=0
    if=a.raw of=new bs=0
    if=a.raw of=new bs=x
    if=a.raw of=new bs=3G
    if=a.raw of=new bs=-1
    if=a.raw of=new count=x
    if=a.raw of=new skip=x
    if=a.raw of=new seek=1
    if=a.raw of=new sideways
    if=odd.raw of=new
    -O qcow2 if=odd.raw of=new
    if=empty of=new
    if=tiny of=new
    if=top.qcow2 of=new
    if=q.qcow2 of=other.raw
    -O qcow2 if=a.raw of=q.qcow2
    if=gone of=new
    if=dir of=new
    if=a.raw of=dir
    if=a.raw of=gone/new
    if=a.raw of=ro.raw
    if=held.raw of=new
    -U if=held.raw of=new
    if=a.raw of=held.raw
    if=a.raw of=a.raw
    -f qcow2 if=a.raw of=new
    -f sideways if=a.raw of=new
    -O sideways if=a.raw of=new
    --image-opts if=driver=qcow2,file.filename=q.qcow2 of=new
    --image-opts -f qcow2 if=driver=qcow2,file.filename=q.qcow2 of=new
    if=json:{"driver":"qcow2","file.filename":"q.qcow2"} of=new
    if=a.raw
    of=new
    if= of=new

    a.raw new
    --no-such-option if=a.raw of=new
    """, "rebase": """
    -b base.qcow2 -F qcow2 top.qcow2
    --backing base.qcow2 --backing-format qcow2 top.qcow2
    -b base.qcow2 top.qcow2
    -u -b base.qcow2 -F qcow2 top.qcow2
    --backing-unsafe -b gone -F qcow2 top.qcow2
    -u -b gone top.qcow2
    -u -b "" top.qcow2
    -b "" top.qcow2
    -b "" -c top.qcow2
    --compress -b base.qcow2 -F qcow2 top.qcow2
    -p -b base.qcow2 -F qcow2 top.qcow2
    -q -b base.qcow2 -F qcow2 top.qcow2
    -f qcow2 -t none -T none -b base.qcow2 -F qcow2 top.qcow2
    --cache none --backing-cache none -b base.qcow2 -F qcow2 top.qcow2
    -t sideways -b base.qcow2 top.qcow2
    -T sideways -b base.qcow2 top.qcow2
    -b gone -F qcow2 top.qcow2
    -b a.raw -F raw top.qcow2
    -b a.raw -F qcow2 top.qcow2
    -b base.qcow2 -F sideways top.qcow2
    -b long.raw -F raw top.qcow2
    -b small.qcow2 -F qcow2 top.qcow2
    -b other.raw -F raw q.qcow2
    -b base.qcow2 -F qcow2 larger.qcow2
    -b top.qcow2 -F qcow2 top.qcow2
    -b base.qcow2 -F qcow2 orphan.qcow2
    -u -b base.qcow2 -F qcow2 orphan.qcow2
    -b base.qcow2 -F qcow2 a.raw
    -f raw -b base.qcow2 -F qcow2 a.raw
    -f raw -u -b base.qcow2 -F qcow2 a.raw
    -f sideways -b base.qcow2 top.qcow2
    -b base.qcow2 -F qcow2 gone
    -b base.qcow2 -F qcow2 dir
    -b base.qcow2 -F qcow2 ro.qcow2
    -b base.qcow2 -F qcow2 held.qcow2
    -b held.qcow2 -F qcow2 top.qcow2
    -U -b held.qcow2 -F qcow2 top.qcow2
    -u -b held.qcow2 -F qcow2 top.qcow2
    -b dir -F raw top.qcow2
    -b base.qcow2 -F qcow2 snap.qcow2
    --image-opts -b base.qcow2 -F qcow2 driver=qcow2,file.filename=top.qcow2
    --image-opts -f qcow2 -b base.qcow2 driver=qcow2,file.filename=top.qcow2
    -b base.qcow2 -F qcow2 json:{"driver":"qcow2","file.filename":"top.qcow2"}
    top.qcow2 -b base.qcow2 -F qcow2
    top.qcow2

    -b base.qcow2
    -b base.qcow2 -F qcow2 top.qcow2 mid.qcow2
    --no-such-option -b base.qcow2 top.qcow2
    """, "amend": """
    -o compat=0.10 q.qcow2
    -o compat=1.1 v2.qcow2
    --options compat=v3 v2.qcow2
    -f qcow2 -o compat=0.10 q.qcow2
    -o compat=0.10 ext.qcow2
    -o compat=0.10 zstd.qcow2
    -o compat=2.0 q.qcow2
    -o lazy_refcounts=on q.qcow2
    -o lazy_refcounts=on v2.qcow2
    -o lazy_refcounts=maybe q.qcow2
    -o refcount_bits=1 q.qcow2
    -o refcount_bits=64 q.qcow2
    -o refcount_bits=3 q.qcow2
    -o refcount_bits=8 v2.qcow2
    -o size=2M q.qcow2
    -o size=512k q.qcow2
    -o size=x q.qcow2
    -o backing_file=base.qcow2,backing_fmt=qcow2 top.qcow2
    -o backing_file=base.qcow2 -o backing_fmt=qcow2 q.qcow2
    -o backing_file= top.qcow2
    -o backing_fmt=raw top.qcow2
    -o cluster_size=4k q.qcow2
    -o cluster_size=64k q.qcow2
    -o preallocation=full q.qcow2
    -o extended_l2=on q.qcow2
    -o compression_type=zstd q.qcow2
    -o data_file=other.raw df.qcow2
    -o data_file_raw=on df.qcow2
    -o data_file=other.raw q.qcow2
    -o encrypt.format=luks q.qcow2
    -o encrypt.0.state=active q.qcow2
    -o sideways=1 q.qcow2
    -o =1 q.qcow2
    -o "" q.qcow2
    -o compat=0.10 a.raw
    -f raw -o size=2M a.raw
    -f sideways -o compat=0.10 a.raw
    -f qcow2 -o compat=0.10 a.raw
    -p -o compat=0.10 q.qcow2
    --progress -o size=2M q.qcow2
    -q -o compat=0.10 q.qcow2
    -t none -o compat=0.10 q.qcow2
    --cache sideways -o compat=0.10 q.qcow2
    --force -o compat=0.10 q.qcow2
    -o compat=0.10 gone
    -o compat=0.10 dir
    -o compat=0.10 ro.qcow2
    -o compat=0.10 held.qcow2
    -o compat=0.10 snap.qcow2
    -o compat=0.10 bm.qcow2
    -o compat=0.10 orphan.qcow2
    --image-opts -o compat=0.10 driver=qcow2,file.filename=q.qcow2
    --image-opts -f qcow2 -o compat=0.10 driver=qcow2,file.filename=q.qcow2
    -o compat=0.10 json:{"driver":"qcow2","file.filename":"q.qcow2"}
    q.qcow2 -o compat=0.10
    q.qcow2
    -o help q.qcow2
    -o help -f qcow2

    -o compat=0.10
    -o compat=0.10 q.qcow2 v2.qcow2
    --no-such-option q.qcow2
    """, "commit": """
    top.qcow2
    -f qcow2 top.qcow2
    --format qcow2 -q top.qcow2
    -p top.qcow2
    -d top.qcow2
    --drop top.qcow2
    -b mid.qcow2 top.qcow2
    -b base.qcow2 top.qcow2
    --base base.qcow2 -p top.qcow2
    -b base.qcow2 -d top.qcow2
    -b top.qcow2 top.qcow2
    -b q.qcow2 top.qcow2
    -b gone top.qcow2
    -b "" top.qcow2
    -t none top.qcow2
    --cache unsafe top.qcow2
    -t sideways top.qcow2
    -r 1G top.qcow2
    --rate 1G top.qcow2
    -r x top.qcow2
    rawtop.qcow2
    larger.qcow2
    q.qcow2
    a.raw
    -f raw top.qcow2
    -f qcow2 a.raw
    -f sideways top.qcow2
    orphan.qcow2
    gone
    dir
    held.qcow2
    --image-opts driver=qcow2,file.filename=top.qcow2
    --image-opts -f qcow2 driver=qcow2,file.filename=top.qcow2
    json:{"driver":"qcow2","file.filename":"top.qcow2"}
    top.qcow2 -d

    top.qcow2 mid.qcow2
    --no-such-option top.qcow2
    """, "bench": """
    -c 10 q.qcow2
    --count 10 -f qcow2 --depth 3 q.qcow2
    -f raw -w -c 10 -d 2 --pattern 65 a.raw
    -f raw --write -c 3 --step-size 0x60000 -d 1 a.raw
    -f raw -w -c 100 -S 32k -d 4 --pattern 0x41 -s 1000 a.raw
    -f raw -w -c 5 --buffer-size 64k -o 128k a.raw
    -f raw -w -c 9 --offset 200000 -s 4k -t none -d 1 a.raw
    -w -c 8 -S 100k --pattern 1 -d 1 q.qcow2
    -w -c 8 -d 1 --flush-interval 2 q.qcow2
    -w -c 9 -d 4 --flush-interval 4 --no-drain --pattern 9 q.qcow2
    -w -c 9 -d 4 --flush-interval 2 q.qcow2
    --flush-interval 2 -c 9 -d 1 q.qcow2
    --no-drain -c 1 q.qcow2
    --pattern 3 -c 1 q.qcow2
    -S 0 -c 10 q.qcow2
    -q -c 1 q.qcow2
    -c 5 -i threads q.qcow2
    --aio io_uring -c 5 q.qcow2
    -i native -t none -c 5 -f raw a.raw
    -n -t none -c 5 -f raw a.raw
    -i native -c 5 q.qcow2
    --native -c 5 q.qcow2
    -i sideways q.qcow2
    -t sideways -c 1 q.qcow2
    --cache unsafe -c 1 q.qcow2
    -t writethrough -w -c 3 q.qcow2
    -f raw -w -c 4 -s 300 -d 1 odd.raw
    -f raw -c 4 -s 300 -d 1 odd.raw
    -c 1 -o 2M q.qcow2
    -c 2 -o 1023K -s 1K q.qcow2
    -c 2 -o 1023K -s 4K q.qcow2
    -c x q.qcow2
    -c 0 q.qcow2
    -c 3000000000 q.qcow2
    -d 0 q.qcow2
    -d x q.qcow2
    -s 0 q.qcow2
    -s 3G q.qcow2
    -s x q.qcow2
    -S 3G q.qcow2
    -S x q.qcow2
    -c 1 -o -1 q.qcow2
    -c 1 -o x q.qcow2
    -w --pattern 300 q.qcow2
    -w --pattern x q.qcow2
    -w --flush-interval x q.qcow2
    -w --flush-interval 0 -c 1 q.qcow2
    -c 1 gone
    -c 1 dir
    -c 1 empty
    -c 1 -f qcow2 a.raw
    -c 1 -f sideways a.raw
    -c 1 held.qcow2
    -c 1 -U held.qcow2
    -c 1 -w ro.qcow2
    -w -c 1 -U q.qcow2
    -c 1 --image-opts driver=qcow2,file.filename=q.qcow2
    -c 1 --image-opts -f qcow2 driver=qcow2,file.filename=q.qcow2
    -c 1 json:{"driver":"qcow2","file.filename":"q.qcow2"}

    -c 1 q.qcow2 a.raw
    -c 1
    -c 1 --no-such-option q.qcow2
    -c
    """}
