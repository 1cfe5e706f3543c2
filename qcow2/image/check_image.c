/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The engine's words for check and repair, and the format's own. */
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

int qcow2_check_image(struct backend *file, enum vdisk_repair what, const struct vdisk_check_opts *opts,
                      vdisk_queue *q, struct vdisk_check_result *ret, struct vdisk_repair_result *ret_fixed)
{
    struct vdisk_check_opts user = *opts;
    struct qcow2_check_opts own = {
        .report = opts->report ? report : NULL, .report_arg = &user, .kinds = opts->kinds,
        .report_max = opts->report_max, .progress = opts->progress, .progress_arg = opts->progress_arg,
        .memory_max = opts->memory_max,
    };
    struct qcow2_repair_result r = {.leaks_fixed = 0};
    int rc;

    if (what == VDISK_REPAIR_NOTHING)
        rc = qcow2_check(file, q, &own, &r.check);
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
