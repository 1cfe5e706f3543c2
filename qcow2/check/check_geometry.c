/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is the cluster size in the header that of the image?
 *
 * Happy path: what header, L1 table, refcount table and snapshots lead to begins where a cluster does.
 * Failure modes: a good part of it would with smaller clusters only: then the header is wrong, not they. By that
 * cluster size each snapshot has its table in an impossible place, data seem free, and tables have the data behind
 * them as entries: a repair would destroy what can still be had once the header is right, so there is none. What
 * cannot be read says nothing.
 */
#include "engine/base/mem.h"
#include "qcow2/check/check_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "qcow2/format/format.h"

/* One or two offsets of very many may be damaged, each for itself. */
enum { SMALLER_MIN = 2, SMALLER_PART = 4 };

struct places {
    uint64_t n;       /* such as can be in clusters of some size */
    uint64_t smaller; /* of them, in smaller ones than these */
};

static void look_at(const struct check *c, uint64_t host_offset, struct places *p)
{
    if (host_offset == 0 || host_offset >= c->file_size || !is_aligned(host_offset, 1 << Q2_MIN_CLUSTER_BITS))
        return;
    p->n++;
    p->smaller += !is_aligned(host_offset, c->header.geo.cluster_size);
    assert(p->smaller <= p->n);
}

/* As it is on disk: what cannot be is not in c->header. */
static int look_at_header(struct check *c, struct places *p)
{
    uint8_t *sector = check_buffer(c, Q2_SECTOR_SIZE);
    struct q2_header_fields f;

    if (!sector)
        return -ENOMEM;
    if (check_read(c, sector, Q2_SECTOR_SIZE, 0) == 0) {
        f = q2_header_fields_get(sector);
        look_at(c, f.reftable_offset, p);
        look_at(c, f.snapshots_offset, p);
    }
    mem_free(sector);
    return 0;
}

static int look_at_l1(struct check *c, struct places *p)
{
    uint64_t len = (uint64_t)c->header.l1_entries * Q2_L1_ENTRY_SIZE;
    uint8_t *buf;

    if (len == 0)
        return 0;
    assert(len <= Q2_MAX_L1_SIZE);
    buf = check_buffer(c, len);
    if (!buf)
        return -ENOMEM;
    if (check_read(c, buf, len, c->header.l1_offset) == 0)
        for (uint64_t pos = 0; pos < len; pos += Q2_L1_ENTRY_SIZE)
            look_at(c, q2_l1_offset(get_be64(buf + pos)), p);
    mem_free(buf);
    return 0;
}

static int look_at_snapshots(struct check *c, struct places *p)
{
    uint64_t at = c->header.snapshots_offset, len, pos = 0;
    struct q2_disk_snapshot d;
    uint8_t *buf;

    if (c->header.nb_snapshots == 0 || at == 0 || at >= c->file_size)
        return 0;
    len = min_u64(c->file_size - at, Q2_MAX_SNAPSHOT_TABLE);
    buf = check_buffer(c, len);
    if (!buf)
        return -ENOMEM;
    if (check_read(c, buf, len, at) < 0)
        len = 0;
    for (uint32_t i = 0; i < c->header.nb_snapshots && pos + sizeof d <= len; i++) {
        memcpy(&d, buf + pos, sizeof d);
        look_at(c, be64toh(d.l1_table_offset), p);
        pos = align_up(pos + sizeof d + be32toh(d.extra_size) + be16toh(d.id_size) + be16toh(d.name_size), 8);
    }
    mem_free(buf);
    return 0;
}

int check_geometry(struct check *c)
{
    struct places p = {0};
    int rc = look_at_header(c, &p);

    for (uint64_t i = 0; i < c->reftable_entries; i++)
        look_at(c, q2_reftable_offset(c->reftable[i]), &p);
    if (rc == 0)
        rc = look_at_l1(c, &p);
    if (rc == 0)
        rc = look_at_snapshots(c, &p);
    if (rc < 0)
        return err_set(rc, "%s: out of memory", c->file->name);
    if (p.smaller < SMALLER_MIN || p.smaller * SMALLER_PART < p.n)
        return 0;
    return err_hint(err_set(EINVAL, "%s: %" PRIu64 " of its %" PRIu64 " tables are not at clusters of %" PRIu64
                            " bytes: the cluster size in its header is wrong", c->file->name, p.smaller, p.n,
                            (uint64_t)c->header.geo.cluster_size),
                    "set it right there: a repair would destroy what is found by it");
}
