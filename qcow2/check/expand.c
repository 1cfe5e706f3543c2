/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Zero clusters made explicit.
 *
 * Happy path: count all references, and what clusters will be needed; zeros into those that entries have already,
 * alone; new refcounts, in free space, that count the new clusters, too, and the header switched to them; zeros
 * into the new clusters; flush; then the L2 tables, each in place.
 * Failure modes: damage: nothing is written. Anything later, and a crash: some tables are changed, and new
 * clusters that no entry has yet are leaked; done again, it counts anew and goes on.
 *
 * Invariants.
 *  1. Nothing is written into a cluster that anybody reads but as zeros.
 *  2. The zeros, and the refcounts of what holds them, are durable before an entry shows them.
 */
#include "qcow2/check/expand.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/base/mem.h"
#include "engine/loop/zero.h"
#include "qcow2/check/check_internal.h"
#include "qcow2/check/more.h"
#include "qcow2/format/format.h"
#include "qcow2/mutant.h"

struct expand {
    struct check            c; /* references to all but what is new */
    const struct q2_expand *how;
    struct q2_more          more;
    uint64_t                zero_start, zero_end; /* clusters to be zeroed that have been met */
    uint64_t                entries; /* to be changed */
    bool                    leaks;
    char                    reason[QCOW2_REASON_MAX];
};

/* ---- zeros -------------------------------------------------------------------------------------------------- */

static void zero_call(void *arg, struct op *op)
{
    const struct expand *x = arg;
    uint32_t bits = x->c.header.geo.cluster_bits;

    assert(x->zero_start > 0 && x->zero_start < x->zero_end);
    zero_range(x->c.file, x->zero_start << bits, (x->zero_end - x->zero_start) << bits, 0, op);
}

/* Those met so far. */
static int write_zeros(struct expand *x)
{
    int rc = x->zero_start < x->zero_end ? op_run_call(x->c.queue, zero_call, x) : 0;

    x->zero_start = x->zero_end = 0;
    return rc;
}

static int add_zeros(struct expand *x, uint64_t start, uint64_t end)
{
    int rc = start != x->zero_end ? write_zeros(x) : 0;

    assert(start > 0 && start < end);
    if (x->zero_start == x->zero_end)
        x->zero_start = start;
    x->zero_end = end;
    return rc;
}

/* ---- one entry ---------------------------------------------------------------------------------------------- */

/* Is its cluster that entry's alone, in all the tables that are this one? */
static bool is_alone(const struct expand *x, const struct q2_l2_table *table, const struct q2_mapping *m)
{
    uint64_t count = q2_refs_count(&x->c.refs, q2_cluster_index(&x->c.header.geo, m->host_offset));

    assert(count >= table->refs);
    return count == table->refs || MUTANT(EXPAND_OVER_SHARED);
}

static bool is_zero(const struct q2_mapping *m)
{
    return m->type == Q2_CLUSTER_ZERO_PLAIN || m->type == Q2_CLUSTER_ZERO_ALLOC;
}

static struct q2_mapping entry_of(const struct expand *x, const uint8_t *l2, uint64_t i)
{
    const struct q2_geometry *g = &x->c.header.geo;
    struct q2_l2_entry e = q2_l2_entry_get(g, l2 + q2_l2_entry_offset(g, i));

    assert(i < q2_l2_entries(g));
    return q2_entry_decode(g, e.word, e.bitmap);
}

/*
 * Might something else show if it had no cluster? Behind the end of the disk, too: a VM's state lies there, where
 * a longer backing file shows through; and one table can be at several places.
 */
static bool hides(const struct expand *x)
{
    return x->how->backed;
}

/* What such an entry will take. */
static int plan_entry(struct expand *x, const struct q2_l2_table *table, const struct q2_mapping *m)
{
    uint64_t cluster = q2_cluster_index(&x->c.header.geo, m->host_offset);

    if (!is_zero(m))
        return 0;
    assert(table->refs > 0 && (!m->has_host || m->type == Q2_CLUSTER_ZERO_ALLOC));
    x->entries++;
    if (m->has_host && is_alone(x, table, m))
        return add_zeros(x, cluster, cluster + 1); /* invariant 1 */
    x->leaks |= m->has_host;
    return hides(x) ? q2_more_want(&x->more, table->refs) : 0;
}

static void put_entry(struct expand *x, const struct q2_l2_table *table, const struct q2_mapping *m, uint8_t *p)
{
    const struct q2_geometry *g = &x->c.header.geo;
    struct q2_l2_entry e = {0, 0};

    assert(is_zero(m) && g->version >= 3 && !g->extended_l2);
    if (m->has_host && is_alone(x, table, m))
        e.word = q2_entry_encode(g, Q2_CLUSTER_NORMAL, m->host_offset, m->copied);
    else if (hides(x))
        e.word = q2_entry_encode(g, Q2_CLUSTER_NORMAL, q2_more_take(&x->more, table->refs) << g->cluster_bits,
                                 table->refs == 1);
    q2_l2_entry_put(g, p, e);
}

/* ---- tables ------------------------------------------------------------------------------------------------- */

