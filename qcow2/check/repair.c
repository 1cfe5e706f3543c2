/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Repair.
 *
 * Happy path: check; where something is wrong, change one kind of thing: entries of tables first, then guest data
 * in clusters of somebody else gets its own (check_part.c), then the refcounts (each for itself, or all of them
 * rebuilt where their structure is damaged), then the COPIED flags; flush; punch what was freed; and begin again
 * with the check, until it finds nothing more that can be mended. Clear the dirty and corrupt bits when it finds
 * nothing at all. Report what is left.
 * Failure modes: what is read wrongly or not at all is never a ground to lower a refcount. An error of a write, or
 * a crash, leaves an image in which some of the changes are made, each of them right; the next repair goes on.
 *
 * Invariants.
 *  1. All decisions of a step rest on a count of what is durable: there is a flush before the first write, and
 *     after each step.
 *  2. So a refcount is lowered only when what it counted is gone from the disk, and a flag says "not shared" only
 *     when the disk says so.
 *  3. No refcount is lowered while an entry cannot be read or followed.
 *  4. New refcount blocks and a new table are durable before the header's first sector switches to them.
 *  5. The dirty and corrupt bits go last, in a write of their own.
 *  6. The L1 table is told from a refcount table by its entries as long as the header takes it for both.
 */
#include "engine/base/mem.h"
#include "qcow2/check/check.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "qcow2/check/check_internal.h"
#include "qcow2/check/rebuild.h"
#include "qcow2/mutant.h"

enum { ROUNDS_MAX = 12 };

struct repair {
    struct backend             *file;
    vdisk_queue                *queue;
    enum qcow2_repair_what      what;
    struct qcow2_check_opts     opts;   /* the caller's */
    struct qcow2_check_result   before, now;
    uint64_t                    flags_before, flags_now, flags_fixed; /* COPIED flags that are, were wrong */
    uint64_t                    tail_before, tail_now; /* refcounts past the end of the file */
    unsigned                    round;
    bool                        rebuilt;
    bool                        dropped; /* an entry, or a snapshot, was given up: refcounts are not lowered */
};

/* ---- the header ----------------------------------------------------------------------------------------- */

/* The first sector with what `change` does to it; durable. */
static int change_header(struct repair *r, void (*change)(struct q2_header_fields *f, const void *arg),
                         const void *arg)
{
    uint8_t *sector = mem_buffer(Q2_SECTOR_SIZE);
    struct q2_header_fields fields;
    int rc;

    if (!sector)
        return err_set(ENOMEM, "%s: out of memory", r->file->name);
    rc = io_pread(r->queue, r->file, sector, Q2_SECTOR_SIZE, 0);
    if (rc == 0) {
        fields = q2_header_fields_get(sector);
        change(&fields, arg);
        q2_header_fields_put(sector, &fields);
        rc = io_pwrite(r->queue, r->file, sector, Q2_SECTOR_SIZE, 0);
    }
    if (rc == 0)
        rc = io_pflush(r->queue, r->file);
    mem_free(sector);
    return rc < 0 ? err_set(rc, "%s: writing the header: %s", r->file->name, strerror(-rc)) : 0;
}

static void set_reftable(struct q2_header_fields *f, const void *arg)
{
    const struct q2_rebuilt *n = arg;

    assert(n->host_offset > 0 && n->clusters > 0);
    f->reftable_offset = n->host_offset;
    f->reftable_clusters = n->clusters;
}

static void clear_marks(struct q2_header_fields *f, const void *arg)
{
    f->incompatible &= ~(uint64_t)(Q2_INCOMPAT_DIRTY | Q2_INCOMPAT_CORRUPT);
}

/* Bits that say what other writers must know, and we do not. */
static void clear_autoclear(struct q2_header_fields *f, const void *arg)
{
    f->autoclear &= Q2_AUTOCLEAR_KNOWN;
}

static int flush(struct repair *r)
{
    int rc = io_pflush(r->queue, r->file);

    return rc < 0 ? err_set(rc, "%s: flushing: %s", r->file->name, strerror(-rc)) : 0;
}

/* ---- one step ------------------------------------------------------------------------------------------- */

