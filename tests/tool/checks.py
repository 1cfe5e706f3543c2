# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests of vdisk-io share: the tool, which is a script's first argument; facts, which are counted; commands,
and what is to be true of them. Output is text, with each \\r as it came."""
import os
import pathlib
import subprocess
import sys

sys.dont_write_bytecode = True
TOOL = str(pathlib.Path(sys.argv[1]).resolve())
failures = []
checks = 0


def fail(what, *more):
    failures.append(what)
    print(f"FAILED: {what}", *more)


def expect(what, is_so, *more):
    global checks
    checks += 1
    if not is_so:
        fail(what, *more)


def end(more="", least=1):
    """Tells how many there were. The exit code of the script; with fewer than `least` it has tested nothing."""
    print(f"{checks} checks, {len(failures)} failures{more}")
    return 1 if failures or checks < least else 0


# ---- commands -----------------------------------------------------------------------------------------------


def words(args):
    return " ".join(map(str, args))


def call(*args, **how):
    """The program and its arguments. `input`: bytes, or None; `stdout`: not to be looked at."""
    if how.get("input") is None:
        how.pop("input", None)
        how.setdefault("stdin", subprocess.DEVNULL)
    how.setdefault("stdout", subprocess.PIPE)
    result = subprocess.run(args, stderr=subprocess.PIPE, check=False, **how)
    result.stdout = (result.stdout or b"").decode(errors="replace")
    result.stderr = result.stderr.decode(errors="replace")
    return result


def must_call(*args, **how):
    """Its output. Where it fails there is nothing to be tested."""
    result = call(*args, **how)
    if result.returncode:
        sys.exit(f"{words(args)}: {result.stdout}{result.stderr}")
    return result.stdout


def run(*args, **how):
    return call(TOOL, *args, **how)


def must(*args, **how):
    return must_call(TOOL, *args, **how)


def works(*args, **how):
    result = run(*args, **how)
    expect(f"works: {words(args)}", result.returncode == 0, result.stderr)
    return result


def hints_aside(said):
    return [line for line in said.splitlines() if not line.startswith("vdisk-io: hint: ")]


def refused(text, *args, code=1, **how):
    """In one line that has the text; hints may follow it."""
    result = run(*args, **how)
    lines = hints_aside(result.stderr)
    expect(f"refused: {words(args)}", result.returncode == code and not result.stdout, result.returncode,
           result.stdout)
    expect(f"one line with '{text}' for: {words(args)}", len(lines) == 1 and text in result.stderr, result.stderr)
    return result


def same(a, b):
    result = run("compare", "-q", a, b)
    expect(f"{a} reads as {b}", result.returncode == 0, result.stderr)


def remove(*names):
    for name in names:
        if os.path.lexists(name):
            os.unlink(name)
