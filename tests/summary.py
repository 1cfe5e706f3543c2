#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sum up what `meson test` logged: failures with the end of their output, skips with their reason, what took
longest, and the count.

usage: summary.py DIRECTORY   of BUILD.json (logs), BUILD.list (the tests that were to run), BUILD.late (there if
                              the time was over before the end), and `extra`: RESULT, BUILD, TEST, REASON
"""
import json
import pathlib
import re
import sys
import textwrap

TAIL_LINES = 60
LINE_MAX = 200 # of what is said in one line
SLOWEST = 12
PASSED = {"OK", "EXPECTEDFAIL"}


def skip_reason(text):
    """The line that says why: the one with "skip" in it, or else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if re.search(r"\bskip", line, re.I):
            return line
    return lines[-1] if lines else "no reason given"


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:LINE_MAX] if lines else "it said nothing"


def print_skipped(skipped):
    """All of one reason together: where a summary is cut because it is long, failures are lost."""
    names = {}
    for build, name, reason in skipped:
        names.setdefault((build, reason), []).append(name.split(" / ")[-1])
    for (build, reason), tests in names.items():
        count = f"{len(tests)} tests: " if len(tests) > 1 else ""
        text = f"SKIPPED {build}: {reason}: {count}{', '.join(tests)}"
        print("\n".join(textwrap.wrap(text, LINE_MAX, subsequent_indent="    ")))


def read_build(log):
    """(build, name, result, output, seconds) of each test of a build: what ran, and what was to."""
    build, late, seen = log.stem, log.with_suffix(".late").exists(), set()
    results = []
    for line in log.read_text(errors="replace").splitlines():
        test = json.loads(line)
        output = (test.get("stdout") or "") + (test.get("stderr") or "")
        result = test["result"]
        if late and result == "INTERRUPT":
            result, output = "SKIP", "stopped: the time was over"
        seen.add(test["name"])
        results.append((build, test["name"], result, output, test.get("duration") or 0))
    wanted = log.with_suffix(".list")
    for name in wanted.read_text().splitlines() if wanted.exists() else []:
        if name not in seen:
            left_out = ("SKIP", "not begun: the time was over") if late else ("FAIL", "left no result")
            results.append((build, name, *left_out, 0))
    return results


def main(directory):
    passed, failed, skipped = 0, [], []
    results = []
    extra = directory / "extra"
    if extra.exists():
        for line in extra.read_text().splitlines():
            result, build, name, reason = line.split("\t")
            results.append((build, name, result, reason, 0))
    for path in sorted(directory.glob("*.json")):
        results.extend(read_build(path))

    for build, name, result, output, _ in results:
        if result in PASSED:
            passed += 1
            # Cases that a cmocka program skipped by itself.
            for case in sorted(set(re.findall(r"^\[  SKIPPED \] (\S+)$", output, re.M))):
                skipped.append((build, f"{name}: {case}", "skipped itself"))
        elif result == "SKIP":
            skipped.append((build, name, skip_reason(output)))
        else:
            failed.append((build, name, result, output))

    slowest = sorted(results, key=lambda r: r[4], reverse=True)[:SLOWEST]
    print("longest: " + ", ".join(f"{build} {name.split(' / ')[-1]} {seconds:.0f} s"
                                  for build, name, _, _, seconds in slowest if seconds >= 1))
    print_skipped(skipped)
    for build, name, result, output in failed:
        tail = output.splitlines()[-TAIL_LINES:]
        print(f"\nFAILED {build}: {name} ({result}); the end of its output:")
        print("\n".join("    " + line for line in tail))
    for build, name, result, output in failed:
        print(f"FAILED {build}: {name} ({result}): {last_line(output)}")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
