/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "jobs/order.h"

enum { GROUP = 128 };

int order_init(struct order *o, vdisk_block_digest_fn *tell, void *tell_arg)
{
    o->tell = tell;
    o->tell_arg = tell_arg;
    return digest_begin(&o->all);
}

void order_free(struct order *o)
{
    digest_drop(o->all);
    o->all = NULL;
}

static struct order_entry *entry(struct order *o, uint64_t number)
{
    assert(number >= o->first && number < o->end);
    return &o->entries[number % ORDER_ENTRIES];
}

uint64_t order_enter(struct order *o)
{
    assert(!order_is_full(o));
    o->end++;
    *entry(o, o->end - 1) = (struct order_entry){.count = 1};
    return o->end - 1;
}

void order_set(struct order *o, uint64_t number, const uint8_t digest[VDISK_DIGEST_SIZE])
{
    struct order_entry *e = entry(o, number);

    assert(!e->known && e->count == 1);
    memcpy(e->digest, digest, VDISK_DIGEST_SIZE);
    e->known = true;
}

void order_enter_zeros(struct order *o, uint64_t count, const uint8_t digest[VDISK_DIGEST_SIZE])
{
    struct order_entry *last = order_is_empty(o) ? NULL : entry(o, o->end - 1);

    if (last && last->zeros && memcmp(last->digest, digest, VDISK_DIGEST_SIZE) == 0) { /* the last is shorter */
        last->count += count;
        return;
    }
    order_set(o, order_enter(o), digest);
    last = entry(o, o->end - 1);
    last->count = count;
    last->zeros = true;
}

void order_enter_known(struct order *o, uint64_t count, const uint8_t digest[VDISK_DIGEST_SIZE])
{
    uint64_t number;

    assert(order_is_empty(o) && count > 0);
    number = order_enter(o);
    order_set(o, number, digest);
    entry(o, number)->count = count;
}

/* Into the digest of digests: many at once, since each is short. */
static void add(struct order *o, const uint8_t *digest, uint64_t count)
{
    uint8_t group[GROUP][VDISK_DIGEST_SIZE];

    for (unsigned i = 0; i < jobs_min(GROUP, count); i++)
        memcpy(group[i], digest, VDISK_DIGEST_SIZE);
    for (uint64_t n; count > 0; count -= n) {
        n = jobs_min(GROUP, count);
        gcry_md_write(o->all, group, n * VDISK_DIGEST_SIZE);
    }
}

int order_tell(struct order *o)
{
    uint64_t left = ORDER_AT_ONCE;

    while (left > 0 && !order_is_empty(o)) {
        struct order_entry *e = entry(o, o->first);
        uint64_t n = jobs_min(e->count, left);
        int rc;

        if (!e->known)
            break;
        add(o, e->digest, n);
        rc = o->tell ? o->tell(o->tell_arg, o->told, n, e->digest) : 0;
        if (rc != 0)
            return rc < 0 ? rc : -ECANCELED;
        o->told += n; /* invariant 2 */
        left -= n;
        e->count -= n;
        o->first += e->count == 0;
    }
    return left < ORDER_AT_ONCE;
}
