/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an operation that was killed has left in an image, ended or undone. With the image locked nobody is at it.
 *
 * Works, in this order:
 *  1. metadata that was on its way goes; an unpublished volume is purged, a share that is not whole is dropped;
 *  2. a volume whose header names its parent's parent: a merge had come so far; its metadata follows;
 *  3. an internal volume that nothing reads from, beside one that has come into its place: the merge is ended;
 *  4. who has a child is internal; who has none is a leaf.
 * An image without volumes of its own goes, unless one is about to be made.
 * Fails: as what it calls. What is done can be done again.
 *
 * Invariant: 1. no data goes that a published volume reads from.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tools/domain/kind.h"

void dom_tell(struct dom_mend *m, enum vdisk_finding kind, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    if (kind == VDISK_FOUND_CORRUPTION || kind == VDISK_FOUND_LEAK || kind == VDISK_FOUND_ERROR)
        m->faults++;
    if (kind == VDISK_FOUND_FIXED)
        m->mended++;
    if (m->tell == NULL)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    m->tell(m->arg, kind, text);
}

static int reload(struct domain *d, struct domain_image **image)
{
    struct domain_image *again;
    char name[DOMAIN_UUID];
    int rc;

    memcpy(name, (*image)->uuid, sizeof name);
    rc = domain_load_image(d, name, &again);
    if (rc < 0)
        return rc;
    domain_image_free(*image);
    *image = again;
    return 0;
}

/* ---- 1: unpublished ------------------------------------------------------------------------------------- */

static int mend_files(struct domain *d, const struct domain_image *image, const struct domain_volume *v,
                      struct dom_mend *m)
{
    int rc = 0;

    if (v->has_meta && v->has_intent) {
        dom_tell(m, VDISK_FOUND_LEAK, "image %s: volume %s: metadata that was on its way when it ended",
                 image->uuid, v->uuid);
        rc = m->repair ? d->kind->drop_intent(d, image->uuid, v->uuid) : 0;
        if (m->repair && rc == 0)
            dom_tell(m, VDISK_FOUND_FIXED, "image %s: volume %s: metadata that was on its way is removed",
                     image->uuid, v->uuid);
    } else if (!v->has_meta && (v->has_intent || (v->has_data && v->links > 1))) {
        dom_tell(m, VDISK_FOUND_LEAK, "image %s: volume %s is half-made, or was being removed", image->uuid,
                 v->uuid);
        rc = m->repair ? d->kind->purge(d, image->uuid, v->uuid) : 0;
        if (m->repair && rc == 0)
            dom_tell(m, VDISK_FOUND_FIXED, "image %s: volume %s, half-made or half removed, is removed",
                     image->uuid, v->uuid);
    }
    return rc;
}

static int mend_unpublished(struct domain *d, struct domain_image **image, struct dom_mend *m)
{
    size_t mended = m->mended;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < (*image)->count; i++)
        rc = mend_files(d, *image, &(*image)->list[i], m);
    return rc == 0 && m->mended > mended ? reload(d, image) : rc;
}

/* ---- 2 and 3: merges ------------------------------------------------------------------------------------ */

static bool is_intact(const struct domain_volume *v)
{
    return v->has_meta && v->why[0] == '\0' && v->has_data;
}

/* `v` lies on a volume that was merged into its own parent, says the header. */
static int follow_header(struct domain *d, const struct domain_image *image, struct domain_volume *v,
                         struct dom_mend *m)
{
    struct domain_meta meta = v->meta;
    struct dom_header header;
    int rc;

    if (!is_intact(v) || v->parent == NULL || v->parent->parent == NULL || v->parent->meta.role == DOMAIN_SHARED)
        return 0;
    if (dom_read_header(d, image->uuid, v, &header) < 0)
        return 0; /* others tell of it */
    if (strcmp(header.backing, v->parent->parent->uuid) != 0)
        return 0;
    dom_tell(m, VDISK_FOUND_CORRUPTION, "image %s: volume %s lies on %s, and its metadata says on %s: a merge was "
             "ended early", image->uuid, v->uuid, header.backing, v->parent->uuid);
    if (!m->repair)
        return 0;
    snprintf(meta.parent, sizeof meta.parent, "%.36s", header.backing);
    rc = dom_write_meta(d, image->uuid, v, &meta);
    if (rc == 0)
        dom_tell(m, VDISK_FOUND_FIXED,
                 "image %s: volume %s lies on %s, as its metadata says now: the merge goes on", image->uuid,
                 v->uuid, header.backing);
    return rc;
}

