/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commit: what an image has, over a layer below it, goes into that layer.
 *
 * Happy path
 *  1. the chain is gone along by name, to see how deep the base is;
 *  2. the image is opened for writing with the layers above the base, then the base: locks say who else has them;
 *  3. a base that is smaller grows;
 *  4. what the layers above the base have is copied, by vdisk_job_copy(), which ends with a flush of the base;
 *  5. the image is made empty, unless it is to be kept, or there are layers between, which hide what the base has.
 * Failure modes: before 3 nothing has changed: no such base, in use, not to be written to; then the base may be
 * larger, with zeros, or have some of the data: which the image hides, being above. The same job again does it
 * all.
 *
 * Invariants
 *  1. Nothing of the image changes before the base has all, durably.
 *  2. The layers above the base are locked from before the first write to the last.
 *  3. An image that is made empty has the base directly below it, so that it reads as before.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jobs/jobs.h"
#include "jobs/layers.h"

enum { DEPTH_MOST = 1024 };

struct commit {
    struct vdisk_commit_opts   opts;
    char                      *name, *format, *base_name;
    struct vdisk_commit_result result;

    vdisk_job                 *job;
    vdisk                     *top, *base;
    bool                       stop; /* by its step, or the caller's function */
};

static int fail_text(struct commit *c, int err, const char *what)
{
    char text[2048];

    snprintf(text, sizeof text, "%s: %s", c->name, what);
    return vdisk_job_fail(c->job, err, text, NULL);
}

/* ---- the base ----------------------------------------------------------------------------------------- */

static int not_found(struct commit *c)
{
    char text[2048];

    if (!c->base_name)
        return fail_text(c, EINVAL, "Image does not have a backing file");
    snprintf(text, sizeof text, "Did not find '%s' in the backing chain of '%s'", c->base_name, c->name);
    return vdisk_job_fail(c->job, EINVAL, text, NULL);
}

/* One layer, looked at: its backing file is the base (*ret_found), or the next one to look at (*name, *format). */
static int look_at(struct commit *c, char **name, char **format, bool *ret_found)
{
    struct vdisk_open_opts how = {.size = sizeof how, .format = *format,
                                  .flags = VDISK_OPEN_FORCE_SHARE | VDISK_OPEN_BUFFERED};
    struct vdisk_image_info info = {.size = sizeof info};
    vdisk_image *image;
    int rc = vdisk_image_load(*name, &how, &image);

    if (rc == 0)
        rc = vdisk_image_get_info(image, &info);
    if (rc < 0)
        return jobs_fail(c->job, rc);
    free(*name);
    free(*format);
    *name = info.backing_name ? strdup(info.backing_name) : NULL;
    *format = info.backing_fmt ? strdup(info.backing_fmt) : NULL;
    *ret_found = info.backing_name && (!c->base_name || layers_is_backing(&info, c->base_name));
    if (!info.backing_name)
        rc = not_found(c);
    else if (!*name || (info.backing_fmt && !*format))
        rc = fail_text(c, ENOMEM, "out of memory");
    vdisk_image_free(image);
    return rc;
}

/* How many layers are above the base. */
static int find_base(struct commit *c, uint32_t *ret_depth)
{
    char *name = strdup(c->name), *format = c->format ? strdup(c->format) : NULL;
    uint32_t depth = 0;
    bool found = false;
    int rc = name && (format || !c->format) ? 0 : fail_text(c, ENOMEM, "out of memory");

    while (rc == 0 && !found) {
        rc = vdisk_job_step(c->job, 0, 0);
        if (rc == 0 && depth++ == DEPTH_MOST)
            rc = fail_text(c, ELOOP, "the backing chain is too long");
        if (rc == 0)
            rc = look_at(c, &name, &format, &found);
    }
    free(name);
    free(format);
    *ret_depth = depth;
    return rc;
}

/* By the name that the layer above it has for it, now that this is locked. */
static int open_base(struct commit *c, uint32_t depth)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = c->opts.open_flags | VDISK_OPEN_RDWR,
                                  .cache_bytes = c->opts.cache_bytes};
    struct vdisk_image_info info = {.size = sizeof info};
    vdisk_image *image;
    int rc = vdisk_image_of_layer(c->top, depth - 1, &image);

    if (rc < 0)
        return jobs_fail(c->job, rc);
    rc = vdisk_image_get_info(image, &info);
    how.format = info.backing_fmt;
    if (rc == 0 && (!info.backing_name || (c->base_name && !layers_is_backing(&info, c->base_name))))
        rc = vdisk_set_error(EAGAIN, "the backing chain has just been changed by another process", NULL);
    if (rc == 0)
        rc = vdisk_open(info.backing_name, &how, &c->base);
    if (rc < 0)
        rc = jobs_fail(c->job, rc);
    vdisk_image_free(image);
    return rc;
}

static int open_both(struct commit *c)
{
    struct vdisk_open_opts how = {.size = sizeof how, .flags = c->opts.open_flags | VDISK_OPEN_RDWR,
                                  .format = c->format, .cache_bytes = c->opts.cache_bytes};
    int rc = find_base(c, &how.layers);

    if (rc < 0)
        return rc;
    c->result.base_depth = how.layers;
    rc = vdisk_open(c->name, &how, &c->top); /* invariant 2 */
    return rc < 0 ? jobs_fail(c->job, rc) : open_base(c, how.layers);
}

