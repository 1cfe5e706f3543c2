/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compressed data of an image that is written as a stream: where each cluster lies, from the lengths of all of
 * them.
 *
 * Happy path: all clusters with data are compressed once, for their lengths, which are kept; then L2 entries,
 * refcounts and the data itself are placed, each by going through the lengths once more. What gets no shorter is
 * a stream all the same, of blocks that are stored as they are: so that nothing has to begin at a cluster.
 * Failure modes: a length is missing; the image gets too large.
 *
 * Invariants
 *  1. Streams lie one behind the other, in the order of the guest; but that no more of them touch a host cluster
 *     than its refcount can say, and none more sectors than its descriptor.
 *  2. Each host cluster with data is touched by a stream.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "engine/base/bits.h"
#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "qcow2/image/front.h"
#include "qcow2/mutant.h"

#define STORED UINT16_MAX

static int no_memory(const struct q2_front *f)
{
    return err_set(ENOMEM, "%s: out of memory", q2_front_create(f)->plan.name);
}

static size_t stored_length(const struct q2_front *f)
{
    size_t len = (size_t)q2_front_geo(f)->cluster_size;

    return (size_t)align_up(q2_store_length(f->pack->type, len), f->pack->granule);
}

int q2_front_compress(struct front *front)
{
    struct q2_front *f = container_of(front, struct q2_front, front);
    const struct q2_create *c = q2_front_create(f);

    assert(!f->pack && f->read == 0);
    f->pack = mem_calloc(1, sizeof *f->pack);
    if (!f->pack)
        return no_memory(f);
    pthread_mutex_init(&f->pack->lock, NULL);
    f->pack->lengths = mem_calloc(c->layout.l1_entries, sizeof(uint16_t *));
    if (!f->pack->lengths)
        return no_memory(f);
    f->pack->type = (enum q2_compression)c->header.compression_type;
    f->pack->granule = (uint32_t)max_u64(1, c->layout.geo.cluster_size >> 16);
    front->packed_max = stored_length(f);
    return 0;
}

void q2_pack_end(struct q2_front *f)
{
    struct front_pack *p = f->pack;

    if (!p)
        return;
    for (uint64_t i = 0; p->lengths && i < q2_front_create(f)->layout.l1_entries; i++)
        mem_free(p->lengths[i]);
    mem_free(p->lengths);
    while (p->idle_count > 0)
        q2_deflater_destroy(p->idle[--p->idle_count]);
    pthread_mutex_destroy(&p->lock);
    mem_free(p);
}

/* ---- one cluster, on any thread ------------------------------------------------------------------------- */

static int get_deflater(struct front_pack *p, struct q2_deflater **ret)
{
    *ret = NULL;
    pthread_mutex_lock(&p->lock);
    if (p->idle_count > 0)
        *ret = p->idle[--p->idle_count];
    pthread_mutex_unlock(&p->lock);
    return *ret ? 0 : q2_deflater_create(p->type, ret);
}

static void put_deflater(struct front_pack *p, struct q2_deflater *d)
{
    pthread_mutex_lock(&p->lock);
    if (p->idle_count < FRONT_DEFLATERS) {
        p->idle[p->idle_count++] = d;
        d = NULL;
    }
    pthread_mutex_unlock(&p->lock);
    q2_deflater_destroy(d);
}

/* Whole granules, so that a length says all. */
int q2_front_pack(struct front *front, const uint8_t *unit, uint8_t *buf, size_t *ret_len)
{
    const struct q2_front *f = container_of(front, struct q2_front, front);
    struct front_pack *p = f->pack;
    size_t cluster = (size_t)q2_front_geo(f)->cluster_size, len = 0, whole;
    struct q2_deflater *d;
    int rc = get_deflater(p, &d);

    if (rc == 0) {
        rc = q2_deflate(d, unit, cluster, buf, &len);
        put_deflater(p, d);
    }
    if (rc < 0)
        return err_set(-rc, "%s: compressing: %s", q2_front_create(f)->plan.name, strerror(-rc));
    if (len == 0 || div_up(len, p->granule) >= STORED) {
        len = q2_store_length(p->type, cluster);
        q2_store(p->type, unit, cluster, buf);
    }
    whole = (size_t)align_up(len, p->granule);
    assert(whole <= front->packed_max);
    memset(buf + len, 0, whole - len);
    *ret_len = whole;
    return 0;
}

/* ---- lengths -------------------------------------------------------------------------------------------- */

static uint16_t *length_of(const struct q2_front *f, uint64_t cluster)
{
    uint16_t *list = f->pack->lengths[cluster >> q2_front_geo(f)->l2_bits];

    return list ? &list[cluster & (q2_l2_entries(q2_front_geo(f)) - 1)] : NULL;
}