/* Invariant 6: without what tells them apart nobody could open the image any more. */
static bool must_not_drop(const struct check *c)
{
    assert(!c->header.l1_doubtful || c->untrusted);
    return c->header.l1_doubtful && !MUTANT(DROP_WHAT_TELLS);
}

static int rebuild(struct repair *r, struct check *c)
{
    bool keep = r->dropped || (must_not_drop(c) && check_leads_to_itself(c));
    struct q2_rebuilt n;
    int rc;

    assert(c->untrusted && !c->blind && !r->rebuilt && r->what == QCOW2_REPAIR_ALL);
    rc = q2_rebuild_refcounts(r->file, r->queue, &r->opts, keep ? Q2_REBUILD_KEEP : 0, &n);
    r->rebuilt = true;
    if (rc < 0)
        return rc;
    rc = change_header(r, set_reftable, &n); /* invariant 4 */
    if (rc < 0) {
        q2_spans_finish(&n.freed);
        return rc;
    }
    check_found(c, QCOW2_FIXED, 1, "all refcounts: rebuilt, with a new refcount table at host offset 0x%" PRIx64,
                n.host_offset);
    check_give_back(c, &n.freed);
    return 1;
}

/* What it led to is not what it was meant to lead to, which may be what seems to be leaked. */
static int drop_entries(struct repair *r, struct check *c)
{
    int rc = check_drop_entries(c);

    if (rc <= 0)
        return rc;
    r->dropped = true;
    check_found(c, QCOW2_NOTE, 1, "L1 entries that led to the L1 table itself are empty now; what seems to be "
                "leaked may be what they had, and is kept: free it with -r leaks");
    return rc;
}

static void set_snapshots(struct q2_header_fields *f, const void *arg)
{
    const struct check_snapshots_at *at = arg;

    assert((at->n == 0) == (at->host_offset == 0) && at->n <= Q2_MAX_SNAPSHOTS);
    f->snapshots_offset = at->host_offset;
    f->nb_snapshots = at->n;
}

static int mend_snapshots(struct repair *r, struct check *c)
{
    struct check_snapshots_at at;
    int rc = check_mend_snapshots(c, &at);

    if (rc <= 0)
        return rc;
    rc = change_header(r, set_snapshots, &at);
    r->dropped |= rc == 0 && at.given_up;
    return rc < 0 ? rc : 1;
}

static bool nothing_but_flags(const struct check *c)
{
    return c->res.corruptions == c->flag_faults && c->res.leaks == 0 && c->res.check_errors == 0;
}

/* Change one kind of thing: 1, or 0 when there is nothing left that can be done. */
static int step(struct repair *r, struct check *c)
{
    bool all = r->what == QCOW2_REPAIR_ALL;
    int rc;

    assert(r->round < ROUNDS_MAX && (all || (!r->rebuilt && !r->dropped)));
    rc = all && !must_not_drop(c) ? drop_entries(r, c) : 0;

    if (rc == 0 && all)
        rc = mend_snapshots(r, c);
    if (rc == 0 && all)
        rc = check_fix_entries(c);
    c->several |= r->rebuilt; /* then refcounts say what the entries do, whatever that is */
    if (rc == 0 && c->untrusted && all && !c->blind && !r->rebuilt)
        rc = rebuild(r, c);
    else if (rc == 0 && !c->untrusted && all && !c->blind)
        rc = check_part_owners(c);
    if (rc == 0 && !c->untrusted)
        rc = check_fix_refcounts(c, all, !c->blind && !c->lost && !r->dropped); /* invariant 3 */
    if (rc == 0 && !c->untrusted && (all || nothing_but_flags(c))) {
        rc = check_fix_flags(c);
        r->flags_fixed += rc > 0 ? c->changes : 0;
    }
    return rc;
}

static int first_write(struct repair *r, struct check *c)
{
    int rc;

    assert(r->round == 0 && !c->fixed);
    rc = r->what == QCOW2_REPAIR_ALL ? check_geometry(c) : 0;
    if (rc == 0 && r->what == QCOW2_REPAIR_ALL && (c->several || c->untrusted))
        rc = check_part_bounded(c);
    if (rc == 0)
        rc = flush(r);
    if (rc == 0 && c->header.geo.version >= 3 && c->header.autoclear & ~Q2_AUTOCLEAR_KNOWN)
        rc = change_header(r, clear_autoclear, NULL);
    return rc;
}