/* ---- the work ----------------------------------------------------------------------------------------- */

static int progress(void *arg, uint64_t done, uint64_t total)
{
    struct commit *c = arg;

    if (c->opts.progress && c->opts.progress(c->opts.progress_arg, done, total))
        vdisk_job_cancel(c->job);
    c->stop |= vdisk_job_step(c->job, done, total) < 0;
    return c->stop;
}

static int grow_base(struct commit *c)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts};
    uint64_t size = vdisk_size(c->top);
    int rc;

    if (vdisk_size(c->base) >= size)
        return 0;
    rc = vdisk_resize(c->base, size, &opts);
    c->result.grown = rc == 0;
    return rc < 0 ? jobs_fail(c->job, rc) : 0;
}

static int copy(struct commit *c)
{
    struct vdisk_copy_opts opts = {.size = sizeof opts, .name = c->name, .depth = c->opts.depth,
                                   .memory_max = c->opts.memory_max, .rate = c->opts.rate,
                                   .backing_depth = c->result.base_depth, .progress = progress,
                                   .progress_arg = c, .going_on = c->opts.going_on};
    struct vdisk_copy_result r = {.size = sizeof r};
    vdisk_job *job;
    int rc = vdisk_job_copy(&c->top, 1, c->base, &opts, &job);

    if (rc < 0)
        return jobs_fail(c->job, rc);
    rc = vdisk_job_run(job);
    if (rc < 0)
        rc = jobs_fail(c->job, rc);
    else if (vdisk_job_get_copy_result(job, &r) == 0) {
        c->result.bytes_written = r.bytes_written;
        c->result.bytes_zeroed = r.bytes_zeroed;
    }
    vdisk_job_free(job);
    return rc;
}

static int close_all(struct commit *c, int rc)
{
    vdisk *all[] = {c->top, c->base};

    for (unsigned i = 0; i < 2; i++) {
        int closed = vdisk_close(all[i]);
        if (closed < 0 && rc == 0)
            rc = jobs_fail(c->job, closed);
    }
    c->top = c->base = NULL;
    return rc;
}

static int commit_work(vdisk_job *job, void *arg)
{
    struct commit *c = arg;
    int rc;

    c->job = job;
    rc = open_both(c);
    if (rc == 0)
        rc = grow_base(c);
    if (rc == 0)
        rc = copy(c);
    if (rc == 0 && c->result.base_depth == 1 && !(c->opts.flags & VDISK_COMMIT_KEEP)) { /* invariants 1, 3 */
        rc = vdisk_make_empty(c->top, NULL, NULL);
        if (rc < 0)
            rc = jobs_fail(job, rc);
    }
    return close_all(c, rc);
}

static void commit_release(void *arg)
{
    struct commit *c = arg;

    free(c->name);
    free(c->format);
    free(c->base_name);
    free(c);
}

static const struct vdisk_job_kind commit_kind = {
    .size = sizeof commit_kind, .name = "commit", .work = commit_work, .release = commit_release};

/* ---- making it ---------------------------------------------------------------------------------------- */

static struct commit *new_commit(const char *name, const struct vdisk_commit_opts *opts)
{
    struct commit *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    if (opts)
        memcpy(&c->opts, opts, jobs_min(opts->size, sizeof c->opts));
    c->name = strdup(name);
    c->format = c->opts.format ? strdup(c->opts.format) : NULL;
    c->base_name = c->opts.base ? strdup(c->opts.base) : NULL;
    if (!c->name || (c->opts.format && !c->format) || (c->opts.base && !c->base_name)) {
        commit_release(c);
        return NULL;
    }
    c->opts.format = c->opts.base = NULL;
    return c;
}

int vdisk_job_commit(const char *name, const struct vdisk_commit_opts *opts, vdisk_job **ret_job)
{
    const uint32_t modes = VDISK_OPEN_BUFFERED | VDISK_OPEN_UNSAFE | VDISK_OPEN_NO_LOCK;
    struct commit *c;
    int rc;

    if (!name || name[0] == '\0')
        return vdisk_set_error(name ? ENOENT : EINVAL, "commit: no name of an image", NULL);
    if (opts && !jobs_size_is_sane(opts->size))
        return vdisk_set_error(EINVAL, "commit: options of a wrong size", NULL);
    c = new_commit(name, opts);
    if (!c)
        return vdisk_set_error(ENOMEM, "commit: out of memory", NULL);
    if (c->opts.flags & ~(uint32_t)VDISK_COMMIT_KEEP || c->opts.open_flags & ~modes)
        rc = vdisk_set_error(EINVAL, "commit: unknown flags", NULL);
    else
        rc = vdisk_job_make(&commit_kind, name, c, NULL, 0, ret_job);
    if (rc < 0)
        commit_release(c);
    return rc;
}

int vdisk_job_get_commit_result(const vdisk_job *job, struct vdisk_commit_result *ret_result)
{
    size_t size = ret_result ? ret_result->size : 0;
    void *arg;
    int rc = vdisk_job_get_arg(job, &commit_kind, &arg);
    struct vdisk_commit_result r;

    if (rc < 0)
        return rc;
    if (!jobs_size_is_sane(size))
        return vdisk_set_error(EINVAL, "commit: result struct of a wrong size", NULL);
    r = ((struct commit *)arg)->result;
    r.size = size;
    memcpy(ret_result, &r, jobs_min(size, sizeof r));
    return 0;
}
