#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules of the house that a program can check. usage: lint.py SOURCE_ROOT

Prints one line for each breach, `PATH:LINE: CHECK: what, and what to do`, and exits 1 if there is any.
Exceptions are listed in tests/lint/allow, with a reason each.
"""
import pathlib
import re
import sys

LIBRARY = ["nbd", "tls", "engine", "backends", "filters", "qcow2", "jobs", "exports"]
FOLDERS = [*LIBRARY, "tools", "bench", "bindings", "tests", ".ci"]
# Which folders a folder may include from.
MAY_INCLUDE = {
    "engine": {"engine", "tls"},  # tls: credentials, in engine/spec
    "nbd": {"nbd", "engine/base"},
    "tls": {"tls"},
    "backends": {"engine", "backends", "filters", "nbd", "tls"},  # drivers.c lists both
    "filters": {"engine", "filters"},
    "qcow2": {"engine", "qcow2"},
    "tests": {*LIBRARY, "tools", "bench", "tests"},
    # Of the library these have what is installed: <vdisk.h>, <vdisk-space.h>, <vdisk-image.h>, <vdisk-bulk.h>,
    # <vdisk-backend.h>, <vdisk-lab.h>.
    "jobs": {"jobs"},
    "exports": {"exports", "nbd", "tls"},
    "tools": {"tools", "exports/nbd/nbd_export.h"},
    "tools/domain": {"tools/domain", "tools/lvm", "tools/arith.h"},
    "tools/lvm": {"tools/lvm", "tools/arith.h"},
    "tools/lv": {"tools/lv", "tools/lvm", "tools/arith.h"},
    "bench": {"bench", "tools/domain/domain.h"},
    "tests/tool": {"tools", "tests"},
}
# Rooms: from outside (but by tests) a room is included by its front header, which has its name.
ROOMS = re.compile(r"((?:qcow2|tools)/(\w+))/(\w+)\.h")
MAX_FILE, MAX_FUNCTION, MAX_LINE = 800, 70, 115

# Formats and backends are found by tables; the engine's own one is raw. A protocol may be followed by anything.
DRIVERS = re.compile(r'"(?:(?:qcow2?|file|host_device|blockdev|null-co|memory|sim)|(?:nbd|rbd|https?)[^"]*)"')

BANNED = {  # call: use instead
    "strcpy": "snprintf or memcpy with the size",
    "strcat": "snprintf",
    "sprintf": "snprintf",
    "vsprintf": "vsnprintf",
    "strncpy": "snprintf, or memcpy for fields that need no terminator",
    "gets": "getline",
    "atoi": "strtoull with its end checked",
    "atol": "strtoull with its end checked",
    "alloca": "a member of the op or a sized array",
    "strtok": "strcspn, or strtok_r",
    "usleep": "clock_nanosleep",
    "signal": "sigaction",
}
BANNED_IN_LIBRARY = {
    "printf": "err_set: a library does not print",
    "puts": "err_set: a library does not print",
    "putchar": "err_set: a library does not print",
    "fprintf": "err_set: a library does not print",
    "perror": "err_set: a library does not print",
    "abort": "assert for what cannot be, an error for what can",
    "exit": "an error code: the host program decides",
    "_exit": "an error code: the host program decides",
    "system": "posix_spawn, in tools",
}
# The library's memory goes through engine/base/mem.h, which also takes what the C library has given. Not that of
# folders that have no header of the engine's but the installed ones.
OWN_MEMORY = {"jobs", "exports"}
MEMORY = {"malloc": "mem_alloc", "calloc": "mem_calloc", "realloc": "mem_realloc", "free": "mem_free",
          "reallocarray": "mem_reallocarray", "aligned_alloc": "mem_aligned",
          "posix_memalign": "mem_memalign", "memalign": "mem_aligned",
          "strdup": "mem_strdup", "strndup": "mem_strndup", "asprintf": "mem_asprintf",
          "vasprintf": "mem_vasprintf", "realpath": "mem_realpath", "getline": "read and mem_realloc",
          "vdisk_alloc_buffer": "mem_buffer"}
MEMORY_ITSELF = {"engine/base/mem.h", "engine/base/mem.c", "engine/loop/buffer.c"}


# What reads no further than it needs ends a script with `pipefail` whenever the writer has more to say than one
# write takes, and is slow enough.
PIPE_CUT = re.compile(r"\|\s*(?:head\b|(?:e|f)?grep\s+-\w*[qm]|sed\s+(?:-\w+\s+)*\S*q\b)")


def blank(match):
    """Spaces for a comment or string, line ends kept."""
    return re.sub(r"[^\n]", " ", match.group(0))


def without_comments(text):
    pattern = r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\''
    return re.sub(pattern, lambda m: blank(m) if m.group(0)[0] == "/" else m.group(0), text, flags=re.S)


def without_strings(text):
    return re.sub(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', blank, text)


class Lint:
    def __init__(self, root):
        self.root = root
        self.breaches = []
        self.lengths = []
        self.bodies = {}
        self.allowed = {}
        allow = root / "tests/lint/allow"
        for line in allow.read_text().splitlines() if allow.exists() else []:
            entry, _, reason = line.partition("#")
            if entry.strip():
                if not reason.strip():
                    self.breaches.append(f"tests/lint/allow: '{entry.strip()}' has no reason")
                self.allowed[" ".join(entry.split())] = False
        meson = [p for p in root.rglob("meson.build") if self.ours(p)]
        self.meson = {p.parent: p.read_text() for p in meson}

    def ours(self, path):
        parts = path.relative_to(self.root).parts
        return not parts[0].startswith("build") and (len(parts) == 1 or parts[0] in FOLDERS)

    def breach(self, check, path, line, name, text):
        where = str(path.relative_to(self.root))
        for entry in (f"{check} {where}", f"{check} {where}:{name}"):
            if entry in self.allowed:
                self.allowed[entry] = True
                return
        self.breaches.append(f"{where}:{line}: {check}: {text}")

    # ---- checks of one file ---------------------------------------------------------------------------

    def check_text(self, path, text):
        lines = text.splitlines()
        head = "\n".join(lines[:2])
        if "SPDX-License-Identifier: LGPL-2.1-or-later" not in head:
            self.breach("spdx", path, 1, "", "the first line does not name the licence (SPDX-License-Identifier)")
        if len(lines) > MAX_FILE:
            self.breach("file-length", path, len(lines), "", f"{len(lines)} lines, more than {MAX_FILE}: split it")
        for number, line in enumerate(lines, 1):
            if len(line) > MAX_LINE:
                self.breach("line-length", path, number, "", f"{len(line)} columns, more than {MAX_LINE}")
            if line != line.rstrip() or "\t" in line:
                self.breach("blanks", path, number, "", "blanks at the end of the line, or a tab")
            word = re.search(r"\b(FIXME|XXX|TODO)\b", line)
            if word and path.parent.name != "lint":
                self.breach("leftover", path, number, word[1], f"{word[1]}: do it, or open an issue")

    def check_includes(self, path, code):
        parts, seen = path.relative_to(self.root).parts, set()
        folder = "/".join(parts[:2]) if "/".join(parts[:2]) in MAY_INCLUDE else parts[0]
        for match in re.finditer(r'^\s*#\s*include\s+"([^"]+)"', code, re.M):
            name, line = match[1], code.count("\n", 0, match.start()) + 1
            if name in seen:
                self.breach("include", path, line, name, f'"{name}" is included twice')
            seen.add(name)
            target = name.split("/")[0] if "/" in name else None
            if target is None:
                self.breach("include", path, line, name, f'"{name}": give the path from the top of the tree')
            elif not any(name == may or name.startswith(may + "/") for may in MAY_INCLUDE[folder]):
                self.breach("include", path, line, name, f'{folder} may not include "{name}": '
                            f'only {", ".join(sorted(MAY_INCLUDE[folder]))}')
            room = ROOMS.fullmatch(name)
            if room and parts[0] != "tests" and room[1] != "/".join(parts[:-1]) and room[2] != room[3]:
                self.breach("include", path, line, name, f'"{name}" is the room\'s own: include '
                            f'"{room[1]}/{room[2]}.h"')

        for match in re.finditer(r'^\s*#\s*include\s+<((\w+)/[^>]+)>', code, re.M):
            if match[2] in FOLDERS:
                line = code.count("\n", 0, match.start()) + 1
                self.breach("include", path, line, match[1], f'<{match[1]}> is ours: include it as "{match[1]}"')

    def check_drivers(self, path, code):
        """The engine spells no driver's name."""
        if path.relative_to(self.root).parts[0] != "engine":
            return
        for match in DRIVERS.finditer(code):
            line = code.count("\n", 0, match.start()) + 1
            self.breach("driver-name", path, line, match[0].strip('"'),
                        f"{match[0]}: a driver's name: ask its table")

    def check_calls(self, path, code):
        folder = path.relative_to(self.root).parts[0]
        banned = dict(BANNED)
        if folder in LIBRARY:
            banned.update(BANNED_IN_LIBRARY)
            if folder not in OWN_MEMORY and str(path.relative_to(self.root)) not in MEMORY_ITSELF:
                banned.update(MEMORY)
        for match in re.finditer(r"(?<![\w.>])(\w+)\s*\(", code):
            if match[1] in banned:
                line = code.count("\n", 0, match.start()) + 1
                if path.suffix == ".h" and re.search(r"VDISK_API[^;]*$", code[:match.start()]):
                    continue  # a declaration
                self.breach("banned", path, line, match[1], f"{match[1]}(): use {banned[match[1]]}")

    def check_functions(self, path, code):
        """A function's body opens with a brace alone in column 0 and ends with one."""
        lines = code.splitlines()
        whole = without_comments(path.read_text()).splitlines()
        start = None
        for number, line in enumerate(lines):
            if line == "{":
                start = number
                while start > 0 and lines[start - 1].strip() and not lines[start - 1].startswith(("#", "}")) \
                        and not lines[start - 1].rstrip().endswith(";"):
                    start -= 1
                opened = number
            elif line == "}" and start is not None:
                head = " ".join(lines[start:opened])
                name = re.search(r"(\w+)\s*\(", head)
                name = name[1] if name else "?"
                length = number - start + 1
                self.lengths.append(length)
                step = name.endswith("_step")
                if length > MAX_FUNCTION and not step:
                    self.breach("function-length", path, start + 1, name,
                                f"{name} has {length} lines, more than {MAX_FUNCTION}: split it")
                body = "\n".join(lines[opened:number])
                self.check_body(path, start + 1, name, "\n".join(whole[opened:number]))
                if not step and re.search(r"\bOP_(TRY|AWAIT|BEGIN)\b", body):
                    self.breach("await", path, start + 1, name, f"{name}: awaits belong in *_step functions")
                start = None

    def check_body(self, path, line, name, body):
        """One of two statements or more stands once, in the library and the tool."""
        text = re.sub(r"\s+", " ", body)
        if path.relative_to(self.root).parts[0] not in (*LIBRARY, "tools") or text.count(";") < 2:
            return
        if text in self.bodies:
            self.breach("body", path, line, name, f"{name} does what {self.bodies[text]} does, word for word")
        self.bodies.setdefault(text, f"{name} of {path.relative_to(self.root)}")

    def check_listed(self, path):
        """Some meson.build at or above the file's folder names it."""
        folder = path.parent
        while True:
            if f"'{path.relative_to(folder)}'" in self.meson.get(folder, ""):
                return
            if folder == self.root:
                break
            folder = folder.parent
        self.breach("unlisted", path, 1, "", "no meson.build builds this file: list it or remove it")

    def check_pipes(self, path, text):
        if not re.search(r"^set -\w*o pipefail", text, re.M):
            return
        for number, line in enumerate(text.splitlines(), 1):
            if PIPE_CUT.search(line) and "|| true" not in line:
                self.breach("pipe-cut", path, number, line, "the writer may get SIGPIPE: take it otherwise")

    # ---- the whole ------------------------------------------------------------------------------------

    def run(self):
        for path in sorted(self.root.rglob("*")):
            if not path.is_file() or not self.ours(path):
                continue
            script = path.suffix in (".py", ".sh") or (not path.suffix and path.read_bytes()[:2] == b"#!")
            if path.suffix not in (".c", ".h") and not script:
                continue
            text = path.read_text()
            self.check_text(path, text)
            if script:
                self.check_pipes(path, text)
                continue
            code = without_comments(text)
            self.check_includes(path, code)
            self.check_drivers(path, code)
            code = without_strings(code)
            self.check_calls(path, code)
            self.check_functions(path, code)
            if path.suffix == ".c":
                self.check_listed(path)
        for entry, used in self.allowed.items():
            if not used:
                self.breaches.append(f"tests/lint/allow: '{entry}' is no longer needed: remove it")

    def report(self):
        for breach in self.breaches:
            print(breach)
        lengths = sorted(self.lengths) or [0]
        p90 = lengths[int(len(lengths) * 0.9)] if len(lengths) > 1 else lengths[0]
        print(f"{len(self.lengths)} functions: median {lengths[len(lengths) // 2]} lines, p90 {p90}, "
              f"longest {lengths[-1]}; {len(self.breaches)} breaches")
        return 1 if self.breaches else 0


def main():
    lint = Lint(pathlib.Path(sys.argv[1]).resolve())
    lint.run()
    return lint.report()


if __name__ == "__main__":
    sys.exit(main())
