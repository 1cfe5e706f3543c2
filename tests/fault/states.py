#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each state of each op has been awaited by a fault test, and has failed there, or is listed as one that cannot.
A line of `cannot_fail` may name one error that a state cannot fail with ("STATE ENOSPC # why"). What is missing is
listed as well, in `holes`, with the reason; a line there that is no hole any more is an error.

usage: states.py SOURCE_ROOT STATES_DIR PROGRAM...

The states are read from the OP_TYPE()s in the sources; what was seen, from the files that the programs left in
STATES_DIR (tests/lib/states.c). Exit status 77: a program has not run since it was built, or did not pass.
"""
import pathlib
import re
import sys

AWAITED, EIO, ENOSPC, ENOMEM = 1, 2, 4, 8
ERRORS = {"EIO": EIO, "ENOSPC": ENOSPC}


def states_in_sources(root):
    """{(type, state): where}, without the first state of each type, which nothing awaits."""
    states = {}
    for folder in ("engine", "backends", "qcow2", "tools"):
        for path in sorted((root / folder).rglob("*.c")):
            text = path.read_text()
            for match in re.finditer(r"^OP_TYPE\((\w+),\s*\w+,([^;]*)\);", text, re.M):
                names = re.findall(r'"(\w+)"', match[2])
                for name in names[1:]:
                    states[match[1], name] = str(path.relative_to(root))
    return states


def exceptions(path):
    """{state: reason} of a list."""
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        entry, _, reason = line.partition("#")
        if not entry.strip():
            continue
        if not reason.strip():
            sys.exit(f"{path.name}:{number}: no reason is given")
        found[entry.strip()] = reason.strip()
    return found


def seen_by(directory, programs):
    """{(type, state): bits}, or the reason why nobody knows."""
    seen = {}
    for program in programs:
        file = directory / program.name
        if not file.exists():
            return None, f"{program.name} has not run as a whole, or did not pass: run the suite fault"
        if file.stat().st_mtime < program.stat().st_mtime:
            return None, f"{program.name} was built anew since it ran: run the suite fault"
        for line in file.read_text().splitlines():
            kind, state, bits = line.split()
            seen[kind, state] = seen.get((kind, state), 0) | int(bits)
    return seen, None


def judge(states, cannot_fail, seen):
    """[(state, what is wrong)]"""
    problems = []
    names = {state for _, state in states}
    never = {tuple(entry.split()) for entry in cannot_fail if " " in entry}
    for name in cannot_fail:
        if name.split()[0] not in names or any(error not in ERRORS for error in name.split()[1:]):
            problems.append((name, "tests/fault/cannot_fail: there is no such state or error"))
    for (kind, state), where in states.items():
        bits = seen.get((kind, state), 0)
        failed = bits & ~AWAITED
        if not bits & AWAITED:
            problems.append((state, f"{where}: {kind}: no fault test awaits it: add a scenario that does"))
        elif state in cannot_fail and failed:
            problems.append((state, f"{where}: {kind}: has failed, though tests/fault/cannot_fail says it cannot"))
        elif state not in cannot_fail:
            demanded = [name for name in ERRORS if (state, name) not in never]
            missing = [name for name in demanded if not bits & ERRORS[name]]
            wrong = [name for name in ERRORS if bits & ERRORS[name] and name not in demanded]
            if wrong:
                problems.append((state, f"{where}: {kind}: has failed with {wrong[0]}, which it cannot"))
            if missing:
                problems.append((state, f"{where}: {kind}: never failed with {' or '.join(missing)}"))
    return problems


def main(root, directory, programs):
    states = states_in_sources(root)
    cannot_fail = exceptions(root / "tests/fault/cannot_fail")
    seen, reason = seen_by(directory, programs)
    if seen is None:
        print(f"skipped: {reason}")
        return 77
    holes = exceptions(root / "tests/fault/holes")
    found = judge(states, cannot_fail, seen)
    problems = [f"{state}: {text}" for state, text in found if state not in holes]
    problems += [f"{name}: is no hole (any more): take it off tests/fault/holes"
                 for name in sorted(set(holes) - {state for state, _ in found})]
    for problem in problems:
        print(problem)
    out_of_memory = sum(1 for key in states if seen.get(key, 0) & ENOMEM)
    print(f"{len(states)} states, {len(cannot_fail)} of them cannot fail, {out_of_memory} failed for want of "
          f"memory; {len(holes)} known holes, {len(problems)} problems")
    return 1 if problems or not states else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), [pathlib.Path(p) for p in sys.argv[3:]]))
