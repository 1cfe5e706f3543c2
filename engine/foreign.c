/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The formats are those that QEMU looks for. Where it also wants a version that it knows, and nobody writes the
 * rest by chance, the rest is enough here; LUKS is something that a guest does write, so there the version counts,
 * too.
 */
#include "engine/foreign.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/format.h"

struct magic {
    const char *format;
    uint16_t    offset, len;
    const char *bytes;
};

static const struct magic magics[] = {
    {"qed", 0, 4, "QED\0"},
    {"vmdk", 0, 4, "KDMV"},
    {"vmdk", 0, 4, "COWD"},
    {"vdi", 64, 4, "\x7f\x10\xda\xbe"},
    {"vhdx", 0, 8, "vhdxfile"},
    {"vpc", 0, 8, "conectix"},
    {"parallels", 0, 16, "WithoutFreeSpace"},
    {"parallels", 0, 16, "WithouFreSpacExt"},
    {"luks", 0, 8, "LUKS\xba\xbe\0\x01"},
    {"bochs", 0, 22, "Bochs Virtual HD Image"},
    {"cloop", 0, 22, "#!/bin/sh\n#V2.0 Format"},
};

/*
 * A descriptor of VMDK is text: a line "version=1", 2 or 3, and before it nothing but comments and lines of
 * blanks.
 */
static bool is_vmdk_text(const char *p, const char *end)
{
    static const char key[] = "version=";
    size_t n = sizeof key - 1;

    assert(p < end);
    for (;;) {
        const char *line = p;
        while (p < end && *p == ' ')
            p++;
        if (p < end && *p == '#' && p == line)
            while (p < end && *p != '\n')
                p++;
        else if (p > line && p + 1 < end && *p == '\r')
            p++;
        if (p == end || (*p != '\n' && p > line))
            return false;
        if (p == line)
            break;
        p++;
    }
    if ((size_t)(end - p) < n + 2 || memcmp(p, key, n) != 0 || p[n] < '1' || p[n] > '3')
        return false;
    return p[n + 1] == '\n' || (p + n + 2 < end && p[n + 1] == '\r' && p[n + 2] == '\n');
}

const char *foreign_format(const uint8_t head[FOREIGN_HEAD])
{
    for (size_t i = 0; i < ARRAY_LEN(magics); i++) {
        assert(magics[i].offset + magics[i].len <= FOREIGN_HEAD);
        if (memcmp(head + magics[i].offset, magics[i].bytes, magics[i].len) == 0)
            return magics[i].format;
    }
    if (is_vmdk_text((const char *)head, (const char *)head + FOREIGN_HEAD))
        return "vmdk";
    for (const struct format_driver *const *f = format_drivers; *f; f++)
        if (!(*f)->plain && (*f)->probe(head, FOREIGN_HEAD, "") > 1)
            return (*f)->name;
    return NULL;
}
