#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names with drivers and options, as json: and after --image-opts: what QEMU 10 opens we open, as an image of the
same format, size and name; what it refuses we refuse, but for a list of differences, each with its reason.

usage: test_interop_spec.py VDISK_IO SOURCE_ROOT
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

tool, root = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()

# What QEMU takes. The first letter: j(son:) or o(ptions).
TAKEN = """
o file.filename=a.qcow2
o driver=qcow2,file.filename=a.qcow2
o driver=qcow2,file.driver=file,file.filename=a.qcow2
o driver=raw,file.filename=a.qcow2
o driver=file,filename=a.qcow2
o driver=qcow2,file.driver=raw,file.file.filename=a.qcow2
o driver=qcow2,file.driver=raw,file.offset=1536,file.size=1M,file.file.driver=file,file.file.filename=box
o driver=raw,offset=512,file.filename=box
o driver=raw,offset=0x200,size=1k,file.filename=box
o driver=raw,offset=1.5k,file.filename=box
o driver=raw,offset=1000,size=4096,file.filename=box
o driver=raw,size=0,file.filename=box
o driver=raw,driver=raw,file.filename=comma,,name
o file.filename=top.qcow2,backing=
o file.filename=a.qcow2,read-only=on
o file.filename=a.qcow2,read-only
o file.filename=a.qcow2,auto-read-only=on,file.auto-read-only=on
o file.filename=a.qcow2,cache.direct=on,cache.no-flush=on,discard=unmap,detect-zeroes=unmap
o file.filename=a.qcow2,cache.direct=off,node-name=node0,force-share=on
o file.filename=a.qcow2,file.aio=threads,file.locking=off,file.node-name=n1
o file.filename=a.qcow2,file.locking=auto,file.discard=ignore
o file.filename=a.qcow2,l2-cache-size=1M,lazy-refcounts=on,overlap-check=none
o file.filename=split.qcow2,data-file.driver=file,data-file.filename=moved
o file.filename=a.qcow2,data-file.filename=moved
o driver=raw,backing=,file.filename=box
o driver=null-co,size=1M
o driver=null-co,read-zeroes=on,size=64k
j {"file.filename":"a.qcow2"}
j {"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}
j {'driver':'qcow2','file.driver':'file','file.filename':'a.qcow2'}
j {"driver":"raw","offset":512,"size":1024,"file":{"driver":"file","filename":"box"}}
j {"driver":"raw","offset":"512","file":{"filename":"box"}}
j {"driver":"qcow2","read-only":true,"file":{"driver":"file","filename":"a.qcow2","locking":"off"}}
j {"driver":"qcow2","cache":{"direct":false,"no-flush":false},"file":{"driver":"file","filename":"a.qcow2"}}
j {"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"top.qcow2"}}
j {"driver":"qcow2","file":{"driver":"raw","offset":1536,"size":1048576,"file":{"driver":"file","filename":"box"}}}
""".strip().splitlines()

# What QEMU refuses.
REFUSED = """
o a.qcow2
o filename=a.qcow2
o file=a.qcow2
o driver=qcow2,file=a.qcow2
o driver=,file.filename=a.qcow2
o driver=foo,file.filename=a.qcow2
o driver=qcow2,,file.filename=a.qcow2
o driver=qcow2,file.filename=box
o driver=qcow2,file.filename=a.qcow2,foo=1
o driver=qcow2,file.filename=a.qcow2,file.foo=1
o driver=qcow2,file.filename=a.qcow2,offset=512
o driver=qcow2,file.filename=a.qcow2,cache.direct=maybe
o driver=qcow2,file.filename=a.qcow2,discard=perhaps
o driver=qcow2,file.filename=a.qcow2,file.locking=perhaps
o driver=qcow2,file.filename=a.qcow2,file.aio=none
o driver=qcow2,file.filename=none
o driver=qcow2,file.driver=host_device,file.filename=a.qcow2
o driver=qcow2,file.driver=file
o driver=qcow2
o driver=raw,offset=1.5,file.filename=box
o driver=raw,offset=-1,file.filename=box
o driver=raw,offset=1G,file.filename=box
o driver=raw,offset=512,size=1G,file.filename=box
o driver=raw,size=1000,file.filename=box
o driver=raw,backing.file.filename=a.qcow2,file.filename=box
o file.filename=top.qcow2,backing=a.qcow2
o file.filename=a.qcow2,node-name=
o file.filename=top.qcow2,backing.driver=qcow2,backing.file.filename=a.qcow2
o file.filename=a.qcow2,encrypt.key-secret=none,encrypt.format=luks
j {
j []
j {}
j {"driver":"qcow2"}
j {"driver":"qcow2","file":"a.qcow2"}
j {"driver":"qcow2","file":null}
j {"driver":"qcow2","file":{"driver":"file"}}
j {"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"},"foo":1}
j {"driver":"qcow2","driver":"raw","file.filename":"a.qcow2"}
j {"driver":"raw","offset":true,"file.filename":"box"}
j {"driver":"qcow2","backing":"a.qcow2","file.filename":"top.qcow2"}
""".strip().splitlines()

