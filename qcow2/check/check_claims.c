/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What all parts of a check do: say what they find, count a reference to the clusters of a range, and bound the
 * tables that are read.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "engine/base/error.h"
#include "qcow2/check/check_internal.h"
#include "qcow2/mutant.h"

/* ---- findings --------------------------------------------------------------------------------------- */

void check_found(struct check *c, enum qcow2_finding kind, uint64_t n, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    assert(n > 0);
    switch (kind) {
    case QCOW2_CORRUPTION:
        c->res.corruptions += n;
        break;
    case QCOW2_LEAK:
        c->res.leaks += n;
        break;
    case QCOW2_ERROR:
        c->res.check_errors += n;
        break;
    case QCOW2_NOTE:
    case QCOW2_FIXED:
        break;
    }
    if (!c->opts.report || !(c->opts.kinds >> kind & 1))
        return;
    /* Notes are few, and say how to go on: they are not lost among many findings. */
    if (kind != QCOW2_NOTE && c->reported++ >= c->opts.report_max)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_make_printable(text);
    c->opts.report(c->opts.report_arg, kind, text);
}

void check_report_rest(struct check *c)
{
    char text[96];

    if (!c->opts.report || c->reported <= c->opts.report_max)
        return;
    snprintf(text, sizeof text, "%" PRIu64 " more findings are not shown", c->reported - c->opts.report_max);
    c->opts.report(c->opts.report_arg, QCOW2_NOTE, text);
}

/* ---- references ------------------------------------------------------------------------------------- */

/* An entry may lead anywhere: what is far away is only remembered as being past the end. */
static int note_past(struct check *c, uint64_t start, uint64_t clusters)
{
    uint64_t window = check_past_window(c), end, from = max_u64(start, c->file_clusters) - c->file_clusters;
    struct q2_refs_added added;
    int rc = 0;

    c->past_from = min_u64(c->past_from, start);
    if (!c->past.pages)
        rc = q2_refs_init(&c->past, &c->budget, window);
    assert(clusters > 0 && (rc < 0 || c->past.clusters == window));
    end = add_u64(start, clusters, &end) ? end - min_u64(end, c->file_clusters) : window;
    for (uint64_t i = from; i < min_u64(end, window) && rc == 0 && !c->past_unknown; i++) {
        c->past_unknown = c->past_noted++ >= CHECK_PAST_MOST;
        rc = q2_refs_add(&c->past, i, Q2_USE_DATA, 1, 1, &added);
    }
    return rc;
}

uint64_t check_past_window(const struct check *c)
{
    return CHECK_PAST_MIN + c->file_clusters / 16;
}

bool check_claimed_past_end(const struct check *c, uint64_t cluster)
{
    assert(c->past_from <= c->file_clusters);
    if (cluster < c->file_clusters)
        return cluster >= c->past_from && !MUTANT(OVER_WHAT_REACHES);
    cluster -= c->file_clusters;
    assert(!c->past.pages || c->past.clusters == check_past_window(c));
    return c->past_unknown || cluster >= check_past_window(c) ||
           (c->past.pages && q2_refs_count(&c->past, cluster) > 0);
}

int check_claim(struct check *c, uint64_t host_offset, uint64_t len, enum q2_use use, uint64_t n)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t end;

    assert(n > 0);
    if (len == 0)
        return 0;
    /* The last cluster of a file may be there in part. */
    if (!add_u64(host_offset, len, &end) || (end > c->file_size && end - c->file_size >= g->cluster_size)) {
        check_found(c, QCOW2_CORRUPTION, n, "%s at host offset 0x%" PRIx64 ", %" PRIu64
                    " bytes, reaches past the end of the file", q2_use_name(use), host_offset, len);
        c->lost = true;
        return note_past(c, q2_cluster_index(g, host_offset), div_up(len, g->cluster_size) + 1);
    }
    assert(host_offset < end && q2_cluster_index(g, end - 1) < c->refs.clusters);
    for (uint64_t i = q2_cluster_index(g, host_offset); i <= q2_cluster_index(g, end - 1); i++) {
        struct q2_refs_added added;
        int rc = q2_refs_add(&c->refs, i, use, n, g->refcount_max, &added);

        if (rc < 0)
            return rc;
        if (unlikely(added.excess > 0))
            check_found(c, QCOW2_CORRUPTION, added.excess,
                        "cluster %" PRIu64 " has more references than a refcount of %" PRIu32 " bits can count", i,
                        g->refcount_bits);
        c->several |= (added.before != use && added.before != Q2_USE_NONE) || added.excess > 0;
        if (unlikely(added.before != use && added.before != Q2_USE_NONE && !q2_use_is_mixed(added.before)))
            check_found(c, QCOW2_NOTE, 1, "cluster %" PRIu64 " is used for %s, and for %s", i,
                        q2_use_name(added.before), q2_use_name(use));
    }
    return 0;
}

bool check_table_bytes(struct check *c, uint64_t len, const char *what)
{
    assert(len > 0);
    if (len > c->table_bytes) {
        check_found(c, QCOW2_CORRUPTION, 1,
                    "%s is not looked at: the tables so far are larger than the file, so they overlap", what);
        c->blind = true;
        return false;
    }
    c->table_bytes -= len;
    return true;
}
