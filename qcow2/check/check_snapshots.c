/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mending the snapshot table.
 *
 * Happy path: read what is there, entry by entry, with more patience than a reader has; write a table of the
 * entries that are some, with the fields that version 3 asks for, to a new place, flush: the caller points the
 * header to it. What the old place had is a leak then. A table that is not where the header says is looked for
 * among the clusters that nothing refers to. A snapshot whose L1 table cannot be where its entry says is given up.
 * Failure modes: an entry that cannot be understood stays as it is, so that a check names it, and what it may
 * refer to is not freed. No place for the new table: nothing is changed. A table that is nowhere is given up,
 * says a line.
 *
 * Invariants.
 *  1. The header points to a new table, and to clusters with refcounts, only when both are durable.
 *  2. An entry of the new table leads to the L1 table that the old one led to.
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

enum {
    SEARCH_MAX = 100000,
    ENTRY = sizeof(struct q2_disk_snapshot),
    EXTRA = sizeof(struct q2_disk_snapshot_extra)
};

_Static_assert(ENTRY % 8 == 0 && EXTRA % 8 == 0, "what is complete needs no padding but that of its names");

/* What to say of an entry, at this place in the old table, when the new one is written. */
struct said {
    uint64_t    pos;
    const char *why; /* it is given up: what its L1 table is; NULL: it is not, */
    uint32_t    has; /* but has so many bytes of extra data now */
};

struct mend {
    struct check *c;
    struct said  *said;
    uint8_t      *in, *out;
    uint64_t      len, pos;  /* of in */
    uint64_t      out_len;
    uint64_t      tables_left; /* bytes of L1 tables that may still be looked at */
    uint32_t      n, wanted; /* entries: taken; as the header says */
    uint32_t      given_up, said_count;
    bool          changed;
};

/* ---- one entry ---------------------------------------------------------------------------------------------- */

static bool is_empty(const uint8_t *entry)
{
    return entry[0] == 0 && memcmp(entry, entry + 1, ENTRY - 1) == 0;
}

/* Extra data of version 3 that are complete, out of what there is. Returns their length. */
static uint32_t fill_extra(struct mend *m, const struct q2_disk_snapshot *d, const uint8_t *extra, uint32_t len,
                           uint8_t *out)
{
    bool complete = len >= 16 || m->c->header.geo.version < 3;

    if (complete && len <= Q2_MAX_SNAPSHOT_EXTRA) {
        memcpy(out, extra, len);
        return len;
    }
    m->changed = true;
    if (len < 8)
        put_be64(out, be32toh(d->vm_state_size));
    put_be64(out + 8, m->c->header.size);
    put_be64(out + 16, UINT64_MAX); /* no icount */
    memcpy(out, extra, len >= EXTRA ? EXTRA : len >= 8 ? 8 : 0);
    return EXTRA;
}

/* Why its L1 table is none, in words; NULL: it is one. What many share is not looked at for ever. */
static const char *why_unusable(struct mend *m, const struct q2_disk_snapshot *d)
{
    uint64_t at = be64toh(d->l1_table_offset), entries = be32toh(d->l1_size);
    const char *why = check_misplaced_l1(m->c, at, entries);

    if (why || entries * Q2_L1_ENTRY_SIZE > m->tables_left)
        return why;
    m->tables_left -= entries * Q2_L1_ENTRY_SIZE;
    assert(m->tables_left <= m->c->file_size);
    return check_nonsense_l1(m->c, at, entries) > 0 ? "none" : NULL;
}

/* To be left out? */
static bool give_up(struct mend *m, const struct q2_disk_snapshot *d)
{
    const char *why = why_unusable(m, d);

    if (!why)
        return false;
    m->given_up++;
    assert(m->n + m->given_up <= m->wanted);
    m->changed = true;
    m->said[m->said_count++] = (struct said){.pos = m->pos, .why = why};
    return true;
}

