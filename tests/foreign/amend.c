/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Amending a copy of a foreign image, damaged or not: to another version, with other refcounts. What could be read
 * before reads the same, whether it was refused or done; what had no fault has none.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/vdisk-image.h"
#include "engine/volume.h"
#include "tests/foreign/life.h"
#include "tests/lib/test.h"

static int amend(struct life *l, struct memdisk *d, const struct vdisk_amend_opts *opts)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = VDISK_OPEN_RDWR, .format = "qcow2"};
    vdisk_job *j;
    vdisk *v;
    int rc = vdisk_open_backend(life_open(l, d, false), &how, &v), closed;

    if (rc < 0)
        return rc;
    CHECK_OK(vdisk_job_amend(v, opts, &j));
    rc = vdisk_job_run(j);
    life_say(l, "amend to version %u, refcounts of %u: %s\n", opts->version, opts->refcount_bits,
             rc < 0 ? vdisk_job_get_error_text(j) : "done");
    CHECK(rc == 0 || vdisk_job_get_error_text(j)[0]);
    CHECK_OK(vdisk_job_free(j));
    closed = vdisk_close(v);
    return rc < 0 ? rc : closed;
}

void life_amend(struct life *l)
{
    struct vdisk_amend_opts opts = {.size = sizeof opts, .version = 2 + l->seed / 3 % 2,
                                    .refcount_bits = 1u << l->seed / 6 % 7};
    struct memdisk d;
    size_t said = strlen(l->text);
    int rc;

    if (opts.version == 2)
        opts.refcount_bits = 16;
    memdisk_init(&d, l->disk.align);
    memdisk_write(&d, 0, l->bytes, l->len);
    rc = amend(l, &d, &opts);
    CHECK_MSG(rc == 0 || !l->usable || rc == -ENOTSUP || rc == -EINVAL,
              "amend gives the error %d, though nothing is damaged", rc);
    l->totals->amended += rc == 0;
    life_compare(l, &d, "an amendment");
    memdisk_finish(&d);
    l->text[said] = '\0';
}
