#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does arrows.py fire on what breaks its rules, and keep quiet without it? With objects of a compiler as well."""
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
import arrows  # noqa: E402

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


def breaches(root, files, also=None, circles=None):
    objects = []
    for path, text in files.items():
        source = root / path
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(text + "\n")
        objects.append(root / "lib.a.p" / (path.replace("/", "_") + ".o"))
        objects[-1].parent.mkdir(exist_ok=True)
        subprocess.run(["cc", "-c", "-o", objects[-1], source], check=True)
    subprocess.run(["ar", "crT", root / "lib.a", *objects], check=True)
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
    for name, change, arguments, want in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found = breaches(pathlib.Path(folder), {**GOOD, **change}, **arguments)
        if (want is None and found) or (want and not any(want in breach for breach in found)):
            print(f"wrong: {name}: {found or 'no breach'}")
            failed += 1
    print(f"{len(CASES)} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
