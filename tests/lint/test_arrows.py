#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Do arrows.py and doors.py fire on what breaks their rules, and on nothing else? With a compiler's objects."""
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
import arrows  # noqa: E402
import doors  # noqa: E402

ROOMS = {
    "low": ("house/low/*.c", []),
    "high": ("house/{top,side}.c", ["low"]),
}
GOOD = {
    "house/low/a.c": "int low_a(void) { return 1; }",
    "house/top.c": "int low_a(void); int side(void); int top(void) { return low_a() + side(); }",
    "house/side.c": "int low_a(void); int side(void) { return low_a(); }",
}
LOW_USES_HIGH = {"house/low/a.c": "int side(void); int low_a(void) { return side(); }",
                 "house/side.c": "int side(void) { return 2; }"}
CIRCLE = {"house/side.c": "int top(void); int low_a(void); int side(void) { return top() + low_a(); }"}
# what is changed in GOOD, further arguments, words that a breach must have (None: there is none)
CASES = [
    ("nothing", {}, {}, None),
    ("a use against the arrows", LOW_USES_HIGH, {}, "low may not use high"),
    ("the same, allowed", LOW_USES_HIGH, {"also": {("low", "side"): "a reason"}}, None),
    ("an allowance nobody needs", {}, {"also": {("low", "side"): "a reason"}}, "which nobody takes"),
    ("a circle", CIRCLE, {}, "a circle of 2 files, at most 1"),
    ("a circle, allowed", CIRCLE, {"circles": {"house/top.c": (2, "a reason")}}, None),
    ("a circle over rooms, allowed", {**LOW_USES_HIGH, "house/side.c": GOOD["house/side.c"]},
     {"also": {("low", "side"): "a reason"}, "circles": {"house/side.c": (2, "a reason")}},
     "a circle over the rooms"),
    ("a circle smaller than it may be", CIRCLE, {"circles": {"house/top.c": (3, "a reason")}}, "has 2 files"),
    ("no circle where one may be", {}, {"circles": {"house/top.c": (2, "a reason")}}, "which is in none"),
    ("a file in no room", {"house/cellar.c": "int cellar(void) { return 3; }"}, {}, "is in no room"),
]


LIBRARY = {"house/lib.c": "int vdisk_a(void) { return 1; } int vdisk_own(void) { return 2; } "
                          "int low(void) { return 3; }"}


def program(name):
    return {"tools/a.c": f"int {name}(void); int puts(const char *); int a(void) {{ return {name}() + puts(0); }}"}


# the name that a program takes, may it take others, words that a breach must have
DOOR_CASES = [
    ("vdisk_a", {}, None),
    ("low", {}, "a.c: takes low"),
    ("vdisk_own", {}, "a.c: takes vdisk_own"),
    ("low", {"tools_a.c": "a reason"}, None),
    ("vdisk_a", {"tools_a.c": "a reason"}, "remove it"),
]


def archive(root, name, files):
    objects = []
    for path, text in files.items():
        source = root / path
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(text + "\n")
        objects.append(root / f"{name}.a.p" / (path.replace("/", "_") + ".o"))
        objects[-1].parent.mkdir(exist_ok=True)
        subprocess.run(["cc", "-c", "-o", objects[-1], source], check=True)
    subprocess.run(["ar", "crT", root / f"{name}.a", *objects], check=True)
    return root / f"{name}.a"


def door_breaches(root, name, also):
    programs = [archive(root, "tool", program(name))]
    return doors.judge({"vdisk_a"}, archive(root, "lib", LIBRARY), programs, also)[0]


def breaches(root, files, also=None, circles=None):
    archive(root, "lib", files)
    graph = arrows.uses(arrows.symbols([root / "lib.a"], sorted(files)))
    if set(graph) != set(files):
        return [f"only {sorted(graph)} were found"]
    check = arrows.Arrows(ROOMS, also or {}, circles or {})
    check.judge(graph, arrows.rooms_of(ROOMS, sorted(files)))
    return check.breaches


def main():
    failed = 0
    if not all(shutil.which(program) for program in ("cc", "ar", "nm")):
        print("skipped: there is no cc, ar or nm")
        return 77

    def judge(name, found, want):
        nonlocal failed
        if (want is None and found) or (want and not any(want in breach for breach in found)):
            print(f"wrong: {name}: {found or 'no breach'}")
            failed += 1

    for name, change, arguments, want in CASES:
        with tempfile.TemporaryDirectory() as folder:
            judge(name, breaches(pathlib.Path(folder), {**GOOD, **change}, **arguments), want)
    for taken, also, want in DOOR_CASES:
        with tempfile.TemporaryDirectory() as folder:
            judge(f"a program that takes {taken}", door_breaches(pathlib.Path(folder), taken, also), want)
    print(f"{len(CASES) + len(DOOR_CASES)} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
