/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes that stay and change: resize, update, prepare.
 *
 * Works: data first, then what metadata says of it. Killed between the two: the volume is larger than its metadata
 * says, which the next prepare or resize mends. Fails: as what it calls.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/arith.h"
#include "tools/domain/kind.h"

enum { CAPACITY_ALIGN = 4096 };

/* ---- resize ---------------------------------------------------------------------------------------------- */

static int resize_open(const struct domain *d, vdisk *v, uint64_t size, const struct vdisk_resize_opts *opts)
{
    vdisk_job *job;
    int rc;

    if (size <= vdisk_size(v) && !opts->shrink)
        return 0; /* by a call that was killed */
    rc = vdisk_job_resize(v, size, opts, &job);
    return rc == 0 ? dom_run_job(d, job) : rc;
}

static int resize_data(struct domain *d, const char *image, const struct domain_volume *v, uint64_t size,
                       struct vdisk_resize_opts *opts)
{
    struct dom_error error;
    vdisk *volume;
    int rc = dom_open_data(d, image, v, VDISK_OPEN_RDWR, &volume);

    if (rc < 0)
        return rc;
    rc = resize_open(d, volume, size, opts);
    if (rc == -ENOTSUP && opts->preallocation == VDISK_PREALLOC_FALLOC) {
        opts->preallocation = VDISK_PREALLOC_FULL;
        rc = resize_open(d, volume, size, opts);
    }
    dom_error_keep(&error, rc);
    if (rc == 0)
        return vdisk_close(volume);
    vdisk_close(volume);
    return dom_error_give(&error);
}

/* Where data has a fixed size: what is preallocated has space for all, what is sparse gets it as it is used. */
static int make_room(struct domain *d, const char *image, const struct domain_volume *v, uint64_t size)
{
    uint64_t room = 0;
    int rc = v->meta.allocation == DOMAIN_PREALLOCATED ? dom_measure_full(d, image, v, size, &room) : 0;

    return rc == 0 ? d->kind->make_room(d, image, v->uuid, room) : rc;
}

int dom_grow_data(struct domain *d, const char *image, const struct domain_volume *v, uint64_t size,
                  vdisk_progress_fn *progress, void *progress_arg)
{
    bool full = d->extent == 0 && v->meta.allocation == DOMAIN_PREALLOCATED &&
                (v->meta.format == DOMAIN_RAW || v->parent == NULL);
    int rc = d->extent != 0 ? make_room(d, image, v, size) : 0;
    struct vdisk_resize_opts opts = {.size = sizeof opts,
                                     .preallocation = full ? VDISK_PREALLOC_FALLOC : VDISK_PREALLOC_OFF,
                                     .progress = progress, .progress_arg = progress_arg};

    if (rc < 0 || (d->extent != 0 && v->meta.format == DOMAIN_RAW))
        return rc; /* it has what its device has */
    return resize_data(d, image, v, size, &opts);
}

/* Metadata could not be written: nobody has seen it larger, and there is nothing behind its old end. */
static int shrink_back(struct dom_session *s, const struct domain_volume *v, int rc)
{
    struct vdisk_resize_opts opts = {.size = sizeof opts, .shrink = true};
    struct dom_error error;

    dom_error_keep(&error, rc);
    if (s->domain->extent == 0 || v->meta.format == DOMAIN_COW)
        resize_data(s->domain, s->image->uuid, v, v->meta.capacity, &opts);
    return dom_error_give(&error);
}

/* A device that is in use is not known by locks. It is opened again after this. */
static int see_that_none_uses(struct domain *d, const char *image, const struct domain_volume *v)
{
    struct dom_claims claims = {0};
    struct dom_error error;
    int rc = dom_claim_alone(d, image, &v, 1, &claims);

    dom_error_keep(&error, rc);
    dom_claims_end(&claims);
    return rc < 0 ? dom_error_give(&error) : 0;
}

