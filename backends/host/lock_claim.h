/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which bytes stand for which claim on an image. Pure.
 *
 * The scheme is QEMU's. There are permissions, numbered; byte 100+i read-locked says "I use permission i", byte
 * 200+i "I do not share it". Who wants to use i must find nobody on 200+i, who does not share i nobody on 100+i.
 * All locks are shared ones, so that claims which agree can be held side by side.
 */
#ifndef BACKENDS_LOCK_CLAIM_H
#define BACKENDS_LOCK_CLAIM_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/backend.h"

enum lock_permission {
    LOCK_PERM_READ,            /* sees consistent content */
    LOCK_PERM_WRITE,
    LOCK_PERM_WRITE_UNCHANGED, /* writes what is there already */
    LOCK_PERM_RESIZE,
    LOCK_PERMS,
};

enum { LOCK_USED_BASE = 100, LOCK_UNSHARED_BASE = 200 };

/* Bit i: permission i. */
struct lock_claim {
    uint8_t used;
    uint8_t unshared;
};

/* What a backend opened with `flags` (enum backend_open_flags) claims. */
static inline struct lock_claim lock_claim_for(uint32_t flags)
{
    const uint8_t reads = 1u << LOCK_PERM_READ;
    const uint8_t changes = 1u << LOCK_PERM_WRITE | 1u << LOCK_PERM_RESIZE;
    struct lock_claim c = {0, 0};

    if (flags & BACKEND_NO_LOCK)
        return c;
    c.used = reads;
    if (flags & (BACKEND_RDWR | BACKEND_CREATE)) {
        c.used |= changes;
        c.unshared = changes;
    } else if (!(flags & BACKEND_SHARE)) {
        c.unshared = changes;
    }
    return c;
}

/* What is in `a` and not in `b`. */
static inline struct lock_claim lock_claim_minus(struct lock_claim a, struct lock_claim b)
{
    return (struct lock_claim){(uint8_t)(a.used & ~b.used), (uint8_t)(a.unshared & ~b.unshared)};
}

static inline bool lock_claim_empty(struct lock_claim c)
{
    return c.used == 0 && c.unshared == 0;
}

/* May both be held at once? */
static inline bool lock_claims_agree(struct lock_claim a, struct lock_claim b)
{
    return (a.used & b.unshared) == 0 && (b.used & a.unshared) == 0;
}

/*
 * The bytes to lock for `c`, or with `against` those on which nobody else may be found. Returns their number;
 * `ret` holds 2 * LOCK_PERMS.
 */
static inline unsigned lock_claim_bytes(struct lock_claim c, bool against, uint16_t *ret)
{
    unsigned used_base = against ? LOCK_UNSHARED_BASE : LOCK_USED_BASE;
    unsigned unshared_base = against ? LOCK_USED_BASE : LOCK_UNSHARED_BASE;
    unsigned n = 0;

    for (unsigned i = 0; i < LOCK_PERMS; i++)
        if (c.used >> i & 1)
            ret[n++] = (uint16_t)(used_base + i);
    for (unsigned i = 0; i < LOCK_PERMS; i++)
        if (c.unshared >> i & 1)
            ret[n++] = (uint16_t)(unshared_base + i);
    return n;
}

#endif
