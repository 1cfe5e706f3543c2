#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does asserts.py count what is a fact, and nothing else?"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
import asserts  # noqa: E402

CASES = [
    ("assert(a > 0);", 1),
    ("assert_locked(&m->lock); assert_unlocked(&m->lock);", 2),
    ('if (!q2_invariant(meta, a == b, "text"))', 1),
    ('_Static_assert(sizeof a == 8, "text");', 1),
    ("assert(p);", 0),
    ("/* assert(a > 0); */", 0),
    ("#define assert_held(c) assert(!(c)->lock)", 0),
    ("check_assert(c); my_assert(a > 0);", 0),
]


def main():
    bad = [(code, found, want) for code, want in CASES if (found := asserts.count(code)[0]) != want]
    for code, found, want in bad:
        print(f"{code}: {found} facts, should be {want}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