bool dom_is_merged(const struct domain_volume *v)
{
    return is_intact(v) && v->meta.role == DOMAIN_INTERNAL && v->children == 0 && v->parent != NULL &&
           v->parent->children > 1 && v->parent->meta.role != DOMAIN_SHARED;
}

/* 3: has been merged. */
static int drop_merged(struct domain *d, const struct domain_image *image, struct domain_volume *v,
                       struct dom_mend *m)
{
    int rc;

    if (!dom_is_merged(v))
        return 0;
    dom_tell(m, VDISK_FOUND_LEAK, "image %s: volume %s has been merged into %s, and is still there", image->uuid,
             v->uuid, v->parent->uuid);
    if (!m->repair)
        return 0;
    rc = d->kind->unpublish(d, image->uuid, v->uuid);
    if (rc == 0)
        rc = d->kind->purge(d, image->uuid, v->uuid);
    if (rc == 0)
        dom_tell(m, VDISK_FOUND_FIXED, "image %s: volume %s, which has been merged into %s, is removed",
                 image->uuid, v->uuid, v->parent->uuid);
    return rc;
}

typedef int mend_fn(struct domain *, const struct domain_image *, struct domain_volume *, struct dom_mend *);

static int mend_each(struct domain *d, struct domain_image **image, struct dom_mend *m, mend_fn *fn)
{
    size_t mended = m->mended;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < (*image)->count; i++)
        rc = fn(d, *image, &(*image)->list[i], m);
    return rc == 0 && m->mended > mended ? reload(d, image) : rc;
}

/* ---- 4: roles -------------------------------------------------------------------------------------------- */

static int mend_role(struct domain *d, const struct domain_image *image, struct domain_volume *v,
                     struct dom_mend *m)
{
    enum domain_role role = v->children > 0 ? DOMAIN_INTERNAL : DOMAIN_LEAF;
    int rc;

    if (!is_intact(v) || v->meta.role == DOMAIN_SHARED || v->meta.role == role)
        return 0;
    if (dom_is_merged(v))
        return 0; /* 3 has told of it */
    dom_tell(m, VDISK_FOUND_CORRUPTION, "image %s: volume %s has %s, and its metadata says %s", image->uuid,
             v->uuid, v->children > 0 ? "a child" : "no child", domain_role_name(v->meta.role));
    if (!m->repair)
        return 0;
    rc = dom_set_role(d, image->uuid, v, role);
    if (rc == 0)
        dom_tell(m, VDISK_FOUND_FIXED, "image %s: the metadata of volume %s says %s now", image->uuid, v->uuid,
                 domain_role_name(role));
    return rc;
}

int dom_mend(struct domain *d, struct domain_image **image, struct dom_mend *m)
{
    size_t mended = m->mended;
    int rc = mend_unpublished(d, image, m);

    if (rc == 0)
        rc = mend_each(d, image, m, follow_header);
    if (rc == 0)
        rc = mend_each(d, image, m, drop_merged);
    if (rc == 0)
        rc = mend_each(d, image, m, mend_role);
    return rc == 0 && m->mended > mended ? d->kind->sync(d, (*image)->uuid) : rc;
}

/* Nothing but what is shared from others, or nothing at all: a creation or a deletion that ended early. */
int dom_mend_empty(struct domain *d, const struct domain_image *image, struct dom_mend *m, bool *ret_gone)
{
    int rc = 0;

    *ret_gone = false;
    for (size_t i = 0; i < image->count; i++)
        if (!dom_is_foreign(image, &image->list[i]))
            return 0;
    dom_tell(m, VDISK_FOUND_LEAK, "image %s has no volume of its own", image->uuid);
    if (!m->repair)
        return 0;
    for (size_t i = 0; rc == 0 && i < image->count; i++)
        rc = d->kind->unshare(d, image->uuid, image->list[i].uuid);
    if (rc == 0)
        rc = d->kind->drop_image(d, image->uuid);
    if (rc == -ENOTEMPTY)
        return 0; /* strangers */
    *ret_gone = rc == 0;
    if (rc == 0)
        dom_tell(m, VDISK_FOUND_FIXED, "image %s, which has no volume of its own, is removed", image->uuid);
    return rc;
}