static int resize(struct dom_session *s, struct domain_volume *v, uint64_t capacity, vdisk_progress_fn *progress,
                  void *progress_arg)
{
    struct domain_meta meta = v->meta;
    char text[TEXT_VOLUME_MAX + 1];
    size_t len;
    int rc;

    if (v->children > 0 || meta.role != DOMAIN_LEAF)
        return dom_fail(EINVAL, NULL, "volume %s is %s: only a leaf gets another size", v->uuid,
                        domain_role_name(meta.role));
    if (meta.legality != DOMAIN_LEGAL)
        return dom_fail(EINVAL, NULL, "volume %s is %s: only a LEGAL volume gets another size", v->uuid,
                        domain_legality_name(meta.legality));
    if (capacity > INT64_MAX - CAPACITY_ALIGN)
        return dom_fail(EINVAL, NULL, "%" PRIu64 " bytes are more than a volume has", capacity);
    capacity = align_up(capacity, CAPACITY_ALIGN);
    if (s->domain->extent != 0 && meta.format == DOMAIN_RAW)
        capacity = text_extents(capacity, s->domain->extent);
    rc = s->domain->extent != 0 ? see_that_none_uses(s->domain, s->image->uuid, v) : 0;
    if (rc == 0)
        rc = dom_judge_top(s, v, NULL, "resized");
    if (rc == 0)
        rc = dom_judge_double(s->domain, s->image->uuid, v, true);
    if (rc == 0)
        rc = dom_check_chain(s->domain, s->image->uuid, v);
    if (rc == 0)
        rc = dom_match_capacity(s->domain, s->image->uuid, v, true);
    if (rc < 0)
        return rc;
    meta = v->meta;
    if (capacity < meta.capacity)
        return dom_fail(EINVAL, NULL, "volume %s has %" PRIu64 " bytes: a volume is not made smaller", v->uuid,
                        meta.capacity);
    meta.capacity = capacity;
    rc = dom_format_meta(s->domain, &meta, text, &len);
    if (rc == 0)
        rc = dom_grow_data(s->domain, s->image->uuid, v, capacity, progress, progress_arg);
    if (rc < 0)
        return rc;
    dom_step("resize: volume is larger");
    rc = dom_write_meta(s->domain, s->image->uuid, v, &meta);
    if (rc < 0)
        return shrink_back(s, v, rc);
    dom_step("resize: capacity is noted");
    return s->domain->kind->sync(s->domain, s->image->uuid);
}

