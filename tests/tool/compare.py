#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""usage: compare.py TOOL IMAGE...

Runs info, map and check of TOOL and of qemu-img on the images, human and JSON, and says where exit codes or output
differ. JSON is compared by content, text to the letter. Exit code 1 if there is any difference.
"""
import json
import subprocess
import sys

CALLS = [["info"], ["info", "--backing-chain"], ["map"], ["map", "--start-offset", "70k", "--max-length", "1M"],
         ["check"]]


def call(program, verb, form, image):
    done = subprocess.run([program, *verb, "--output", form, image], capture_output=True, text=True,
                          errors="replace", stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout


def main():
    tool, images = sys.argv[1], sys.argv[2:]
    assert images
    compared = differences = 0
    for image in images:
        for verb in CALLS:
            for form in ["human", "json"]:
                want_code, want = call("qemu-img", verb, form, image)
                code, got = call(tool, verb, form, image)
                if form == "json" and want and got:
                    want, got = json.loads(want), json.loads(got)
                compared += 1
                # A failed map may have printed what came before the failure.
                if code != want_code or (want != got and code != 1):
                    differences += 1
                    print(f"FAIL {' '.join(verb)} --output {form} {image}: exit code {code}, qemu-img {want_code}")
                    print(f"  qemu-img: {want}\n  ours:     {got}")
    print(f"{compared} outputs compared, {differences} differ")
    return 1 if differences else 0


sys.exit(main())