static void say(const struct mend *m, const struct said *s)
{
    struct q2_disk_snapshot d;
    const char *id, *name;
    int id_len, name_len;

    memcpy(&d, m->in + s->pos, sizeof d);
    id = (const char *)m->in + s->pos + ENTRY + be32toh(d.extra_size);
    name = id + be16toh(d.id_size);
    id_len = (int)min_u64(40, be16toh(d.id_size));
    name_len = (int)min_u64(60, be16toh(d.name_size));
    if (s->why)
        check_found(m->c, QCOW2_FIXED, 1, "snapshot %.*s (%.*s): given up, its L1 table at host offset 0x%" PRIx64
                    " is %s", id_len, id, name_len, name, be64toh(d.l1_table_offset), s->why);
    else
        check_found(m->c, QCOW2_FIXED, 1, "snapshot %.*s: %" PRIu32 " bytes of extra data, were %" PRIu32, id_len,
                    id, s->has, be32toh(d.extra_size));
}

/* What has been done: nothing, before the new table is durable. */
static void say_all(const struct mend *m)
{
    assert(m->said_count <= m->wanted);
    for (uint32_t i = 0; i < m->said_count; i++)
        say(m, &m->said[i]);
    if (m->n > 0 && m->n + m->given_up < m->c->header.nb_snapshots)
        check_found(m->c, QCOW2_FIXED, 1, "the snapshot table: has %" PRIu32 " entries, not %" PRIu32, m->n,
                    m->c->header.nb_snapshots);
    if (m->given_up > 0)
        check_found(m->c, QCOW2_NOTE, 1, "what seems to be leaked may be what snapshots had that are given up, "
                    "and is kept: free it with -r leaks");
}

/* The entry at m->pos, to m->out. False: it ends behind the end of the table. */
static bool take_entry(struct mend *m)
{
    const uint8_t *p = m->in + m->pos;
    uint8_t *out = m->out + m->out_len;
    struct q2_disk_snapshot d;
    uint32_t had, names, has;
    uint64_t end;

    assert(m->pos + ENTRY <= m->len && is_aligned(m->pos | m->out_len, 8) && m->n < m->wanted);
    memcpy(&d, p, sizeof d);
    had = be32toh(d.extra_size);
    names = (uint32_t)be16toh(d.id_size) + be16toh(d.name_size);
    end = m->pos + ENTRY + had + names;
    if (end > m->len)
        return false;
    if (give_up(m, &d)) {
        m->pos = align_up(end, 8);
        return true;
    }
    has = fill_extra(m, &d, p + ENTRY, had, out + ENTRY);
    if (has != had)
        m->said[m->said_count++] = (struct said){.pos = m->pos, .has = has};
    d.extra_size = htobe32(has);
    memcpy(out, &d, ENTRY);
    memcpy(out + ENTRY + has, p + ENTRY + had, names);
    m->out_len = align_up(m->out_len + ENTRY + has + names, 8);
    m->pos = align_up(end, 8);
    m->n++;
    assert(m->out_len <= m->pos + m->n * (uint64_t)EXTRA); /* as `out` has room */
    return true;
}

/* Is there nothing in the table but what is given up? Then no place is needed for another. */
static bool none_is_usable(struct mend *m)
{
    uint64_t pos = 0;

    for (uint32_t i = 0; i < m->wanted; i++) {
        struct q2_disk_snapshot d;

        if (pos + ENTRY > m->len)
            return false;
        memcpy(&d, m->in + pos, sizeof d);
        pos += ENTRY + be32toh(d.extra_size) + (uint64_t)be16toh(d.id_size) + be16toh(d.name_size);
        if (pos > m->len || !why_unusable(m, &d))
            return false;
        pos = align_up(pos, 8);
    }
    m->tables_left = m->c->file_size;
    return m->wanted > 0;
}

