/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The storage of a volume, apart from what it holds: extend, reduce, measure, teardown.
 *
 * Works: extend has the storage be so large, beside who has the volume open; reduce has it end where what the
 * volume holds does; measure says what a copy of another kind would take; teardown ends what prepare has begun.
 * Fails: what the kind of domain, or of volume, has no such thing for is refused, with the reason. Killed: what
 * was done stays, and does no harm; the same call does the rest.
 *
 * What it means, by kind:
 *     extend    file: space is set aside for a preallocated volume that has holes; a sparse one grows by itself.
 *               Device: it becomes larger, for a volume of either allocation.
 *     reduce    sparse qcow2 only, as in Vdsm: the file, or device, ends where the image does.
 *     teardown  file: nobody has it open. Device: it is not active any more.
 *
 * Invariant: 1. nothing within what the image has in use is given back: a check has found where that ends, nobody
 * has the volume open, and a damaged one is left as it is.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/domain/kind.h"

static bool is_cow(const struct domain_volume *v)
{
    return v->meta.format == DOMAIN_COW;
}

static int judge_own(const struct dom_session *s, const struct domain_volume *v, const char *doing)
{
    if (v->meta.role == DOMAIN_SHARED)
        return dom_fail(EINVAL, NULL, "volume %s is a template (SHARED): it is not %s", v->uuid, doing);
    if (!v->has_data)
        return dom_fail(ENOENT, NULL, "image %s: volume %s has no data", s->image->uuid, v->uuid);
    return dom_judge_double(s->domain, s->image->uuid, v, true);
}

/* ---- extend ---------------------------------------------------------------------------------------------- */

int dom_measure_full(struct domain *d, const char *image, const struct domain_volume *v, uint64_t capacity,
                     uint64_t *ret)
{
    struct vdisk_open_opts how = {.size = sizeof how,
                                  .flags = VDISK_OPEN_FORCE_SHARE | VDISK_OPEN_BUFFERED | VDISK_OPEN_NO_NAMES,
                                  .format = v->meta.format == DOMAIN_COW ? "qcow2" : "raw"};
    struct vdisk_measure_result size = {.size = sizeof size};
    struct vdisk_image_info info = {.size = sizeof info};
    struct vdisk_snapshot_info snapshot = {.size = sizeof snapshot};
    struct vdisk_create_opts opts;
    vdisk_image *loaded = NULL;
    char *path = NULL;
    int rc = dom_data_path(d, image, v->uuid, &path);

    if (rc == 0)
        rc = vdisk_image_load(path, &how, &loaded);
    free(path);
    if (rc < 0)
        return rc;
    vdisk_image_get_info(loaded, &info);
    opts = (struct vdisk_create_opts){.size = sizeof opts,
                                      .format = how.format,
                                      .virtual_size = capacity != 0 ? capacity : info.virtual_size,
                                      .cluster_size = info.cluster_size,
                                      .version = info.version,
                                      .refcount_bits = info.refcount_bits,
                                      .extended_l2 = info.extended_l2};
    rc = vdisk_measure(&opts, NULL, &size);
    *ret = size.fully_allocated;
    if (vdisk_image_get_snapshot(loaded, 0, &snapshot) != -ENOENT)
        *ret += info.file_size;
    vdisk_image_free(loaded);
    return rc;
}

static int judge_extend(struct dom_session *s, const struct domain_volume *v, uint64_t *bytes)
{
    uint64_t most = 0;
    int rc = judge_own(s, v, "extended");

    if (rc == 0 && s->domain->extent == 0 && v->meta.allocation == DOMAIN_SPARSE)
        rc = dom_fail(EINVAL, "'vdisk-io volume resize' makes what it holds larger",
                      "volume %s is sparse: in a file it grows by itself, as it is written to", v->uuid);
    if (rc == 0)
        rc = dom_measure_full(s->domain, s->image->uuid, v, 0, &most);
    if (rc < 0)
        return rc;
    if (*bytes > most)
        return dom_fail(EINVAL, "'vdisk-io volume resize' makes what it holds larger",
                        "volume %s takes %" PRIu64
                        " bytes once all of it is written, and is not extended to %" PRIu64,
                        v->uuid, most, *bytes);
    if (*bytes == 0)
        *bytes = most;
    return 0;
}

static int extend(struct dom_session *s, const struct domain_volume *v, uint64_t bytes, struct domain_extent *ret)
{
    const struct dom_kind *kind = s->domain->kind;
    uint64_t size;
    int rc = kind->reserve(s->domain, s->image->uuid, v->uuid, bytes);

    if (rc == 0) {
        dom_step("extend: space is set aside");
        rc = kind->measure(s->domain, s->image->uuid, v->uuid, &size, &ret->after);
    }
    if (rc == 0 && ret->after < bytes)
        dom_note(s->domain,
                 "volume %s: of %" PRIu64 " bytes that were to be set aside the storage has allocated %" PRIu64
                 ": it compresses or deduplicates, or cannot allocate",
                 v->uuid, bytes, ret->after);
    return rc;
}

