/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/damage.h"

#include "engine/base/bits.h"
#include "qcow2/format/ondisk.h"

/* What the header says, as far as it can be used to find one's way about. */
struct places {
    uint64_t cluster, l1, l2, reftable, refblock, snapshots;
};

/* The big-endian word at `at`, 0 past the end. */
static uint64_t word(const uint8_t *image, size_t size, uint64_t at)
{
    return size >= 8 && at <= size - 8 ? get_be64(image + at) : 0;
}

static struct places find_places(struct rng *r, const uint8_t *image, size_t size)
{
    struct places p = {.cluster = 512};
    uint64_t bits = size >= 24 ? get_be32(image + offsetof(struct q2_disk_header, cluster_bits)) : 0;

    if (bits >= Q2_MIN_CLUSTER_BITS && bits <= Q2_MAX_CLUSTER_BITS)
        p.cluster = 1ull << bits;
    p.l1 = word(image, size, offsetof(struct q2_disk_header, l1_table_offset));
    p.reftable = word(image, size, offsetof(struct q2_disk_header, refcount_table_offset));
    p.snapshots = word(image, size, offsetof(struct q2_disk_header, snapshots_offset));
    p.l2 = word(image, size, p.l1 + 8 * rng_below(r, 4)) & Q2_L1_OFFSET;
    p.refblock = word(image, size, p.reftable) & Q2_REFTABLE_OFFSET;
    return p;
}

static uint64_t pick(struct rng *r, const struct places *p, size_t size)
{
    uint64_t tables[] = {p->l1, p->l2, p->l2, p->reftable, p->refblock, p->snapshots};

    switch (rng_below(r, 8)) {
    case 0:
    case 1:
        return rng_below(r, Q2_HEADER_LENGTH);
    case 2:
        return rng_below(r, 600);
    case 3:
        return rng_below(r, size / p->cluster + 1) * p->cluster + rng_below(r, 64);
    case 4:
        return rng_below(r, size);
    default:
        return tables[rng_below(r, ARRAY_LEN(tables))] +
               (rng_chance(r, 70) ? rng_below(r, 80) : rng_below(r, p->cluster));
    }
}

static uint64_t interesting(struct rng *r, const struct places *p, size_t size)
{
    uint64_t high = rng_below(r, 4) << 62, tables[] = {0, p->l1, p->l2, p->reftable, p->refblock, p->snapshots};

    switch (rng_below(r, 9)) {
    case 0: return UINT64_MAX;
    case 1: return high | rng_below(r, 3);
    case 2: return high | align_down(tables[rng_below(r, ARRAY_LEN(tables))], p->cluster);
    case 3: return high | align_up(size, p->cluster);
    case 4: return high | rng_below(r, size / p->cluster + 1) * p->cluster;
    case 5: return high | rng_below(r, size);
    case 6: return 1ull << rng_below(r, 64);
    case 7: return rng_below(r, 20);
    default: return rng_next(r);
    }
}

void damage_image(struct rng *r, uint8_t *image, size_t size, unsigned n)
{
    static const unsigned widths[] = {1, 2, 4, 8, 8};

    if (size < 16)
        return;
    for (; n > 0; n--) {
        struct places p = find_places(r, image, size);
        unsigned width = widths[rng_below(r, ARRAY_LEN(widths))];
        uint64_t at = align_down(pick(r, &p, size), rng_chance(r, 80) ? width : 1);
        uint8_t value[8];

        if (at > size - 8)
            continue;
        put_be64(value, interesting(r, &p, size));
        if (rng_chance(r, 40))
            image[at] ^= (uint8_t)(1u << rng_below(r, 8));
        else if (rng_chance(r, 20)) /* a flag */
            image[align_down(at, 8)] ^= (uint8_t)(rng_between(r, 1, 3) << 6);
        else
            memcpy(image + at, value + 8 - width, width);
    }
}
