#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does each check of lint.py fire on a breach, and keep quiet without one?"""
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
import lint  # noqa: E402

SPDX = "/* SPDX-License-Identifier: LGPL-2.1-or-later */\n"
SCRIPT = "#!/bin/bash\n# SPDX-License-Identifier: LGPL-2.1-or-later\n"
GOOD = SPDX + '#include "engine/vdisk.h"\n/* strcpy( in a comment */\nint f(void)\n{\n    return g("atoi(");\n}\n'


def function(name, lines, body="    g();\n"):
    return f"static void {name}(void)\n{{\n{body * lines}}}\n"


# file, content, the check that must fire (None: nothing may)
CASES = [
    ("engine/good.c", GOOD, None),
    ("engine/long_step.c", SPDX + function("read_step", 100), None),
    ("tools/prints.c", SPDX + 'int f(void)\n{\n    printf("x");\n    exit(1);\n}\n', None),
    ("backends/member.c", SPDX + "int f(void)\n{\n    x->signal(1);\n    return y.exit(2);\n}\n", None),
    ("engine/a.c", "int x;\n", "spdx"),
    ("engine/b.c", SPDX + '#include "qcow2/x.h"\n', "include"),
    ("engine/twice.c", SPDX + '#include "engine/x.h"\n' * 2, "include"),
    ("qcow2/c.c", SPDX + '#include "backends/x.h"\n', "include"),
    ("engine/d.c", SPDX + '#include "vdisk.h"\n', "include"),
    ("qcow2/map/inner.c", SPDX + '#include "qcow2/meta/slice.h"\n', "include"),
    ("tools/own.c", SPDX + '#include <vdisk-image.h>\n#include "tools/cli.h"\n', None),
    ("tools/private.c", SPDX + '#include "engine/base/bits.h"\n', "include"),
    ("tools/public.c", SPDX + '#include "engine/vdisk.h"\n', "include"),
    ("bench/private.c", SPDX + '#include "backends/memory.h"\n', "include"),
    ("tests/tool/private.c", SPDX + '#include "engine/base/bits.h"\n', "include"),
    ("tests/tool/own.c", SPDX + '#include "tools/cli.h"\n', None),
    ("tools/angle.c", SPDX + "#include <engine/base/bits.h>\n", "include"),
    ("qcow2/map/front.c", SPDX + '#include "qcow2/map/lookup.h"\n#include "qcow2/meta/meta.h"\n', None),
    ("qcow2/map/above.c", SPDX + '#include "qcow2/mutant.h"\n', None),
    ("tests/inner.c", SPDX + '#include "qcow2/meta/slice.h"\n', None),
    ("engine/e.c", SPDX + function("f", 69), "function-length"),
    ("tools/f.c", SPDX + "int x;\n" * 800, "file-length"),
    ("tools/g.c", SPDX + "int f(void)\n{\n    strcpy(a, b);\n}\n", "banned"),
    ("qcow2/h.c", SPDX + 'int f(void)\n{\n    printf("x");\n}\n', "banned"),
    ("backends/i.c", SPDX + "int f(void)\n{\n    exit (1);\n}\n", "banned"),
    ("filters/memory.c", SPDX + "int f(void)\n{\n    free(x);\n}\n", "banned"),
    ("qcow2/copy.c", SPDX + "int f(void)\n{\n    x = strdup(y);\n}\n", "banned"),
    ("engine/memory.c", SPDX + '#include "engine/base/mem.h"\nint f(void)\n{\n    mem_free(x->y(1));\n}\n', None),
    ("jobs/other.c", SPDX + '#include "engine/base/mem.h"\n', "include"),
    ("jobs/memory.c", SPDX + "int f(void)\n{\n    free(malloc(1));\n}\n", None),
    ("tools/memory.c", SPDX + "int f(void)\n{\n    free(malloc(1));\n}\n", None),
    ("engine/n.c", SPDX + 'int x = f("qcow2");\n', "driver-name"),
    ("engine/o.c", SPDX + 'int x = f("nbd://");\n', "driver-name"),
    ("engine/good_names.c", SPDX + '/* "qcow2" */ int x = f("raw", "qcow2: %s", "filename");\n', None),
    ("qcow2/p.c", SPDX + 'int x = f("qcow2");\n', None),
    ("engine/j.c", SPDX + "/* TO" + "DO: later */\n", "leftover"),
    ("engine/k.c", SPDX + "int " + "k" * 115 + ";\n", "line-length"),
    ("engine/l.c", SPDX + "int x; \n", "blanks"),
    ("engine/m.c", SPDX + function("plain", 1, "    OP_TRY(op, X, y());\n"), "await"),
    ("engine/same.c", SPDX + function("one", 2) + function("two", 2), "body"),
    ("tests/same.c", SPDX + function("one", 2) + function("two", 2), None),
    ("tests/cut", SCRIPT + "set -euo pipefail\nx=$(find . -name y | head -n 1)\n", "pipe-cut"),
    ("tests/quiet.sh", SCRIPT + "set -o pipefail\nfind . | grep -vq y\n", "pipe-cut"),
    ("tests/whole.sh", SCRIPT + "set -eo pipefail\nfind . | head -n 1 || true\nx=$(find . -print -quit)\n", None),
    ("tests/free.sh", SCRIPT + "set -eu\nfind . | head -n 1\n", None),
    ("engine/unlisted.c", SPDX, "unlisted"),
]


def breaches(files):
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        check = lint.Lint(root)
        check.run()
        return check.breaches


def main():
    failed = 0

    def expect(condition, text):
        nonlocal failed
        if not condition:
            print(f"wrong: {text}")
            failed = 1

    for path, text, check in CASES:
        folder, file = path.rsplit("/", 1)
        files = {path: text}
        if check != "unlisted":
            files[f"{folder}/meson.build"] = f"x = files('{file}')\n"
        found = breaches(files)
        if check is None:
            expect(not found, f"{path} should pass: {found}")
        else:
            expect(len(found) == 1 and f": {check}:" in found[0], f"{path} should break {check} once: {found}")
        if check:
            files["tests/lint/allow"] = f"{check} {path}  # for the test\n"
            expect(not breaches(files), f"{path}: an allowed breach of {check} should pass")
    stale = breaches({"tests/lint/allow": "banned engine/none.c # was needed once\n"})
    expect(len(stale) == 1 and "no longer needed" in stale[0], f"a stale entry should be found: {stale}")
    print(f"{len(CASES)} cases")
    return failed


if __name__ == "__main__":
    sys.exit(main())