int domain_volume_extend(struct domain *d, const char *image, const char *volume, uint64_t bytes, bool dry_run,
                         struct domain_extent *ret)
{
    struct dom_want want = {.image = image, .beside = true, .dry_run = dry_run, .lock = -1};
    struct domain_extent result = {0};
    struct domain_volume *v;
    struct dom_session s;
    struct dom_error error;
    uint64_t size;
    int rc = dom_begin(d, &want, &s);

    if (rc < 0)
        return rc;
    v = dom_session_volume(&s, volume, &rc);
    if (v != NULL)
        rc = judge_extend(&s, v, &bytes);
    if (rc == 0)
        rc = d->kind->measure(d, image, v->uuid, &size, &result.before);
    result.asked = bytes;
    result.after = result.before;
    if (rc == 0 && !dry_run)
        rc = extend(&s, v, bytes, &result);
    dom_error_keep(&error, rc);
    dom_end(&s);
    if (rc < 0)
        return dom_error_give(&error);
    *ret = result;
    return 0;
}

/* ---- reduce ---------------------------------------------------------------------------------------------- */

static int judge_reduce(const struct dom_session *s, const struct domain_volume *v)
{
    int rc = judge_own(s, v, "reduced");

    if (rc == 0 && !is_cow(v))
        rc = dom_fail(EINVAL, NULL, "volume %s is raw: it has nothing behind its end", v->uuid);
    if (rc == 0 && v->meta.allocation == DOMAIN_PREALLOCATED)
        rc =
            dom_fail(EINVAL, NULL, "volume %s is preallocated: what it has not used is set aside for it", v->uuid);
    return rc;
}

/* A check, or a repair of what is leaked. The image is locked, and claimed. */
static int run_check(struct domain *d, const char *path, bool repair, const struct domain_reduce *o,
                     struct vdisk_check_result *ret)
{
    struct vdisk_check_opts opts = {.size = sizeof opts,
                                    .flags = VDISK_OPEN_NO_LOCK,
                                    .format = "qcow2",
                                    .progress = o->progress,
                                    .progress_arg = o->progress_arg};
    struct dom_error error;
    vdisk_job *job;
    int rc = repair ? vdisk_job_repair(path, VDISK_REPAIR_LEAKS, &opts, &job) : vdisk_job_check(path, &opts, &job);

    if (rc < 0)
        return rc;
    rc = d->how.run != NULL ? d->how.run(job) : vdisk_job_run(job);
    dom_error_keep(&error, rc);
    if (rc == 0)
        vdisk_job_get_check_result(job, ret);
    vdisk_job_free(job);
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* (1) */
static int find_end(struct domain *d, const struct domain_volume *v, const char *path,
                    const struct domain_reduce *o, uint64_t *ret)
{
    struct vdisk_check_result found = {.size = sizeof found};
    int rc = run_check(d, path, false, o, &found);

    if (rc == 0 && (found.corruptions > 0 || found.check_errors > 0))
        rc = dom_fail(EBADMSG, "'vdisk-io check -r all' repairs it",
                      "volume %s is not reduced: it is damaged: %" PRIu64 " corruptions", v->uuid,
                      found.corruptions);
    if (rc == 0 && found.leaks > 0 && !o->dry_run) {
        rc = run_check(d, path, true, o, &found);
        if (rc == 0)
            dom_step("reduce: what was leaked is free");
    }
    *ret = found.image_end_offset;
    return rc;
}

static int reduce(struct dom_session *s, const struct domain_volume *v, const struct domain_reduce *o,
                  struct domain_extent *ret)
{
    const struct dom_kind *kind = s->domain->kind;
    const char *image = s->image->uuid;
    char *path = NULL;
    uint64_t size;
    int rc = dom_data_path(s->domain, image, v->uuid, &path);

    if (rc == 0)
        rc = kind->measure(s->domain, image, v->uuid, &size, &ret->before);
    if (rc == 0)
        rc = find_end(s->domain, v, path, o, &ret->asked);
    free(path);
    if (rc < 0)
        return rc;
    ret->after = ret->before;
    if (o->dry_run)
        return 0;
    rc = kind->give_back(s->domain, image, v->uuid, ret->asked);
    if (rc == 0) {
        dom_step("reduce: space is given back");
        rc = kind->measure(s->domain, image, v->uuid, &size, &ret->after);
    }
    return rc;
}

int domain_volume_reduce(struct domain *d, const char *image, const char *volume, const struct domain_reduce *o,
                         struct domain_extent *ret)
{
    struct dom_want want = {.image = image, .dry_run = o->dry_run, .lock = -1};
    struct domain_extent result = {0};
    struct dom_claims claims = {0};
    struct domain_volume *v;
    struct dom_session s;
    struct dom_error error;
    int rc = dom_begin(d, &want, &s);