static int plan_table(struct check *c, uint64_t i, uint8_t *l2, int rc)
{
    struct expand *x = container_of(c, struct expand, c);

    for (uint64_t k = 0; k < q2_l2_entries(&c->header.geo) && rc == 0; k++) {
        struct q2_mapping m = entry_of(x, l2, k);
        rc = plan_entry(x, &c->l2.tables[i], &m);
    }
    return rc < 0 ? rc : check_progress(c, 1);
}

static int change_table(struct check *c, uint64_t i, uint8_t *l2, int rc)
{
    struct expand *x = container_of(c, struct expand, c);
    const struct q2_geometry *g = &c->header.geo;
    bool changed = false;

    assert(i == 0 || c->l2.tables[i - 1].host_offset < c->l2.tables[i].host_offset); /* as they were planned */
    for (uint64_t k = 0; k < q2_l2_entries(g) && rc == 0; k++) {
        struct q2_mapping m = entry_of(x, l2, k);
        if (!is_zero(&m))
            continue;
        put_entry(x, &c->l2.tables[i], &m, l2 + q2_l2_entry_offset(g, k));
        changed = true;
    }
    if (rc == 0 && changed)
        rc = io_pwrite(c->queue, c->file, l2, g->cluster_size, c->l2.tables[i].host_offset);
    return rc < 0 ? rc : check_progress(c, 1);
}

/* ---- all of it ---------------------------------------------------------------------------------------------- */

static int count(struct expand *x)
{
    struct check *c = &x->c;
    int rc = check_load_refcounts(c);

    c->counting = true;
    if (rc == 0)
        rc = check_count(c);
    if (rc == 0 && (c->res.corruptions > 0 || c->res.check_errors > 0 || c->blind))
        rc = err_hint(err_set(EIO, "%s: is damaged: %s", c->file->name,
                              x->reason[0] ? x->reason : "a table cannot be read"),
                      "repair it with vdisk-io check -r all");
    return rc;
}

static int plan(struct expand *x)
{
    struct check_reads reads = {.count = x->c.l2.count, .offset = check_l2_offset, .take = plan_table};
    int rc = check_read_clusters(&x->c, &reads);

    return rc == 0 ? write_zeros(x) : rc;
}

/* Refcounts that count the new clusters, and zeros into those. */
static int get_more(struct expand *x)
{
    struct q2_rebuild as = {.flags = Q2_REBUILD_STRICT, .more = &x->more};
    struct q2_rebuilt n;
    int rc, punched;

    assert(x->entries > 0 && x->more.runs_count == 0 && x->zero_start == x->zero_end);
    if (x->more.wants_count == 0)
        return 0;
    rc = q2_rebuild_refcounts_as(x->c.file, x->c.queue, x->how->opts, &as, &n);
    if (rc < 0)
        return rc;
    assert(n.host_offset > 0 && n.clusters > 0 && x->more.runs_count > 0);
    x->leaks = true;
    rc = x->how->switch_to(x->how->arg, &n);
    if (rc == 0)
        q2_spans_punch(&n.freed, x->c.file, x->c.queue, x->c.header.geo.cluster_bits, &punched);
    q2_spans_finish(&n.freed);
    for (uint64_t i = 0; i < x->more.runs_count && rc == 0; i++)
        rc = add_zeros(x, x->more.runs[i].start, x->more.runs[i].end);
    return rc == 0 ? write_zeros(x) : rc;
}

static int change_tables(struct expand *x)
{
    struct check_reads reads = {.count = x->c.l2.count, .offset = check_l2_offset, .take = change_table};
    int rc = MUTANT(EXPAND_UNSYNCED) ? 0 : io_pflush(x->c.queue, x->c.file); /* invariant 2 */

    if (rc == 0)
        rc = check_read_clusters(&x->c, &reads);
    assert(rc < 0 || x->more.next_run == x->more.runs_count); /* each has an entry */
    return rc == 0 ? io_pflush(x->c.queue, x->c.file) : rc;
}

static int expand(struct expand *x)
{
    int rc = count(x);

    assert(rc < 0 || (!x->c.header.geo.extended_l2 && !x->c.header.geo.data_file));
    if (rc == 0)
        rc = plan(x);
    if (rc == 0 && x->entries > 0)
        rc = get_more(x);
    return rc == 0 && x->entries > 0 ? change_tables(x) : rc;
}

int q2_expand_zeros(struct backend *file, vdisk_queue *queue, const struct q2_expand *how, bool *ret_leaks)
{
    struct qcow2_check_opts own = how->opts ? *how->opts : (struct qcow2_check_opts){.memory_max = 0};
    struct expand x = {.how = how};
    int rc;

    assert(!file->read_only);
    own.report = qcow2_note_reason;
    own.report_arg = x.reason;
    err_clear();
    rc = check_begin(&x.c, file, queue, &own);
    if (rc == 0)
        rc = expand(&x);
    *ret_leaks = x.leaks;
    if (rc < 0 && vdisk_error_text()[0] == '\0')
        err_set(rc, "%s: making its zero clusters explicit: %s", file->name, strerror(-rc));
    q2_more_finish(&x.more);
    check_finish(&x.c);
    return rc;
}