/* 0, or -EINVAL: there is an entry that cannot be understood. */
static int take_entries(struct mend *m)
{
    for (uint32_t i = 0; i < m->wanted; i++) {
        /* Behind the last one there are zeros; and nothing, behind the end of the file. */
        if (m->pos + ENTRY > m->len || is_empty(m->in + m->pos))
            break;
        if (!take_entry(m))
            return -EINVAL;
    }
    m->changed |= m->n < m->c->header.nb_snapshots;
    return 0;
}

/* ---- a place for the new table ------------------------------------------------------------------------------ */

/* Is the cluster free for sure? Its refcount is known. */
static bool is_free(const struct check *c, uint64_t cluster, uint64_t refcount)
{
    return refcount == 0 && check_refs_count(c, cluster) == 0 && !check_claimed_past_end(c, cluster);
}

/* `n` neighbours from cluster `from` on, below `limit`; 0: there are none. */
static uint64_t find_place(struct check *c, uint64_t n, uint64_t from, uint64_t limit, uint8_t *buf)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t have = 0, loaded = 0;

    assert(n > 0 && from > 0);
    for (uint64_t i = from; i < limit && have < n; i++) {
        uint64_t block;

        if (!check_find_block(c, i, &block)) {
            have = 0;
            i |= q2_refblock_entries(g) - 1;
            continue;
        }
        if (block != loaded && io_pread(c->queue, c->file, buf, g->cluster_size, block) < 0)
            return 0;
        loaded = block;
        have = is_free(c, i, q2_refcount_get(g, buf, q2_refblock_index(g, i))) ? have + 1 : 0;
        from = i + 1 - have;
    }
    assert(have <= n);
    return have == n ? from : 0;
}

static int write_table(struct mend *m, uint64_t *ret_offset)
{
    struct check *c = m->c;
    const struct q2_geometry *g = &c->header.geo;
    uint64_t n = q2_clusters(g, m->out_len), first = 0, block;
    uint64_t end = c->file_clusters + (c->file->caps & BACKEND_GROWS ? q2_refblock_entries(g) : 0);
    uint8_t *buf = check_buffer(c, g->cluster_size);
    int rc = buf ? 0 : -ENOMEM;

    assert(!c->untrusted && !c->file->read_only && m->n > 0 && m->out_len >= m->n * (uint64_t)ENTRY);
    if (rc == 0 && c->file->caps & BACKEND_GROWS)
        first = find_place(c, n, c->file_clusters, end, buf);
    if (rc == 0 && first == 0) /* or from within the file on, past its end */
        first = find_place(c, n, 1, end, buf);
    if (rc == 0 && first == 0)
        rc = -ENOSPC;
    assert(rc < 0 || (check_refs_count(c, first) == 0 && check_refs_count(c, first + n - 1) == 0));
    if (rc == 0)
        rc = io_pwrite(c->queue, c->file, m->out, n << g->cluster_bits, first << g->cluster_bits);
    for (uint64_t i = first; i < first + n && rc == 0; i++)
        rc = check_find_block(c, i, &block) ? check_set_refcount(c, i, block, 1, buf) : -ENOSPC;
    if (rc == 0)
        rc = io_pflush(c->queue, c->file); /* invariant 1 */
    mem_free(buf);
    *ret_offset = first << g->cluster_bits;
    return rc;
}

/* ---- a table that is not where it should be ----------------------------------------------------------------- */

/* Is this one for sure: all its entries have names, and L1 tables that nothing else has. */
static bool is_ours(const struct check *c, const struct q2_snapshot_table *t)
{
    for (uint32_t i = 0; i < t->n; i++) {
        const struct q2_snapshot *s = &t->entries[i];
        uint64_t len = (uint64_t)s->l1_entries * Q2_L1_ENTRY_SIZE;

        if (s->id[0] == '\0' || len == 0 || s->l1_offset == 0 || s->l1_offset >= c->file_size ||
            len > c->file_size - s->l1_offset ||
            check_refs_count(c, q2_cluster_index(&c->header.geo, s->l1_offset)) != 0)
            return false;
    }
    return t->n > 0;
}

