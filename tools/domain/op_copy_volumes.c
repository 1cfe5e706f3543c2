/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image as it is, volume by volume, in the same domain or another.
 *
 * Works: the source is locked, shared; all that can be refused is; the folder, the template shared into it, then
 * each volume, from the first one up, unpublished; when all are there, and durable, the uppermost is published,
 * then the one below it, and so on. Fails: there is none. Killed: before the uppermost is published there is none;
 * after that the next operation publishes the rest (mend.c).
 *
 * Invariants:
 *  1. What is published of a copy is the upper part of a chain, what is not is all that is below.
 *  2. The data of a volume goes only while it is unpublished, and no other one lies on it.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/arith.h"
#include "tools/domain/kind.h"

enum { CAPACITY_ALIGN = 4096 };

struct piece {
    const struct domain_volume *source;
    struct domain_meta          meta; /* of what it becomes */
    char                        uuid[DOMAIN_UUID];
    bool                        made, published;
    struct domain_volume_result result;
};

struct copies {
    struct domain              *from, *to;
    const struct domain_copy   *o;
    const char                 *image;    /* the source */
    char                        target[DOMAIN_UUID];
    char                        template_image[DOMAIN_UUID]; /* that was locked; "": none */
    const struct domain_image  *loaded;
    const struct domain_volume *template; /* another image's, below all; NULL: none */
    bool                        shared;
    struct dom_session          session;  /* of the target */
    struct piece               *list;     /* from the first one up */
    size_t                      count, at;
    uint64_t                    before, total; /* for the progress: bytes of the volumes before this one, of all */
};

/* ---- the source ------------------------------------------------------------------------------------------ */

