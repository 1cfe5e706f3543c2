#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does each check of api.py fire on a breach, and keep quiet without one?"""
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
import api  # noqa: E402

FILES = {
    "engine/vdisk.h": "#define VDISK_API __attribute__((x))\nVDISK_API int vdisk_a(int x);\n"
                      "/* VDISK_API int vdisk_no(void); */\nVDISK_API const char *vdisk_b(void);\n",
    "engine/vdisk-image.h": "VDISK_API void vdisk_d(void);\n",
    "engine/vdisk-space.h": "",
    "engine/vdisk-bulk.h": "",
    "backends/vdisk-backend.h": "",
    "backends/lab/vdisk-lab.h": "VDISK_API void *vdisk_c(int (*f)(void));\n",
    "engine/libvdisk.map": "N_0.1 {\n global:\n vdisk_a;\n local:\n *;\n};\nVDISK_0.2 {\n global:\n"
                           " vdisk_b;\n vdisk_c;\n vdisk_d;\n} N_0.1;\n",
    "engine/a.c": "int vdisk_a(int x)\n{\n    return ERR_CALL(a(x));\n}\n",
    "meson.build": "project('x', version: '0.2.7')\n",
    "engine/version.c": 'return "0.2.7";\n',
    "docs/man/x.3":
        '.BI "int vdisk_a(int " x );\n.B const char *vdisk_b(void);\n.BI "void *vdisk_c(int (*" f ")(void));\n'
        '.B void vdisk_d(void);\n',
}

# file, what to change in it, what the breach says
CASES = [
    ("engine/vdisk.h", "vdisk_b", "vdisk_new", ["vdisk_new() of engine/vdisk.h has no symbol version",
                                                "no header declares it", "no page has vdisk_new()"]),
    ("engine/a.c", "ERR_CALL(a(x))", "a(x)", ["vdisk_a() returns int"]),
    ("engine/libvdisk.map", " vdisk_b;\n", "", ["vdisk_b() of engine/vdisk.h has no symbol version"]),
    ("engine/libvdisk.map", " vdisk_b;\n", " vdisk_b;\n vdisk_a;\n", ["vdisk_a is in N_0.1 and VDISK_0.2"]),
    ("engine/libvdisk.map", " vdisk_a;\n", " vdisk_*;\n", ["vdisk_a() of engine/vdisk.h has no",
                                                           "no header declares"]),
    ("engine/libvdisk.map", " vdisk_a;\n", " vdisk_a;\n vdisk_b;\n", ["N_0.1 and VDISK_0.2", "N_0.1 is released"]),
    ("engine/libvdisk.map", "N_0.1", "M_0.1", ["M_0.1 is followed by", "N_0.1 is released with 1"]),
    ("engine/version.c", "0.2.7", "0.2.6", ["make them the same"]),
    ("meson.build", "0.2.7", "0.3.0", ["make them the same", "begin a node"]),
    ("docs/man/x.3", "vdisk_a", "vdisk_x", ["no page has vdisk_a()"]),
]


def breaches(files):
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        return api.Api(root).run()


def main():
    api.RELEASED = {"N_0.1": 1}
    failed = 0
    found = breaches(FILES)
    if found:
        print("should pass:", found)
        failed = 1
    for path, old, new, want in CASES:
        found = breaches({**FILES, path: FILES[path].replace(old, new)})
        if len(found) != len(want) or not all(any(text in breach for breach in found) for text in want):
            print(f"wrong: {path} with {new!r} for {old!r}: {found}")
            failed = 1
    print(f"{len(CASES)} cases")
    return failed


if __name__ == "__main__":
    sys.exit(main())