# Where we differ: QEMU's answer is the other one.
DIFFERENT = {
    "o file.filename=a.qcow2,data-file.filename=moved": "the image has none: said, and not left out",
    "o driver=raw,backing=,file.filename=box": "raw has no backing file",
    "o filename=a.qcow2": "a file name alone is what it would be without --image-opts",
    "o file.filename=top.qcow2,backing.driver=qcow2,backing.file.filename=a.qcow2":
        "QEMU's info opens no backing file and then does not know the option; its qemu-io does",
    "o driver=raw,driver=raw,file.filename=comma,,name": "said twice: QEMU takes the last, we ask which is meant",
}


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def info(program, line):
    kind, name = line[0], line[2:]
    how = ["--image-opts", name] if kind == "o" else ["json:" + name]
    result = run(program, "info", "--output=json", *how)
    return result.returncode, result.stdout, result.stderr


def tree(name):
    """A json: name as a tree whose numbers are texts, or the name."""
    if not name.startswith("json:"):
        return name

    def texts(value):
        return {k: texts(v) for k, v in value.items()} if isinstance(value, dict) else None if value is None \
            else str(value)
    return texts(json.loads(name[5:]))


def make_images(qemu):
    for command in ("create -q -f qcow2 a.qcow2 1M", "create -q -f qcow2 -b a.qcow2 -F qcow2 top.qcow2",
                    "create -q -f qcow2 -o data_file=data split.qcow2 1M"):
        done = run(qemu, *command.split())
        assert done.returncode == 0, done.stderr
    os.rename("data", "moved")
    image = pathlib.Path("a.qcow2").read_bytes()
    pathlib.Path("box").write_bytes((bytes(1536) + image + bytes(2 << 20))[:2 << 20])
    pathlib.Path("comma,name").write_bytes(bytes(65536))


def main():
    qemu = run(str(root / "bench/peer")).stdout.strip()
    if not qemu or not os.path.exists(qemu):
        print("skipped: QEMU 10 cannot be had (bench/peer)")
        return 77
    failed = 0
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.chdir(directory)
        make_images(qemu)
        for line in TAKEN + REFUSED:
            wanted = line in TAKEN
            ours, ours_out, ours_error = info(tool, line)
            theirs, theirs_out, theirs_error = info(qemu, line)
            text = ""
            if (theirs == 0) != wanted:
                text = f"QEMU says {theirs}: {theirs_error}"
            elif (ours == 0) != (wanted != (line in DIFFERENT)):
                text = f"exit status {ours}: {ours_error}"
            elif ours == 0 and theirs == 0:
                a, b = json.loads(ours_out), json.loads(theirs_out)
                # QEMU calls bytes without a format by their protocol; for us a volume has a format.
                plain = b["format"] in ("file", "null-co")
                for key in ("virtual-size", "filename", "format"):
                    if tree(str(a[key])) != tree(str(b[key])) and not (key != "filename" and plain):
                        text += f"{key}: {a[key]}, not {b[key]}. "
                child = b["children"][0]["info"] if b["children"] else {"format": None}
                if child["format"] == "file":
                    for key in ("virtual-size", "filename", "format"):
                        if a["children"][0]["info"][key] != child[key]:
                            text += f"child's {key}: {a['children'][0]['info'][key]}, not {child[key]}. "
            elif ours != 0:
                text = "" if ours == 1 and ours_error.startswith("vdisk-io: ") else f"{ours}: {ours_error}"
            if text:
                print(f"{line}\n    {text}")
                failed += 1
    print(f"{len(TAKEN)} taken, {len(REFUSED)} refused, {len(DIFFERENT)} differ, {failed} wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
