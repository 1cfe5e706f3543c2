/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is an image fit to become something else?
 *
 * Happy path: a check finds no damage, COPIED flags apart, and narrower refcounts would do.
 * Failure modes: damage: -EIO, with the first that was found. A count that does not fit: -EINVAL. Of the check.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/error.h"
#include "qcow2/check/check_internal.h"

void qcow2_note_reason(void *arg, enum qcow2_finding kind, const char *text)
{
    char *reason = arg;

    if ((kind == QCOW2_CORRUPTION || kind == QCOW2_ERROR) && reason[0] == '\0')
        snprintf(reason, QCOW2_REASON_MAX, "%s", text);
}

int check_width(const struct check *c, uint32_t refcount_bits)
{
    const struct q2_geometry *g = &c->header.geo;
    uint64_t most = refcount_bits < 64 ? (1ull << refcount_bits) - 1 : UINT64_MAX;
    const struct q2_refs *refs = &c->refs;

    assert(is_power_of_two(refcount_bits) && refcount_bits <= 64);
    if (most >= g->refcount_max)
        return 0;
    for (uint64_t i = q2_refs_next(refs, 0); i < refs->clusters; i = q2_refs_next(refs, i + 1))
        if (q2_refs_count(refs, i) > most)
            return err_hint(err_set(EINVAL, "%s: Cannot decrease refcount entry width to %" PRIu32 " bits: "
                                    "Cluster at offset 0x%" PRIx64 " has a refcount of %" PRIu64, c->file->name,
                                    refcount_bits, i << g->cluster_bits, q2_refs_count(refs, i)),
                            c->header.nb_snapshots > 0
                                ? "delete the snapshots that share it, or take wider refcounts"
                                : "take wider refcounts: compressed clusters share it");
    return 0;
}

static int judge(struct check *c, const struct q2_sound *how, const char *reason)
{
    uint64_t faults = c->res.corruptions - c->flag_faults; /* flags are no worse afterwards */

    assert(c->flag_faults <= c->res.corruptions && !c->counting);
    if (faults > 0 || c->res.check_errors > 0 || c->blind)
        return err_hint(err_set(EIO, "%s: is damaged: %s", c->file->name,
                                reason[0] ? reason : "a table cannot be read"),
                        "repair it with vdisk-io check -r all");
    return how->refcount_bits ? check_width(c, how->refcount_bits) : 0;
}

int q2_check_sound(struct backend *file, vdisk_queue *queue, const struct qcow2_check_opts *opts,
                   const struct q2_sound *how)
{
    struct qcow2_check_opts own = *opts;
    char reason[QCOW2_REASON_MAX] = "";
    struct check c;
    int rc;

    own.report = qcow2_note_reason;
    own.report_arg = reason;
    err_clear();
    rc = check_begin(&c, file, queue, &own);
    if (rc == 0)
        rc = check_run(&c);
    if (rc == 0)
        rc = judge(&c, how, reason);
    if (rc < 0 && vdisk_error_text()[0] == '\0')
        err_set(rc, "%s: checking it: %s", file->name, strerror(-rc));
    check_finish(&c);
    return rc;
}
