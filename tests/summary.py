#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sum up what `meson test` logged: failures with the end of their output, skips with their reason, and the count.

usage: summary.py DIRECTORY   (of BUILD.json logs, and `extra`: RESULT, BUILD, TEST, REASON between tabs)
"""
import json
import pathlib
import re
import sys

TAIL_LINES = 60
PASSED = {"OK", "EXPECTEDFAIL"}


def skip_reason(text):
    """The line that says why: the one with "skip" in it, or else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if re.search(r"\bskip", line, re.I):
            return line
    return lines[-1] if lines else "no reason given"


def read_log(path):
    """Yield (build, name, result, output) for each line of a log."""
    for line in path.read_text(errors="replace").splitlines():
        test = json.loads(line)
        output = (test.get("stdout") or "") + (test.get("stderr") or "")
        yield path.stem, test["name"], test["result"], output


def main(directory):
    passed, failed, skipped = 0, [], []
    results = []
    extra = directory / "extra"
    if extra.exists():
        for line in extra.read_text().splitlines():
            result, build, name, reason = line.split("\t")
            results.append((build, name, result, reason))
    for path in sorted(directory.glob("*.json")):
        results.extend(read_log(path))

    for build, name, result, output in results:
        if result in PASSED:
            passed += 1
            # Cases that a cmocka program skipped by itself.
            for case in sorted(set(re.findall(r"^\[  SKIPPED \] (\S+)$", output, re.M))):
                skipped.append((build, f"{name}: {case}", "skipped itself"))
        elif result == "SKIP":
            skipped.append((build, name, skip_reason(output)))
        else:
            failed.append((build, name, result, output))

    for build, name, result, output in failed:
        tail = output.splitlines()[-TAIL_LINES:]
        print(f"\nFAILED {build}: {name} ({result}); the end of its output:")
        print("\n".join("    " + line for line in tail))
    for build, name, reason in skipped:
        print(f"SKIPPED {build}: {name}: {reason}")
    for build, name, result, _ in failed:
        print(f"FAILED {build}: {name} ({result})")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
