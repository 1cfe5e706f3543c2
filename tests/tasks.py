#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests/run asks of a build directory.

usage: tasks.py targets DIR LIST   what ninja must build for the tests of LIST (as `meson test --list` prints it)
       tasks.py tasks DIR LIST     the tests in portions, one a line, in the order in which they are best begun
       tasks.py unbuilt DIR        commands that compile what has no object there, for the warnings
"""
import json
import pathlib
import shlex
import subprocess
import sys

PORTION_MAX = 6 # tests: meson takes a third of a second to begin


def introspect(directory, what):
    done = subprocess.run(["meson", "introspect", what, directory], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def listed(directory, path):
    """The tests of a list as meson describes them, in its order."""
    names = {line.split(" / ")[-1] for line in pathlib.Path(path).read_text().splitlines()}
    return [test for test in introspect(directory, "--tests") if test["name"] in names]


def targets(directory, path):
    files = {target["id"]: target["filename"] for target in introspect(directory, "--targets")}
    root = pathlib.Path(directory).resolve()
    needed = {file for test in listed(directory, path) for target in test["depends"] for file in files[target]}
    return sorted(str(pathlib.Path(file).relative_to(root)) for file in needed)


def tasks(tests):
    """What takes long (its priority says so) comes first and alone. What must come after others of its suite stays
    with them, in meson's order."""
    last = {suite for test in tests if test["priority"] < 0 for suite in test["suite"][:1]}
    together = [test for test in tests if test["suite"][0] in last]
    alone = sorted((test for test in tests if test not in together and test["priority"] > 0),
                   key=lambda test: -test["priority"])
    rest = [test for test in tests if test not in together and test not in alone]
    portion = max(1, min(PORTION_MAX, len(rest) // 8))
    found = [together] if together else []
    found += [[test] for test in alone]
    found += [rest[i:i + portion] for i in range(0, len(rest), portion)]
    return [" ".join(test["name"] for test in task) for task in found]


def unbuilt(directory):
    root = pathlib.Path(directory)
    commands = json.loads((root / "compile_commands.json").read_text())
    return [f"cd {shlex.quote(entry['directory'])} && {entry['command']} -fsyntax-only"
            for entry in commands if not (root / entry["output"]).exists()]


def main(what, directory, path=None):
    lines = {"targets": lambda: targets(directory, path), "tasks": lambda: tasks(listed(directory, path)),
             "unbuilt": lambda: unbuilt(directory)}[what]()
    for line in lines:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
