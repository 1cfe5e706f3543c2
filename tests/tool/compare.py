#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""usage: compare.py TOOL QEMU_IMG IMAGE...

Runs info, map and check of TOOL and of qemu-img on the images, human and JSON, and says where exit codes or output
differ: to the letter, if qemu-img is of version 10. An older one does not know all that we tell after its example:
then JSON is compared by content, without that. Exit code 1 if there is any difference.

Differences on purpose:
- map: a subcluster that is not allocated, in a cluster that is, has no offset: what is there is not the guest's.
  QEMU gives one, beside "present": false.
- info on XFS: QEMU sets an extent size hint on the files that it makes, and tells that hint as a format-specific
  member of the file; we set none and tell none.
"""
import json
import re
import subprocess
import sys

CALLS = [["info"], ["info", "--backing-chain"], ["map"], ["map", "--start-offset", "70k", "--max-length", "1M"],
         ["check"]]


def call(program, verb, form, image):
    done = subprocess.run([program, *verb, "--output", form, image], capture_output=True, text=True,
                          errors="replace", stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout


def without_news(value):
    """What QEMU 7.2 has of it."""
    if isinstance(value, dict):
        return {key: without_news(v) for key, v in value.items() if key not in ("children", "compressed")}
    return [without_news(v) for v in value] if isinstance(value, list) else value


def as_old(form, text):
    if form == "json":
        return without_news(json.loads(text)) if text else text
    text = re.sub(r"^Child node '/file':\n(    .*\n)*", "", text, flags=re.M)
    text = text.replace("VM SIZE", "VM_SIZE").replace("VM CLOCK", "VM_CLOCK") # the table of snapshots
    return re.sub(r" +", " ", re.sub(r"\b00(\d\d:\d\d:\d\d\.\d{3})", r"\1", text))


def main():
    tool, qemu, images = sys.argv[1], sys.argv[2], sys.argv[3:]
    assert images
    version = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout
    old = int(re.search(r"version (\d+)", version)[1]) < 10
    if old:
        print(f"note: {version.splitlines()[0]}: compared without what is new since")
    compared = differences = 0
    for image in images:
        for verb in CALLS:
            for form in ["human", "json"]:
                want_code, want = call(qemu, verb, form, image)
                code, got = call(tool, verb, form, image)
                if form == "json" and verb[0] == "map":
                    want = re.sub(r'("present": false,[^}]*), "offset": \d+', r"\1", want)
                if old:
                    want, got = as_old(form, want), as_old(form, got)
                compared += 1
                # A failed map may have printed what came before the failure.
                if code != want_code or (want != got and code != 1):
                    differences += 1
                    print(f"FAIL {' '.join(verb)} --output {form} {image}: exit code {code}, qemu-img {want_code}")
                    print(f"  qemu-img: {want}\n  ours:     {got}")
    print(f"{compared} outputs compared, {differences} differ")
    return 1 if differences else 0


sys.exit(main())
