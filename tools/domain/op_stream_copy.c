/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bytes of volumes from, and to, what is open: by a copy, which knows of holes, and has several pieces on
 * their way.
 *
 * Works: both ends are opened as raw, so that what is in them is not looked at. Fails: as the copy does; it is the
 * caller's to undo.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/arith.h"
#include "tools/domain/kind.h"

enum { CLUSTER_MOST = 2 << 20 };

static int open_raw(const char *path, uint32_t flags, vdisk **ret)
{
    const struct vdisk_open_opts how = {.size = sizeof how, .flags = flags | VDISK_OPEN_NO_NAMES, .format = "raw"};

    return vdisk_open(path, &how, ret);
}

/* What is behind the end reads as zeros. */
static int zero_from(vdisk *target, uint64_t at, uint64_t end)
{
    end = min_u64(end, vdisk_size(target));
    return at < end ? vdisk_pzero(target, end - at, at, 0) : 0;
}

/* ---- in -------------------------------------------------------------------------------------------------- */

/* What the file held is gone, and it is as long as what comes. */
static int cut_file(const char *path, uint64_t size)
{
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOFOLLOW), rc = 0;

    if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
        rc = dom_fail_file(errno, path, "making it as long as what comes");
    if (fd >= 0)
        close(fd);
    return rc;
}

int dom_stream_in(struct domain *d, const struct domain_new *n, vdisk *source, vdisk_progress_fn *progress,
                  void *progress_arg)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .progress = progress, .progress_arg = progress_arg};
    uint64_t size = vdisk_size(source);
    bool device = d->extent != 0, raw = strcmp(n->format, "raw") == 0;
    struct dom_error error;
    vdisk *target = NULL;
    int rc = device ? 0 : cut_file(n->path, size);

    if (rc == 0)
        rc = open_raw(n->path, VDISK_OPEN_RDWR, &target);
    if (rc < 0)
        return rc;
    if (!device)
        opts.flags = VDISK_COPY_TARGET_IS_ZERO | VDISK_COPY_CLONE;
    rc = dom_copy(d, source, target, &opts);
    if (rc == 0 && device) /* a raw volume, or the last cluster, goes on as zeros */
        rc = zero_from(target, size, raw ? n->capacity : align_up(size, CLUSTER_MOST));
    dom_error_keep(&error, rc);
    if (rc == 0)
        return vdisk_close(target);
    vdisk_close(target);
    return dom_error_give(&error);
}

/* ---- out ------------------------------------------------------------------------------------------------- */

static int copy_out(struct domain *d, const struct domain_volume *v, vdisk *source, uint64_t end,
                    struct domain_stream *s)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .progress = s->progress, .progress_arg = s->progress_arg,
                                   .length = end};
    bool zero = false;
    vdisk *target;
    int rc;

    s->bytes = end != 0 ? end : vdisk_size(source);
    rc = s->target->open(s->target->arg, v, source, s->bytes, &target, &zero);
    if (rc < 0)
        return rc;
    if (zero)
        opts.flags = VDISK_COPY_TARGET_IS_ZERO;
    rc = dom_copy(d, source, target, &opts);
    return rc == 0 && !zero ? zero_from(target, s->bytes, UINT64_MAX) : rc;
}

int dom_stream_out(struct domain *d, const char *image, const struct domain_volume *v, uint64_t end,
                   struct domain_stream *s)
{
    struct dom_error error;
    char *path = NULL;
    vdisk *source = NULL;
    int rc = dom_data_path(d, image, v->uuid, &path);

    if (rc == 0)
        rc = open_raw(path, 0, &source);
    free(path);
    if (rc < 0)
        return rc;
    rc = copy_out(d, v, source, end, s);
    dom_error_keep(&error, rc);
    vdisk_close(source);
    return rc < 0 ? dom_error_give(&error) : 0;
}
