#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each operation on a domain, killed at each of its steps: it has happened, or not, or the next command on the
image ends or undoes it; 'domain check' names what is left and repairs it. The images read what they did before, or
what they do after it.

usage: test_domain_kill.py VDISK_IO STEP_TOOL
"""
import os
import pathlib
import re
import shutil
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lib  # noqa: E402
from lib import check, told, works  # noqa: E402
import vdsm  # noqa: E402

STEP_TOOL = os.path.realpath(sys.argv[2])
SOURCE = pathlib.Path(__file__).parents[2] / "tools/domain"
DOMAIN = "dddddddd-0000-4000-8000-00000000000d"
IMAGE = "11111111-0000-4000-8000-000000000001"
OTHER = "22222222-0000-4000-8000-000000000002"
A, B, C, D = (f"{letter * 8}-0000-4000-8000-{letter * 12}" for letter in "abcd")
seen = set()


def stepped(arguments, **variables):
    return lib.run(*arguments, tool=STEP_TOOL,
                   env={**os.environ, **{f"VDISK_TEST_{k}": v for k, v in variables.items()}})


def judge(path, what, marks=False):
    try:
        return vdsm.Domain(path, marks=marks)
    except (vdsm.Wrong, OSError) as e:
        check(f"{what}: judged", False, e)
        return None


def content(path):
    """{image: what its leaf reads}"""
    found = {}
    for image in sorted(os.listdir(f"{path}/images")):
        r = lib.run("volume", "prepare", f"{path}/{image}", "--output=json")
        if r.returncode == 0:
            top = lib.json.loads(r.stdout)[0]
            found[image] = works("checksum", "-f", top["format"], top["path"]).stdout.split()[0]
    return found


def kill_and_go_on(what, path, operation, before, after):
    """The next command on the image, then the operation again."""
    r = lib.run("volume", "update", f"{path}/{IMAGE}", "--description", "next")
    left = content(path)
    check(f"{what}: the next command leaves either", left in (before, after) or not left.get(IMAGE),
          f"{left} {r.stderr}")
    if r.returncode == 0:
        judge(path, f"{what}, next command", operation[1] == "merge")
    again = lib.run(*operation)
    check(f"{what}: once more", again.returncode == 0 or left == after, again.stderr)
    judge(path, f"{what}, once more")
    check(f"{what}: done in the end", content(path) == after, f"{content(path)} {again.stderr}")
    check(f"{what}: nothing is left", told("domain", "check", path)["faults"] == 0)


def kill_and_repair(what, path, before, after, marks):
    found = told_any("domain", "check", path)
    repaired = told("domain", "check", "--repair", path)
    check(f"{what}: check finds as much as is repaired", found["faults"] <= repaired["mended"] or
          not found["faults"],
          f"{found} {repaired}")
    check(f"{what}: all is repaired", told("domain", "check", path)["faults"] == 0, repaired)
    judge(path, f"{what}, repaired", marks)
    check(f"{what}: repaired to either", content(path) in (before, after), repaired)


def told_any(*arguments):
    r = lib.run(*arguments, "--output=json")
    check("check tells", r.returncode in (0, 2), r.stderr)
    return lib.json.loads(r.stdout)


def scenario(name, setup, *operation):
    os.makedirs(f"{name}/first")
    base = f"{name}/first/{DOMAIN}"
    works("domain", "create", f"{name}/first", "--uuid", DOMAIN)
    setup(base)
    before = content(base)

    def copy(to):
        shutil.rmtree(f"{name}/{to}", ignore_errors=True)
        os.makedirs(f"{name}/{to}")
        lib.subprocess.run(["cp", "-a", "--sparse=always", base, f"{name}/{to}/"], check=True)
        path = f"{name}/{to}/{DOMAIN}"
        return path, [str(a).replace("@", path) for a in operation]

    path, command = copy("whole")
    r = stepped(command, STEPS=f"{os.getcwd()}/steps")
    check(f"{name} works", r.returncode == 0, r.stderr)
    steps = pathlib.Path("steps").read_text().splitlines()
    os.unlink("steps")
    after = content(path)
    judge(path, name)
    for n, step in enumerate(steps):
        seen.add(step)
        times = steps[:n].count(step)
        what = f"{name}, killed at '{step}' ({times + 1})"
        path, command = copy("killed")
        check(what, stepped(command, KILL=step, AFTER=str(times)).returncode == -signal.SIGKILL)
        shutil.rmtree(f"{name}/repaired", ignore_errors=True)
        lib.subprocess.run(["cp", "-a", "--sparse=always", f"{name}/killed", f"{name}/repaired"], check=True)
        kill_and_repair(what, f"{name}/repaired/{DOMAIN}", before, after, command[1] == "merge")
        kill_and_go_on(what, path, command, before, after)
    shutil.rmtree(name)


# ---- what there is before -------------------------------------------------------------------------------------


def write(path, volume, fmt, *commands, image=IMAGE):
    works("io", "-f", fmt, *(x for c in commands for x in ("-c", c)), f"{path}/images/{image}/{volume}")


def nothing(path):
    pass


def chain(fmt, length):
    def setup(path):
        works("volume", "create", "-f", fmt, f"{path}/{IMAGE}", "1M", "--uuid", A)
        write(path, A, fmt, "write -P 1 0 512k")
        for n, volume in enumerate((B, C, D)[:length - 1]):
            works("volume", "snapshot", f"{path}/{IMAGE}", f"{n + 2}M", "--uuid", volume)
            write(path, volume, "qcow2", f"write -P {n + 2} {n * 64 + 128}k 192k",
                  f"write -P 7 {(n + 2) * 1024 - 64}k 64k")
    return setup


def template(path):
    works("volume", "create", "-f", "qcow2", f"{path}/{OTHER}", "1M", "--uuid", A)
    write(path, A, "qcow2", "write -P 1 0 512k", image=OTHER)
    works("volume", "update", f"{path}/{OTHER}", "--shared")


def original(path):
    works("volume", "create", "-f", "qcow2", f"{path}/{OTHER}", "1M", "--uuid", A)
    write(path, A, "qcow2", "write -P 1 0 512k", image=OTHER)


def clone(path):
    template(path)
    works("image", "clone", f"{path}/{OTHER}", "--image", IMAGE, "--uuid", B)


def punched(path):
    works("volume", "create", "-a", "preallocated", f"{path}/{IMAGE}", "1M", "--uuid", A)
    write(path, A, "raw", "write -P 1 0 512k", "discard 256k 512k")


def leaking(path):
    chain("qcow2", 1)(path)
    lib.leak(f"{path}/images/{IMAGE}/{A}")


def elsewhere(setup, here=nothing):
    """The image of a setup in a domain of its own, in the folder `source`."""
    def both(path):
        shutil.rmtree("source", ignore_errors=True)
        os.makedirs("source")
        setup(f"source/{works('domain', 'create', 'source').stdout.strip()}")
        here(path)
    return both


def test_operations():
    scenario("create", nothing, "volume", "create", "-f", "qcow2", f"@/{IMAGE}", "1M", "--uuid", A)
    scenario("create raw", nothing, "volume", "create", "-a", "preallocated", f"@/{IMAGE}", "1M", "--uuid", A)
    scenario("snapshot", chain("raw", 1), "volume", "snapshot", f"@/{IMAGE}", "2M", "--uuid", B)
    scenario("clone", template, "image", "clone", f"@/{OTHER}", "--image", IMAGE, "--uuid", B)
    scenario("delete", chain("qcow2", 2), "volume", "delete", f"@/{IMAGE}/{B}")
    scenario("delete the last", chain("raw", 1), "volume", "delete", f"@/{IMAGE}/{A}")
    scenario("delete of a clone", clone, "volume", "delete", f"@/{IMAGE}/{B}")
    scenario("image delete", chain("raw", 2), "image", "delete", f"@/{IMAGE}")
    scenario("delete and clear", chain("qcow2", 2), "volume", "delete", "--wipe", "--discard", f"@/{IMAGE}/{B}")
    scenario("image delete and clear", chain("raw", 2), "image", "delete", "--wipe", f"@/{IMAGE}")
    scenario("merge the leaf", chain("raw", 2), "volume", "merge", f"@/{IMAGE}/{B}")
    scenario("merge amid", chain("qcow2", 4), "volume", "merge", f"@/{IMAGE}/{C}")
    scenario("merge and wipe", chain("qcow2", 3), "volume", "merge", "--wipe", f"@/{IMAGE}/{B}")
    scenario("merge into raw", chain("raw", 3), "volume", "merge", f"@/{IMAGE}/{B}")
    scenario("copy", original, "image", "copy", f"@/{OTHER}", "@", "--image", IMAGE, "--uuid", B)
    copy = ("image", "copy", "--volumes", f"{os.getcwd()}/source/{IMAGE}", "@")
    scenario("copy volumes", elsewhere(chain("raw", 3)), *copy)
    scenario("copy volumes of qcow2", elsewhere(chain("qcow2", 2)), *copy)
    scenario("copy volumes of a clone", elsewhere(clone, template), *copy)
    scenario("extend", punched, "volume", "extend", f"@/{IMAGE}")
    scenario("reduce", leaking, "volume", "reduce", f"@/{IMAGE}")
    scenario("resize", chain("qcow2", 1), "volume", "resize", f"@/{IMAGE}", "2M")


def test_domain_create():
    os.makedirs("made")
    command = ["domain", "create", "made", "--uuid", DOMAIN]
    check("create works", stepped(command, STEPS=f"{os.getcwd()}/steps").returncode == 0)
    for step in pathlib.Path("steps").read_text().splitlines():
        seen.add(step)
        shutil.rmtree("made")
        os.makedirs("made")
        check("killed", stepped(command, KILL=step).returncode == -signal.SIGKILL)
        there = os.path.exists(f"made/{DOMAIN}")
        check("there at the end only", there == (step == "domain create: domain is named"))
        check("again", (lib.run(*command).returncode == 0) != there)
        judge(f"made/{DOMAIN}", f"killed at '{step}'")
        check("nothing else is left", os.listdir("made") == [DOMAIN], os.listdir("made"))


def test_locks():
    """Who works on an image keeps others away, who are told who it is; others, of other images, go on."""
    os.makedirs("locks")
    works("domain", "create", "locks", "--uuid", DOMAIN)
    path = f"locks/{DOMAIN}"
    chain("raw", 2)(path)
    child = lib.subprocess.Popen([STEP_TOOL, "volume", "merge", f"{path}/{IMAGE}/{B}"],
                                 env={**os.environ, "VDISK_TEST_STOP": "merge: base has the data"},
                                 stdout=lib.subprocess.DEVNULL)
    os.waitpid(child.pid, os.WUNTRACED)
    lib.refused(f"image {IMAGE} is in use by process {child.pid} (step_tool)", "volume", "snapshot",
                f"{path}/{IMAGE}")
    works("volume", "create", path, "1M")
    works("image", "tree", path)
    said = told("domain", "check", path)
    check("check skips it, and says so", said["skipped"] == 1 and str(child.pid) in said["findings"][0]["text"],
          said)
    waiting = lib.subprocess.Popen([lib.TOOL, "volume", "snapshot", "-q", "--wait", f"{path}/{IMAGE}"])
    os.kill(child.pid, signal.SIGCONT)
    check("it ends", child.wait() == 0)
    check("who waited goes on", waiting.wait() == 0)
    domain = judge(path, "after the wait")
    check("both have done it", domain and len(domain.images[IMAGE]) == 2 and A in domain.images[IMAGE])


def test_steps():
    """All steps that there are in the source have been killed at."""
    named = set()
    for file in set(SOURCE.glob("*.c")) - {SOURCE / "op_upgrade.c"}: # test_domain_versions.py
        named |= set(re.findall(r'dom_step\("([^"]+)"\)', file.read_text()))
    named -= {"merge: volume has zeros behind the base's end"} # of groups: test_domain_group.py
    check("each step was killed at", seen == named, f"not {named - seen}; unknown {seen - named}")


lib.main(test_operations, test_domain_create, test_locks, test_steps)
