#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a command keeps for itself (--job FILE, FILE.next, FILE.blocks; --manifest FILE, FILE.new) is no image of
its, nor one another: by name, by another link, there or not; and what is there and is none of them is not
replaced. Each is refused in one line, before anything is written.

usage: test_own_files.py VDISK_IO
"""
import itertools
import os
import pathlib
import sys
import tempfile

from checks import end, expect, must, run

MIB = 1 << 20


def folder():
    """All that is there: links, what they lead to, contents."""
    return {name: (os.readlink(name) if os.path.islink(name) else None,
                   pathlib.Path(name).read_bytes() if os.path.exists(name) else None) for name in os.listdir()}


def refused(text, *args):
    before = folder()
    result = run(*args)
    err = result.stderr
    expect(f"refused with {text!r}: {args}", result.returncode == (2 if args[0] == "checksum" else 1) and
           text in err and err.count("\n") == 1 and not result.stdout, result.returncode, err)
    expect(f"nothing has changed: {args}", folder() == before, sorted(folder()), sorted(before))


def clear():
    for name in os.listdir():
        os.unlink(name)


def images():
    """A chain of two, with a data file, and a source."""
    clear()
    pathlib.Path("source").write_bytes(os.urandom(MIB))
    pathlib.Path("below").write_bytes(os.urandom(MIB))
    must("create", "-q", "-f", "qcow2", "-b", "below", "-F", "raw", "middle")
    must("create", "-q", "-f", "qcow2", "-o", "data_file=data", "-b", "middle", "-F", "qcow2", "top")


COMMANDS = {
    "checksum": (["checksum", "top"], ["top", "data", "middle", "below"]),
    "convert": (["convert", "-O", "qcow2", "source", "target"], ["source", "target"]),
    "chain": (["convert", "top", "target"], ["top", "data", "middle", "below"]),
    "backed": (["convert", "-O", "qcow2", "-B", "middle", "-F", "qcow2", "top", "target"], ["middle", "below"]),
    "data": (["convert", "-O", "qcow2", "-o", "data_file=made", "source", "target"], ["made", "target"]),
    "over": (["convert", "-n", "-O", "qcow2", "source", "middle"], ["middle", "below"]),
    "commit": (["commit", "top"], ["top", "data", "middle", "below"]),
    "rebase": (["rebase", "-b", "source", "-F", "raw", "top"], ["top", "data", "middle", "below", "source"]),
}


def by_name():
    """An image is renamed to what is kept; one that is to be made gets that name."""
    for kind, (command, names) in COMMANDS.items():
        for name, option, suffix in itertools.product(names, ("--job", "--manifest"),
                                                      ("", ".next", ".blocks", ".new")):
            if suffix not in (("", ".next", ".blocks") if option == "--job" else ("", ".new")) or \
                    option == "--manifest" and command[0] in ("commit", "rebase"):
                continue
            images()
            at = "./" + name # another spelling
            if suffix: # beside a name that is free, the image has a second one
                at = "own"
                if os.path.exists(name):
                    os.link(name, "own" + suffix)
                elif name == "target":
                    command = [*command[:-1], "own" + suffix]
                else:
                    command = [x.replace(f"data_file={name}", f"data_file=own{suffix}") for x in command]
            elif os.path.exists(name):
                os.symlink(name, "link")
                at = "link"
            is_looked_into = option == "--job" and not suffix and os.path.exists(name) # first
            refused("" if is_looked_into else "an image of this command", command[0], option, at, *command[1:])
            command = COMMANDS[kind][0]


def one_another():
    images()
    for command in (["checksum", "top"], ["convert", "source", "target"]):
        for job, manifest in (("x", "x"), ("x", "x.next"), ("x", "x.blocks"), ("x.new", "x"), ("./x", "x")):
            refused("is that of --manifest, too", command[0], "--job", job, "--manifest", manifest, *command[1:])
    must("checksum", "-q", "--manifest", "sums", "source")
    for job in ("sums", "s"):
        if job == "s":
            os.rename("sums", "s.blocks")
        refused("" if job == "sums" else "is that of --verify, too", "checksum", "--job", job, "--verify",
                "sums" if job == "sums" else "s.blocks", "source")


def strangers():
    """What is there and is somebody's."""
    for content in (b"something", b"0123456789abcdef\n", b"{}", b'{\n    "vdisk', bytes(600), os.urandom(4096),
                    b"0" * 64 + b"\n", b"vdisk-io manifest 1\n"):
        for name in ("j", "j.next", "j.blocks", "m", "m.new"):
            images()
            pathlib.Path(name).write_bytes(content)
            takes = name.startswith("m") and content.startswith(b"vdisk-io manifest 1") or \
                name == "j.next" and content.startswith(b'{\n    "vdisk')
            for command in (["checksum", "source"], ["convert", "source", "target"]):
                command = [command[0], "--job", "j", "--manifest", "m", *command[1:]]
                if not takes:
                    refused(f"{name}: is there, and is no", *command)
    images()
    for name in ("j.next", "j.blocks", "m.new"): # a link is somebody's
        os.symlink("source", name)
        refused(f"{name}: ", "checksum", "--job", "j", "--manifest", "m", "source")
        os.unlink(name)


def what_is_taken():
    """What commands of ours have left, when they were killed; and a link to what is not there yet."""
    for name, content in (("j", b""), ("j.next", b""), ("j.next", b'{\n    "vdisk-io job": "1"'), ("m", b""),
                          ("j.blocks", b""), ("j.blocks", b"0123"), ("j.blocks", b"0" * 64 + b" 1\n0"),
                          ("m.new", b"")):
        for command in (["checksum", "-q", "source"], ["convert", "source", "target"]):
            images()
            pathlib.Path(name).write_bytes(content)
            must(command[0], "--job", "j", "--manifest", "m", *command[1:])
            left = [x for x in ("j.next", "j.blocks", "m.new") if os.path.exists(x)]
            expect("nothing is left", not left, left)
    images()
    os.symlink("leads", "j")
    must("checksum", "-q", "--job", "j", "source")
    expect("a link stays", os.path.islink("j") and os.path.exists("leads"))


def main():
    with tempfile.TemporaryDirectory(prefix="vdisk-own.") as top:
        os.chdir(top)
        for test in (by_name, one_another, strangers, what_is_taken):
            test()
        os.chdir("/")
    return end()


if __name__ == "__main__":
    sys.exit(main())
