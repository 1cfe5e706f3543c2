/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Metadata of storage domains: whatever comes is judged; what is taken and written again is taken as the same. */
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tools/domain/text.h"

static void try_volume(const char *text, size_t len)
{
    char first[TEXT_VOLUME_MAX + 1], second[TEXT_VOLUME_MAX + 1], why[TEXT_WHY];
    struct domain_meta meta;
    size_t n, m;

    if (text_volume_parse(text, len, &meta, why) < 0 || text_volume_format(&meta, first, &n) < 0)
        return;
    FUZZ_CHECK(text_volume_parse(first, n, &meta, why) == 0, "%s", why);
    FUZZ_CHECK(text_volume_format(&meta, second, &m) == 0, "too long");
    FUZZ_CHECK(n == m && memcmp(first, second, n) == 0, "another text");
}

static void try_domain(const char *text, size_t len)
{
    struct text_domain md;
    char why[TEXT_WHY], *again;
    size_t n;

    if (text_domain_parse(text, len, &md, why) < 0)
        return;
    FUZZ_CHECK(text_domain_format(&md, &again, &n) == 0, "no memory");
    text_domain_free(&md);
    FUZZ_CHECK(text_domain_parse(again, n, &md, why) == 0 && md.sealed, "%s", why);
    text_domain_free(&md);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_volume((const char *)data, size);
    try_domain((const char *)data, size);
    return 0;
}
