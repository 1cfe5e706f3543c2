/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What sanlock writes, as far as it is read here: notes on hosts, little-endian; and where leases lie. */
#include <string.h>

#include "tools/arith.h"
#include "tools/domain/text.h"

enum { MAGIC = 0x12212010, NAME_AT = 104, NAME = 48, SLOTS_FIRST = 100 };

bool text_is_hosts(const unsigned char sector[TEXT_HOST_SIZE])
{
    return ((uint32_t)sector[0] | (uint32_t)sector[1] << 8 | (uint32_t)sector[2] << 16 |
            (uint32_t)sector[3] << 24) == MAGIC;
}

void text_host_name(const unsigned char sector[TEXT_HOST_SIZE], char ret[TEXT_HOST_NAME])
{
    size_t n = 0;

    for (; text_is_hosts(sector) && n < NAME && sector[NAME_AT + n] != '\0'; n++)
        ret[n] = (char)(sector[NAME_AT + n] > ' ' && sector[NAME_AT + n] < 0x7f ? sector[NAME_AT + n] : '?');
    ret[n] = '\0';
}

uint64_t text_lease_offset(unsigned slot, unsigned align)
{
    return ((uint64_t)SLOTS_FIRST + slot) * align;
}