static int take_chain(struct copies *c, struct domain_volume *top)
{
    struct domain_volume *v;
    int rc = 0;

    for (v = top; v != NULL && !dom_is_foreign(c->loaded, v); v = v->parent)
        c->count++;
    c->template = v;
    c->list = calloc(c->count + 1, sizeof *c->list);
    if (c->list == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    if (c->count == 0)
        return dom_fail(EINVAL, "copy the image that it is of", "volume %s is the template of image %s", top->uuid,
                        top->meta.image);
    v = top;
    for (size_t i = c->count; rc == 0 && i > 0; i--, v = v->parent) {
        rc = dom_match_capacity(c->from, c->image, v, false);
        c->list[i - 1].source = v;
        c->total += v->meta.capacity;
    }
    return rc;
}

/* The one that was locked before the image was: it is another one only if somebody has made it so meanwhile. */
static int judge_locked(const struct copies *c)
{
    const char *image = c->template != NULL ? c->template->meta.image : "";

    if (strcmp(c->template_image, image) == 0 && (c->template == NULL || c->template->parent == NULL))
        return 0;
    return dom_fail(ESTALE, "do it again", "image %s: its template has changed meanwhile", c->image);
}

static int find_source(struct copies *c, const char *volume, struct dom_claims *claims)
{
    struct domain_volume *v;
    int rc = 0;

    v = volume[0] != '\0' ? domain_image_volume(c->loaded, volume) : domain_image_leaf(c->from, c->loaded, &rc);
    if (rc == 0)
        rc = dom_judge_copied(c->from, c->loaded, v, volume);
    if (rc == 0)
        rc = dom_claim(c->from, c->image, v, claims);
    if (rc == 0)
        rc = take_chain(c, v);
    return rc == 0 ? judge_locked(c) : rc;
}

/* ---- the target ------------------------------------------------------------------------------------------ */

static int judge_loaded_template(struct copies *c, const struct domain_image *image)
{
    const struct domain_volume *t = c->template, *v = domain_image_volume(image, t->uuid);

    if (v == NULL || !v->has_meta || v->why[0] != '\0' || v->meta.role != DOMAIN_SHARED)
        return dom_fail(EXDEV, "copy the template's image there first, with --volumes",
                        "%s: image %s has no template %s, on which image %s lies", c->to->path, image->uuid,
                        t->uuid, c->image);
    if (v->meta.format != t->meta.format || v->meta.capacity != t->meta.capacity ||
        strcmp(v->meta.parent, DOMAIN_BLANK) != 0 || v->meta.legality != DOMAIN_LEGAL)
        return dom_fail(EXDEV, NULL, "%s: the template %s is another one than that on which image %s lies",
                        c->to->path, t->uuid, c->image);
    return dom_check_chain(c->to, image->uuid, v);
}

static int judge_template(struct copies *c)
{
    struct domain_image *image;
    int rc;

    if (c->template == NULL)
        return 0;
    rc = domain_load_image(c->to, c->template_image, &image);
    if (rc == -ENOENT)
        return dom_fail(EXDEV, "copy the template's image there first, with --volumes",
                        "%s: has no image %s, on whose template image %s lies", c->to->path, c->template_image,
                        c->image);
    if (rc < 0)
        return rc;
    rc = judge_loaded_template(c, image);
    domain_image_free(image);
    return rc;
}

/* Nothing but what a copy that was killed has shared into it. */
static int judge_target(const struct copies *c)
{
    const struct domain_image *image = c->session.image;

    for (size_t i = 0; image != NULL && i < image->count; i++)
        if (c->template == NULL || strcmp(image->list[i].uuid, c->template->uuid) != 0)
            return dom_fail(EEXIST, "--image gives the copy another name",
                            "%s: there is an image %s, and it has volumes", c->to->path, c->target);
    return 0;
}

static int name_piece(struct copies *c, struct piece *p)
{
    char image[DOMAIN_UUID];
    int rc;

    if (strcmp(c->from->uuid, c->to->uuid) == 0)
        return domain_make_uuid(p->uuid);
    memcpy(p->uuid, p->source->uuid, DOMAIN_UUID);
    rc = c->to->kind->find_volume(c->to, p->uuid, "", image);
    if (rc == 0 && image[0] != '\0')
        rc = dom_fail(EEXIST, NULL, "%s: image %s has a volume %s, or data of that name", c->to->path, image,
                      p->uuid);
    return rc;
}

/* A device has no holes, and is as large as its extents are. */
static int fit_device(const struct copies *c, struct domain_meta *meta, const char *volume)
{
    if (c->to->extent == 0 || meta->format != DOMAIN_RAW)
        return 0;
    meta->allocation = DOMAIN_PREALLOCATED;
    if (text_extents(meta->capacity, c->to->extent) == meta->capacity)
        return 0;
    return dom_fail(EINVAL, "without --volumes it is copied as one volume",
                    "volume %s is raw, and has %" PRIu64 " bytes: in a volume group it has a multiple of %" PRIu64
                    ", and what lies on it would be smaller", volume, meta->capacity, c->to->extent);
}

static int plan_piece(struct copies *c, struct piece *p, const char *parent)
{
    bool five = c->to->version >= 5, top = p == &c->list[c->count - 1];
    const struct domain_meta *m = &p->source->meta;
    char text[TEXT_VOLUME_MAX + 1];
    size_t len;
    int rc;

    if (m->capacity == 0 || m->capacity > INT64_MAX - CAPACITY_ALIGN)
        return dom_fail(EINVAL, NULL, "volume %s has %" PRIu64 " bytes: such a one is not made", p->source->uuid,
                        m->capacity);
    p->meta = *m;
    p->meta.capacity = align_up(m->capacity, CAPACITY_ALIGN);
    p->meta.role = !top ? DOMAIN_INTERNAL : m->role == DOMAIN_SHARED ? DOMAIN_SHARED : DOMAIN_LEAF;
    p->meta.ctime = (uint64_t)time(NULL);
    p->meta.mtime = 0;
    p->meta.generation = 0;
    p->meta.has_capacity = p->meta.has_sequence = five;
    p->meta.has_size = p->meta.has_mtime = !five;
    p->meta.extra[0] = '\0';
    memcpy(p->meta.domain, c->to->uuid, DOMAIN_UUID);
    memcpy(p->meta.image, c->target, DOMAIN_UUID);
    memcpy(p->meta.parent, parent, DOMAIN_UUID);
    rc = fit_device(c, &p->meta, p->source->uuid);
    return rc == 0 ? dom_format_meta(c->to, &p->meta, text, &len) : rc;
}

static int plan(struct copies *c)
{
    const char *parent = c->template != NULL ? c->template->uuid : DOMAIN_BLANK;
    int rc = judge_target(c);

    if (rc == 0)
        rc = judge_template(c);
    for (size_t i = 0; rc == 0 && i < c->count; i++) {
        rc = name_piece(c, &c->list[i]);
        if (rc == 0)
            rc = plan_piece(c, &c->list[i], parent);
        parent = c->list[i].uuid;
    }
    return rc;
}

/* ---- the data -------------------------------------------------------------------------------------------- */

/* Of one volume it becomes that of all. */
static int show_progress(void *arg, uint64_t done, uint64_t total)
{
    const struct copies *c = arg;
    uint64_t size = c->list[c->at].source->meta.capacity;

    if (c->o->progress == NULL)
        return 0;
    done = total > 0 ? (uint64_t)((double)done / (double)total * (double)size) : size;
    return c->o->progress(c->o->progress_arg, c->before + min_u64(done, size), c->total);
}

static int fill(void *arg, const struct domain_new *n)
{
    struct copies *c = arg;
    const struct domain_volume *v = c->list[c->at].source;
    struct domain_copy o = *c->o;
    struct dom_error error;
    vdisk *source;
    int rc = dom_open_data(c->from, c->image, v, 0, &source);

    if (rc < 0)
        return rc;
    o.progress = show_progress;
    o.progress_arg = c;
    rc = dom_run_copy(c->from, source, n, n->backing[0] != '\0', &o);
    dom_error_keep(&error, rc);
    vdisk_close(source);
    return rc < 0 ? dom_error_give(&error) : 0;
}

static enum domain_format format_below(const struct copies *c, size_t i)
{
    return i > 0                   ? c->list[i - 1].meta.format
           : c->template != NULL ? c->template->meta.format
                                   : DOMAIN_RAW;
}

/* ---- steps ----------------------------------------------------------------------------------------------- */

/* Where data has a fixed size, what is sparse has what it needs; the uppermost one is going to be written to. */
static int choose_room(const struct copies *c, size_t i, uint64_t *ret)
{
    const struct domain_meta *m = &c->list[i].meta;

    *ret = 0;
    if (c->to->extent == 0 || m->format == DOMAIN_RAW || m->allocation == DOMAIN_PREALLOCATED)
        return 0;
    return dom_measure_room(c->from, c->image, c->list[i].source, true, c->to, i + 1 == c->count, ret);
}

static int make_pieces(struct copies *c)
{
    int rc = 0;

    for (c->at = 0; rc == 0 && c->at < c->count; c->at++) {
        struct piece *p = &c->list[c->at];
        struct dom_unpublished u = {p->uuid, &p->meta, format_below(c, c->at), fill, c, 0};
        rc = choose_room(c, c->at, &u.room);
        if (rc == 0)
            rc = dom_make_unpublished(c->to, c->target, &u, &p->result);
        p->made = rc == 0;
        c->before += p->source->meta.capacity;
    }
    return rc;
}

/* (1) */
static int publish(struct copies *c)
{
    int rc = c->to->kind->sync(c->to, c->target);

    if (rc == 0)
        dom_step("copy: all volumes are written");
    for (size_t i = c->count; rc == 0 && i > 0; i--) {
        rc = c->to->kind->publish(c->to, c->target, c->list[i - 1].uuid);
        c->list[i - 1].published = rc == 0;
        if (rc == 0)
            dom_step("copy: a volume is published");
    }
    return rc == 0 ? c->to->kind->sync(c->to, c->target) : rc;
}

static int make(struct copies *c)
{
    const struct dom_kind *kind = c->to->kind;
    int rc = kind->make_image(c->to, c->target);

    if (rc == 0)
        dom_step("copy: image folder is made");
    if (rc == 0 && c->template != NULL) {
        rc = kind->share(c->to, c->template_image, c->template->uuid, c->target);
        c->shared = rc == 0;
    }
    if (rc == 0) {
        dom_step("copy: template is shared");
        rc = make_pieces(c);
    }
    return rc == 0 ? publish(c) : rc;
}

/* What was made goes, by (1) and (2); what is left is for the next operation. */
static void undo(struct copies *c)
{
    const struct dom_kind *kind = c->to->kind;

    for (size_t i = 0; i < c->count; i++)
        if (c->list[i].published && kind->unpublish(c->to, c->target, c->list[i].uuid, false) < 0)
            return;
    for (size_t i = c->count; i > 0; i--)
        if (c->list[i - 1].made)
            kind->purge(c->to, c->target, c->list[i - 1].uuid);
    if (c->shared)
        kind->unshare(c->to, c->target, c->template->uuid);
    kind->drop_image(c->to, c->target);
}

static int prepare_result(const struct copies *c, struct domain_copied *ret)
{
    struct domain_copied_volume *list = calloc(c->count, sizeof *list);

    if (list == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    for (size_t i = 0; i < c->count; i++) {
        memcpy(list[i].source, c->list[i].source->uuid, DOMAIN_UUID);
        list[i].made = c->list[i].result;
        list[i].made.capacity = c->list[i].meta.capacity;
    }
    *ret = (struct domain_copied){.capacity = list[c->count - 1].made.capacity, .list = list, .count = c->count};
    memcpy(ret->image, c->target, DOMAIN_UUID);
    return 0;
}

void domain_copied_free(struct domain_copied *copied)
{
    free(copied->list);
    *copied = (struct domain_copied){0};
}

/* ---- all of it --------------------------------------------------------------------------------------------- */

/* With the target locked; that is given back. */
static int copy_to(struct copies *c, int lock, struct domain_copied *ret)
{
    struct dom_want want = {.image = c->target, .may_lack = true, .dry_run = c->o->dry_run, .lock = lock};
    struct dom_error error;
    int rc = dom_begin(c->to, &want, &c->session);

    if (rc < 0)
        return rc;
    rc = plan(c);
    if (rc == 0)
        rc = prepare_result(c, ret);
    dom_error_keep(&error, rc);
    if (rc == 0 && !c->o->dry_run) {
        rc = make(c);
        dom_error_keep(&error, rc);
        if (rc < 0)
            undo(c);
        for (size_t i = 0; rc == 0 && i < c->count; i++)
            ret->list[i].made = c->list[i].result;
        if (rc < 0)
            domain_copied_free(ret);
    }
    dom_end(&c->session);
    return rc < 0 ? dom_error_give(&error) : 0;
}

static int copy_locked(struct copies *c, const char *volume, int to_lock, struct domain_copied *ret)
{
    struct dom_claims claims = {0};
    struct domain_image *loaded = NULL;
    struct dom_error error;
    int rc = domain_load_image(c->from, c->image, &loaded);

    c->loaded = loaded;
    if (rc == 0)
        rc = find_source(c, volume, &claims);
    if (rc == 0) {
        rc = copy_to(c, to_lock, ret);
        to_lock = -1;
    }
    dom_error_keep(&error, rc);
    if (to_lock >= 0)
        c->to->kind->unlock(c->to, to_lock);
    dom_claims_end(&claims);
    domain_image_free(loaded);
    free(c->list);
    return rc < 0 ? dom_error_give(&error) : 0;
}

/* The template's image, so that it can be locked with the others. */
static int look_for_template(struct copies *c)
{
    struct domain_image *image;
    int rc = domain_load_image(c->from, c->image, &image);

    if (rc < 0)
        return rc;
    for (size_t i = 0; i < image->count; i++)
        if (dom_is_foreign(image, &image->list[i]))
            memcpy(c->template_image, image->list[i].meta.image, DOMAIN_UUID);
    domain_image_free(image);
    return 0;
}

static int choose_target(struct copies *c)
{
    bool same = strcmp(c->from->uuid, c->to->uuid) == 0;
    int rc = dom_check_uuid("image", c->image);

    if (rc == 0)
        rc = c->o->image != NULL ? dom_check_uuid("image", c->o->image) : same ? domain_make_uuid(c->target) : 0;
    if (rc < 0)
        return rc;
    if (c->o->image != NULL || !same)
        memcpy(c->target, c->o->image != NULL ? c->o->image : c->image, DOMAIN_UUID);
    if (same && strcmp(c->target, c->image) == 0)
        return dom_fail(EINVAL, NULL, "image %s would be copied to itself", c->image);
    rc = look_for_template(c);
    if (rc == 0 && strcmp(c->template_image, c->target) == 0)
        rc = dom_fail(EINVAL, NULL, "image %s is that of the template on which image %s lies", c->target,
                      c->image);
    return rc;
}

int domain_image_copy_volumes(struct domain *d, const char *image, const char *volume, struct domain *to,
                              const struct domain_copy *o, struct domain_copied *ret)
{
    struct copies c = {.from = d, .to = to, .o = o, .image = image};
    int lock = -1, to_lock = -1, rc = choose_target(&c);
    struct dom_error error;

    assert(o->uuid == NULL && !o->has_format && !o->has_allocation);
    if (rc == 0)
        rc = dom_lock_copy(d, image, to, c.target, c.template_image[0] != '\0' ? c.template_image : NULL, &lock,
                           &to_lock);
    if (rc < 0)
        return rc;
    rc = copy_locked(&c, volume, to_lock, ret);
    dom_error_keep(&error, rc);
    d->kind->unlock(d, lock);
    return rc < 0 ? dom_error_give(&error) : 0;
}
