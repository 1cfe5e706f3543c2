#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The documents are true where a program can tell.

usage: test_docs.py SOURCE VDISK_IO

Every option of `vdisk-io VERB --help` is in the manual page's section of that verb, and the other way round;
README has an example of every verb; every path that README, HACKING and the documents name exists; the manual
pages are clean roff.
"""
import pathlib
import re
import shutil
import subprocess
import sys

source = pathlib.Path(sys.argv[1])
tool = sys.argv[2]
failures = []


def fail(text):
    failures.append(text)
    print("FAILED:", text)


def run(*args, **kwargs):
    return subprocess.run(args, capture_output=True, text=True, check=False, **kwargs)


def long_options(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def plain(roff):
    """Roff source without its escapes."""
    return re.sub(r"\\f[BIRP]", "", roff).replace("\\-", "-")


def verbs():
    return re.findall(r"^  ([a-z]+)  ", run(tool, "--help").stdout, re.M)


def check_options():
    page = plain((source / "docs/man/vdisk-io.1").read_text())
    common = long_options(run(tool, "--help").stdout) | {"--help", "--version"}
    sections = {name.lower(): text
                for name, text in re.findall(r"^\.SH ([A-Z ]+)\n(.*?)(?=^\.SH |\Z)", page, re.M | re.S)}
    found = verbs()
    if not found:
        fail("vdisk-io --help names no verb")
    for verb in found + ["volume serve"]:
        said = long_options(run(tool, *verb.split(), "--help").stdout)
        if verb not in sections:
            fail(f"vdisk-io.1 has no section on {verb}")
            continue
        written = long_options(sections[verb])
        for option in sorted(said - written - common):
            fail(f"vdisk-io.1 does not have {option} of {verb}")
        for option in sorted(written - said - common):
            fail(f"vdisk-io.1 has {option} for {verb}, which --help does not know")


def check_readme():
    """README has an example of every verb that does something."""
    text = (source / "README.md").read_text()
    for verb in verbs():
        if verb not in ("snapshot", "bitmap") and not re.search(rf"^    vdisk-io {verb} ", text, re.M):
            fail(f"README.md has no example of {verb}")


def check_paths():
    folders = r"engine|backends|qcow2|tools|bench|bindings|tests|docs|\.ci"
    named = re.compile(rf"(?<![\w/.-])((?:{folders})/[\w./*-]*[\w*/])")
    documents = [source / "README.md", source / "HACKING.md"]
    documents += [*source.glob("docs/*.md"), *source.glob("*/README.md")]
    for document in documents:
        for name in set(named.findall(document.read_text())):
            if "NAME" not in name and not list(source.glob(name.rstrip("/"))):
                fail(f"{document.name} names {name}, which is not there")
        for name in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            if not (document.parent / name).exists():
                fail(f"{document.name} links to {name}, which is not there")


def check_roff():
    if not shutil.which("groff"):
        print("note: no groff, the manual pages' markup is not looked at")
        return
    for page in source.glob("docs/man/*.[0-9]"):
        result = run("groff", "-man", "-ww", "-Tutf8", "-z", str(page))
        if result.returncode or result.stderr.strip():
            fail(f"{page.name}: {result.stderr.strip()[:500]}")


check_options()
check_readme()
check_paths()
check_roff()
sys.exit(1 if failures else 0)
