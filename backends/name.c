/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "backends/name.h"

#include <string.h>

#include "engine/base/bits.h"

const char *name_after(const char *name, const char *prefix)
{
    size_t len = strlen(prefix);

    return strncmp(name, prefix, len) == 0 && name[len] == ':' ? name + len + 1 : NULL;
}

/* The power of two that a suffix stands for; 0: it is none. */
static unsigned suffix_bits(char c)
{
    switch (c) {
    case 'K': case 'k': return 10;
    case 'M': case 'm': return 20;
    case 'G': case 'g': return 30;
    case 'T': case 't': return 40;
    case 'P': case 'p': return 50;
    default: return 0;
    }
}

bool name_parse_size(const char *text, uint64_t *ret_size, const char **ret_rest)
{
    const char *p = text;
    uint64_t size = 0;

    for (; *p >= '0' && *p <= '9'; p++)
        if (!mul_u64(size, 10, &size) || !add_u64(size, (uint64_t)(*p - '0'), &size))
            return false;
    if (p == text)
        return false;
    if (suffix_bits(*p) && !mul_u64(size, UINT64_C(1) << suffix_bits(*p++), &size))
        return false;
    if (size > INT64_MAX)
        return false;
    *ret_size = size;
    *ret_rest = p;
    return true;
}
