#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many facts each room asserts, by a thousand lines, and that it is not fewer than it was.

usage: asserts.py SOURCE_ROOT [--table]

What counts: assert(), assert_locked() and the like, q2_invariant(), _Static_assert(). What does not: assert(p) of
a name alone, which says no more than its use does. Who takes some away adds others, or says here why fewer are
right.
"""
import pathlib
import re
import sys

# Room: asserts by a thousand lines, at least.
LEAST = {
    "engine": 15,
    "engine/base": 22,
    "engine/loop": 30,
    "nbd": 16,
    "tls": 14,
    "backends/nbd": 20,
    "exports/nbd": 16,
    "qcow2/format": 37,
    "qcow2/meta": 26,
    "qcow2/space": 24,
    "qcow2/map": 20,
    "qcow2/flush": 21,
    "qcow2/check": 37,
    "qcow2/image": 34,
}
FACT = re.compile(r"\b(?:assert(?:_locked|_unlocked|_held)?|q2_invariant|_Static_assert)\(")
NAME_ALONE = re.compile(r"\bassert\(\w+\);")


def count(text):
    """(facts, lines)"""
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    code = re.sub(r"^#define .*", "", code, flags=re.M)
    return len(FACT.findall(code)) - len(NAME_ALONE.findall(code)), text.count("\n")


def density(root, room):
    facts = lines = 0
    for path in sorted((root / room).rglob("*.[ch]")):
        more, longer = count(path.read_text())
        facts, lines = facts + more, lines + longer
    return 1000 * facts / max(lines, 1)


def main():
    root = pathlib.Path(sys.argv[1])
    found = {room: density(root, room) for room in LEAST}
    if "--table" in sys.argv:
        for room, facts in found.items():
            print(f"{room:14} {facts:5.1f} by a thousand lines, at least {LEAST[room]}")
    bad = [room for room, facts in found.items() if facts < LEAST[room]]
    for room in bad:
        print(f"{room}: {found[room]:.1f} asserts by a thousand lines, at least {LEAST[room]} is what it had")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