/* The only place, among clusters that nothing refers to, where a table of so many entries is; 0: none. */
static int search_table(struct check *c, uint64_t *ret)
{
    unsigned tried = 0;

    *ret = 0;
    for (uint64_t i = 1; i < c->file_clusters && tried < SEARCH_MAX; i++) {
        struct q2_snapshot_table t = {0};
        bool known, sole = check_sole(c, i, &known), found;
        int rc;

        if (!known || !sole || check_refs_count(c, i) != 0)
            continue;
        tried++;
        rc = check_load_snapshots(c, i << c->header.geo.cluster_bits, &t);
        found = rc == 0 && is_ours(c, &t);
        q2_snapshots_free(&t);
        if (rc == -ENOMEM)
            return rc;
        if (found && *ret != 0) { /* which of the two? */
            *ret = 0;
            return 0;
        }
        if (found)
            *ret = i << c->header.geo.cluster_bits;
    }
    return 0;
}

/* ---- all of it ---------------------------------------------------------------------------------------------- */

static bool has_place(const struct check *c)
{
    uint64_t offset = c->header.snapshots_offset;

    return is_aligned(offset, c->header.geo.cluster_size) && offset != 0 && offset < c->file_size;
}

static int mend_lost(struct check *c, struct check_snapshots_at *ret)
{
    int rc = 0;

    *ret = (struct check_snapshots_at){.n = 0};
    if (c->header.nb_snapshots > 0 && c->header.nb_snapshots <= Q2_MAX_SNAPSHOTS)
        rc = search_table(c, &ret->host_offset);
    if (rc < 0)
        return rc;
    assert(is_aligned(ret->host_offset, c->header.geo.cluster_size));
    if (ret->host_offset != 0) {
        ret->n = c->header.nb_snapshots;
        check_found(c, QCOW2_FIXED, 1, "the snapshot table: found again at host offset 0x%" PRIx64,
                    ret->host_offset);
        return 1;
    }
    check_found(c, QCOW2_FIXED, 1, "the snapshot table at host offset 0x%" PRIx64 " is nowhere: its %" PRIu32
                " snapshots are given up", c->header.snapshots_offset, c->header.nb_snapshots);
    return 1;
}

static int mend_read(struct mend *m, struct check_snapshots_at *ret)
{
    struct check *c = m->c;
    int rc = check_read(c, m->in, m->len, c->header.snapshots_offset);

    if (rc < 0) /* the check has named it */
        return 0;
    m->tables_left = c->file_size;
    if (c->untrusted && !none_is_usable(m))
        return 0;
    if (take_entries(m) < 0 || !m->changed)
        return 0;
    if (m->n == 0 && m->given_up == 0)
        return mend_lost(c, ret);
    *ret = (struct check_snapshots_at){.n = m->n, .given_up = m->given_up > 0};
    rc = m->n > 0 ? write_table(m, &ret->host_offset) : 0;
    if (rc == -ENOSPC) {
        ret->wanted = (uint32_t)q2_clusters(&c->header.geo, m->out_len);
        check_found(c, QCOW2_NOTE, 1, "the snapshot table is not repaired: there is no place for a new one");
        return 0;
    }
    if (rc < 0)
        return rc;
    say_all(m);
    return 1;
}

