/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The header of LUKS, version 1: "LUKS On-Disk Format Specification", figures 1 and 2. Big-endian. */
#include "qcow2/format/luks.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/bits.h"

enum { SECTOR = 512, WORD = 32, SLOT_LENGTH = 48, SLOTS_AT = 208 };

_Static_assert(SLOTS_AT + LUKS_SLOTS * SLOT_LENGTH == LUKS_HEADER_LENGTH, "slots are the end of a header");
_Static_assert(sizeof(((struct luks_info *)0)->hash) > WORD && sizeof(((struct luks_info *)0)->cipher) > WORD,
               "words, with a zero behind them");

static const uint32_t slot_active = 0x00ac71f3;

static void take_word(char *out, const uint8_t *in, size_t len)
{
    size_t n = 0;

    for (; n < len && in[n] != '\0'; n++)
        out[n] = in[n] < 0x20 || in[n] >= 0x7f ? '?' : (char)in[n];
    out[n] = '\0';
}

/* "xts-plain64", "cbc-essiv:sha256": mode, IV generator, its hash. */
static void take_mode(struct luks_info *i, const char *word)
{
    size_t mode = strcspn(word, "-"), ivgen;

    snprintf(i->cipher_mode, sizeof i->cipher_mode, "%.*s", (int)mode, word);
    word += mode + (word[mode] != '\0');
    ivgen = strcspn(word, ":");
    snprintf(i->ivgen, sizeof i->ivgen, "%.*s", (int)ivgen, word);
    word += ivgen + (word[ivgen] != '\0');
    snprintf(i->ivgen_hash, sizeof i->ivgen_hash, "%s", word);
}

bool luks_parse(const uint8_t *buf, struct luks_info *ret)
{
    static const uint8_t magic[8] = {'L', 'U', 'K', 'S', 0xba, 0xbe, 0, 1};
    char word[WORD + 1];
    uint32_t bits;

    if (memcmp(buf, magic, sizeof magic) != 0)
        return false;
    memset(ret, 0, sizeof *ret);
    take_word(word, buf + 40, WORD);
    take_mode(ret, word);
    take_word(ret->hash, buf + 72, WORD);
    ret->payload_offset = (uint64_t)get_be32(buf + 104) * SECTOR;
    /* XTS takes two keys. */
    bits = get_be32(buf + 108) & 0xffff;
    bits = strcmp(ret->cipher_mode, "xts") == 0 ? bits * 4 : bits * 8;
    take_word(word, buf + 8, WORD);
    snprintf(ret->cipher, sizeof ret->cipher, "%s-%u", word, bits);
    ret->master_key_iterations = get_be32(buf + 164);
    take_word(ret->uuid, buf + 168, sizeof ret->uuid - 1);
    for (int i = 0; i < LUKS_SLOTS; i++) {
        const uint8_t *slot = buf + SLOTS_AT + i * SLOT_LENGTH;

        ret->slots[i] = (struct luks_slot){
            .active = get_be32(slot) == slot_active,
            .iterations = get_be32(slot + 4),
            .key_offset = (uint64_t)get_be32(slot + 40) * SECTOR,
            .stripes = get_be32(slot + 44),
        };
    }
    return true;
}