/* ---- rounds --------------------------------------------------------------------------------------------- */

static bool is_clean(const struct qcow2_check_result *res)
{
    return res->corruptions == 0 && res->leaks == 0 && res->check_errors == 0;
}

/* What a check says nothing about, and a repair can do something about. */
static uint64_t tail_leaks(const struct check *c)
{
    return check_tail_known(c) ? c->tail_leaks : 0;
}

static bool is_mended(const struct check *c)
{
    return is_clean(&c->res) && tail_leaks(c) == 0;
}

static bool has_marks(const struct check *c)
{
    return (c->header.incompatible & (Q2_INCOMPAT_DIRTY | Q2_INCOMPAT_CORRUPT)) != 0;
}

/* Check, then one step. 1: once more; 0: done. */
static int round_run(struct repair *r)
{
    struct qcow2_check_opts opts = r->opts;
    struct check c;
    int rc;

    /* What can be mended is not worth a word before; the last check reports the rest. */
    opts.kinds = 1u << QCOW2_FIXED | (r->round == 0 ? 1u << QCOW2_NOTE : 0);
    rc = check_begin(&c, r->file, r->queue, &opts);
    if (rc == 0)
        rc = check_run(&c);
    c.opts.kinds |= 1u << QCOW2_NOTE; /* of what is done now */
    if (rc == 0) {
        r->now = c.res;
        r->flags_now = c.flag_faults;
        assert(r->flags_now <= r->now.corruptions && !c.fixed);
    }
    if (rc == 0 && r->round == 0) {
        r->before = c.res;
        r->flags_before = c.flag_faults;
    }
    if (rc == 0 && r->round == 0)
        r->tail_before = tail_leaks(&c);
    r->tail_now = tail_leaks(&c);
    if (rc == 0 && is_mended(&c) && !has_marks(&c))
        goto out;
    if (rc == 0 && r->round == 0)
        rc = first_write(r, &c);
    if (rc == 0 && !is_mended(&c))
        rc = step(r, &c);
    if (rc > 0 && !MUTANT(REPAIR_UNFLUSHED) && flush(r) < 0) /* invariant 1 */
        rc = -EIO;
    if (rc > 0)
        check_give_back(&c, &c.freed);
    if (rc == 0 && has_marks(&c) && c.res.corruptions == 0 && c.res.check_errors == 0)
        rc = change_header(r, clear_marks, NULL); /* invariant 5 */
out:
    check_report_rest(&c);
    check_finish(&c);
    return rc;
}

/* Report what is left. */
static int last_check(struct repair *r)
{
    struct qcow2_check_opts opts = r->opts;

    if (is_clean(&r->now))
        return 0;
    opts.kinds = ~(1u << QCOW2_NOTE);
    return qcow2_check(r->file, r->queue, &opts, &r->now);
}

static uint64_t fewer(uint64_t before, uint64_t after)
{
    return before > after ? before - after : 0;
}

/* As QEMU counts: flags that come right with a refcount are not counted. */
static uint64_t corruptions_fixed(const struct repair *r)
{
    return fewer(r->before.corruptions - r->flags_before, r->now.corruptions - r->flags_now) + r->flags_fixed;
}

int qcow2_repair(struct backend *file, vdisk_queue *q, enum qcow2_repair_what what,
                 const struct qcow2_check_opts *opts, struct qcow2_repair_result *ret)
{
    struct repair r = {.file = file, .queue = q, .what = what};
    int rc;

    assert(!file->read_only);
    r.opts = opts ? *opts : (struct qcow2_check_opts){.report = NULL};
    err_clear();
    do
        rc = round_run(&r);
    while (rc > 0 && ++r.round < ROUNDS_MAX);
    if (rc >= 0)
        rc = last_check(&r);
    else if (vdisk_error_text()[0] == '\0')
        err_set(rc, "%s: repairing: %s", file->name, strerror(-rc));
    if (rc == 0) {
        ret->check = r.now;
        ret->leaks_fixed = fewer(r.before.leaks, ret->check.leaks) + fewer(r.tail_before, r.tail_now);
        ret->corruptions_fixed = corruptions_fixed(&r);
    }
    return rc;
}
