/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The room that a copy is given where data has a fixed size: in a volume group.
 *
 * Works: what is to be copied is measured, without reading data; what will be written to gets a chunk more, so
 * that it need not grow at once. Fails: the source cannot be opened. Nothing changes.
 */
#include <stdlib.h>

#include "tools/arith.h"
#include "tools/domain/kind.h"

int dom_measure_open(struct domain *to, vdisk *source, bool leaf, uint64_t *ret)
{
    struct vdisk_measure_result size = {.size = sizeof size};
    struct vdisk_create_opts target = {
        .size = sizeof target, .format = "qcow2", .version = to->version < 4 ? 2 : 0};
    struct dom_error error;
    vdisk_job *job;
    int rc = vdisk_job_measure(source, &target, NULL, &job);

    if (rc < 0)
        return rc;
    rc = to->how.run != NULL ? to->how.run(job) : vdisk_job_run(job);
    dom_error_keep(&error, rc);
    if (rc == 0)
        vdisk_job_get_measure_result(job, &size);
    vdisk_job_free(job);
    if (rc < 0)
        return dom_error_give(&error);
    *ret = min_u64(size.required + (leaf ? DOM_CHUNK : 0), size.fully_allocated);
    return 0;
}

/* A volume alone: what it has from below it reads as zeros. */
static int open_layer(struct domain *d, const char *image, const struct domain_volume *v, vdisk **ret)
{
    struct vdisk_open_opts how = {.size = sizeof how,
                                  .flags = VDISK_OPEN_BUFFERED | VDISK_OPEN_NO_NAMES,
                                  .format = v->meta.format == DOMAIN_COW ? "qcow2" : "raw"};
    char *path = NULL;
    int rc = dom_data_path(d, image, v->uuid, &path);

    if (rc == 0)
        rc = vdisk_open(path, &how, ret);
    free(path);
    return rc;
}

int dom_measure_room(struct domain *from, const char *image, const struct domain_volume *v, bool layer,
                     struct domain *to, bool leaf, uint64_t *ret)
{
    struct dom_error error;
    vdisk *source;
    int rc = layer ? open_layer(from, image, v, &source)
                   : dom_open_data(from, image, v, VDISK_OPEN_BUFFERED | VDISK_OPEN_HOST_HOLES, &source);

    if (rc < 0)
        return rc;
    rc = dom_measure_open(to, source, leaf, ret);
    dom_error_keep(&error, rc);
    vdisk_close(source);
    return rc < 0 ? dom_error_give(&error) : 0;
}