int q2_front_note(struct front *front, uint64_t guest_offset, size_t len)
{
    struct q2_front *f = container_of(front, struct q2_front, front);
    const struct q2_geometry *g = q2_front_geo(f);
    uint64_t cluster = guest_offset >> g->cluster_bits, entry = cluster >> g->l2_bits;

    assert(is_aligned(guest_offset, g->cluster_size) && len <= front->packed_max && len % f->pack->granule == 0);
    if (q2_front_find(f, cluster, cluster + 1, true) != cluster)
        return err_set(EINVAL, "%s: what has no data has no length", q2_front_create(f)->plan.name);
    if (len == 0)
        return q2_front_clear(f, cluster);
    if (!f->pack->lengths[entry])
        f->pack->lengths[entry] = mem_calloc(q2_l2_entries(g), sizeof(uint16_t));
    if (!f->pack->lengths[entry])
        return no_memory(f);
    *length_of(f, cluster) = len == stored_length(f) ? STORED : (uint16_t)(len / f->pack->granule);
    return 0;
}

/* ---- places --------------------------------------------------------------------------------------------- */

/* Invariant 1. Returns the host offset of a stream of that length. */
static uint64_t place(const struct q2_geometry *g, struct front_place *p, uint64_t len)
{
    uint64_t at = p->end, last;

    if (at % g->cluster_size != 0 && p->sharers >= g->refcount_max && !MUTANT(PACK_SHARED_TOO_OFTEN))
        at = align_up(at, g->cluster_size);
    if ((at % Q2_SECTOR_SIZE + len - 1) / Q2_SECTOR_SIZE > g->compressed_sectors_mask)
        at = align_up(at, Q2_SECTOR_SIZE);
    last = (at + len - 1) >> g->cluster_bits;
    assert(len > 0 && at >= p->end && at - p->end < g->cluster_size); /* invariant 1 */
    p->sharers = at % g->cluster_size == 0 || last != at >> g->cluster_bits ? 1 : p->sharers + 1;
    p->end = at + len;
    return at;
}

/* The next cluster with data. false: there is none; or *ret_len 0: it has no length. */
static bool next(const struct q2_front *f, struct front_place *p, uint64_t *ret_offset, uint64_t *ret_len)
{
    uint64_t end = q2_front_create(f)->layout.guest_clusters;
    const uint16_t *length;

    p->cluster = q2_front_find(f, p->cluster, end, true);
    if (p->cluster == end)
        return false;
    length = length_of(f, p->cluster++);
    *ret_len = !length ? 0 : *length == STORED ? stored_length(f) : (uint64_t)*length * f->pack->granule;
    assert(*ret_len % f->pack->granule == 0 && *ret_len <= f->front.packed_max);
    if (*ret_len > 0)
        *ret_offset = place(q2_front_geo(f), p, *ret_len);
    return true;
}

int q2_pack_measure(struct q2_front *f, uint64_t *ret_clusters)
{
    struct front_place p = {0};
    uint64_t offset, len;

    while (next(f, &p, &offset, &len)) {
        if (len == 0)
            return err_set(EINVAL, "%s: how long data gets is not known", q2_front_create(f)->plan.name);
        if (p.end > Q2_MAX_HOST_OFFSET)
            return err_set(EFBIG, "%s: the image gets too large", q2_front_create(f)->plan.name);
    }
    *ret_clusters = q2_clusters(q2_front_geo(f), p.end);
    return 0;
}

void q2_pack_begin(struct q2_front *f, uint64_t first)
{
    assert(is_aligned(first, q2_front_geo(f)->cluster_size));
    f->pack->first = first;
    f->pack->entries = f->pack->counts = f->pack->data = (struct front_place){.end = first};
}

struct q2_l2_entry q2_pack_entry(struct q2_front *f, uint64_t cluster)
{
    uint64_t offset = 0, len = 0;
    bool is = next(f, &f->pack->entries, &offset, &len);

    assert(is && f->pack->entries.cluster == cluster + 1 && len > 0);
    assert(offset >= f->pack->first && offset + len <= f->front.length); /* invariant 2 */
    return (struct q2_l2_entry){is ? q2_entry_encode_compressed(q2_front_geo(f), offset, len) : 0, 0};
}

/* Streams that touch it: the first of them may have been placed before, and the last reach into what follows. */
uint64_t q2_pack_count(struct q2_front *f, uint64_t host_cluster)
{
    const struct q2_geometry *g = q2_front_geo(f);
    struct front_pack *p = f->pack;
    uint64_t count = 0, offset = 0, len = 1;

    assert(host_cluster >= p->first >> g->cluster_bits);
    for (;;) {
        if (!p->ahead) {
            p->ahead = next(f, &p->counts, &offset, &len);
            if (!p->ahead)
                break;
            p->ahead_first = offset >> g->cluster_bits;
            p->ahead_last = (offset + len - 1) >> g->cluster_bits;
        }
        if (p->ahead_first > host_cluster)
            break;
        assert(p->ahead_last >= host_cluster);
        count++;
        if (p->ahead_last > host_cluster) {
            p->ahead = !MUTANT(PACK_REACH_UNCOUNTED);
            break;
        }
        p->ahead = false;
    }
    assert(count > 0 && count <= g->refcount_max); /* invariant 2 */
    return count;
}

bool q2_front_place(struct front *front, uint64_t guest_offset, uint64_t *ret_offset, uint64_t *ret_len)
{
    struct q2_front *f = container_of(front, struct q2_front, front);
    uint64_t cluster = guest_offset >> q2_front_geo(f)->cluster_bits;

    return next(f, &f->pack->data, ret_offset, ret_len) && f->pack->data.cluster == cluster + 1;
}