    if (rc < 0)
        return rc;
    v = dom_session_volume(&s, volume, &rc);
    if (v != NULL)
        rc = judge_reduce(&s, v);
    if (rc == 0)
        rc = dom_claim_alone(d, image, (const struct domain_volume *const[]){v}, 1, &claims);
    if (rc == 0)
        rc = reduce(&s, v, o, &result);
    dom_error_keep(&error, rc);
    dom_claims_end(&claims);
    dom_end(&s);
    if (rc < 0)
        return dom_error_give(&error);
    *ret = result;
    return 0;
}

/* ---- measure --------------------------------------------------------------------------------------------- */

static int measure_open(struct domain *d, vdisk *v, const struct domain_measure *o, struct domain_measured *ret)
{
    struct vdisk_create_opts target = {.size = sizeof target,
                                       .format = o->format == DOMAIN_COW ? "qcow2" : "raw",
                                       .version = o->format == DOMAIN_COW && d->version < 4 ? 2 : 0};
    struct vdisk_measure_result size = {.size = sizeof size};
    struct dom_error error;
    vdisk_job *job;
    int rc = vdisk_job_measure(v, &target, NULL, &job);

    if (rc < 0)
        return rc;
    rc = d->how.run != NULL ? d->how.run(job) : vdisk_job_run(job);
    dom_error_keep(&error, rc);
    if (rc == 0)
        vdisk_job_get_measure_result(job, &size);
    vdisk_job_free(job);
    if (rc < 0)
        return dom_error_give(&error);
    ret->capacity = size.virtual_size;
    ret->required = size.required;
    ret->fully_allocated = size.fully_allocated;
    ret->takes = o->allocation == DOMAIN_PREALLOCATED ? size.fully_allocated : size.required;
    return 0;
}

static int measure(struct domain *d, const struct domain_image *image, const char *volume,
                   const struct domain_measure *o, struct domain_measured *ret)
{
    struct domain_measure as = *o;
    struct dom_claims claims = {0};
    struct domain_volume *v;
    struct dom_error error;
    vdisk *open = NULL;
    int rc = 0;

    v = volume[0] != '\0' ? domain_image_volume(image, volume) : domain_image_leaf(d, image, &rc);
    if (rc == 0)
        rc = dom_judge_copied(d, image, v, volume);
    if (rc == 0)
        rc = dom_claim(d, image->uuid, v, &claims);
    if (rc == 0)
        rc = dom_open_data(d, image->uuid, v, VDISK_OPEN_BUFFERED | VDISK_OPEN_HOST_HOLES, &open);
    if (rc == 0) {
        as.format = o->has_format ? o->format : v->meta.format;
        as.allocation = o->has_allocation ? o->allocation : v->meta.allocation;
        rc = measure_open(d, open, &as, ret);
    }
    dom_error_keep(&error, rc);
    if (open != NULL)
        vdisk_close(open);
    dom_claims_end(&claims);
    return rc < 0 ? dom_error_give(&error) : 0;
}

int domain_volume_measure(struct domain *d, const char *image, const char *volume, const struct domain_measure *o,
                          struct domain_measured *ret)
{
    const struct dom_lock_wish wish = {image, DOM_LOCK_READ};
    struct domain_image *loaded;
    struct dom_error error;
    int lock = -1, rc = dom_check_uuid("image", image);

    if (rc == 0)
        rc = d->kind->lock(d, &wish, 1, &lock);
    if (rc < 0)
        return rc;
    rc = domain_load_image(d, image, &loaded);
    if (rc == 0) {
        rc = measure(d, loaded, volume, o, ret);
        dom_error_keep(&error, rc);
        domain_image_free(loaded);
    } else {
        dom_error_keep(&error, rc);
    }
    d->kind->unlock(d, lock);
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* ---- teardown -------------------------------------------------------------------------------------------- */

/* A template below may be in use by others. */
static int judge_unused(struct dom_session *s, const struct domain_volume *top)
{
    const struct domain_volume **list = calloc(s->image->count + 1, sizeof *list);
    struct dom_claims claims = {0};
    struct dom_error error;
    size_t count = 0;
    int rc;

    if (list == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    for (const struct domain_volume *v = top; v != NULL; v = v->parent)
        if (v->meta.role != DOMAIN_SHARED && v->has_data && !v->odd)
            list[count++] = v;
    rc = dom_claim_alone(s->domain, s->image->uuid, list, count, &claims);
    dom_error_keep(&error, rc);
    dom_claims_end(&claims);
    free(list);
    return rc < 0 ? dom_error_give(&error) : 0;
}

int domain_volume_teardown(struct domain *d, const char *image, const char *volume)
{
    struct dom_want want = {.image = image, .beside = true, .lock = -1};
    struct domain_volume *v;
    struct dom_session s;
    struct dom_error error;
    int rc = dom_begin(d, &want, &s);

    if (rc < 0)
        return rc;
    v = dom_session_volume(&s, volume, &rc);
    if (v != NULL)
        rc = judge_unused(&s, v);
    if (rc == 0)
        rc = d->kind->keep_active(d, image, false);
    dom_error_keep(&error, rc);
    dom_end(&s);
    return rc < 0 ? dom_error_give(&error) : 0;
}
