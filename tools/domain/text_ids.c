/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* UUIDs, and the index of external leases. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tools/domain/text.h"

bool text_is_uuid(const char *text, size_t len)
{
    if (len != DOMAIN_UUID - 1)
        return false;
    for (size_t i = 0; i < len; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? text[i] != '-' : text[i] == '\0' || strchr("0123456789abcdef", text[i]) == NULL)
            return false;
    }
    return true;
}

void text_uuid(const unsigned char random[16], char uuid[DOMAIN_UUID])
{
    unsigned char b[16];
    size_t at = 0;

    memcpy(b, random, sizeof b);
    b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
    b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
    for (size_t i = 0; i < sizeof b; i++)
        at += (size_t)snprintf(uuid + at, DOMAIN_UUID - at,
                               i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", b[i]);
}

void text_xleases(const char *lockspace, uint64_t mtime, unsigned char ret[TEXT_XLEASES_SIZE])
{
    enum { BLOCK = 512, RECORD = 64, RECORDS = (TEXT_XLEASES_SIZE - BLOCK) / RECORD };
    static const unsigned char magic[] = {0x12, 0x15, 0x20, 0x16, 0, '0', '0', '0', '1', 0};
    char text[32];

    memset(ret, 0, TEXT_XLEASES_SIZE);
    memcpy(ret, magic, sizeof magic);
    memcpy(ret + sizeof magic, lockspace, strnlen(lockspace, 48));
    snprintf(text, sizeof text, "%010" PRIu64, mtime % UINT64_C(10000000000));
    memcpy(ret + 59, text, 10);
    ret[70] = '-';
    ret[BLOCK - 1] = '\n';
    for (unsigned i = 0; i < RECORDS; i++) {
        unsigned char *record = ret + BLOCK + RECORD * i;
        memset(record + 49, '0', 11); /* an offset: of none yet */
        record[61] = '-';
        record[62] = '-';
        record[63] = '\n';
    }
}
