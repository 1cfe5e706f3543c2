#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the package says of the C interface is what the installed headers say."""
import ctypes
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from vdisk import _abi

INCLUDE = pathlib.Path(os.environ["VDISK_INCLUDE"])
HEADERS = ("vdisk.h", "vdisk-space.h", "vdisk-image.h", "vdisk-bulk.h")
SCALARS = {"int": ctypes.c_int, "unsigned": ctypes.c_uint, "uint32_t": ctypes.c_uint32,
           "uint64_t": ctypes.c_uint64, "uint8_t": ctypes.c_uint8, "size_t": ctypes.c_size_t,
           "bool": ctypes.c_bool, "void": None}
HANDLES = {"vdisk", "vdisk_queue", "vdisk_job", "vdisk_image", "void"}
FUNCTIONS = {"vdisk_log_fn": _abi.LogFn, "vdisk_progress_fn": _abi.ProgressFn, "vdisk_report_fn": _abi.ReportFn,
             "vdisk_used_fn": _abi.UsedFn,
             "vdisk_salvaged_fn": _abi.SalvagedFn, "vdisk_checkpoint_fn": _abi.CheckpointFn,
             "vdisk_block_digest_fn": _abi.BlockDigestFn, "vdisk_known_digest_fn": _abi.KnownDigestFn}


def read_headers():
    """Their text as a whole, without comments and directives; includes are followed by hand, as they are few."""
    text = ""
    for header in HEADERS:
        found = (INCLUDE / header).read_text()
        for name in re.findall(r'#include "([^"]+)"', found):
            found += (INCLUDE / name).read_text()
        text += found
    return re.sub(r"/\*.*?\*/|^#.*?$", " ", text, flags=re.S | re.M)


def compile_and_run(source):
    with tempfile.TemporaryDirectory() as tmp:
        path = pathlib.Path(tmp, "x.c")
        path.write_text(source)
        subprocess.run(["cc", "-I", INCLUDE, "-o", path.with_suffix(""), path], check=True)
        return subprocess.run([path.with_suffix("")], check=True, capture_output=True, text=True).stdout


def c_type(text, name=""):
    """What ctypes has for a parameter or a result. `name`: of the parameter."""
    words = re.sub(r"\b(const|VDISK_API|enum \w+)\b", lambda m: "int" if m[0].startswith("enum") else "", text)
    base = re.sub(r"[*\s]+", " ", words).strip()
    stars = words.count("*")
    if base in FUNCTIONS:
        return FUNCTIONS[base]
    if stars == 0:
        return SCALARS[base]
    if base == "char" and stars == 1:
        return ctypes.c_char_p
    if base in HANDLES:
        return ctypes.c_void_p if stars == 1 else ctypes.POINTER(ctypes.c_void_p)
    assert stars == 1, (text, name)
    if base in SCALARS:
        return ctypes.POINTER(SCALARS[base])
    return ctypes.POINTER(_abi.STRUCTS[base])


def prototypes():
    """Name: (result, arguments), as ctypes has them; of those that the package uses."""
    found = {}
    for result, name, arguments in re.findall(r"VDISK_API\s+([\w\s*]+?)(\w+)\(([^;]*?)\);", read_headers()):
        if name not in _abi.FUNCTIONS:
            continue
        types = []
        for argument in arguments.split(","):
            if argument.strip() != "void":
                head, parameter = re.fullmatch(r"\s*(.*?)(\w+)\s*", argument, re.S).groups()
                types.append(c_type(head, parameter))
        found[name] = c_type(result), types
    return found


@unittest.skipUnless(shutil.which("cc"), "there is no C compiler")
class Layout(unittest.TestCase):
    def test_structs(self):
        lines, want = [], []
        for c_name, struct in _abi.STRUCTS.items():
            lines.append(f'printf("{c_name} %zu\\n", sizeof({c_name}));')
            want.append(f"{c_name} {ctypes.sizeof(struct)}")
            for name, kind in struct._fields_:
                field = getattr(struct, name)
                where = f"(({c_name} *)0)->{name}"
                lines.append(f'printf("{c_name}.{name} %zu %zu %d\\n", offsetof({c_name}, {name}), '
                             f"sizeof({where}), __builtin_classify_type({where}) == 5);")
                pointer = kind is ctypes.c_char_p or kind is ctypes.c_void_p or \
                    isinstance(kind, (type(ctypes.POINTER(ctypes.c_int)), type(_abi.ProgressFn))) or \
                    issubclass(kind, ctypes.Array)
                want.append(f"{c_name}.{name} {field.offset} {field.size} {int(pointer)}")
        text = '#include <stddef.h>\n#include <stdio.h>\n#include <vdisk-image.h>\nint main(void)\n{\n' + \
            "\n".join(lines) + "\n}\n"
        self.assertEqual(compile_and_run(text).splitlines(), want)

    def test_all_fields(self):
        """No field is left out: what is behind one is padding that C would have, too."""
        text = read_headers()
        for c_name, struct in _abi.STRUCTS.items():
            if c_name == "struct timespec":
                continue
            body = re.search(rf"{c_name} \{{(.*?)\}};", text, re.S)[1]
            names = [name for line in body.split(";")
                     for name in re.findall(r"(\w+)(?:\[\w+\])?\s*(?:,|$)", line.strip())]
            self.assertEqual(names, [name for name, _ in struct._fields_], c_name)

    def test_numbers(self):
        lines = [f'printf("{name} %d\\n", (int){name});' for name in _abi.NUMBERS]
        text = "#include <stdio.h>\n#include <vdisk-image.h>\nint main(void)\n{\n" + "\n".join(lines) + "\n}\n"
        self.assertEqual(compile_and_run(text).splitlines(), [f"{n} {v}" for n, v in _abi.NUMBERS.items()])


class Functions(unittest.TestCase):
    def test_prototypes(self):
        declared = prototypes()
        self.assertEqual(set(declared), set(_abi.FUNCTIONS))
        for name, (result, arguments) in _abi.FUNCTIONS.items():
            self.assertEqual((result, arguments), declared[name], name)

    def test_callbacks(self):
        text = read_headers()
        for name, kind in FUNCTIONS.items():
            result, arguments = re.search(rf"typedef (\w+) {name}\((.*?)\);", text, re.S).groups()
            types = [c_type(re.fullmatch(r"\s*(.*?)(\w+)\s*", a, re.S)[1]) for a in arguments.split(",")]
            self.assertEqual((kind._restype_, list(kind._argtypes_)), (c_type(result), types), name)


if __name__ == "__main__":
    unittest.main()