int check_mend_snapshots(struct check *c, struct check_snapshots_at *ret)
{
    struct mend m = {.c = c, .wanted = (uint32_t)min_u64(c->header.nb_snapshots, Q2_MAX_SNAPSHOTS)};
    int rc;

    if (c->header.nb_snapshots == 0 && !c->header.snapshots_problem)
        return 0;
    if (!has_place(c))
        return c->untrusted ? 0 : mend_lost(c, ret);
    m.len = min_u64(c->file_size - c->header.snapshots_offset, Q2_MAX_SNAPSHOT_TABLE);
    m.in = check_buffer(c, m.len);
    m.out = check_buffer(c, align_up(m.len + (uint64_t)m.wanted * (EXTRA + 8), c->header.geo.cluster_size));
    m.said = mem_calloc(max_u64(m.wanted, 1), sizeof *m.said);
    if (m.in && m.out && m.said) {
        memset(m.out, 0, align_up(m.len + (uint64_t)m.wanted * (EXTRA + 8), c->header.geo.cluster_size));
        rc = mend_read(&m, ret);
    } else {
        rc = -ENOMEM;
    }
    mem_free(m.in);
    mem_free(m.out);
    mem_free(m.said);
    return rc < 0 ? err_set(rc, "%s: repairing the snapshot table: %s", c->file->name, strerror(-rc)) : rc;
}

/* ---- for another version ------------------------------------------------------------------------------------ */

/* *ret_wanted: clusters that there is no place for; 0: it is done. */
static int complete(struct check *c, q2_snapshots_fn *set, void *arg, uint32_t *ret_wanted)
{
    struct check_snapshots_at at = {.n = 0};
    int rc = check_run(c);

    *ret_wanted = 0;
    assert(rc < 0 || c->header.geo.version < 3);
    if (rc == 0 && c->res.corruptions + c->res.check_errors > 0)
        return err_hint(err_set(EIO, "%s: does not check clean", c->file->name),
                        "repair it with vdisk-io check -r all");
    c->header.geo.version = 3; /* as what it is to be judged */
    if (rc == 0)
        rc = check_mend_snapshots(c, &at);
    if (rc == 0) {
        *ret_wanted = (uint32_t)max_u64(1, at.wanted);
        return 0;
    }
    assert(rc < 0 || !at.given_up);
    return rc < 0 ? rc : set(arg, at.host_offset, at.n);
}

static int complete_once(struct backend *file, vdisk_queue *q, const struct qcow2_check_opts *opts,
                         q2_snapshots_fn *set, void *arg, uint32_t *ret_wanted)
{
    struct qcow2_check_opts own = *opts;
    struct check c;
    int rc;

    own.report = NULL;
    *ret_wanted = 0;
    rc = check_begin(&c, file, q, &own);
    if (rc == 0)
        rc = complete(&c, set, arg, ret_wanted);
    check_finish(&c);
    return rc;
}

/* Refcounts that have so many clusters in a row to spare. */
static int make_room(struct backend *file, vdisk_queue *q, const struct qcow2_check_opts *opts, uint32_t clusters,
                     q2_refcounts_fn *switch_to, void *arg)
{
    struct q2_rebuild as = {.flags = Q2_REBUILD_STRICT, .room = clusters};
    struct q2_rebuilt n;
    int rc = q2_rebuild_refcounts_as(file, q, opts, &as, &n);

    if (rc < 0)
        return rc;
    assert(clusters > 0 && n.host_offset > 0);
    q2_spans_finish(&n.freed); /* the table may be put there */
    return switch_to(arg, &n);
}

int q2_complete_snapshots(struct backend *file, vdisk_queue *q, const struct qcow2_check_opts *opts,
                          q2_snapshots_fn *set, q2_refcounts_fn *switch_to, void *arg)
{
    uint32_t wanted;
    int rc;

    err_clear();
    rc = complete_once(file, q, opts, set, arg, &wanted);
    if (rc == 0 && wanted > 0) {
        rc = make_room(file, q, opts, wanted, switch_to, arg);
        if (rc == 0)
            rc = complete_once(file, q, opts, set, arg, &wanted);
    }
    if (rc == 0 && wanted > 0)
        rc = err_set(ENOSPC, "%s: there is no place for a snapshot table of version 3", file->name);
    if (rc < 0 && vdisk_error_text()[0] == '\0')
        err_set(rc, "%s: the snapshot table: %s", file->name, strerror(-rc));
    return rc;
}
