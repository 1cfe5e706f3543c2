/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the header of LUKS (version 1) says, which encrypted images have inside. Pure. */
#ifndef QCOW2_LUKS_H
#define QCOW2_LUKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LUKS_HEADER_LENGTH = 592, LUKS_SLOTS = 8 };

struct luks_slot {
    bool     active;
    uint32_t iterations;
    uint32_t stripes;
    uint64_t key_offset; /* bytes, as the next too */
};

/* Words are printable, or empty where the header has none. */
struct luks_info {
    char             cipher[48];     /* with the key's bits: "aes-256" */
    char             cipher_mode[33];
    char             ivgen[33];
    char             ivgen_hash[33]; /* "": none */
    char             hash[33];
    char             uuid[41];
    uint64_t         payload_offset;
    uint32_t         master_key_iterations;
    struct luks_slot slots[LUKS_SLOTS];
};

/* `buf` holds LUKS_HEADER_LENGTH bytes. False: this is no such header. */
bool luks_parse(const uint8_t *buf, struct luks_info *ret);

#endif