int domain_volume_resize(struct domain *d, const char *image, const char *volume, uint64_t capacity,
                         vdisk_progress_fn *progress, void *progress_arg)
{
    struct dom_want want = {.image = image, .lock = -1};
    struct dom_session s;
    struct domain_volume *v;
    struct dom_error error;
    int rc = dom_begin(d, &want, &s);

    if (rc < 0)
        return rc;
    v = dom_session_volume(&s, volume, &rc);
    if (v != NULL)
        rc = resize(&s, v, capacity, progress, progress_arg);
    dom_error_keep(&error, rc);
    dom_end(&s);
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* ---- update ---------------------------------------------------------------------------------------------- */

static int set_text(const struct domain_volume *v, const char *what, char *to, size_t room, const char *text)
{
    if (strlen(text) >= room || !text_is_line(text))
        return dom_fail(EINVAL, NULL, "volume %s: the %s is no line of text, or too long", v->uuid, what);
    memcpy(to, text, strlen(text) + 1);
    return 0;
}

static int make_template(const struct domain_volume *v, struct domain_meta *meta)
{
    if (meta->role == DOMAIN_SHARED)
        return 0;
    if (strcmp(meta->parent, DOMAIN_BLANK) != 0 || v->children > 0)
        return dom_fail(EINVAL, "copy the image into one volume, and make that a template",
                        "volume %s has a %s: only a volume that is alone becomes a template (SHARED)", v->uuid,
                        v->children > 0 ? "child" : "parent");
    if (meta->role == DOMAIN_INTERNAL)
        return dom_fail(EINVAL, NULL, "volume %s is INTERNAL: what lies on it is not there, or not known",
                        v->uuid);
    meta->role = DOMAIN_SHARED;
    return 0;
}

static int plan_update(const struct domain *d, const struct domain_volume *v, const struct domain_volume_update *o,
                       struct domain_meta *meta)
{
    int rc = 0;

    if (o->generation >= 0 && (unsigned)o->generation != meta->generation)
        return dom_fail(ESTALE, "look at it again", "volume %s has generation %u, not %d: somebody has changed it",
                        v->uuid, meta->generation, o->generation);
    if (o->sequence >= 0)
        rc = dom_judge_sequence(d);
    if (rc < 0)
        return rc;
    if (o->disk_type != NULL && !domain_is_disk_type(o->disk_type))
        return dom_fail(EINVAL, NULL, "'%.40s' is no type of a disk", o->disk_type);
    if (o->description != NULL)
        rc = set_text(v, "description", meta->description, sizeof meta->description, o->description);
    if (rc == 0 && o->disk_type != NULL)
        rc = set_text(v, "disk type", meta->disk_type, sizeof meta->disk_type, o->disk_type);
    if (rc == 0 && o->role == DOMAIN_SHARED)
        rc = make_template(v, meta);
    if (o->legality >= 0)
        meta->legality = (enum domain_legality)o->legality;
    if (o->sequence >= 0) {
        meta->sequence = (uint64_t)o->sequence;
        meta->has_sequence = true;
    }
    if (o->generation >= 0)
        meta->generation = (meta->generation + 1) % DOMAIN_GENERATIONS;
    return rc;
}

/* A device's locks do not tell of all who have it open. */
static int claim_template(struct domain *d, const char *image, const struct domain_volume *v,
                          struct dom_claims *claims)
{
    return d->extent != 0 ? dom_claim_alone(d, image, &v, 1, claims) : dom_claim(d, image, v, claims);
}

int domain_volume_update(struct domain *d, const char *image, const char *volume,
                         const struct domain_volume_update *o)
{
    struct dom_want want = {.image = image, .beside = o->role != DOMAIN_SHARED, .lock = -1};
    struct dom_claims claims = {0};
    struct domain_meta meta;
    struct dom_session s;
    struct domain_volume *v;
    struct dom_error error;
    int rc = dom_begin(d, &want, &s);

    if (rc < 0)
        return rc;
    v = dom_session_volume(&s, volume, &rc);
    if (v != NULL) {
        meta = v->meta;
        rc = plan_update(d, v, o, &meta);
    }
    if (rc == 0 && o->role == DOMAIN_SHARED)
        rc = dom_judge_top(&s, v, NULL, "made a template");
    if (rc == 0 && o->role == DOMAIN_SHARED)
        rc = claim_template(d, image, v, &claims);
    if (rc == 0)
        rc = dom_write_meta(d, image, v, &meta);
    if (rc == 0)
        rc = d->kind->sync(d, image);
    dom_error_keep(&error, rc);
    dom_claims_end(&claims);
    dom_end(&s);
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* ---- prepare --------------------------------------------------------------------------------------------- */

static int prepare_one(struct dom_session *s, struct domain_volume *v)
{
    if (v->meta.legality != DOMAIN_LEGAL)
        return dom_fail(EACCES, NULL, "volume %s is %s: only volumes that are LEGAL are used", v->uuid,
                        domain_legality_name(v->meta.legality));
    return dom_match_capacity(s->domain, s->image->uuid, v, true);
}

int domain_volume_prepare(struct domain *d, const char *image, const char *volume,
                          void (*fn)(void *arg, const struct domain_volume *volume, const char *path), void *arg)
{
    struct dom_want want = {.image = image, .beside = true, .lock = -1};
    struct dom_session s;
    struct domain_volume *v, *top;
    struct dom_error error;
    char *path = NULL;
    int rc = dom_begin(d, &want, &s);

    if (rc < 0)
        return rc;
    top = dom_session_volume(&s, volume, &rc);
    if (top != NULL)
        rc = dom_check_chain(d, image, top);
    for (v = top; rc == 0 && v != NULL; v = v->parent)
        rc = prepare_one(&s, v);
    if (rc == 0)
        rc = d->kind->keep_active(d, image, true);
    for (v = top; rc == 0 && v != NULL; v = v->parent) {
        rc = dom_data_path(d, image, v->uuid, &path);
        if (rc == 0) {
            fn(arg, v, path);
            free(path);
        }
    }
    dom_error_keep(&error, rc);
    dom_end(&s);
    return rc < 0 ? dom_error_give(&error) : 0;
}
