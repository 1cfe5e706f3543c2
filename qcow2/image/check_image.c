/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The engine's words for check and repair, and the format's own. */
#include <assert.h>
#include <errno.h>

#include "engine/base/error.h"
#include "qcow2/check/check.h"
#include "qcow2/qcow2.h"

/* Findings are numbered alike. */
_Static_assert((int)VDISK_FOUND_CORRUPTION == (int)QCOW2_CORRUPTION && (int)VDISK_FOUND_LEAK == (int)QCOW2_LEAK &&
               (int)VDISK_FOUND_ERROR == (int)QCOW2_ERROR && (int)VDISK_FOUND_NOTE == (int)QCOW2_NOTE &&
               (int)VDISK_FOUND_FIXED == (int)QCOW2_FIXED, "findings");

static void report(void *arg, enum qcow2_finding kind, const char *text)
{
    const struct vdisk_check_opts *opts = arg;

    opts->report(opts->report_arg, (enum vdisk_finding)kind, text);
}

/* Tell what is referred to. */
struct telling {
    const struct vdisk_check_opts *opts;
    const char                    *name;
};

static int tell_used(void *arg, const struct q2_refs *refs, const struct qcow2_check_result *res)
{
    const struct telling *t = arg;
    uint64_t end = 0;
    int rc = 0;

    for (uint64_t first; rc == 0 && (first = q2_refs_next(refs, end)) < refs->clusters;) {
        for (end = first + 1; end < refs->clusters && q2_refs_count(refs, end) > 0;)
            end++;
        assert(first < end);
        rc = t->opts->used(t->opts->used_arg, first * res->cluster_size,
                           (end - first) * res->cluster_size);
    }
    return rc == 0 ? 0 : err_set(rc > 0 ? ECANCELED : rc, "%s: the check was stopped", t->name);
}

int qcow2_check_image(struct backend *file, enum vdisk_repair what, const struct vdisk_check_opts *opts,
                      vdisk_queue *q, struct vdisk_check_result *ret, struct vdisk_repair_result *ret_fixed)
{
    struct vdisk_check_opts user = *opts;
    struct qcow2_check_opts own = {
        .report = opts->report ? report : NULL, .report_arg = &user, .kinds = opts->kinds,
        .report_max = opts->report_max, .progress = opts->progress, .progress_arg = opts->progress_arg,
        .memory_max = opts->memory_max,
    };
    struct telling telling = {opts, file->name};
    struct qcow2_repair_result r = {.leaks_fixed = 0};
    int rc;

    if (what == VDISK_REPAIR_NOTHING)
        rc = qcow2_check_counted(file, q, &own, opts->used ? tell_used : NULL, &telling, &r.check);
    else
        rc = qcow2_repair(file, q, what == VDISK_REPAIR_ALL ? QCOW2_REPAIR_ALL : QCOW2_REPAIR_LEAKS, &own, &r);
    if (rc < 0)
        return rc;
    *ret = (struct vdisk_check_result){
        .image_end_offset = r.check.image_end_offset, .total_clusters = r.check.total_clusters,
        .allocated_clusters = r.check.allocated_clusters, .fragmented_clusters = r.check.fragmented_clusters,
        .compressed_clusters = r.check.compressed_clusters, .corruptions = r.check.corruptions,
        .leaks = r.check.leaks, .check_errors = r.check.check_errors,
    };
    ret_fixed->leaks_fixed = r.leaks_fixed;
    ret_fixed->corruptions_fixed = r.corruptions_fixed;
    return 0;
}
