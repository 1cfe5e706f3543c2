/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/vm/powercut_plan.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/bits.h"

/* ---- content ---------------------------------------------------------------------------------------- */

/* Says whose it is: no two writes, and no two sectors of one, look alike. */
void plan_content(void *arg, uint32_t version, uint64_t offset, uint8_t *buf)
{
    uint64_t x = rng_mix(((uint64_t)version << 32) ^ (offset / HISTORY_SECTOR));

    for (unsigned i = 0; i < HISTORY_SECTOR; i += sizeof x) {
        memcpy(buf + i, &x, sizeof x);
        x += UINT64_C(0x9e3779b97f4a7c15);
    }
}

void plan_fill(uint32_t version, uint64_t offset, uint8_t *buf, uint64_t len)
{
    for (uint64_t at = 0; at < len; at += HISTORY_SECTOR)
        plan_content(NULL, version, offset + at, buf + at);
}

/* ---- steps ------------------------------------------------------------------------------------------ */

void plan_init(struct plan *p, uint64_t seed)
{
    static const uint32_t clusters[] = {512, 4096, 16384, 65536, 65536, 262144};
    static const uint64_t caches[] = {0, 0, 1, 65536};
    struct rng *r = &p->rng;

    memset(p, 0, sizeof *p);
    rng_init(r, seed);
    p->size = align_down(rng_between(r, PLAN_MAX_SIZE / 2, PLAN_MAX_SIZE), 65536);
    p->spec.size = p->size;
    image_random(r, &p->spec, IMAGE_NO_RAW | IMAGE_NO_DATA_FILE | IMAGE_NO_PREALLOC);
    if (!p->spec.extended_l2)
        p->spec.cluster_size = clusters[rng_below(r, ARRAY_LEN(clusters))];
    p->backed = rng_chance(r, 35);
    if (!p->backed && rng_chance(r, 30))
        p->spec.preallocation = VDISK_PREALLOC_METADATA;
    p->buffered = rng_chance(r, 25);
    p->cache_bytes = caches[rng_below(r, ARRAY_LEN(caches))];
}

static bool overlaps(const struct step *s, uint64_t offset, uint64_t len)
{
    for (unsigned i = 0; i < s->n; i++)
        if (offset < s->changes[i].offset + s->changes[i].len && s->changes[i].offset < offset + len)
            return true;
    return false;
}

/* Half of all changes fall into a small part of the volume, so that they meet. */
static uint64_t random_offset(struct plan *p, uint64_t unit)
{
    uint64_t range = rng_chance(&p->rng, 50) ? p->size : p->size / 16;

    return align_down(rng_below(&p->rng, range), unit);
}

static bool add_change(struct plan *p, struct step *s)
{
    struct rng *r = &p->rng;
    uint64_t unit = rng_chance(r, 50) ? max_u64(p->spec.cluster_size, HISTORY_SECTOR) : HISTORY_SECTOR;
    uint64_t offset = random_offset(p, unit);
    uint64_t len = unit == HISTORY_SECTOR ? unit * rng_between(r, 1, 64) : unit * rng_between(r, 1, 4);
    enum history_kind kind = rng_chance(r, 70)   ? HISTORY_WRITE
                             : rng_chance(r, 50) ? HISTORY_ZEROES
                                                 : HISTORY_DISCARD;

    len = min_u64(min_u64(len, PLAN_MAX_CHANGE), p->size - offset);
    if (overlaps(s, offset, len))
        return false;
    s->unmap[s->n] = rng_chance(r, 50);
    s->changes[s->n++] = (struct history_change){kind, offset, len, ++p->version};
    return true;
}

void plan_next(struct plan *p, struct step *s)
{
    struct rng *r = &p->rng;
    unsigned n, dice = (unsigned)rng_below(r, 100);

    memset(s, 0, sizeof *s);
    if (p->step++ == 0) {
        s->kind = STEP_CREATE;
        return;
    }
    if (dice < 30) {
        s->kind = STEP_FLUSH;
    } else if (dice < 36) {
        s->kind = STEP_FUA;
        add_change(p, s);
        if (s->changes[0].kind == HISTORY_DISCARD) /* which cannot be durable by itself */
            s->changes[0].kind = HISTORY_ZEROES;
    } else if (dice < 38) {
        s->kind = STEP_REOPEN;
    } else if (dice < 40 && p->size < PLAN_MAX_SIZE) {
        s->kind = STEP_GROW;
        p->size = s->size = min_u64(PLAN_MAX_SIZE, p->size + HISTORY_SECTOR * rng_between(r, 1, 2048));
    } else {
        s->kind = STEP_CHANGES;
        n = (unsigned)rng_between(r, 1, PLAN_BATCH);
        for (unsigned i = 0; i < n; i++)
            add_change(p, s);
    }
}
